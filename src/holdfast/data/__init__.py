"""Rows: how files become rows, rows become token ids, and ids become batches."""
