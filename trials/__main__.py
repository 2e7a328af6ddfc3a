"""``python -m trials mutate``, ``digits``, ``abuse`` and ``surroundings``: the commands behind the Makefile that try to break the book."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable

from book_tools.chapter import ROOT


def mutate() -> int:
    from trials import mutation

    return mutation.run(os.cpu_count() or 1)


def digits() -> int:
    from trials import digits

    return digits.run()


def abuse() -> int:
    from trials import abuse

    return abuse.run(ROOT / "results" / "abuse.json")


def surroundings() -> int:
    from trials import surroundings

    return surroundings.run()


COMMANDS: dict[str, tuple[Callable[[], int], str]] = {
    "mutate": (mutate, "try wrong equations and wrong code"),
    "digits": (digits, "judge the printed digits"),
    "abuse": (abuse, "count the calls of the abuse sweep"),
    "surroundings": (surroundings, "build and execute in hostile surroundings"),
}


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m trials", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, about) in COMMANDS.items():
        commands.add_parser(name, help=about)
    arguments = parser.parse_args(given)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # "kill" and "timeout" are answered like Ctrl-C
    try:
        return COMMANDS[arguments.command][0]()
    except KeyboardInterrupt:
        print("\ninterrupted; what was stored is as it was", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
