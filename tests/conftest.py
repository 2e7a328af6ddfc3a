"""Property tests draw the same examples everywhere: 50 each, and 10,000 with ``make properties``."""

import os

from hypothesis import settings

settings.register_profile("kexue", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("release", settings.get_profile("kexue"), max_examples=10_000)
settings.load_profile(os.environ.get("KEXUE_PROPERTIES", "kexue"))
