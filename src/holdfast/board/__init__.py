"""The web page over run directories: list, run, compare, start, stop, chat; all it knows is on the disk."""
