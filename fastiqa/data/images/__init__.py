"""Image files: reading with checks for damage, archives, codecs, colour spaces, filters, folders, photographs."""
