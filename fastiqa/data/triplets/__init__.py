"""Triplets (reference, A, B) with a human or synthetic preference: readers, checks, dataset, predictions."""
