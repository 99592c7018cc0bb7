"""Environments that belong to no skill of the laboratory."""
