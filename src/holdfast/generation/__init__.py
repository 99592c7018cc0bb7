"""Sampling engines behind one interface, and the journal that loses no sample."""
