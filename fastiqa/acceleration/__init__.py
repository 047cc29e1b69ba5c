"""Turn modules people have into fused ones, in place; one file a foreign library.

The folder is not called `accelerate`: importing it would hide the function `fastiqa.accelerate`.
"""
