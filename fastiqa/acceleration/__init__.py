"""Convert existing modules into fused ones, in place; one file for each foreign library.

The folder is not called `accelerate`: importing it would hide the function `fastiqa.accelerate`.
"""
