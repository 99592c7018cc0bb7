"""Credits: what each token of the model's own answers is worth."""
