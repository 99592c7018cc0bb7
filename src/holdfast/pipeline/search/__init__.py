"""Search: the recipe that gains most among those that lose little."""
