"""The laboratory: its models, how they are trained, and the reproductions of papers' claims."""
