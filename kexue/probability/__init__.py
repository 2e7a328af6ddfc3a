"""Distributions, divergences and bottlenecks."""
