"""Pairs of the part functions, a file per post."""
