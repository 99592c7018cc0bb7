"""What a model can do, before and after, question by question."""
