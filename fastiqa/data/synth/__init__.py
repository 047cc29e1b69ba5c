"""Synthetic triplets: photographs coded at many qualities, labelled by rule or metric."""
