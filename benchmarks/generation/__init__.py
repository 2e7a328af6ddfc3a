"""Pairs of the part generation, a file per post."""
