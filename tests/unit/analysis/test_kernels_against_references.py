"""Native kernels agree with the reference computation, and one that is wrong is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from autoquant.analysis.diagnosis.grids import read_grids
from autoquant.analysis.diagnosis.kernels import BuiltPlan, check_kernels, run_with_references
from autoquant.backends.torch_cpu.engines import using_engine
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from tests.networks import LinearNet, MixedNet, TextNet, images, seeded
from tests.seeded_faults import SharedNet
from tests.unit.analysis.pairs import ENGINE, build

TOKENS = torch.randint(0, 50, (16, 12), generator=torch.Generator().manual_seed(0))


def int8(model: nn.Module, inputs: Tensor) -> BuiltPlan:
    from autoquant.model.capture import capture

    return build(
        model, inputs, Plan.of({s.name: Scheme.INT8 for s in capture(model, (inputs,)).sites})
    )


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
    network: type[nn.Module], inputs: Tensor, seed: int
) -> None:
    built = build(seeded(network), inputs, seed=seed)
    with using_engine(ENGINE):
        checks = check_kernels(built, [(inputs,)])
    assert [check for check in checks if not check.is_right] == []
    compared = {check.site for check in checks}
    assert compared >= {site.name for site in built.captured.sites} - {"rnn"}


class Wrong(nn.Module):
    """A quantized kernel with a mistake."""

    def __init__(self, kernel: nn.Module, mistake: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.kernel = kernel
        self.mistake = mistake

    def forward(self, x: Tensor) -> Tensor:
        found = self.kernel(x)
        values = self.mistake(found.dequantize())
        return torch.quantize_per_tensor(values, found.q_scale(), found.q_zero_point(), found.dtype)


def tenth_more(values: Tensor) -> Tensor:
    return 1.1 * values


def dark_corner(values: Tensor) -> Tensor:
    values[..., 0, 0] = 0.0
    return values


def channels_swapped(values: Tensor) -> Tensor:
    return values[:, [1, 0, *range(2, values.shape[1])]]


@pytest.mark.parametrize("mistake", [tenth_more, dark_corner, channels_swapped])
def test_the_one_wrong_kernel_is_found_and_no_other(mistake: Callable[[Tensor], Tensor]) -> None:
    inputs = images(8)
    built = int8(seeded(MixedNet), inputs)
    wrong = Wrong(built.module.get_submodule("b1.conv2"), mistake)
    built.module.set_submodule("b1.conv2", wrong)
    with using_engine(ENGINE):
        checks = check_kernels(built, [(inputs,)])
    assert [check.site for check in checks if not check.is_right] == ["b1.conv2"]


def test_with_its_reference_in_place_of_a_wrong_kernel_the_outputs_are_right_again() -> None:
    inputs = images(8)
    built = int8(seeded(MixedNet), inputs)
    with using_engine(ENGINE), torch.no_grad():
        right = built.module(inputs)
        kernel = built.module.get_submodule("b1.conv2")
        built.module.set_submodule("b1.conv2", Wrong(kernel, tenth_more))
        wrong = built.module(inputs)
        mended = run_with_references(built, (inputs,), ["b1.conv2"])
    assert (mended - right).abs().max() < 0.05 * (wrong - right).abs().max()


def test_a_wrong_weight_is_found_though_its_kernel_is_right() -> None:
    """The reference takes the float model's weight, not the packed one."""
    inputs = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))
    built = int8(seeded(LinearNet), inputs)
    other = seeded(LinearNet)
    with torch.no_grad():
        other.second.weight[3, 5] += 0.5
    broken = int8(other, inputs)
    with using_engine(ENGINE):
        checks = check_kernels(replace(built, module=broken.module), [(inputs,)])
    assert "second" in {check.site for check in checks if not check.is_right}


def test_a_shared_module_has_one_grid_for_both_calls() -> None:
    inputs = images(8)
    built = int8(seeded(SharedNet), inputs)
    with using_engine(ENGINE):
        grids = read_grids(built.module, built.captured, (inputs,))
    assert grids["shared"] == grids["shared_1"]
    assert grids["stem"] != grids["shared"]


def test_grids_of_emulated_ops_are_those_of_the_scheme() -> None:
    inputs = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))
    plan = Plan.of({"first": Scheme.INT16, "second": Scheme.FP32, "last": Scheme.INT8})
    built = build(seeded(LinearNet), inputs, plan)
    with using_engine(ENGINE):
        grids = read_grids(built.module, built.captured, (inputs,))
    assert set(grids) == {"x", "first", "second", "last"}
    assert (grids["first"].low, grids["first"].high) == (-32768, 32767)
    assert (grids["last"].low, grids["last"].high) == (0, 255)
