"""Property tests draw the same examples everywhere."""

from hypothesis import settings

settings.register_profile("kexue", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("kexue")
