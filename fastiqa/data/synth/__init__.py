"""Synthetic triplets: photographs, distorted by real codecs, labelled by quality or by a metric."""
