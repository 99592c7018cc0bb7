"""Models: loaded, saved, merged, placed, and seen by objectives as log-probabilities."""
