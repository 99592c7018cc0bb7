"""How the letter that an answer states is found."""
