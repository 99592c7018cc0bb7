"""Sampling by many workers at once: who is given what, what becomes of it when they fail, and where they live."""
