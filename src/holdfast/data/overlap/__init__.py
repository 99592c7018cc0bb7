"""What rows have in common with each other and with what is measured."""
