"""Float weights packed for onednn: where they are, what they give, and how they are kept."""

from __future__ import annotations

import gc
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoquant.backends.examination import WeightType
from autoquant.backends.protocol import BuildRequest
from autoquant.backends.torch_cpu.engines import packs_floats
from autoquant.backends.torch_cpu.graph_backend import TorchGraphBackend
from autoquant.backends.torch_cpu.lowered import LoweredModel
from autoquant.backends.torch_cpu.packed_weights import PackedWeight
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.graph.capture import Capture, capture
from tests.networks import images, seeded

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not packs_floats(torch.bfloat16), reason="needs onednn's bf16"),
]

FLOATS = (Scheme.FP32, Scheme.BF16)
_RELATIVE = {Scheme.FP32: 1e-5, Scheme.BF16: 3e-2}
"""Of the largest output: sums in another order; and a few layers' roundings to eight bits."""


class Wide(nn.Module):
    """Convolutions with a relu, a gate, a residual sum and a volume; linear layers with GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.deep = nn.Conv2d(32, 32, 5, padding=2, groups=32)
        self.flat = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.volume = nn.Conv3d(2, 4, 3)
        self.first = nn.Linear(32, 512)
        self.second = nn.Linear(512, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = F.hardswish(self.deep(x))
        x = F.relu(x + self.flat(y))
        volume = self.volume(x.unflatten(1, (2, 16))).mean((1, 2, 3, 4))
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.second(F.gelu(self.first(tokens)))
        return tokens.mean(1) * torch.sigmoid(volume).unsqueeze(1)


def open_backend(
    model: nn.Module, timed: int, inputs: Callable[[int], Tensor] = images
) -> tuple[Capture, TorchGraphBackend]:
    x = inputs(4)
    captured = capture(model, (x,))
    statistics = calibrate(captured, [(x,)])
    settings = BuildSettings(options={"engine": "onednn"}).with_weight_bits(8)
    request = BuildRequest(model, captured, statistics, settings, (x,), (inputs(timed),))
    return captured, TorchGraphBackend(request)


def uniform(captured: Capture, backend: TorchGraphBackend, scheme: Scheme) -> Plan:
    return Plan.of(
        {
            site.name: scheme if backend.support(site, scheme).value == "native" else Scheme.FP32
            for site in captured.sites
        }
    )


def built(backend: TorchGraphBackend, plan: Plan) -> LoweredModel:
    module = backend.build(plan).module
    assert isinstance(module, LoweredModel)
    return module


def calls(module: LoweredModel) -> list[str]:
    names = [str(node.target) for node in module.graph.graph.nodes if node.op == "call_function"]
    return [name for name in names if name.startswith("mkldnn.")]


def assert_close(found: Tensor, expected: Tensor, scheme: Scheme) -> None:
    assert float((found - expected).abs().max() / expected.abs().max()) < _RELATIVE[scheme]


@pytest.fixture(scope="module")
def wide() -> tuple[nn.Module, Capture, TorchGraphBackend]:
    model = seeded(Wide)
    return model, *open_backend(model, 2)


@pytest.mark.parametrize("scheme", FLOATS, ids=str)
@pytest.mark.parametrize("count", [1, 2, 7, 0])
def test_packed_weights_give_what_the_model_gives_on_every_number_of_samples(
    wide: tuple[nn.Module, Capture, TorchGraphBackend], scheme: Scheme, count: int
) -> None:
    model, captured, backend = wide
    module = built(backend, uniform(captured, backend, scheme))
    x = images(8)[:count]
    with torch.no_grad():
        found, expected = module(x), model(x)
    assert module.frozen is not None
    assert found.shape == expected.shape
    if count:
        assert_close(found, expected, scheme)


@pytest.mark.parametrize("scheme", FLOATS, ids=str)
def test_activations_and_sums_run_within_packed_ops_and_are_read_back(
    wide: tuple[nn.Module, Capture, TorchGraphBackend], scheme: Scheme
) -> None:
    _, captured, backend = wide
    plan = uniform(captured, backend, scheme)
    executed = backend.build(plan).executed
    kernels = {name: ran.kernel for name, ran in executed.items()}
    for name in ("stem", "deep", "flat", "volume"):
        assert kernels[name] == "mkldnn::_convolution_pointwise"
    for name in ("first", "second"):
        assert kernels[name] == "mkldnn::_linear_pointwise"
    sums = [name for name, kernel in kernels.items() if ":add:" in name and "mkldnn" in kernel]
    assert len(sums) == 2
    assert all(executed[name].scheme is scheme for name in ("stem", *sums))
    names = calls(built(backend, plan))
    assert sum(name.endswith(".binary") for name in names) == 2
    assert not any("hardswish" in str(node) for node in built(backend, plan).graph.graph.nodes)


@pytest.mark.parametrize("scheme", FLOATS, ids=str)
def test_a_packed_model_is_pickled_and_written_as_a_file_that_packs_on_loading(
    wide: tuple[nn.Module, Capture, TorchGraphBackend], scheme: Scheme, tmp_path: Path
) -> None:
    _, captured, backend = wide
    plan = uniform(captured, backend, scheme)
    module = built(backend, plan)
    path = backend.export(plan, tmp_path / "packed.ts", {})
    loaded = torch.jit.load(path)
    again = pickle.loads(pickle.dumps(module))
    for count in (1, 5):
        x = images(8)[:count]
        with torch.no_grad():
            expected = module(x)
            assert torch.equal(again(x), expected)
            assert torch.equal(loaded(x), expected)
            assert torch.equal(torch.jit.freeze(loaded.eval())(x), expected)
    assert calls(again) == calls(module)
    assert "mkldnn::_linear_pointwise" in str(loaded.inlined_graph)


def test_a_pickled_bf16_weight_takes_two_bytes_a_number(
    wide: tuple[nn.Module, Capture, TorchGraphBackend],
) -> None:
    _, captured, backend = wide
    sizes = []
    for scheme in FLOATS:
        module = built(backend, uniform(captured, backend, scheme))
        (packed,) = (
            item
            for name, item in module.graph.named_children()
            if name.startswith("first") and isinstance(item, PackedWeight)
        )
        file = io.BytesIO()
        torch.save(packed, file)
        sizes.append(file.tell())
    assert sizes[0] - sizes[1] == pytest.approx(2 * 32 * 512, rel=0.02)


@pytest.mark.slow
def test_packed_floats_are_kept_no_longer_than_a_plan_that_has_them() -> None:
    captured, backend = open_backend(seeded(Wide), 2)
    gc.collect()
    before = sum(isinstance(item, PackedWeight) for item in gc.get_objects())
    module = built(backend, uniform(captured, backend, Scheme.FP32))
    gc.collect()
    during = sum(isinstance(item, PackedWeight) for item in gc.get_objects())
    del module
    gc.collect()
    after = sum(isinstance(item, PackedWeight) for item in gc.get_objects())
    assert during - before == 6
    assert after == before


def test_what_is_stored_is_named_by_its_type(
    wide: tuple[nn.Module, Capture, TorchGraphBackend],
) -> None:
    _, captured, backend = wide
    weights = []
    for scheme in FLOATS:
        types = backend.examine(uniform(captured, backend, scheme)).types
        weights.append(types[next(site.node for site in captured.sites if site.name == "stem")])
    assert [item.weight for item in weights] == [WeightType("float32"), WeightType("bfloat16")]


class Sums(nn.Module):
    """A sum of a convolution and what a function gives.

    Args:
        function: Of the convolution and the input.
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 3, 3, padding=1, groups=3)
        self.late = nn.Conv2d(3, 3, 3, padding=1, groups=3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.body(x), x) + self.late(x)


@pytest.mark.parametrize(
    ("function", "within"),
    [
        (lambda y, x: y + x, True),
        (lambda y, x: torch.add(y, x, alpha=2), False),
        (lambda y, x: torch.relu(y) + x, False),
        (lambda y, x: y + x.mean((2, 3), keepdim=True), False),
        (lambda y, x: y + 1.0, False),
        (lambda y, x: y + y, False),
    ],
    ids=["the input", "scaled", "behind a relu", "spread", "a number", "itself"],
)
def test_a_sum_runs_within_a_convolution_if_it_is_the_plain_sum_of_tensors_of_one_size(
    function: Callable[[Tensor, Tensor], Tensor], within: bool
) -> None:
    model = seeded(lambda: Sums(function))
    captured, backend = open_backend(model, 2)
    module = built(backend, uniform(captured, backend, Scheme.FP32))
    x = images(5)
    with torch.no_grad():
        assert_close(module(x), model(x), Scheme.FP32)
    # the sum of both convolutions runs within the later one
    assert sum(name.endswith(".binary") for name in calls(module)) == 1 + within


@pytest.mark.slow
@pytest.mark.parametrize(
    "activation",
    [
        nn.ReLU(),
        nn.ReLU6(),
        nn.Hardswish(),
        nn.SiLU(),
        nn.GELU(),
        nn.GELU(approximate="tanh"),
        nn.Hardtanh(-0.5, 0.25),
        nn.Hardsigmoid(),
        nn.LeakyReLU(0.3),
        nn.Sigmoid(),
        nn.Tanh(),
        nn.ELU(),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(3, 3, 3, groups=3), nn.Conv3d(2, 4, 3, padding=1), nn.Linear(400, 400)],
    ids=["conv2d", "conv3d", "linear"],
)
def test_every_activation_within_an_op_is_the_one_behind_it(
    layer: nn.Module, activation: nn.Module
) -> None:
    model = seeded(lambda: nn.Sequential(layer, activation))
    shape = {"Conv2d": (3, 9, 9), "Conv3d": (2, 9, 9, 9), "Linear": (400,)}[type(layer).__name__]

    def inputs(count: int) -> Tensor:
        return 2 * torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))

    captured, backend = open_backend(model, 8, inputs)
    module = built(backend, uniform(captured, backend, Scheme.FP32))
    x = inputs(6)
    with torch.no_grad():
        assert_close(module(x), model(x), Scheme.FP32)
    assert len(calls(module)) == 1
    kinds = [str(node.target) for node in module.graph.graph.nodes if node.op == "call_function"]
    apart = sum("contiguous" not in kind for kind in kinds) - 1
    assert apart == isinstance(activation, nn.ELU)


@pytest.mark.parametrize(
    ("layer", "shape", "timed", "packed"),
    [
        (nn.Conv2d(16, 64, 1), (16, 16, 16), 1, False),
        (nn.Conv2d(16, 64, 1), (16, 16, 16), 64, True),
        (nn.Conv2d(1, 16, 3), (1, 8, 8), 1, False),
        (nn.Conv2d(128, 128, 3), (128, 4, 4), 1, True),
        (nn.Conv2d(96, 96, 3, groups=96), (96, 8, 8), 1, True),
        (nn.Linear(1024, 1024), (1024,), 1, False),
        (nn.Linear(1024, 1024), (1024,), 64, True),
        (nn.Linear(64, 10), (64,), 64, False),
        (nn.Linear(64, 64), (64, 64), 1, False),
        (nn.Linear(384, 1536), (64, 384), 1, True),
    ],
    ids=str,
)
def test_a_float32_weight_is_packed_where_the_batch_that_is_timed_is_faster_by_it(
    layer: nn.Module, shape: tuple[int, ...], timed: int, packed: bool
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # with more, torch asks onednn for more of its convolutions
    try:
        model = seeded(lambda: nn.Sequential(layer))
        captured, backend = open_backend(model, timed, lambda count: torch.ones(count, *shape))
        module = built(backend, uniform(captured, backend, Scheme.FP32))
    finally:
        torch.set_num_threads(before)
    assert len(calls(module)) == packed


class Gate(nn.Module):
    """Convolutions of one pixel: with a relu, behind a relu, and with a hard-sigmoid behind."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(96, 64, 1, stride=2)
        self.same = nn.Conv2d(64, 64, 1, bias=False)
        self.up = nn.Conv2d(64, 96, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.down(x.mean((2, 3), keepdim=True)))
        return x * F.hardsigmoid(self.up(self.same(y)))


@pytest.mark.parametrize("scheme", FLOATS, ids=str)
@pytest.mark.parametrize("timed", [16, 1024])
def test_convolutions_of_one_pixel_are_linear_layers(scheme: Scheme, timed: int) -> None:
    def inputs(count: int) -> Tensor:
        return torch.randn(count, 96, 4, 4, generator=torch.Generator().manual_seed(0))

    model = seeded(Gate)
    captured, backend = open_backend(model, timed, inputs)
    module = built(backend, uniform(captured, backend, scheme))
    targets = [str(node.target) for node in module.graph.graph.nodes]
    assert not any("conv" in target for target in targets)
    assert sum("linear" in target for target in targets) == 3
    assert bool(calls(module)) == (timed > 16 or scheme is Scheme.BF16)
    again = pickle.loads(pickle.dumps(module))
    for count in (1, 5):
        x = inputs(count)
        with torch.no_grad():
            assert_close(module(x), model(x), scheme)
            assert torch.equal(again(x), module(x))
