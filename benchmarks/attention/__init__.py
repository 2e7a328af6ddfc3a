"""Pairs of the part attention, a file per post."""
