"""Shared by every layer: checks of arguments, atomic files, text for tables, limits on the contents of files."""
