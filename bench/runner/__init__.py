"""`fastiqa bench`, and the tools of all measurements: settings, equality, time, memory, rows."""
