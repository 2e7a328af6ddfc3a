"""The book's own machinery: canonical notebooks, the equation ledger, generated pages, figure comparison.

``notebooks`` writes chapters, ``chapter`` reads what they carry, ``pages`` turns that into pages of the book (a Sphinx extension),
``figures`` compares stored and fresh figures, ``__main__`` holds the commands behind the Makefile. Nothing here belongs to the package
``kexue`` and nothing in it is imported by a chapter.
"""
