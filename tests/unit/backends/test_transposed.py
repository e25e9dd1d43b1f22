"""Transposed convolutions in int8: right where torch's engines are, and refused where not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoquant.backends.targets import load_target
from autoquant.backends.torch_cpu.engines import engines_here
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.errors import BackendError
from tests.backend_contract import Opened

LAYERS = {
    "of a U-Net, 2 x 2": (16, 8, 2, 2, 0),
    "2 x 2, as many channels": (8, 8, 2, 2, 0),
    "of a generator, 4 x 4": (4, 12, 4, 2, 1),
    "3 x 3": (4, 4, 3, 1, 1),
}


@pytest.mark.parametrize("engine", engines_here())
@pytest.mark.parametrize("layer", LAYERS)
def test_a_transposed_convolution_is_right_or_refused(engine: str, layer: str) -> None:
    torch.manual_seed(0)
    inputs, outputs, kernel, stride, padding = LAYERS[layer]
    model = nn.Sequential(nn.ConvTranspose2d(inputs, outputs, kernel, stride, padding)).eval()
    x = torch.randn(4, inputs, 6, 6)
    settings = load_target("torch").settle(BuildSettings(options={"engine": engine}), None)
    opened = Opened(settings, model, (x,))
    plan = Plan.of({site.name: Scheme.INT8 for site in opened.captured.sites})
    if layer != "3 x 3" and not _is_built(opened, plan):
        return
    found = opened.outputs(plan)
    expected = opened.expected(plan)
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()


def _is_built(opened: Opened, plan: Plan) -> bool:
    try:
        opened.backend.build(plan)
    except BackendError:
        return False
    return True
