"""Networks and plans drawn at random: what an engine gives is what rounding explains.

`AUTOQUANT_FUZZ=300 pytest tests/fuzz/test_plans.py` for a long run; what fails is shrunk to few
steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from autoquant.backends.targets import load_target
from autoquant.core.backends import find_rows
from autoquant.core.build import BuildSettings
from autoquant.errors import BackendError
from autoquant.model.data.output_noise import to_decibels
from tests.backend_contract import Opened
from tests.fuzz.conftest import EXAMPLES
from tests.spaces import full_space

pytestmark = pytest.mark.filterwarnings("ignore")

SHORT = 6
"""Networks of a short run on each engine."""

UNEXPLAINED_DB = 10.0
GOOD_DB = 30.0
"""Of outputs as near as this to the float model nothing is asked."""

Step = tuple[Callable[[], nn.Module], Callable[[Any, Tensor], Tensor]]


def plain(function: Callable[[Tensor], Tensor]) -> Step:
    """A step without a layer."""
    return nn.Identity, lambda _, x: function(x)


def twice(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """What a layer gives, read by two ops."""
    y = layer(x)
    return torch.relu(y) - y * 0.5


def conv(**options: Any) -> nn.Module:
    return nn.Conv2d(8, 8, 3, padding=1, **options)


def attention(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    query, key, value = layer(x).chunk(3, -1)
    return x + functional.scaled_dot_product_attention(query, key, value)


IMAGES: Mapping[str, Step] = {
    "conv": (conv, lambda layer, x: functional.relu(layer(x))),
    "conv without bias": (lambda: conv(bias=False), lambda layer, x: layer(x)),
    "depthwise": (lambda: conv(groups=8), lambda layer, x: functional.hardswish(layer(x))),
    "transposed": (
        lambda: nn.ConvTranspose2d(8, 8, 2, stride=2),
        lambda layer, x: functional.max_pool2d(layer(x), 2),
    ),
    "residual": (conv, lambda layer, x: x + functional.relu6(layer(x))),
    "read twice": (lambda: conv(bias=False), twice),
    "joined": (conv, lambda layer, x: torch.cat([x[:, :4], layer(x)[:, 4:]], 1)),
    "gated": (
        lambda: nn.Linear(8, 8),
        lambda layer, x: x * torch.sigmoid(layer(x.mean((2, 3))))[:, :, None, None],
    ),
    "averaged": plain(lambda x: functional.avg_pool2d(x, 3, 1, 1)),
    "largest": plain(lambda x: functional.max_pool2d(x, 3, 1, 1)),
    "padded": plain(lambda x: functional.pad(x, (1, 0, 0, 1), value=2.0)[..., 1:, :-1]),
    "resized": plain(lambda x: functional.interpolate(x, scale_factor=2)[..., ::2, ::2]),
    "gelu": plain(functional.gelu),
    "scaled": plain(lambda x: x * -1.5),
    "shifted": plain(lambda x: x + 2.0),
}
"""On (samples, 8, 8, 8)."""

ROWS: Mapping[str, Step] = {
    "linear": (lambda: nn.Linear(8, 8), lambda layer, x: functional.silu(layer(x))),
    "linear without bias": (lambda: nn.Linear(8, 8, bias=False), lambda layer, x: layer(x)),
    "residual": (lambda: nn.Linear(8, 8), lambda layer, x: x + functional.relu(layer(x))),
    "read twice": (lambda: nn.Linear(8, 8, bias=False), twice),
    "norm": (lambda: nn.LayerNorm(8), lambda layer, x: layer(x)),
    "attention": (lambda: nn.Linear(8, 24), attention),
    "product": (
        lambda: nn.Linear(8, 8),
        lambda layer, x: torch.softmax(x @ layer(x).transpose(1, 2), -1) @ x,
    ),
    "gated": (
        lambda: nn.Linear(8, 16),
        lambda layer, x: functional.glu(layer(x), -1),
    ),
    "joined": (lambda: nn.Linear(8, 8), lambda layer, x: torch.cat([layer(x), x], 1)),
    "tanh": plain(torch.tanh),
    "scaled": plain(lambda x: x / 8),
}
"""On (samples, positions, 8)."""


class Drawn(nn.Module):
    """Steps one after the other, and a last layer on their mean or largest value."""

    def __init__(self, table: Mapping[str, Step], names: list[str], *, largest: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(table[name][0]() for name in names)
        self.last = nn.Linear(8, 5)
        self._steps = [table[name][1] for name in names]
        self._axes = (2, 3) if table is IMAGES else (1,)
        self._largest = largest

    def forward(self, x: Tensor) -> Tensor:
        for layer, step in zip(self.layers, self._steps, strict=True):
            x = step(layer, x)
        found: Tensor = self.last(x.amax(self._axes) if self._largest else x.mean(self._axes))
        return found


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network and its inputs."""
    table = draw(st.sampled_from((IMAGES, ROWS)))
    names = draw(st.lists(st.sampled_from(sorted(table)), min_size=1, max_size=5))
    torch.manual_seed(draw(st.integers(0, 99)))
    model = Drawn(table, names, largest=draw(st.booleans())).eval()
    return model, (torch.randn(16, *((8, 8, 8) if table is IMAGES else (6, 8))),)


def decibels(expected: Tensor, found: Tensor) -> float:
    """SQNR."""
    noise = (found - expected).double().square().sum() / expected.double().square().sum()
    return to_decibels(float(noise)) if torch.isfinite(noise) else float("-inf")


@pytest.mark.parametrize("name", ["torch", "openvino", "onnxruntime"])
def test_an_engine_gives_what_rounding_explains(name: str) -> None:
    row = find_rows()[name]
    if row.missing:
        pytest.skip(f"{name} is not installed: {', '.join(row.missing)}")
    options = {"engine": "fbgemm"} if name == "torch" else {}
    settled = load_target(name).settle(BuildSettings(name, options=options), None)

    @settings(max_examples=min(EXAMPLES, SHORT) if EXAMPLES == 100 else EXAMPLES)
    @given(network=networks(), data=st.data())
    def run(network: tuple[nn.Module, tuple[Tensor, ...]], data: st.DataObject) -> None:
        model, inputs = network
        with torch.no_grad():
            exact = model(*inputs)
        opened = Opened(settled, model, inputs)
        knobs = full_space(opened.captured, opened.backend)
        plan = knobs.plan(
            {item.name: data.draw(st.sampled_from(item.schemes)) for item in knobs.knobs}
        )
        try:
            found = opened.outputs(plan)
        except BackendError:  # an engine may refuse what lies side by side
            assume(False)
        measured = decibels(exact, found)
        if measured < GOOD_DB:
            assert measured > decibels(exact, opened.expected(plan)) - UNEXPLAINED_DB, plan

    run()
