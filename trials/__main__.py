"""The commands behind the Makefile that try to break the book.

``python -m trials mutate``, ``digits``, ``abuse`` and ``portable`` take chapters, ``part/slug ...``; without them each measures the
chapters that have changed since their last result (``--all``: every chapter). A chapter's result is ``results/kind/part/slug.json``.
``surroundings`` tries the book as a whole.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence

from book_tools.chapter import contents

Run = Callable[[Sequence[str], bool], int]


def mutate(names: Sequence[str], everything: bool) -> int:
    from trials import mutation

    return mutation.run(names, everything, os.cpu_count() or 1)


def digits(names: Sequence[str], everything: bool) -> int:
    from trials import digits

    return digits.run(names, everything)


def abuse(names: Sequence[str], everything: bool) -> int:
    from trials import abuse

    return abuse.run(names, everything)


def portable(names: Sequence[str], everything: bool) -> int:
    from trials import portable

    return portable.run(names, everything)


COMMANDS: dict[str, tuple[Run, str]] = {
    "mutate": (mutate, "try wrong code of checks and of the package"),
    "digits": (digits, "judge the printed digits"),
    "abuse": (abuse, "count the calls of the abuse sweep"),
    "portable": (portable, "execute the chapters under other instruction sets and threads"),
}


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m trials", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, about) in COMMANDS.items():
        command = commands.add_parser(name, help=about)
        command.add_argument("chapters", nargs="*", metavar="part/slug", help="these chapters, changed or not")
        command.add_argument("--all", action="store_true", dest="everything", help="all chapters, changed or not")
    commands.add_parser("surroundings", help="build and execute in hostile surroundings")
    arguments = parser.parse_args(given)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # "kill" and "timeout" are answered like Ctrl-C
    try:
        if arguments.command == "surroundings":
            from trials import surroundings

            return surroundings.run()
        unknown = set(arguments.chapters) - set(contents())
        if unknown:
            print(f"no such chapter: {', '.join(sorted(unknown))}; the book has: {', '.join(contents())}", file=sys.stderr)
            return 2
        return COMMANDS[arguments.command][0](arguments.chapters, arguments.everything)
    except KeyboardInterrupt:
        print("\ninterrupted; finished chapters are stored, the others are as they were", file=sys.stderr)
        return 130
    except ChildProcessError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
