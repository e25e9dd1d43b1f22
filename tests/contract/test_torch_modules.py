"""The module-by-module backend: its support table, its exactness, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autoquant.backends.protocol import Backend, BuildRequest
from autoquant.backends.targets import load_target
from autoquant.backends.torch_cpu.engines import engines_here, saturates
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind
from autoquant.core.statistics import ObserverName
from autoquant.errors import BackendError
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.graph.capture import Capture, capture
from tests.networks import images, seeded
from tests.readbacks import words
from tests.spaces import full_space, random_plan
from tests.untraceable import TokenNet, tokens

pytestmark = pytest.mark.filterwarnings("ignore")

MAP = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
LINE, ROW = MAP[..., 0], MAP[:, 0, 0]
VOLUME = MAP[..., None].expand(4, 4, 8, 8, 4).contiguous()
IDS = torch.arange(32).reshape(4, 8)

MODULES: dict[str, tuple[nn.Module, Tensor]] = {
    "conv1d": (nn.Conv1d(4, 8, 3), LINE),
    "conv2d": (nn.Conv2d(4, 8, 3, bias=False), MAP),
    "conv3d": (nn.Conv3d(4, 8, 3), VOLUME),
    "conv_transpose1d": (nn.ConvTranspose1d(4, 8, 3), LINE),
    "conv_transpose2d": (nn.ConvTranspose2d(4, 8, 3), MAP),
    "conv_transpose3d": (nn.ConvTranspose3d(4, 8, 3), VOLUME),
    "linear": (nn.Linear(8, 8), ROW),
    "embedding": (nn.Embedding(32, 8), IDS.t()),
    "embedding_bag": (nn.EmbeddingBag(32, 8, mode="sum"), IDS),
    "lstm": (nn.LSTM(8, 8, batch_first=True), LINE),
    "gru": (nn.GRU(8, 8, batch_first=True), LINE),
}


_TOLERANCE = 0.1
"""Outputs reach 1 to 5; int8 errs by hundredths, a kernel that computes something else by 1."""


class One(nn.Module):
    """One module, whose first output counts."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        found = self.inner(x)
        return found[0] if isinstance(found, tuple) else found


def open_backend(
    model: nn.Module, inputs: tuple[Tensor, ...], engine: str
) -> tuple[Capture, Backend, BuildSettings]:
    captured = capture(model, inputs, how="modules")
    settings = BuildSettings(
        options={"engine": engine}, observer=ObserverName.MINMAX, capture="modules"
    )
    request = BuildRequest(model, captured, calibrate(captured, [inputs]), settings, inputs, inputs)
    return captured, load_target("torch").open_backend(request), settings


@pytest.mark.parametrize("engine", engines_here())
@pytest.mark.parametrize("name", MODULES)
def test_the_table_says_what_torch_runs(name: str, engine: str) -> None:
    inner, inputs = MODULES[name]
    captured, backend, settings = open_backend(One(inner).eval(), (inputs,), engine)
    (site,) = captured.sites
    assert site.kind is OpKind(name)
    table = load_target("torch")
    with torch.no_grad():
        expected = One(inner)(inputs)
    for scheme in Scheme:
        support = table.site_support(settings, site, scheme)
        assert support is backend.support(site, scheme)
        plan = Plan.of({site.name: scheme})
        try:
            built = backend.build(plan)
        except BackendError:
            assert support is Support.UNSUPPORTED
            continue
        error = float((backend.run(built.module, (inputs,)) - expected).abs().max())
        assert (error < _TOLERANCE) is (support is Support.NATIVE)
        assert words(built.executed) == {site.name: f"{scheme.value} native"}


@pytest.mark.parametrize("scheme", [Scheme.INT8, Scheme.INT8_DYNAMIC])
def test_a_linear_layer_rounds_inputs_and_weights_alone(scheme: Scheme) -> None:
    linear, inputs = nn.Linear(16, 8), images(8)
    _, backend, _ = open_backend(One(linear).eval(), (inputs,), "fbgemm")
    found = backend.run(backend.build(Plan.of({"inner": scheme})).module, (inputs,))
    low, high = inputs.aminmax()
    scale = float(high - low) / 255
    zero_point = -round(float(low) / scale)
    x = torch.fake_quantize_per_tensor_affine(inputs, scale, zero_point, 0, 255)
    least, most = (-64, 64) if saturates("fbgemm") else (-128, 127)
    limits = linear.weight.detach().abs().amax(1) / ((most - least) / 2)
    zeros = torch.zeros(8, dtype=torch.int32)
    weight = torch.fake_quantize_per_channel_affine(
        linear.weight.detach(), limits, zeros, 0, least, most
    )
    with torch.no_grad():
        expected = torch.nn.functional.linear(x, weight, linear.bias)
    assert torch.allclose(found, expected, atol=1e-5)  # sums of floats in another order


def test_a_mixed_plan_runs_as_planned_and_leaves_the_model_alone() -> None:
    model = seeded(TokenNet)
    inputs = (tokens(4),)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    captured, backend, _ = open_backend(model, inputs, "fbgemm")
    with torch.no_grad():
        expected = model(*inputs)
    sites = {site.name: site for site in captured.sites}
    space = full_space(captured, backend)
    for seed in range(4):
        plan = random_plan(space, seed)
        built = backend.build(plan)
        found = backend.run(built.module, inputs)
        assert float((found - expected).abs().max()) < 0.3
        for name, scheme in plan.assignment:
            is_module = sites[name].function is None and sites[name].kind.is_weighted
            wanted = scheme if is_module else Scheme.FP32
            assert str(built.executed[name]) == f"{wanted.value} native"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(model(*inputs), expected)


class Skipping(nn.Module):
    """Reads a layer's weight without calling it once it is not a plain linear layer any more."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.kept = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if type(self.layer) is nn.Linear else self.kept(x)


def test_a_module_that_is_not_called_any_more_is_a_refusal() -> None:
    _, backend, _ = open_backend(Skipping().eval(), (ROW,), "fbgemm")
    with pytest.raises(BackendError, match="layer is planned as int8 but runs nothing"):
        backend.build(Plan.of({"layer": Scheme.INT8}))


class Experts(nn.Module):
    """Sends rows to one layer or the other by the sign of their first value."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(8, 3), nn.Linear(8, 3)])

    def forward(self, x: Tensor) -> Tensor:
        found = x.new_zeros(len(x), 3)
        for index, expert in enumerate(self.experts):
            chosen = torch.where((x[:, 0] > 0) == bool(index))[0]
            if chosen.numel():
                found[chosen] = expert(x[chosen])
        return found


def test_experts_that_the_first_samples_do_not_call_are_read_back() -> None:
    rows = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    rows[:, 0] = torch.linspace(-1.0, 1.0, 16)
    torch.manual_seed(0)
    captured, backend, _ = open_backend(Experts().eval(), (rows,), "fbgemm")
    plan = Plan.of({site.name: Scheme.INT8_DYNAMIC for site in captured.sites})
    expected = {"experts.0": "int8_dynamic native", "experts.1": "int8_dynamic native"}
    assert words(backend.build(plan).executed) == expected


def test_costs_cover_the_space_and_are_measured() -> None:
    inputs = (tokens(4),)
    captured, backend, _ = open_backend(seeded(TokenNet), inputs, "fbgemm")
    space = full_space(captured, backend)
    ticks = iter(range(10**6))
    table = backend.costs(space, inputs, lambda: float(next(ticks)))
    assert table is not None
    assert table.kind.value == "measured"
    plan = random_plan(space, 1)
    assert table.predict(plan) > table.constant > 0.0
    assert table.ops["head", Scheme.INT8] == 1000.0  # the clock was read twice around one call


def test_the_exported_file_runs_without_autoquant(tmp_path: Path) -> None:
    inputs = (tokens(4),)
    captured, backend, _ = open_backend(seeded(TokenNet), inputs, "fbgemm")
    plan = random_plan(full_space(captured, backend), 2)
    path = backend.export(plan, tmp_path / "model.ts", {"plan": plan.to_json()})
    built = backend.build(plan).module
    torch.save((tokens(3, seed=7), backend.run(built, (tokens(3, seed=7),))), tmp_path / "io.pt")
    script = (
        "import json, sys, torch\n"
        "files = {'autoquant.json': ''}\n"
        "module = torch.jit.load(sys.argv[1], _extra_files=files)\n"
        "x, y = torch.load(sys.argv[2])\n"
        "torch.backends.quantized.engine = 'fbgemm'\n"
        "print(json.dumps([json.loads(files['autoquant.json']), torch.equal(module(x), y)]))\n"
        "assert 'autoquant' not in sys.modules\n"
    )
    command = [sys.executable, "-c", script, str(path), str(tmp_path / "io.pt")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    metadata, equal = json.loads(ran.stdout.splitlines()[-1])
    assert equal
    assert metadata["plan"] == plan.to_json()
    assert metadata["engine"] == "fbgemm"
