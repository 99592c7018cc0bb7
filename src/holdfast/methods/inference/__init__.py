"""What is done without training, or after it."""
