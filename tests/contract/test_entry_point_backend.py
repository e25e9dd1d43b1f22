"""A backend of another package: found by its entry point, searched on, its mistakes named.

In a process of its own, where a folder on `sys.path` is all that is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SEARCH = """
import torch
import autoquant as aq
from autoquant.core.backends import find_rows
from autoquant.core.precision import Scheme
from autoquant.core.readback import Ran

assert "toy" in find_rows()
torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4)
).eval()
data = [(torch.randn(32, 16), torch.randint(4, (32,))) for _ in range(4)]

def search(bits):
    result = aq.search(
        model, calibration=data, evaluation=data, metric=aq.metrics.accuracy,
        space={"schemes": ["int8", "fp32"]}, backend={"name": "toy", "bits": bits, "pairs": 3},
        objectives=("output_error", "size"), trials=2, max_drop=1.0, workers=None,
    )
    whole = next(
        item for item in result.candidates
        if item.failure is None and {item.plan["0"], item.plan["2"]} == {Scheme.INT8}
    )
    assert whole.executed["0"] == Ran(Scheme.INT8, kernel="float"), whole.executed
    assert whole.executed["2"].scheme is Scheme.INT8
    chosen = result.context.build.options
    doubted = any("some kernel there" in notice for notice in result.findings.facts.notices)
    assert doubted is (chosen["bits"] < 8), result.findings.facts.notices
    assert chosen["bits"] in ({bits} if bits else {4, 8}), chosen
    return whole.value("sqnr_db")

coarse, fine = search(3), search(8)
assert fine > coarse + 15, (fine, coarse)  # six decibels a bit
search(None)
"""

CONTRACT = """
from pathlib import Path
from autoquant.core.build import BuildSettings
from tests.backend_contract import Opened, check_all
check_all(Opened(BuildSettings(backend="toy", options={"bits": 4})), Path())
"""

DIAGNOSIS = """
from dataclasses import replace
import toy_backend

def diagnosis():
    inputs = [item for item, _ in data]
    return aq.diagnose(model, "int8", calibration=inputs, evaluation=inputs, backend="toy")

def too_strong(request):
    class Wrong(toy_backend.ToyBackend):
        def build(self, plan):
            made = super().build(plan)
            with torch.no_grad():
                for name, weight in made.module.named_parameters():
                    if name.endswith("2.weight") and plan["2"] is Scheme.INT8:
                        weight *= 1.5
            return made
    return Wrong(request)

found = diagnosis()
assert (found.findings, found.notes) == ((), ()), found
toy_backend.TARGET = replace(toy_backend.TARGET, open_backend=too_strong)
found = diagnosis()
assert [item.sites for item in found.findings] == [("2",)], found
assert found.pattern.value == "implementation", found.pattern
"""

MISTAKE = """
from autoquant.errors import AutoquantError
from autoquant.job import SearchSettings
from autoquant.job.mistakes import explain_mistakes
from pydantic import ValidationError
for backend in ({"name": "toy", "bit": 3}, {"name": "toy", "bits": 9}, {"bits": 3}):
    try:
        SearchSettings.model_validate(
            {"name": "x", "output": "x", "space": {"schemes": ["fp32"]}, "backend": backend}
        )
    except ValidationError as error:
        print(*explain_mistakes(error, SearchSettings), sep="\\n")
"""


def test_a_package_with_an_entry_point_brings_a_backend(tmp_path: Path) -> None:
    """It keeps what all promise, is searched on, diagnosed, and wrong options are named."""
    shutil.copy(ROOT / "docs" / "extending" / "toy_backend.py", tmp_path)
    facts = tmp_path / "toy_backend-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-backend\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[autoquant.backends]\ntoy = toy_backend:ROW\n")
    paths = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", CONTRACT + SEARCH + DIAGNOSIS + MISTAKE],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second, third = done.stdout.splitlines()[-3:]
    assert first.startswith("backend.bit: '3' is given for no option of the backend toy; did you")
    assert first.endswith("mean 'bits'?")
    assert second == "backend.bits: 9 is above 8"
    assert third.startswith("backend.bits: '3' is a choice of the backend toy, but backend.name is")
