"""The contracts: what a method of each axis, a judge and an engine must do; and their names."""
