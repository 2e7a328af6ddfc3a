"""What makes the book: canonical notebooks, the equation ledger, generated pages, the site, the printed book.

Read ``__main__`` first, the commands behind the Makefile. ``notebooks`` writes chapters, ``chapter`` reads what they carry, ``form`` says
what they lack, ``pages`` turns them into pages of the book (a Sphinx extension), with ``enrich``, ``site`` and ``evidence``; ``figures``
compares stored and fresh figures, ``pdf`` prints, ``browser`` finds the browser, ``system`` asks the machine. What tries to break the
book is in ``trials``, what measures it in ``benchmarks``: both use this, never the reverse. Nothing here belongs to the package
``kexue``, and no chapter imports it.
"""
