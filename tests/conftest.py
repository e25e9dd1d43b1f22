"""Marks the tests of whole engines, commands and searches as slow."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent
WHOLE = ("contract", "fuzz", "integration", "situations")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the quick set, `-m "not slow"`, to the units."""
    for item in items:
        if item.path.is_relative_to(ROOT) and item.path.relative_to(ROOT).parts[0] in WHOLE:
            item.add_marker(pytest.mark.slow)
