"""Renders a report page to a PNG with an installed Chromium or Chrome.

`python docs/screenshot.py report.html picture.png --width 390 --dark`

The page is shown in a frame of the wanted width, since a browser window cannot be made as narrow as a phone.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-component-update",
)
OFFLINE = ("--disable-background-networking", "--disable-sync")
FRAME = """<!doctype html>
<style>body{{margin:0}}iframe{{border:0;display:block;width:{width}px;height:{height}px}}</style>
<iframe src="{source}"></iframe>"""


def browser() -> str:
    """The first browser found on the path."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise SystemExit(f"no browser found; install one of {', '.join(BROWSERS)}")
    return found


def screenshot(page: Path, picture: Path, width: int, height: int, *, dark: bool = False, scale: float = 1.0) -> None:
    """Writes the top `height` pixels of `page`, laid out `width` pixels wide, to `picture`."""
    with tempfile.TemporaryDirectory() as scratch:
        frame = Path(scratch) / "frame.html"
        frame.write_text(FRAME.format(width=width, height=height, source=page.resolve().as_uri()), encoding="utf-8")
        command = [
            browser(),
            *QUIET,
            *OFFLINE,
            f"--user-data-dir={scratch}/profile",
            f"--force-device-scale-factor={scale:g}",
        ]
        command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
        command += [f"--window-size={max(width, 500)},{height}", f"--screenshot={picture.resolve()}", frame.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1180, help="390 for a phone")
    parser.add_argument("--height", type=int, default=1500)
    parser.add_argument("--scale", type=float, default=1.0, help="2 for a sharp picture")
    parser.add_argument("--dark", action="store_true")
    given = parser.parse_args()
    screenshot(given.page, given.picture, given.width, given.height, dark=given.dark, scale=given.scale)


if __name__ == "__main__":
    main()
