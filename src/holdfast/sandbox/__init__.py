"""The only place where code runs that a model wrote."""
