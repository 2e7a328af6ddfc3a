"""Speed, memory and limits of the tools of ``kexue`` against what a user would pick otherwise, and the cost of the book itself.

``python -m benchmarks run`` measures every :class:`~benchmarks.cases.Case` of the files named after the parts (attention.py, ...) as a
ratio ours/peer and stores it in ``benchmarks/results``; ``check`` compares two result files; ``book`` measures builds and tests of
the book. A new function gets a case in the file of its part, or a sentence in ``NO_PEER`` there; nothing else is registered.
"""
