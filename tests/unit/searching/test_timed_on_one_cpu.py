"""Times of two kinds of CPU are never compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoquant.errors import JobError
from autoquant.results import files
from autoquant.results.environment import TIMED_ON, describe_machine
from tests.integration.bad_inputs.stage import search


@pytest.mark.slow
def test_a_search_that_was_timed_on_another_cpu_is_not_resumed(tmp_path: Path) -> None:
    timed = {"objectives": ("output_error", "latency"), "output": tmp_path / "out"}
    search(**timed, trials=2)
    path = tmp_path / "out" / files.ENVIRONMENT
    environment = json.loads(path.read_text())
    assert environment[TIMED_ON]["cpu"] == describe_machine()["cpu"]
    assert environment[TIMED_ON]["host"]
    environment[TIMED_ON]["cpu"] = "Z80"
    path.write_text(json.dumps(environment))
    (tmp_path / "out" / files.MANIFEST).unlink()
    with pytest.raises(JobError, match=r"timed on Z80, and .*cannot be compared"):
        search(**timed, trials=4, resume=True)
