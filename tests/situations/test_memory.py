"""Plans and rescaled models are built, compared and dropped: no more is held than that needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

MIB = 2.0**20
MOST = 13
"""Times the weights of the model: plans of two kinds, the engine's packed copies, files of both.

It is 6 at most; where every plan that was timed stays in memory, 26 and more.
"""

_CHILD = """
import gc, resource, sys, time
import torch
from torch import nn
from autoquant.core.build import BuildSettings
from autoquant.core.precision import Scheme
from autoquant.core.space import Knob, SearchSpace
from tests.backend_contract import Opened
from tests.spaces import full_space, random_plan

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

torch.manual_seed(0)
layers = [nn.Linear(512, 512) for _ in range(12)]
model = nn.Sequential(*(item for layer in layers for item in (layer, nn.ReLU()))).eval()
opened = Opened(BuildSettings(backend=sys.argv[1]), model, (torch.randn(4, 512),))
schemes = (Scheme.INT8, Scheme.INT8_WEIGHT_ONLY, Scheme.FP32)
knobs = full_space(opened.captured, opened.backend).knobs
space = SearchSpace(
    tuple(
        Knob(knob.name, knob.sites, tuple(item for item in knob.schemes if item in schemes))
        for knob in knobs
    )
)
opened.outputs(space.uniform(space.schemes[0]))
before = peak()
opened.backend.costs(space, opened.inputs, time.perf_counter)
for seed in range(4):
    opened.outputs(random_plan(space, seed))
print(peak() - before, sum(item.numel() * 4 for item in model.parameters()))
"""


MOST_EQUALISING = 4.5
"""Times the weights: a rescaled model, and what rounding makes of a few of its layers.

It is 2.2; where every rescaled model waits for Python's collector, 6.9.
"""

_EQUALISING = """
import resource
from functools import cache, partial
import torch
from torch import nn
from autoquant.core.build import BuildSettings
from autoquant.core.progress import Silent
from autoquant.model.building import build_subject
from autoquant.searching.preparing.equalising import few_statistics, find_equalisation

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

torch.manual_seed(0)
layers = [nn.Linear(1024, 1024) for _ in range(9)]
model = nn.Sequential(*(item for layer in layers for item in (layer, nn.ReLU()))).eval()
subject = build_subject(model, calibration=torch.randn(64, 1024), equalise="always")
captured = subject.find_sites()
before = peak()
few = cache(partial(few_statistics, subject, captured))
settings = BuildSettings(backend="torch")
found = find_equalisation(subject, captured, settings, Silent(), few, tries=True)
assert found.factors
print(peak() - before, sum(item.numel() * 4 for item in model.parameters()))
"""

linux_alone = pytest.mark.skipif(
    sys.platform != "linux", reason="ru_maxrss is counted in KiB on Linux alone"
)


@linux_alone
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_dozens_of_plans_take_the_memory_of_a_few(backend: str) -> None:
    pytest.importorskip(backend)
    growth, weights = _measured(_CHILD, backend)
    assert growth < MOST * weights, f"{growth / MIB:.0f} MiB for weights of {weights / MIB:.0f}"


@linux_alone
def test_rescaled_models_are_compared_one_at_a_time() -> None:
    growth, weights = _measured(_EQUALISING)
    limit = MOST_EQUALISING * weights
    assert growth < limit, f"{growth / MIB:.0f} MiB for weights of {weights / MIB:.0f}"


def _measured(program: str, *arguments: str) -> tuple[int, int]:
    """The growth and the weights, in bytes, that a program prints."""
    found = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    growth, weights = map(int, found.stdout.split()[-2:])
    return growth, weights
