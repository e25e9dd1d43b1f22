"""Native kernels agree with the reference computation, and one that is wrong is found."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from autoquant.backends.targets import load_target
from autoquant.backends.torch_cpu.engines import POINTWISE, has_fp16_linear
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.debugging.diagnosis.kernels import build_handed_out, check_kernels
from autoquant.model.graph.site_nodes import mark_sites
from autoquant.model.numerics.rounding import SchemeRounding
from tests.networks import LinearNet, MixedNet, TextNet, images, seeded
from tests.unit.debugging.pairs import ENGINE, Built, build, spoilt

TOKENS = torch.randint(0, 50, (16, 12), generator=torch.Generator().manual_seed(0))


def int8(model: nn.Module, inputs: Tensor) -> Built:
    from autoquant.model.graph.capture import capture

    return build(
        model, inputs, Plan.of({s.name: Scheme.INT8 for s in capture(model, (inputs,)).sites})
    )


@pytest.mark.slow
@pytest.mark.parametrize("engine", [ENGINE, POINTWISE])
@pytest.mark.parametrize(
    ("network", "inputs"),
    [
        (MixedNet, images(16)),
        (TextNet, TOKENS),
        (LinearNet, torch.randn(32, 16, generator=torch.Generator().manual_seed(1))),
    ],
    ids=["mixed", "text", "linear"],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_kernel_of_a_random_plan_is_right(
    network: type[nn.Module], inputs: Tensor, seed: int, engine: str
) -> None:
    built = build(seeded(network), inputs, seed=seed, engine=engine)
    checks = built.checks(inputs)
    assert [check for check in checks if not check.is_right] == []
    captured = built.captured
    fused = {site.name for site in captured.sites if site.follows is not None}
    assert {check.site for check in checks} >= {s.name for s in captured.sites} - fused


@pytest.mark.skipif(not has_fp16_linear("fbgemm"), reason="this torch build has no fp16 kernels")
def test_a_kernel_with_weights_in_fp16_reads_floats_as_they_are() -> None:
    inputs = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))
    plan = Plan.of(dict.fromkeys(("first", "second", "last"), Scheme.FP16))
    built = build(seeded(LinearNet), inputs, plan, engine="fbgemm")
    assert all(check.is_right for check in built.checks(inputs))


class Layers(nn.Module):
    """Two recurrent layers in both directions, and their last states."""

    def __init__(self, layers: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.rnn = layers(16, 8, num_layers=2, bidirectional=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        steps, state = self.rnn(x)
        return steps, state[0] if isinstance(state, tuple) else state


@pytest.mark.parametrize(
    ("scheme", "engine"),
    [(Scheme.INT8_DYNAMIC, ENGINE), (Scheme.FP16, "fbgemm"), (Scheme.FP32, ENGINE)],
)
@pytest.mark.parametrize("layers", [nn.LSTM, nn.GRU])
def test_recurrent_kernels_are_compared_with_the_layer_step_by_step(
    layers: type[nn.LSTM | nn.GRU], scheme: Scheme, engine: str
) -> None:
    if scheme is Scheme.FP16 and not has_fp16_linear(engine):
        pytest.skip("this torch build has no fp16 kernels")
    inputs = torch.randn(5, 12, 16, generator=torch.Generator().manual_seed(1))
    built = build(seeded(lambda: Layers(layers)), inputs, Plan.of({"rnn": scheme}), engine=engine)
    (check,) = built.checks(inputs)
    assert check.site == "rnn"
    assert check.is_right


def tenth_more(found: Tensor) -> Tensor:
    return requantized(1.1 * found.dequantize(), found)


def dark_corner(found: Tensor) -> Tensor:
    values = found.dequantize()
    values[..., 0, 0] = 0.0
    return requantized(values, found)


def channels_swapped(found: Tensor) -> Tensor:
    values = found.dequantize()
    return requantized(values[:, [1, 0, *range(2, values.shape[1])]], found)


def requantized(values: Tensor, like: Tensor) -> Tensor:
    return torch.quantize_per_tensor(values, like.q_scale(), like.q_zero_point(), like.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("mistake", [tenth_more, dark_corner, channels_swapped])
def test_the_one_wrong_kernel_is_found_and_no_other(mistake: Callable[[Tensor], Tensor]) -> None:
    inputs = images(8)
    built = int8(seeded(MixedNet), inputs)
    with spoilt("b1.conv2", mistake):
        checks = built.checks(inputs)
    assert [check.site for check in checks if not check.is_right] == ["b1.conv2"]


@pytest.mark.slow
def test_a_wrong_weight_is_found_though_its_kernel_is_right() -> None:
    """The reference takes the float model's weight, not the packed one."""
    inputs = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))
    built = int8(seeded(LinearNet), inputs)
    other = seeded(LinearNet)
    with torch.no_grad():
        other.second.weight[3, 5] += 0.5
    target, marked = load_target("torch"), mark_sites(built.captured)
    broken = int8(other, inputs)
    wrong = build_handed_out(target, broken.request, marked, built.plan, broken.executable)
    checks = check_kernels(wrong, SchemeRounding(built.ranges), [(inputs,)])
    assert "second" in {check.site for check in checks if not check.is_right}
