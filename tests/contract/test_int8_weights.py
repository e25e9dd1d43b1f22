"""Linear layers of int8 weights between floats in bf16, on torch's engines."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autoquant.backends.torch_cpu.engines import engines_here
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.errors import BackendError
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.graph.site_nodes import mark_sites
from autoquant.model.numerics.rounded_graph import RoundedGraph, choices_of
from autoquant.model.numerics.rounding import SchemeRounding
from autoquant.searching.measuring.size import weight_bytes
from tests.contract.test_torch_engines import backend_for, plan_of
from tests.contract.test_torch_modules import One, open_backend
from tests.networks import seeded
from tests.spaces import full_space

pytestmark = pytest.mark.filterwarnings("ignore")

BF16 = Scheme.INT8_WEIGHT_ONLY_BF16
STEPS = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(1))


class Layers(nn.Module):
    """Layers with and without a bias, one behind a relu, odd numbers of outputs, a large bias."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64, bias=False)
        self.gelu, self.head = nn.GELU(), nn.Linear(64, 33)
        with torch.no_grad():
            self.head.bias.mul_(1e3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gelu(self.down(self.act(self.up(x))))[:, 0])


@pytest.mark.parametrize("engine", engines_here())
def test_the_kernel_gives_what_reference_numerics_say(engine: str) -> None:
    captured, backend = backend_for(seeded(Layers), STEPS, engine)
    plan = plan_of(captured, backend, BF16)
    built = backend.build(plan)
    layers = ("up", "down", "head")
    assert {str(built.executed[name]) for name in layers} == {f"{BF16.value} native"}
    settings = BuildSettings(capture="export")
    ranges = TensorRanges(captured, calibrate(captured, [(STEPS,)]), settings)
    reference = RoundedGraph(mark_sites(captured), SchemeRounding(ranges), choices_of(plan))
    with torch.no_grad():
        expected = captured.graph.graph.process_outputs(reference.run(STEPS))
    found = backend.run(built.module, (STEPS,))
    # sums of floats in another order change the last bit of a bf16 now and then
    assert (found == expected).float().mean() > 0.95
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=2e-2)


def test_weights_take_a_byte_and_scales_two() -> None:
    captured, _ = backend_for(seeded(Layers), STEPS, engines_here()[0])
    site = next(item for item in captured.sites if item.name == "up")
    assert weight_bytes(site, BF16) == 64 * 96 + 2 * 96


def test_pickled_models_and_exported_files_give_the_same_at_any_batch_size(tmp_path: Path) -> None:
    captured, backend = backend_for(seeded(Layers), STEPS, "fbgemm")
    plan = plan_of(captured, backend, BF16)
    built = backend.build(plan).module
    few = STEPS[:1]
    assert torch.equal(pickle.loads(pickle.dumps(built))(few), built(few))
    path = backend.export(plan, tmp_path / "model.ts", {})
    assert torch.equal(torch.jit.load(str(path))(few), built(few))
    assert path.stat().st_size < 0.5 * sum(item.nbytes for item in seeded(Layers).parameters())


@pytest.mark.parametrize("width", [31, 33, 48])
def test_rows_that_the_kernel_reads_beyond_are_refused(width: int) -> None:
    rows = torch.randn(4, width)
    model = nn.Sequential(nn.Linear(width, 8)).eval()
    captured, backend = backend_for(model, rows, "fbgemm")
    assert backend.support(captured.sites[0], BF16) is Support.UNSUPPORTED
    with pytest.raises(BackendError, match=f"site 0: torch's fbgemm has no {BF16.value} kernel"):
        backend.build(Plan.of({"0": BF16}))
    _, modules, _ = open_backend(One(nn.Linear(width, 8)).eval(), (rows,), "fbgemm")
    with pytest.raises(BackendError, match=f"site inner: torch/fbgemm has no {BF16.value} kernel"):
        modules.build(Plan.of({"inner": BF16}))


def test_module_by_module_it_runs_too() -> None:
    inputs, inner = torch.randn(4, 6, 32), nn.Linear(32, 8)
    _, backend, _ = open_backend(One(inner).eval(), (inputs,), "fbgemm")
    built = backend.build(Plan.of({"inner": BF16}))
    assert str(built.executed["inner"]) == f"{BF16.value} native"
    with torch.no_grad():
        torch.testing.assert_close(built.module(inputs), inner(inputs), rtol=0.02, atol=0.02)


def test_each_layer_has_a_cost_of_its_own() -> None:
    model, rows = (
        nn.Sequential(nn.Linear(512, 512), nn.Linear(512, 512)).eval(),
        torch.randn(2, 512),
    )
    captured, backend = backend_for(model, rows, "fbgemm")
    profile = backend.profile(full_space(captured, backend), (rows,), time.thread_time)
    assert all(profile.table.ops[name, BF16] > 0.0 for name in ("0", "1"))
