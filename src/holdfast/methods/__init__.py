"""The published methods, a file each, and the judges."""
