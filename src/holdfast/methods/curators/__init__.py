"""Which rows are trained on, and who wrote them."""
