"""Images: reading files with their damage found, codecs, colour spaces, folders."""
