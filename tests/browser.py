"""Headless Chromium, where there is one: what a page holds after its scripts have run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


def dom_of(url: str, profile: Path, *options: str) -> str:
    """The page's elements as text.

    Args:
        url: Of the page.
        profile: Folder for what the browser keeps.
        options: Further options of Chromium.
    """
    assert CHROMIUM is not None
    quiet = (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
    )
    return subprocess.run(
        [CHROMIUM, *quiet, *options, "--dump-dom", url],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    ).stdout
