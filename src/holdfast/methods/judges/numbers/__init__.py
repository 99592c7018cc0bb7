"""How a number is found in an answer, read, and compared."""
