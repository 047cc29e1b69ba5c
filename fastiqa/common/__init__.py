"""What every layer needs: checks of arguments, atomic files, text for tables, limits of what a file may ask for."""
