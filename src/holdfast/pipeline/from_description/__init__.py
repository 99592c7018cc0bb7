"""`holdfast build`: from a described task to data, a base model, two recipes, a trained model and a chat with it."""
