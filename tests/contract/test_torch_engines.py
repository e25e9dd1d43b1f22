"""The support table against what the converter really makes, op by op and engine by engine."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoquant.backends.torch_cpu.backend import TorchCpuBackend, engine_settings
from autoquant.backends.torch_cpu.engines import engines_here, saturates
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind
from autoquant.core.statistics import ObserverName
from autoquant.errors import BackendError
from autoquant.model.calibration import calibrate
from autoquant.model.capture import capture
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
    "gru": (OpKind.GRU, nn.GRU(8, 8, batch_first=True), MAP[:, 0]),
}


def backend_for(model: nn.Module, example: Tensor, engine: str) -> TorchCpuBackend:
    captured = capture(model.eval(), (example,))
    statistics = calibrate(captured, [(example,)])
    settings = engine_settings(engine, ObserverName.HISTOGRAM)
    return TorchCpuBackend(captured, statistics, engine, settings, (example,))


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("engine", engines_here())
def test_what_the_table_promises_is_what_runs(engine: str, name: str) -> None:
    kind, op, example = OPS[name]
    model = nn.Sequential(op)
    captured = capture(model.eval(), (example,))
    assert kind in {site.kind for site in captured.sites}
    backend = backend_for(model, example, engine)
    space = full_space(captured, backend)
    (subject,) = [site for site in captured.sites if site.kind is kind][-1:]
    expected = _first(backend.run(model, (example,)))
    for uniform in space.schemes:
        plan = space.uniform(uniform)
        executable = backend.build(plan)
        scheme, support = backend.expected(subject.name, plan[subject.name])
        assert executable.executed[subject.name] == f"{scheme.value} {support.value}"
        found = _first(backend.run(executable.module, (example,)))
        assert (found - expected).norm() < 0.3 * expected.norm()


def _first(outputs: object) -> Tensor:
    while not isinstance(outputs, Tensor):
        outputs = outputs[0]  # type: ignore[index]
    return outputs


@pytest.mark.parametrize("engine", engines_here())
def test_random_mixed_plans_build_and_stay_near_float(engine: str) -> None:
    model = seeded(MixedNet)
    example = images(4)
    captured = capture(model, (example,))
    backend = backend_for(model, example, engine)
    space = full_space(captured, backend)
    with torch.no_grad():
        expected = model(example)
    for seed in range(8):
        plan = random_plan(space, seed)
        outputs = backend.run(backend.build(plan).module, (example,))
        # eight bits everywhere stay within a tenth of the output's range on this network
        assert (outputs - expected).abs().max() < 0.1 * (expected.max() - expected.min()), seed


def test_text_models_run_weight_only_and_dynamic_kernels() -> None:
    engine = engines_here()[0]
    captured = capture(seeded(TextNet), (TOKENS,))
    backend = backend_for(seeded(TextNet), TOKENS, engine)
    space = full_space(captured, backend)
    executed = backend.build(space.uniform(Scheme.INT8_DYNAMIC)).executed
    assert executed["rnn"] == "int8_dynamic native"
    assert backend.build(space.uniform(Scheme.INT8_WEIGHT_ONLY)).executed["embed"] == (
        "int8_weight_only native"
    )


def test_a_plan_that_the_engine_would_not_follow_is_refused_by_site_name() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Hardswish(), nn.Conv2d(4, 4, 1))
    backend = backend_for(model, MAP, engines_here()[0])
    plan = Plan.of({"0": Scheme.INT8, "1": Scheme.FP32, "2": Scheme.INT8})
    with pytest.raises(BackendError, match="1 is planned as fp32 native but runs int8 native"):
        backend.build(plan)


@pytest.mark.parametrize("engine", engines_here())
def test_reduced_range_is_used_exactly_where_the_kernel_saturates(engine: str) -> None:
    settings = engine_settings(engine, ObserverName.HISTOGRAM)
    assert settings.reduce_range is saturates(engine)


def test_unknown_engines_are_named_with_the_choices() -> None:
    model = nn.Linear(4, 4)
    with pytest.raises(BackendError, match=r"'tpu' does not run here"):
        backend_for(model, torch.ones(2, 4), "tpu")


def test_embeddings_have_no_static_int8() -> None:
    site = capture(nn.Sequential(nn.Embedding(4, 4)), (TOKENS % 4,)).sites[0]
    backend = backend_for(nn.Sequential(nn.Embedding(4, 4)), TOKENS % 4, engines_here()[0])
    assert backend.support(site, Scheme.INT8) is Support.UNSUPPORTED
