"""Models that torch.fx cannot trace: captured by torch.export, and module by module."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoquant.core.sites import OpKind
from autoquant.errors import DataError, ModelError
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.graph.capture import Capture, capture
from autoquant.model.graph.exported import export_float
from tests.networks import images, seeded
from tests.untraceable import PictureNet, TokenNet, tokens

TOKENS = (tokens(4),)
PICTURES = (images(4),)
WEIGHTED = {
    "embed",
    *(f"blocks.{i}.{name}" for i in range(2) for name in ("query", "key", "value", "output")),
    "grow",
    "shrink",
    "head",
}


@pytest.fixture(scope="module")
def token_net() -> nn.Module:
    return seeded(TokenNet)


@pytest.fixture(scope="module")
def exported(token_net: nn.Module) -> Capture:
    return capture(token_net, TOKENS, how="export")


@pytest.fixture(scope="module")
def eager(token_net: nn.Module) -> Capture:
    return capture(token_net, TOKENS, how="modules")


def test_sites_have_the_paths_of_their_modules(exported: Capture) -> None:
    sites = {site.name: site for site in exported.sites}
    assert {name for name, site in sites.items() if site.kind.is_weighted} == WEIGHTED
    assert sites["blocks.0.norm"].kind is OpKind.NORM
    assert sites["blocks.0.norm"].follows == "blocks.0:add:1"
    assert sites["blocks.1:matmul:1"].kind is OpKind.MATMUL
    assert sites["grow"].fused == ("Linear", "ReLU")
    assert exported.members["grow"][0] == ("linear_8", "relu")


def test_dead_code_is_no_site(exported: Capture, eager: Capture) -> None:
    assert "unused" not in {site.name for site in exported.sites}
    assert "unused" in {site.name for site in eager.sites}  # it runs, whoever reads it


def test_what_reads_constants_alone_is_no_site(exported: Capture, eager: Capture) -> None:
    assert "position" not in {site.name for site in exported.sites}
    assert "position" in {site.name for site in eager.sites}


def test_what_reads_or_writes_a_mask_is_no_site(exported: Capture) -> None:
    names = {site.name for site in exported.sites}
    assert "blocks.0:add:0" not in names
    assert "blocks.0:softmax:0" not in names


def test_both_captures_agree_on_costs(exported: Capture, eager: Capture) -> None:
    graph = {site.name: site for site in exported.sites}
    for site in eager.sites:
        if site.name in graph:
            other = graph[site.name]
            assert (site.kind, site.macs, site.parameter_count, site.weight_count) == (
                other.kind,
                other.macs,
                other.parameter_count,
                other.weight_count,
            )
            assert (site.input_shapes, site.output_shape) == (
                other.input_shapes,
                other.output_shape,
            )


@pytest.mark.parametrize("count", [1, 3, 4])
def test_the_exported_graph_computes_what_the_model_does(
    token_net: nn.Module, exported: Capture, count: int
) -> None:
    inputs = tokens(count, seed=3)
    with torch.no_grad():
        assert torch.equal(exported.graph(inputs), token_net(inputs))


def test_a_batch_of_one_is_enough_to_capture(token_net: nn.Module, exported: Capture) -> None:
    single = capture(token_net, (tokens(1),), how="export")
    assert [site.name for site in single.sites] == [site.name for site in exported.sites]


def test_batch_norms_are_folded_and_the_model_stays_as_it_is() -> None:
    model = seeded(PictureNet)
    before = copy.deepcopy(model.state_dict())
    found = capture(model, PICTURES, how="export")
    assert found.folded == {"conv": "bn"}
    assert found.members["conv"] == (("conv2d", "relu"),)
    with torch.no_grad():
        assert torch.allclose(found.graph(*PICTURES), model(*PICTURES), atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_statistics_have_a_key_for_what_every_weighted_site_reads_and_writes(
    exported: Capture, eager: Capture
) -> None:
    for captured in (exported, eager):
        found = calibrate(captured, [TOKENS, TOKENS]).tensors
        for site in captured.sites:
            if site.kind is OpKind.LINEAR:
                assert {*captured.reads(site.name), *captured.writes(site.name)} <= found.keys()


def test_both_captures_see_the_same_ranges(exported: Capture, eager: Capture) -> None:
    graph = calibrate(exported, [TOKENS]).tensors
    modules = calibrate(eager, [TOKENS]).tensors
    for name in WEIGHTED - {"grow", "embed"}:
        (read,), (written,) = exported.reads(name), exported.writes(name)
        assert (graph[read].low, graph[read].high) == (
            modules[f"{name}@input"].low,
            modules[f"{name}@input"].high,
        )
        assert (graph[written].low, graph[written].high) == (
            modules[name].low,
            modules[name].high,
        )


def test_masked_tensors_are_not_observed(exported: Capture) -> None:
    found = calibrate(exported, [TOKENS]).tensors
    assert all(abs(item.low) < 1e30 for item in found.values())
    assert "masked_fill" not in found


def test_each_call_of_a_module_reads_and_writes_tensors_with_ranges_of_their_own() -> None:
    found = capture(seeded(PictureNet), PICTURES, how="export")
    keys = calibrate(found, [PICTURES]).tensors.keys()
    read, again = found.reads("twice")
    assert again == "linear"
    assert {read, "linear", "linear_1"} <= keys
    assert not any("+" in key for key in keys)


class Overflowing(nn.Module):
    """Gives NaN, or infinity that no mask explains, on negative inputs."""

    def __init__(self, nan: bool) -> None:
        super().__init__()
        self.nan = nan
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.sqrt(x) if self.nan else torch.exp(x * -1e3)
        return F.relu(self.linear(x)) + y


@pytest.mark.parametrize("nan", [True, False], ids=["nan", "infinity"])
def test_nan_and_overflows_are_refused(nan: bool) -> None:
    found = capture(Overflowing(nan), (torch.rand(2, 4),), how="export")
    with pytest.raises(DataError, match="holds NaN or infinity"):
        calibrate(found, [(-torch.ones(2, 4),)])


def test_a_leaf_module_holds_no_sites(token_net: nn.Module) -> None:
    for how in ("export", "eager"):
        names = {site.name for site in capture(token_net, TOKENS, ("blocks.0",), how).sites}
        assert "blocks.1.query" in names
        assert not any(name.startswith("blocks.0") for name in names)
        with pytest.raises(ModelError, match="has no module 'nowhere'"):
            capture(token_net, TOKENS, ("nowhere",), how)


class Adding(nn.Module):
    """Calls no module."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x).abs()


def test_eager_capture_refuses_a_model_without_weighted_modules() -> None:
    with pytest.raises(ModelError, match="calls no weighted module"):
        capture(Adding(), (torch.ones(2, 4),), how="modules")


class FixedBatch(nn.Module):
    """Works for two samples alone."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.reshape(2, 4))


def test_a_model_for_one_number_of_samples_is_captured_at_that_number() -> None:
    found = capture(FixedBatch(), (torch.ones(2, 4),), how="export")
    assert found.dynamic == ((),)
    assert found.notices == ("the model is captured at one size of input_0 alone (axis 0 at 2).",)


class OneAtATime(nn.Module):
    """Works for one sample alone."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.view(1, -1))


def test_a_model_for_one_sample_is_captured_at_one() -> None:
    found = capture(OneAtATime(), (torch.ones(1, 4),), how="export")
    assert found.dynamic == ((),)
    assert found.notices == ("the model is captured at one size of input_0 alone (axis 0 at 1).",)


class Lengths(nn.Module):
    """Says how many samples there are as Python does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).reshape(len(x), 2, 2)


@pytest.mark.slow
def test_the_length_of_a_tensor_does_not_fix_the_number_of_samples() -> None:
    found = capture(Lengths(), (torch.ones(2, 4),), how="export")
    assert found.dynamic == ((0,),)
    assert found.graph(torch.ones(5, 4)).shape == (5, 2, 2)


def test_a_capture_exports_again_with_origins(token_net: nn.Module, exported: Capture) -> None:
    found = export_float(exported, TOKENS)
    known = {node.name for node in exported.graph.graph.nodes}
    linears = [name for name in found.origin if name.startswith("linear")]
    assert len(linears) == len(WEIGHTED) - 1
    assert set(found.origin.values()) <= known
    inputs = tokens(3, seed=5)
    with torch.no_grad():
        (output,) = found.program.module()(inputs)
        assert torch.equal(output, token_net(inputs))


class Anchors(nn.Module):
    """Adds positions in the type of what they are added to, as detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        steps = torch.arange(2).type_as(y) + 0.5
        return y * torch.cat([steps, steps])


def test_a_constant_in_the_type_of_an_activation_is_no_site() -> None:
    model = Anchors()
    found = capture(model, (torch.ones(2, 4),), how="export")
    assert [site.name for site in found.sites] == ["linear", ":mul:0"]
    with torch.no_grad():
        assert torch.equal(found.graph(torch.ones(3, 4)), model(torch.ones(3, 4)))


class Steps(nn.Module):
    """A recurrent layer of some kind over as many steps as there are."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = kind(4, 6, num_layers=2, bidirectional=True, batch_first=True)
        self.last = nn.Linear(12, 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        steps = self.layer(x)[0] * mask.unsqueeze(-1)
        return self.last(steps.sum(1) / mask.sum(1, keepdim=True))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_leaves_the_number_of_steps_open(kind: type[nn.RNNBase]) -> None:
    model = Steps(kind).eval()
    found = capture(
        model, (torch.randn(2, 5, 4), torch.ones(2, 5)), how="export", dynamic=((0, 1), (0, 1))
    )
    assert found.dynamic == ((0, 1), (0, 1))
    x, mask = torch.randn(3, 9, 4), torch.ones(3, 9)
    with torch.no_grad():
        assert torch.equal(found.graph(x, mask), model(x, mask))
