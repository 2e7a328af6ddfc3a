"""Speed, memory and limits of the tools of ``kexue`` against what a user would pick otherwise, and the cost of the book itself.

Read ``__main__`` first, the commands: ``python -m benchmarks run`` measures every :class:`~benchmarks.cases.Case` as a ratio ours/peer,
``check`` compares two results, ``book`` measures builds and tests of the book. A post has a file of its own, ``part/slug.py``: a new
function gets a case there, or a sentence in its ``NO_PEER``; nothing else is registered. ``cases`` says what a case is and measures
it, ``timing`` holds the clocks, ``results`` the files. Benchmarks use book_tools and kexue; nothing but their tests uses benchmarks.
"""
