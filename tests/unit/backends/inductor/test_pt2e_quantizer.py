"""A plan as a PT2E quantizer, and as a converted graph; nothing is compiled here."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("torchao")

from autoquant.backends.inductor.conversion import MARK, convert_plan, export_model
from autoquant.backends.inductor.quantizer import to_quantizer
from autoquant.backends.inductor.torchao import pt2e
from autoquant.backends.protocol import settle_range
from autoquant.backends.torch_cpu.engines import saturates
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.quiet import quiet
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.graph.capture import Capture, capture

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Net(nn.Module):
    """Convolutions, an add, a head that is called twice, and a last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.mix = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 8)
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = self.mix(x) + x
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.last(F.relu(self.head(F.relu(self.head(x)))))


torch.manual_seed(0)
MODEL = Net().eval()
EXAMPLE = (torch.randn(4, 3, 8, 8),)


@cache
def captured_model() -> Capture:
    return capture(MODEL, EXAMPLE)


@cache
def ranges() -> TensorRanges:
    bits = settle_range(BuildSettings(), lambda: saturates("onednn"))
    return TensorRanges(captured_model(), calibrate(captured_model(), [EXAMPLE]), bits)


def mixed_plan() -> Plan:
    return Plan.of(
        {site.name: Scheme.FP32 for site in captured_model().sites}
        | {"stem": Scheme.INT8, "head": Scheme.INT8, "last": Scheme.INT8_DYNAMIC}
    )


@pytest.fixture(scope="module")
def converted() -> torch.fx.GraphModule:
    return convert_plan(export_model(MODEL, EXAMPLE), mixed_plan(), captured_model(), ranges())


def calls(graph: torch.fx.GraphModule) -> dict[str, list[torch.fx.Node]]:
    found: dict[str, list[torch.fx.Node]] = {}
    for node in graph.graph.nodes:
        mark = (node.meta.get("custom") or {}).get(MARK)
        if mark is not None:
            found.setdefault(mark, []).append(node)
    return found


def input_op(node: torch.fx.Node) -> str:
    return str(node.args[0].target) if node.args[0].op == "call_function" else node.args[0].op


def test_each_site_reads_what_its_scheme_says(converted: torch.fx.GraphModule) -> None:
    found = calls(converted)
    assert found.keys() == {"stem", "mix", "head", "last"}
    assert [len(found[name]) for name in ("stem", "mix", "head", "last")] == [1, 1, 2, 1]
    for name, nodes in found.items():
        for node in nodes:
            weight = str(node.args[1].target)
            is_int8 = mixed_plan()[name] is not Scheme.FP32
            assert ("dequantize_per_channel" in weight) is is_int8, name
            assert ("dequantize" in input_op(node)) is is_int8, name
            assert input_op(node).endswith("tensor.tensor") is (
                mixed_plan()[name] is Scheme.INT8_DYNAMIC
            )


def test_scales_are_those_of_the_cached_statistics(converted: torch.fx.GraphModule) -> None:
    inputs = {
        site: [node_named(group[0]).args[0].name for group in captured_model().members[site]]
        for site in ("stem", "head")
    }
    for site, tensors in inputs.items():
        for node, tensor in zip(calls(converted)[site], tensors, strict=True):
            _, scale, zero_point, low, high, *_ = node.args[0].args
            expected = ranges().int8(tensor)
            assert (low - zero_point) * scale == pytest.approx(expected.low, rel=1e-5)
            assert (high - zero_point) * scale == pytest.approx(expected.high, rel=1e-5)


def node_named(name: str) -> torch.fx.Node:
    return next(node for node in captured_model().graph.graph.nodes if node.name == name)


def test_the_converted_graph_stays_near_float(converted: torch.fx.GraphModule) -> None:
    with torch.no_grad():
        expected, found = MODEL(*EXAMPLE), converted(*EXAMPLE)
    assert not torch.equal(found, expected)
    # eight bits at four layers: a few steps of 1/256 of the range
    assert (found - expected).abs().max() < 0.05 * (expected.max() - expected.min())


def test_the_batch_stays_open(converted: torch.fx.GraphModule) -> None:
    with torch.no_grad():
        whole, part = converted(*EXAMPLE), converted(EXAMPLE[0][:3])
    # the dynamic scale of the last layer depends on the batch
    assert torch.allclose(whole[:3], part, atol=0.01 * float(whole.abs().max()))


def test_users_of_pt2e_get_the_quantizer_alone() -> None:
    with quiet(), torch.no_grad():
        program = torch.export.export(MODEL, EXAMPLE).module()
        prepared = pt2e().flow.prepare_pt2e(
            program, to_quantizer(mixed_plan(), captured_model().sites)
        )
        prepared(*EXAMPLE)
        mine = pt2e().flow.convert_pt2e(prepared)
    ops = [str(node.target) for node in mine.graph.nodes]
    assert sum("dequantize_per_channel" in op for op in ops) == 4  # stem, head twice, last
    assert sum("choose_qparams" in op for op in ops) == 1  # last


def test_sites_that_pt2e_cannot_address_are_named() -> None:
    plan = Plan.of(dict(mixed_plan().assignment) | {":add:0": Scheme.INT8, "mix": Scheme.BF16})
    with pytest.warns(UserWarning, match=r"2 sites, which stay in fp32: mix \(bf16\), :add:0"):
        to_quantizer(plan, captured_model().sites)
