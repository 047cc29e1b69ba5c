"""What is common to all measurements: settings, equality, time, memory, rows; and `fastiqa bench`."""
