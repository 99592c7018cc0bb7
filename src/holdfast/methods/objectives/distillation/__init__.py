"""Objectives on the distributions of another model, or of the same one under another prompt."""
