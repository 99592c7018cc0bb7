"""The one training loop, its checkpoints and processes; it knows no method by name."""
