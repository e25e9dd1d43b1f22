"""Marks the tests of whole engines, commands and searches as slow; keeps exported models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
WHOLE = ("contract", "fuzz", "integration", "situations")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the quick set, `-m "not slow"`, to the units."""
    for item in items:
        if item.path.is_relative_to(ROOT) and item.path.relative_to(ROOT).parts[0] in WHOLE:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="session")
def _kept_programs() -> Iterator[None]:
    """Export models that are alike in all they hold once in a process."""
    from autoquant.model.graph import export_capture
    from tests.kept_programs import keeping

    plain = export_capture.export_program
    export_capture.export_program = keeping(plain)
    yield
    export_capture.export_program = plain
