"""What was measured, in words, tables and plots: the page, the card."""
