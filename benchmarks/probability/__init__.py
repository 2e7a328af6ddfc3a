"""Pairs of the part probability, a file per post."""
