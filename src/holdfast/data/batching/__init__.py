"""Rows as token ids, and ids as the batches of a step."""
