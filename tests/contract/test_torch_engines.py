"""What is lowered against the support table and the float model, op by op, engine by engine."""

from __future__ import annotations

import copy
import json
import operator
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoquant.backends.protocol import BuildRequest
from autoquant.backends.torch_cpu.emission import FLOAT_NODE
from autoquant.backends.torch_cpu.engines import engines_here, using_engine
from autoquant.backends.torch_cpu.graph_backend import TorchGraphBackend
from autoquant.backends.torch_cpu.kernel_readback import read_back
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.ranges import ObserverName
from autoquant.core.sites import OpKind
from autoquant.errors import BackendError
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.graph.capture import Capture, capture
from tests.networks import MixedNet, TextNet, images, seeded
from tests.spaces import full_space, random_plan

pytestmark = pytest.mark.filterwarnings("ignore")


class Two(nn.Module):
    """A function of two views of one input."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.left = nn.Conv2d(4, 4, 1)
        self.right = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.left(x), self.right(x))


def after_conv(module: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 4, 1), module)


class Functional(nn.Module):
    """A convolution by function."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 4, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(F.conv2d(x, self.weight, None, (1, 1), (1, 1), (1, 1), 1))


MAP = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
LINE = MAP[..., 0]
VOLUME = MAP[..., None].expand(4, 4, 8, 8, 4).contiguous()
ROW = MAP[:, 0, 0]
TOKENS = torch.arange(32).reshape(4, 8)


class Mean(nn.Module):
    """A mean over the image."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class ReusedRelu(nn.Module):
    """One relu called twice, the second time in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.first(x))
        y = self.second(y)
        y += x
        return self.relu(y)


OPS: dict[str, tuple[OpKind, nn.Module, Tensor]] = {
    "conv1d": (OpKind.CONV1D, nn.Conv1d(4, 8, 3), LINE),
    "conv2d": (OpKind.CONV2D, nn.Conv2d(4, 8, 3), MAP),
    "conv2d depthwise": (OpKind.CONV2D, nn.Conv2d(4, 4, 3, groups=4), MAP),
    "conv3d": (OpKind.CONV3D, nn.Conv3d(4, 8, 3), VOLUME),
    "conv_transpose1d": (OpKind.CONV_TRANSPOSE1D, nn.ConvTranspose1d(4, 8, 3), LINE),
    "conv_transpose2d": (OpKind.CONV_TRANSPOSE2D, nn.ConvTranspose2d(4, 8, 3), MAP),
    "conv_transpose3d": (OpKind.CONV_TRANSPOSE3D, nn.ConvTranspose3d(4, 8, 3), VOLUME),
    "functional conv2d": (OpKind.CONV2D, Functional(), MAP),
    "linear": (OpKind.LINEAR, nn.Linear(8, 8), ROW),
    "add": (OpKind.ADD, Two(operator.add), MAP),
    "mul": (OpKind.MUL, Two(torch.mul), MAP),
    "matmul": (OpKind.MATMUL, Two(torch.matmul), MAP),
    "cat": (OpKind.CAT, Two(lambda a, b: torch.cat([a, b], 1)), MAP),
    "max pool": (OpKind.POOL, after_conv(nn.MaxPool2d(2)), MAP),
    "avg pool": (OpKind.POOL, after_conv(nn.AvgPool2d(2)), MAP),
    "adaptive pool": (OpKind.POOL, after_conv(nn.AdaptiveAvgPool2d(1)), MAP),
    "hardswish": (OpKind.ACTIVATION, after_conv(nn.Hardswish()), MAP),
    "sigmoid": (OpKind.ACTIVATION, after_conv(nn.Sigmoid()), MAP),
    "hardsigmoid": (OpKind.ACTIVATION, after_conv(nn.Hardsigmoid()), MAP),
    "tanh": (OpKind.ACTIVATION, after_conv(nn.Tanh()), MAP),
    "leaky relu": (OpKind.ACTIVATION, after_conv(nn.LeakyReLU()), MAP),
    "elu": (OpKind.ACTIVATION, after_conv(nn.ELU()), MAP),
    "layer norm": (OpKind.NORM, nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)), ROW),
    "instance norm": (OpKind.NORM, after_conv(nn.InstanceNorm2d(4, affine=True)), MAP),
    "embedding": (OpKind.EMBEDDING, nn.Embedding(50, 8), TOKENS),
    "embedding bag": (OpKind.EMBEDDING_BAG, nn.EmbeddingBag(50, 8, mode="sum"), TOKENS),
    "lstm": (OpKind.LSTM, nn.LSTM(8, 8, batch_first=True), MAP[:, 0]),
    "embedding bag mean": (OpKind.EMBEDDING_BAG, nn.EmbeddingBag(50, 8, mode="mean"), TOKENS),
    "silu": (OpKind.ACTIVATION, after_conv(nn.SiLU()), MAP),
    "prelu": (OpKind.ACTIVATION, after_conv(nn.PReLU()), MAP),
    "relu6": (OpKind.ACTIVATION, after_conv(nn.ReLU6()), MAP),
    "softmax": (OpKind.ACTIVATION, after_conv(nn.Softmax(1)), MAP),
    "gelu": (OpKind.ACTIVATION, nn.Sequential(nn.Linear(8, 8), nn.GELU()), ROW),
    "sigmoid of an input": (OpKind.ACTIVATION, after_conv(nn.Sigmoid()), MAP - 3.0),
    "group norm": (OpKind.NORM, after_conv(nn.GroupNorm(2, 4)), MAP),
    "instance norm with statistics": (
        OpKind.NORM,
        after_conv(nn.InstanceNorm2d(4, track_running_stats=True)),
        MAP,
    ),
    "batch norm without a factor": (
        OpKind.NORM,
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4, affine=False)),
        MAP,
    ),
    "mean": (OpKind.POOL, after_conv(Mean()), MAP),
    "max pool 1d": (OpKind.POOL, nn.Sequential(nn.Conv1d(4, 4, 1), nn.MaxPool1d(2)), LINE),
    "max pool 3d": (OpKind.POOL, nn.Sequential(nn.Conv3d(4, 4, 1), nn.MaxPool3d(2)), VOLUME),
    "twice the second": (OpKind.ADD, Two(lambda a, b: torch.add(a, b, alpha=2)), MAP),
    "in place, a relu twice": (OpKind.ADD, ReusedRelu(), MAP),
    "padding same": (OpKind.CONV2D, nn.Conv2d(4, 8, 3, padding="same", dilation=2), MAP),
    "padding by reflection": (OpKind.CONV2D, nn.Conv2d(4, 8, 3, 1, 1, padding_mode="reflect"), MAP),
    "grouped transposed convolution and batch norm": (
        OpKind.CONV_TRANSPOSE2D,
        nn.Sequential(nn.ConvTranspose2d(4, 8, 3, groups=2), nn.BatchNorm2d(8)),
        MAP,
    ),
    "linear, relu, linear": (
        OpKind.LINEAR,
        nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)),
        ROW,
    ),
    "gru": (OpKind.GRU, nn.GRU(8, 8, batch_first=True), MAP[:, 0]),
}


SOME = ("conv2d", "conv_transpose2d", "linear", "add", "hardswish", "relu6", "lstm", "embedding")
"""Ops that all engines are asked for; the others are asked of fbgemm and of pointwise."""

CASES = [
    (engine, name)
    for engine in engines_here()
    for name in OPS
    if engine in ("fbgemm", "pointwise") or name in SOME
]

_LEAST_DB = 20.0
"""int8 gives 32 dB and more on these ops, a kernel that computes something else less than 5."""


def backend_for(
    model: nn.Module, example: Tensor, engine: str
) -> tuple[Capture, TorchGraphBackend]:
    captured = capture(model.eval(), (example,), how="export")
    statistics = calibrate(captured, [(example,)])
    settings = BuildSettings(
        options={"engine": engine}, capture="export", observer=ObserverName.MINMAX
    )
    request = BuildRequest(model, captured, statistics, settings, (example,), (example,))
    return captured, TorchGraphBackend(request)


def plan_of(captured: Capture, backend: TorchGraphBackend, scheme: Scheme) -> Plan:
    """A scheme wherever it is supported; sites that follow another take its scheme."""
    schemes: dict[str, Scheme] = {}
    for site in captured.sites:
        able = backend.support(site, scheme) is not Support.UNSUPPORTED
        own = scheme if able else Scheme.FP32
        schemes[site.name] = schemes[site.follows] if site.follows else own
    return Plan.of(schemes)


def sqnr_db(found: Tensor, expected: Tensor) -> float:
    error = (found - expected).square().sum().clamp_min(1e-20)
    return float(10.0 * torch.log10(expected.square().sum() / error))


def _first(outputs: object) -> Tensor:
    while not isinstance(outputs, Tensor):
        outputs = outputs[0]  # type: ignore[index]
    return outputs


@pytest.mark.parametrize(("engine", "name"), CASES, ids=[" ".join(case) for case in CASES])
def test_every_scheme_of_an_op_runs_near_float_and_frozen_as_eager(engine: str, name: str) -> None:
    kind, op, example = OPS[name]
    model = nn.Sequential(op).eval()
    captured, backend = backend_for(model, example, engine)
    subjects = [site for site in captured.sites if site.kind is kind]
    assert subjects
    with torch.no_grad():
        expected = _first(model(example))
    for scheme in Scheme:
        plan = plan_of(captured, backend, scheme)
        built = backend.build(plan)
        assert built.module.frozen is not None, built.module.eager_because
        assert sqnr_db(_first(backend.run(built.module, (example,))), expected) > _LEAST_DB
        for site in subjects:
            if plan[site.name] is scheme and site.follows is None:
                support = backend.support(site, scheme)
                assert str(built.executed[site.name]) == f"{scheme.value} {support.value}"
        few = (example[:3],)  # another number of samples than the frozen graph has seen
        with using_engine(engine):
            eager = built.module.nest(built.module.graph(*few))
        assert torch.allclose(_first(built.module(*few)), _first(eager), atol=1e-5)


@pytest.mark.parametrize("engine", engines_here())
def test_random_mixed_plans_build_and_stay_near_float(engine: str) -> None:
    model, example = seeded(MixedNet), images(4)
    captured, backend = backend_for(model, example, engine)
    space = full_space(captured, backend)
    with torch.no_grad():
        expected = model(example)
    for seed in range(8):
        plan = random_plan(space, seed)
        outputs = backend.run(backend.build(plan).module, (example,))
        # eight bits everywhere stay within a tenth of the output's range on this network
        assert (outputs - expected).abs().max() < 0.1 * (expected.max() - expected.min()), seed


@pytest.mark.parametrize("engine", engines_here())
def test_pickled_and_copied_models_give_the_same(engine: str) -> None:
    example = images(4)
    captured, backend = backend_for(seeded(MixedNet), example, engine)
    built = backend.build(random_plan(full_space(captured, backend), 3)).module
    expected = built(example)
    loaded = pickle.loads(pickle.dumps(built))
    assert torch.equal(loaded(example), expected)
    assert torch.equal(pickle.loads(pickle.dumps(loaded))(example), expected)
    assert torch.equal(copy.deepcopy(built)(example), expected)


@pytest.mark.parametrize("engine", engines_here())
def test_exported_files_give_the_same_at_any_batch_size(engine: str, tmp_path: Path) -> None:
    captured, backend = backend_for(seeded(MixedNet), images(4), engine)
    plan = random_plan(full_space(captured, backend), 3)
    path = backend.export(plan, tmp_path / "model.ts", {"digest": plan.digest})
    files = {"autoquant.json": ""}
    with using_engine(engine):
        found = torch.jit.load(str(path), _extra_files=files)(images(7))
    assert torch.allclose(found, backend.build(plan).module(images(7)), atol=1e-6)
    metadata = json.loads(files["autoquant.json"])
    assert (metadata["digest"], metadata["engine"]) == (plan.digest, engine)


def test_the_fp32_plan_is_the_model() -> None:
    model, example = seeded(MixedNet), images(4)
    captured, backend = backend_for(model, example, engines_here()[0])
    built = backend.build(plan_of(captured, backend, Scheme.FP32))
    with torch.no_grad():  # channels last and folded batch norms sum in another order
        assert torch.allclose(built.module(images(3)), model(images(3)), atol=1e-5)


def test_text_models_run_weight_only_and_dynamic_kernels() -> None:
    captured, backend = backend_for(seeded(TextNet), TOKENS, engines_here()[0])
    dynamic = plan_of(captured, backend, Scheme.INT8_DYNAMIC)
    assert str(backend.build(dynamic).executed["rnn"]) == "int8_dynamic native"
    weights = plan_of(captured, backend, Scheme.INT8_WEIGHT_ONLY)
    assert str(backend.build(weights).executed["embed"]) == "int8_weight_only native"


def test_read_back_sees_a_kernel_that_the_plan_does_not_name() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).eval()
    captured, backend = backend_for(model, ROW, "fbgemm")
    plan = Plan.of({"0": Scheme.INT8, "1": Scheme.FP32})
    graph = backend.build(plan).module.graph
    owners = {group[-1]: name for name, (group,) in captured.members.items()}
    executions = read_back(graph, owners, (ROW,)).executions
    assert executions["0"].ran(Scheme.INT8, Support.NATIVE).scheme is Scheme.INT8
    assert executions["0"].ran(Scheme.FP32, Support.NATIVE).scheme is not Scheme.FP32
    assert executions["1"].ran(Scheme.INT8, Support.NATIVE).scheme is not Scheme.INT8
    (second,) = [n for n in graph.graph.nodes if n.meta.get(FLOAT_NODE) == captured.sites[1].node]
    with graph.graph.inserting_before(second):
        rounded = graph.graph.call_function(
            torch.ops.aten.fake_quantize_per_tensor_affine.default,
            (second.args[0], 0.1, 0, -128, 127),
        )
    second.replace_input_with(second.args[0], rounded)
    graph.recompile()
    executions = read_back(graph, owners, (ROW,)).executions
    assert executions["1"].ran(Scheme.FP32, Support.NATIVE).scheme is not Scheme.FP32


class Broadcast(nn.Module):
    """A sum of tensors of different shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.conv(x), x[:, :1])


def test_a_site_without_a_kernel_is_refused_by_its_name() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 4, padding="same")).eval()
    captured, backend = backend_for(model, MAP, "fbgemm")
    assert backend.support(captured.sites[0], Scheme.INT8) is Support.UNSUPPORTED
    with pytest.raises(BackendError, match="site 0: torch's fbgemm has no int8 kernel for conv2d"):
        backend.build(Plan.of({"0": Scheme.INT8}))


def test_operands_of_different_shapes_are_added_in_integers() -> None:
    model = Broadcast().eval()
    captured, backend = backend_for(model, MAP, "fbgemm")
    built = backend.build(plan_of(captured, backend, Scheme.INT8))
    with torch.no_grad():
        assert sqnr_db(built.module(MAP), model(MAP)) > _LEAST_DB


def test_costs_add_up_to_the_frozen_model() -> None:
    example = images(4)
    captured, backend = backend_for(seeded(MixedNet), example, "fbgemm")
    space = full_space(captured, backend)
    ticks = iter(range(10**7))
    profile = backend.profile(space, (example,), lambda: next(ticks) * 1e-3)
    for plan, milliseconds in profile.measured_ms.items():
        assert milliseconds > 0.0
        assert profile.table.predict(plan) > 0.0


def test_unknown_engines_are_named_with_the_choices() -> None:
    with pytest.raises(BackendError, match=r"'tpu' does not run here"):
        backend_for(nn.Linear(8, 8), ROW, "tpu")


def test_embeddings_have_no_static_int8() -> None:
    captured, backend = backend_for(nn.Sequential(nn.Embedding(50, 4)), TOKENS, engines_here()[0])
    assert backend.support(captured.sites[0], Scheme.INT8) is Support.UNSUPPORTED
