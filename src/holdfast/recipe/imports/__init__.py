"""Recipes of other tools: read from their files, commands and scripts, and written as recipes of ours."""
