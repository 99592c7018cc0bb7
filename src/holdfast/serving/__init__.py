"""A model behind an address: the chat-completions protocol over the engine that answers many at once."""
