"""The settings of a recipe that know no task, and the readers of their YAML text and fields."""
