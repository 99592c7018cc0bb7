"""Chat templates: what is written, where the answers lie, what becomes of thoughts."""
