"""What tries to break the book: wrong equations and wrong code, other processors, hostile surroundings, abuse of every public name.

Read ``__main__`` first, the commands behind the Makefile; each is a module of its own. ``mutation`` asks whether checks and tests notice
mistakes (``cells`` changes the code of the checks, ``mutants`` that of the package, ``forks`` runs the tests against it), ``digits`` how
many printed digits are safe, ``portable`` what other processors print, ``abuse`` what odd arguments do, ``surroundings`` what a full disk
or a kill does (in ``copies`` of the tree); ``versions`` notes under which versions the tests ran. Arrows run one way: trials use
book_tools, which uses kexue; nothing imports trials but its tests and theirs.
"""
