"""Reference numerics on the captured graph: what is rounded where, and gradients through it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import MinMaxObserver, PerChannelMinMaxObserver

from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Part
from autoquant.core.sites import OpKind
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.graph.capture import Capture, capture
from autoquant.model.graph.site_nodes import mark_sites
from autoquant.model.numerics.rounded_graph import RoundedGraph, TrainableGraph, choices_of
from autoquant.model.numerics.rounding import SchemeRounding
from autoquant.model.numerics.weight_grids import RowGrid, WeightGrid
from tests.networks import MixedNet, TextNet, images, seeded


class Encoder(nn.Module):
    """Tokens, learned positions, a torch encoder layer with a mask, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.positions = nn.Parameter(torch.randn(1, 7, 16))
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        hidden = self.layer(self.embed(tokens) + self.positions, src_key_padding_mask=mask)
        return self.head(hidden.mean(1))


class SigmoidOfSums(nn.Module):
    """What a sigmoid reads lies far from what it writes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(x) - 3)


def padded(count: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 50, (count, 7), generator=draw)
    mask = torch.arange(7)[None] >= torch.randint(3, 8, (count, 1), generator=draw)
    return tokens, mask


def tokens(count: int) -> tuple[Tensor]:
    return (torch.randint(0, 50, (count, 9), generator=torch.Generator().manual_seed(0)),)


def pictures(count: int) -> tuple[Tensor]:
    return (images(count),)


networks = pytest.mark.parametrize(
    ("network", "inputs"),
    [
        pytest.param(MixedNet, pictures, id="cnn"),
        pytest.param(Encoder, padded, id="encoder"),
        pytest.param(TextNet, tokens, id="lstm"),
    ],
)
Make = Callable[[int], tuple[Tensor, ...]]


def captured_with(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Capture, SchemeRounding]:
    captured = capture(model, inputs, how="export")
    statistics = calibrate(captured, [inputs])
    return captured, SchemeRounding(TensorRanges(captured, statistics, BuildSettings()))


def decibels(expected: Tensor, found: Tensor) -> float:
    noise = (expected - found).double().square().sum() / expected.double().square().sum()
    return float(-10 * torch.log10(noise))


@pytest.mark.slow
@networks
def test_gradients_through_the_graph_are_those_of_the_model(
    network: type[nn.Module], inputs: Make
) -> None:
    model, batch = seeded(network), inputs(4)
    captured, rounding = captured_with(model, batch)
    run = TrainableGraph(mark_sites(captured), rounding, {})
    found = run.run(*batch)
    expected = model(*batch)
    assert torch.allclose(found, expected, atol=1e-5)
    direct = {name: item for name, item in model.named_parameters() if item.requires_grad}
    graph = dict(captured.graph.named_parameters())
    shared = sorted(direct.keys() & graph.keys() - _folded(captured))
    assert len(shared) > 3
    ours = torch.autograd.grad(found.sum(), [graph[name] for name in shared])
    theirs = torch.autograd.grad(expected.sum(), [direct[name] for name in shared])
    for name, mine, yours in zip(shared, ours, theirs, strict=True):
        # folded batch norms add in another order
        assert torch.allclose(mine, yours, rtol=1e-3, atol=1e-4), name


def _folded(captured: Capture) -> set[str]:
    paths = {*captured.folded, *captured.folded.values()}
    return {f"{path}.{name}" for path in paths for name in ("weight", "bias")}


@pytest.mark.slow
@networks
@pytest.mark.parametrize("scheme", [Scheme.INT8, Scheme.INT16, Scheme.FP16, Scheme.BF16])
def test_outputs_under_a_uniform_plan_are_near_and_not_equal(
    network: type[nn.Module], inputs: Make, scheme: Scheme
) -> None:
    batch = inputs(16)
    captured, rounding = captured_with(seeded(network), batch)
    plan = Plan.of(dict.fromkeys((site.name for site in captured.sites), scheme))
    with torch.no_grad():
        found = RoundedGraph(mark_sites(captured), rounding, choices_of(plan)).run(*batch)
        expected = captured.graph(*batch)
    least = {Scheme.INT8: 20.0, Scheme.INT16: 25.0, Scheme.FP16: 50.0, Scheme.BF16: 30.0}[scheme]
    assert least < decibels(expected, found) < 120


@pytest.mark.slow
@networks
def test_gradients_flow_through_what_is_rounded(network: type[nn.Module], inputs: Make) -> None:
    batch = inputs(8)
    captured, rounding = captured_with(seeded(network), batch)
    plan = Plan.of(dict.fromkeys((site.name for site in captured.sites), Scheme.INT8))
    found = TrainableGraph(mark_sites(captured), rounding, choices_of(plan)).run(*batch)
    weights = [item for item in captured.graph.parameters() if item.ndim > 1]
    gradients = torch.autograd.grad(found.square().sum(), weights)
    assert all(bool(item.abs().sum() > 0) for item in gradients)


def test_an_int8_op_rounds_what_it_reads_and_hands_out_floats() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)).eval()
    inputs = torch.randn(32, 6)
    captured, rounding = captured_with(model, (inputs,))
    sites = {site.name: site for site in captured.sites}
    hidden = captured.members["0"][0][-1]
    read = rounding.read_format(sites["0"], Scheme.INT8, captured.reads("0")[0])
    between = rounding.read_format(sites["1"], Scheme.INT8, hidden)
    assert read is not None
    assert between is not None
    first = rounding.weight(sites["0"], Scheme.INT8, model[0].weight.detach())
    second = rounding.weight(sites["1"], Scheme.INT8, model[1].weight.detach())
    with torch.no_grad():
        middle = torch.nn.functional.linear(read(inputs), first, model[0].bias)
        expected = torch.nn.functional.linear(between(middle), second, model[1].bias)
        plan = Plan.of({"0": Scheme.INT8, "1": Scheme.INT8})
        run = RoundedGraph(mark_sites(captured), rounding, choices_of(plan))
        assert torch.equal(run.run(inputs), expected)
        alone = RoundedGraph(mark_sites(captured), rounding, {"0": (Scheme.INT8, Part.BOTH)})
        assert torch.equal(alone.run(inputs), model[1](middle))


def test_where_kernels_write_integers_a_float_reader_reads_them_rounded() -> None:
    (batch,) = pictures(4)
    captured = capture(seeded(MixedNet), (batch,), how="export")
    ranges = TensorRanges(captured, calibrate(captured, [(batch,)]), BuildSettings())
    rounding = SchemeRounding(ranges, {(OpKind.CONV2D, Scheme.INT8)})
    ((_, *_, written),) = captured.members["stem"]
    run = RoundedGraph(
        mark_sites(captured), rounding, {"stem": (Scheme.INT8, Part.BOTH)}, keeps_values=True
    )
    run.run(batch)
    values = {node.name: value for node, value in run.env.items()}[written]
    assert torch.equal(values, ranges.int8_grid(written)(values))
    assert rounding.write_format(captured.sites[0], Scheme.INT16, written) is None


def test_the_range_of_a_sigmoid_is_that_of_what_it_writes() -> None:
    torch.manual_seed(0)
    inputs = images(16)
    captured, rounding = captured_with(SigmoidOfSums().eval(), (inputs,))
    plan = Plan.of(dict.fromkeys((site.name for site in captured.sites), Scheme.INT8))
    with torch.no_grad():
        found = RoundedGraph(mark_sites(captured), rounding, choices_of(plan)).run(inputs)
        expected = captured.graph(inputs)
    assert decibels(expected, found) > 35


def test_a_reduced_range_has_seven_bits_of_the_weights_that_meet_int8() -> None:
    inputs = (images(4),)
    captured = capture(seeded(MixedNet), inputs, how="export")
    statistics = calibrate(captured, [inputs])
    ranges = TensorRanges(captured, statistics, BuildSettings().with_weight_bits(7))
    rounding, stem = SchemeRounding(ranges), captured.sites[0]
    grids = [rounding.weight_format(stem, scheme) for scheme in (Scheme.INT8, Scheme.INT16)]
    levels = [(item.low, item.high) for item in grids if isinstance(item, WeightGrid)]
    assert levels == [(-64, 64), (-128, 127)]


def test_a_reshaped_and_a_pooled_tensor_have_the_grid_of_their_values() -> None:
    class Reshaped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.head = nn.Linear(196, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.max_pool2d(self.conv(x), 2).flatten(1))

    inputs = (images(4),)
    captured = capture(Reshaped().eval(), inputs, how="export")
    ranges = TensorRanges(captured, calibrate(captured, [inputs]), BuildSettings())
    assert ranges.int8_grid(captured.reads("head")[0]) == ranges.int8_grid(
        captured.writes("conv")[0]
    )


def test_a_constant_that_is_added_is_rounded_as_an_activation() -> None:
    batch = padded(8)
    captured, rounding = captured_with(seeded(Encoder), batch)
    marked = mark_sites(captured)
    adds = [(node, site) for node, site in marked.roots.items() if site.name == ":add:0"]
    (node, site) = adds[0]
    constants = [item for item in marked.operands[node].reads if item.op == "get_attr"]
    assert len(constants) == 1
    assert rounding.read_format(site, Scheme.INT8, constants[0].name) is not None


@pytest.mark.slow
def test_what_a_mask_fills_is_never_rounded() -> None:
    batch = padded(8)
    captured, rounding = captured_with(seeded(Encoder), batch)
    marked = mark_sites(captured)
    read = {item.name for operands in marked.operands.values() for item in operands.reads}
    filled = [node.name for node in marked.nodes if "masked_fill" in node.name]
    assert filled
    assert not read & set(filled)
    plan = Plan.of(dict.fromkeys((site.name for site in captured.sites), Scheme.INT8))
    run = RoundedGraph(marked, rounding, choices_of(plan))
    assert torch.isfinite(run.run(*batch)).all()


def test_weight_grids_are_those_of_torchs_observers() -> None:
    weight = torch.randn(5, 3, 2, 2) * torch.tensor([1e-3, 1.0, 5.0, 0.0, 2.0]).reshape(5, 1, 1, 1)
    by_channel = PerChannelMinMaxObserver(dtype=torch.qint8, qscheme=torch.per_channel_symmetric)
    whole = MinMaxObserver(dtype=torch.qint8, qscheme=torch.per_tensor_symmetric)
    grids = {WeightGrid(0, -128, 127): by_channel, WeightGrid(None, -128, 127): whole}
    for grid, observer in grids.items():
        observer(weight)
        scale, _ = observer.calculate_qparams()
        assert torch.equal(grid.scale(weight), scale)
        codes = grid.codes(weight, scale)
        shape = (-1, 1, 1, 1)
        assert torch.equal(codes * scale.reshape(shape), grid(weight))


def test_rows_of_a_table_keep_their_ends() -> None:
    table = torch.randn(6, 40) + torch.arange(6)[:, None]
    found = RowGrid()(table)
    assert torch.allclose(found.amin(1), table.amin(1))
    assert torch.allclose(found.amax(1), table.amax(1), atol=1e-5)
    step = (table.amax(1) - table.amin(1)) / 255
    assert bool(((found - table).abs() <= step[:, None] * 0.5001).all())
