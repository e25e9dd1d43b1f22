"""How long the fuzzers run: `AUTOQUANT_FUZZ=2000 pytest tests/fuzz` for a long run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("AUTOQUANT_FUZZ", "100"))

settings.register_profile(
    "fuzz",
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="AUTOQUANT_FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("fuzz")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is called may write where it stands: `output="jit"`."""
    monkeypatch.chdir(tmp_path)
