"""What a recipe would cost on many accelerators, on paper."""
