"""``begin``: what a reader's copy of a chapter does first."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from kexue.lab.verification import number_equations


def begin(versions: dict[str, str], equations: dict[str, str]) -> None:
    """Say, once, where the stored outputs come from if not from these versions; let failing checks name equations as the text does.

    Args:
        versions: the versions of packages that stored the outputs, by the name of the distribution.
        equations: the number of each equation by its label.

    >>> begin(versions={}, equations={"eq-gap": "3.8"})
    """
    number_equations(equations)
    here = {name: _version(name) for name in versions}
    other = [
        f"{name} {here[name] or 'missing'} (stored with {stored})" for name, stored in versions.items() if here[name] != stored
    ]
    if other:
        print(f"Stored outputs may differ from yours in their last digits: you have {', '.join(other)}.")


def _version(name: str) -> str:
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return ""
