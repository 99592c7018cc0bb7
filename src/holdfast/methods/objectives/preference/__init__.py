"""Objectives on answers of which one is better."""
