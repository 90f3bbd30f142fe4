"""Images: found on disk, checked, prepared once, and opened as splits."""
