"""From a file of any common format to rows, every odd one named in one line."""
