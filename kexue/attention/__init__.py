"""Attention and the position of its tokens."""
