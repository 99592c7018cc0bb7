"""Pictures of rows: how rows name them, how they are read, and what a model's processor makes of them."""
