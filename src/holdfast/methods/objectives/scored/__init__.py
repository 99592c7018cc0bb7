"""Objectives on answers with a score or a label."""
