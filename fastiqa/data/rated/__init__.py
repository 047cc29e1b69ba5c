"""Rated images (one score each): readers of the public sets, splits, transforms, datasets."""
