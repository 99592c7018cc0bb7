"""What the user wrote, checked and completed: every value with its origin."""
