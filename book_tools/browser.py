"""The browser that prints the book and looks at it in tests: a headless Chromium that is already on the machine.

``find`` says where it is (None: nowhere), ``launch`` starts it for the length of a ``with`` block::

    with browser.launch() as chromium:
        page = chromium.new_page()

Nothing is downloaded. ``KEXUE_CHROMIUM`` names a browser of your own choice; ``MISSING`` is the one line for whoever has none.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge", "msedge")
APPLICATIONS = ("Chromium", "Google Chrome", "Microsoft Edge")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage")
MISSING = (
    "no Chromium found; Debian and Ubuntu: apt-get install chromium fonts-noto-cjk; macOS: brew install --cask chromium; "
    "elsewhere: python -m playwright install chromium (or name a browser in KEXUE_CHROMIUM)"
)


def find() -> Path | None:
    """A Chromium: the one KEXUE_CHROMIUM names, one on the PATH, an application of macOS, playwright's own download; or None."""
    named = os.environ.get("KEXUE_CHROMIUM")
    if named:
        return Path(named) if Path(named).is_file() else None
    on_path = next(filter(None, map(shutil.which, NAMES)), None)
    if on_path:
        return Path(on_path)
    folders = (Path("/Applications"), Path.home() / "Applications") if sys.platform == "darwin" else ()
    candidates = [folder / f"{name}.app" / "Contents" / "MacOS" / name for folder in folders for name in APPLICATIONS]
    with sync_playwright() as playwright:
        candidates.append(Path(playwright.chromium.executable_path))
    return next((path for path in candidates if path.is_file()), None)


@contextmanager
def launch() -> Iterator[Browser]:
    """A running headless Chromium; FileNotFoundError where there is none."""
    path = find()
    if path is None:
        raise FileNotFoundError(MISSING)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*ARGUMENTS])
        try:
            yield browser
        finally:
            browser.close()
