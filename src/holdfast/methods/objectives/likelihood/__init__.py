"""Objectives on answers to imitate."""
