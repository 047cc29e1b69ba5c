"""Recipes: the YAML files of this folder, the dataclass they become, and the reader."""
