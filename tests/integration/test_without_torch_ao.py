"""A search needs none of torch.ao's Python, on any backend."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SEARCH = """
import builtins, sys, tempfile, warnings

import torch

warnings.simplefilter("ignore")
original, refused = builtins.__import__, []
OURS = ("autoquant.torch_ao",)


def is_refused(name, names, importer):
    if not importer.startswith("autoquant"):
        return False  # `import torch` itself loads parts of torch.ao
    wanted = [name, *(f"{name}.{item}" for item in names or ())]
    return any(item == root or item.startswith(root + ".") for item in wanted
               for root in ("torch.ao", *OURS))


def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    importer = str((globals or {}).get("__name__", ""))
    if is_refused(name, fromlist, importer):
        refused.append(f"{importer} imports {name}")
        raise ImportError(refused[-1])
    return original(name, globals, locals, fromlist, level)


builtins.__import__ = guarded
import autoquant as aq
from autoquant.job.backend import backend_from_text
from torch._export import utils as operators
from tests.kept_operators import once_for_namespaces
from tests.kept_programs import keep_programs
from tests.networks import MixedNet, images, seeded
from tests.time_slices import time_briefly

keep_programs()
operators._materialize_cpp_cia_ops = once_for_namespaces(operators._materialize_cpp_cia_ops)
time_briefly()
model, inputs = seeded(MixedNet), images(32)
with torch.no_grad():
    targets = model(inputs).argmax(1)
for backend in sys.argv[1:]:
    result = aq.search(
        model,
        calibration=images(32, seed=1),
        evaluation=(inputs, targets),
        backend=backend_from_text(backend) | {"pairs": 3},
        max_drop=None,
        trials=2,
        space={"schemes": ["int8", "fp32"]},
        objectives=("output_error", "size"),
        sensitivity={"samples": 16},
        output=tempfile.mkdtemp(),
    )
    member = result.frontier[0]
    member.quantize(model)
    assert member.plan.counts()
    loaded = [name for name in sys.modules if name.startswith(OURS)]
    print(backend, "loaded:", loaded, "refused:", refused)
"""

PACKAGES = {
    "fbgemm": (),
    "openvino": ("openvino",),
    "onnxruntime": ("onnx", "onnxruntime", "onnxscript"),
    "litert": ("ai_edge_litert", "litert_torch"),
}


@pytest.mark.slow
def test_searches_run_with_torch_ao_unimportable() -> None:
    installed = [
        backend
        for backend, packages in PACKAGES.items()
        if all(importlib.util.find_spec(name) is not None for name in packages)
    ]
    assert "fbgemm" in installed
    done = subprocess.run(
        [sys.executable, "-c", SEARCH, *installed],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = [line for line in done.stdout.splitlines() if " loaded: " in line]
    assert found == [f"{backend} loaded: [] refused: []" for backend in installed]
