"""Blocks and networks of `fastiqa bench`. Operators need no entry: their records bring samples."""
