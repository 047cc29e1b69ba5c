"""What a recipe may say. It knows no task."""
