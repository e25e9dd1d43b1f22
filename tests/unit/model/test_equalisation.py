"""Groups of channels, the scales that even them out, and the rewrite that keeps the function."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from autoquant.core.equalisation import Equalisation, Factor
from autoquant.core.json_values import json_of, value_of
from autoquant.errors import ModelError
from autoquant.model.equalisation.groups import Groups, find_groups
from autoquant.model.equalisation.rewrite import equalisation_of, rebound, rescaled
from autoquant.model.equalisation.scales import Scales, balanced, channel_ranges, even_ranges
from autoquant.model.graph.capture import Capture, capture

ROUNDING = 2e-6
"""Relative to the largest output: a few roundings of float32 a layer."""

IMAGE = (4, 3, 12, 12)


class Found:
    """A model with its groups, and the same with rescaled channels."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        *,
        fixed: tuple[str, ...] = (),
        leaves: tuple[str, ...] = (),
    ) -> None:
        self.model = randomised(model)
        self.inputs = inputs
        self.captured: Capture = capture(self.model, (inputs,), leaves)
        self.groups: Groups = find_groups(self.captured, self.model, (inputs,), fixed)
        self.ranges = channel_ranges(self.captured, self.groups, [(inputs,)])
        self.scales = even_ranges(self.groups, self.ranges)
        self.equalisation = equalisation_of(self.groups, self.scales, self.model)
        self.other = rescaled(self.model, self.equalisation)

    @property
    def names(self) -> set[str]:
        """What is rescaled."""
        return {factor.name for factor in self.equalisation.factors}

    def numbers(self, node: str) -> list[int]:
        """Numbers of the channels that a node gives."""
        return self.groups.tensors[node].reshape(-1).tolist() if node in self.groups.tensors else []


def randomised(model: nn.Module) -> nn.Module:
    """Norms and biases of no special values, and channels of very different ranges."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.3, 2.0)
            if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)):
                module.weight.copy_(torch.exp(torch.randn_like(module.weight)))
                module.bias.normal_()
    return model.eval()


def off(model: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Largest difference over the largest value."""
    with torch.no_grad():
        first, second = model(x), other(x)
    return float((first - second).abs().max() / first.abs().max())


class Residual(nn.Module):
    """A stem, two blocks around shortcuts and a head."""

    def __init__(self, act: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.first = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)])
        self.second = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)])
        self.head = nn.Linear(8, 5)
        self.act = act

    def forward(self, images: Tensor) -> Tensor:
        x = self.act(self.norm(self.stem(images)))
        for conv, norm in (self.first, self.second):
            x = self.act(norm(conv(x)) + x)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Dense(nn.Module):
    """Concatenations that norms read, as in DenseNet, and a max pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(10)])
        self.convs = nn.ModuleList([nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(10, 4, 1)])
        self.head = nn.Conv2d(14, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(images), 2)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.leaky_relu(norm(x)))], 1)
        return self.head(x).mean((2, 3))


class Depthwise(nn.Module):
    """Depthwise, grouped and transposed convolutions, gated by a squeeze of their channels."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.grouped = nn.Conv2d(8, 12, 3, groups=2)
        self.up = nn.ConvTranspose2d(12, 6, 2, 2, groups=3)
        self.slope = nn.PReLU(6)
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.norm(self.depthwise(F.relu(self.expand(images)))))
        gate = self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        x = F.relu(self.grouped(x * torch.sigmoid(gate)))
        return self.head(self.slope(self.up(x)))


class Encoder(nn.Module):
    """Attention and a feed-forward network behind layer norms."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.after = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.project = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        parts = self.qkv(self.norm(tokens)).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        x = tokens + self.project(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.after(x))))


class Shared(nn.Module):
    """A convolution that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.stem(images))
        return self.head(F.relu(self.twice(F.relu(self.twice(x)))))


class Tied(nn.Module):
    """An embedding whose table is the head's weight too."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.first, self.second = nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.second(F.relu(self.first(self.table(tokens)))))


class Shuffled(nn.Module):
    """Channels that are split, swapped, padded with zeros and reshaped."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.grow, self.head = nn.Conv2d(8, 12, 3, padding=1), nn.Linear(12 * 100, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.stem(images))
        left, right = self.side(x).chunk(2, 1)
        x = x + torch.cat([right, left], 1)
        x = self.grow(x) + F.pad(x, (0, 0, 0, 0, 1, 3))
        return self.head(F.channel_shuffle(F.relu(x), 3).flatten(1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "residual": (Residual, torch.randn(IMAGE)),
    "concat": (Dense, torch.randn(IMAGE)),
    "depthwise": (Depthwise, torch.randn(IMAGE)),
    "encoder": (Encoder, torch.randn(4, 7, 16)),
    "shared": (Shared, torch.randn(IMAGE)),
    "tied": (Tied, torch.randint(0, 20, (4, 7))),
    "shuffled": (Shuffled, torch.randn(IMAGE)),
}


@pytest.fixture(params=NETWORKS, scope="module")
def found(request: pytest.FixtureRequest) -> Found:
    make, inputs = NETWORKS[request.param]
    torch.manual_seed(1)
    return Found(make(), inputs)


def test_rescaled_channels_keep_the_function(found: Found) -> None:
    assert found.equalisation
    assert off(found.model, found.other, found.inputs) < ROUNDING


def test_weights_take_their_share_and_the_function_stays(found: Found) -> None:
    constants = dict(found.captured.graph.state_dict())
    scales = balanced(found.groups, found.scales, constants, 0.5)
    other = rescaled(found.model, equalisation_of(found.groups, scales, found.model))
    assert not np.allclose(scales, found.scales)
    assert off(found.model, other, found.inputs) < ROUNDING


def test_the_graph_follows_the_rescaled_model(found: Found) -> None:
    graph = rebound(found.captured, found.other).graph
    assert off(found.other, graph, found.inputs) < ROUNDING
    assert [node.name for node in graph.graph.nodes] == [
        node.name for node in found.captured.graph.graph.nodes
    ]


def test_a_capture_of_the_rescaled_model_has_the_same_constants(found: Found) -> None:
    again = capture(found.other, (found.inputs,)).graph.state_dict()
    for path, value in rebound(found.captured, found.other).graph.state_dict().items():
        assert torch.equal(value, again[path]), path


def test_scales_undo_whatever_scaled_the_channels_before(found: Found) -> None:
    random = np.exp(np.random.default_rng(0).normal(0, 1.5, found.groups.count))
    random[0] = 1.0
    before = rescaled(found.model, equalisation_of(found.groups, random, found.model))
    captured = rebound(found.captured, before)
    groups = find_groups(captured, before, (found.inputs,))
    uneven = channel_ranges(captured, groups, [(found.inputs,)])
    again = equalisation_of(groups, even_ranges(groups, uneven), before)
    even = channel_ranges(rebound(captured, rescaled(before, again)), groups, [(found.inputs,)])
    plain = channel_ranges(rebound(captured, found.other), groups, [(found.inputs,)])
    assert spread(even) < 0.8 * spread(uneven)
    assert spread(even) == pytest.approx(spread(plain), rel=0.01, abs=1e-3)


def spread(ranges: Mapping[str, Scales]) -> float:
    """How far the ranges of the channels of a tensor lie apart, in the mean of all tensors."""
    return float(np.mean([np.log(item[item > 0]).std() for item in ranges.values()]))


def test_a_residual_stream_is_one_group() -> None:
    found = Found(Residual(), torch.randn(IMAGE))
    streams = [item for name, item in found.groups.tensors.items() if name.startswith("add")]
    assert len(streams) == 2
    assert np.array_equal(streams[0], streams[1])
    assert len(np.unique(streams[0])) == 8
    assert found.names == {
        "stem.weight" if name == "stem" else name
        for name in [
            "norm.weight",
            "norm.bias",
            "first.0.weight",
            "first.1.weight",
            "first.1.bias",
            "second.0.weight",
            "second.1.weight",
            "second.1.bias",
            "head.weight",
        ]
    }


@pytest.mark.parametrize("act", [F.gelu, F.silu, F.hardswish], ids=lambda item: item.__name__)
def test_other_activations_end_a_group(act: Callable[[Tensor], Tensor]) -> None:
    model = Residual(act).eval()
    captured = capture(model, (torch.randn(IMAGE),))
    assert not find_groups(captured, model, (torch.randn(IMAGE),)).tensors


def test_a_concatenation_has_the_channels_of_its_parts_side_by_side() -> None:
    found = Found(Dense(), torch.randn(IMAGE))
    assert found.numbers("cat") == [*found.numbers("conv2d"), *found.numbers("conv2d_1")]
    assert len(set(found.numbers("cat_1"))) == 14
    assert {"norms.0.running_var", "norms.0.running_mean", "norms.0.weight"} <= found.names


def test_a_depthwise_layer_has_a_scale_on_each_side() -> None:
    found = Found(Depthwise(), torch.randn(IMAGE))
    assert not set(found.numbers("relu")) & set(found.numbers("relu_1"))
    assert len(set(found.numbers("relu_1"))) == 8
    assert not found.numbers("sigmoid")
    assert {"depthwise.weight", "grouped.weight", "up.weight"} <= found.names


def test_attention_hands_the_scales_of_its_values_on() -> None:
    found = Found(Encoder(), torch.randn(4, 7, 16))
    scaled = next(item for item in found.equalisation.factors if item.name == "qkv.bias")
    assert set(scaled.values[:32]) == {1.0}
    assert 1.0 not in scaled.values[32:]
    assert {
        "norm.weight",
        "norm.bias",
        "after.weight",
        "up.weight",
        "project.weight",
    } <= found.names
    assert "down.weight" not in found.names


def test_both_calls_of_a_shared_layer_share_scales() -> None:
    found = Found(Shared(), torch.randn(IMAGE))
    assert found.numbers("relu") == found.numbers("relu_1") == found.numbers("relu_2")


def test_tied_weights_are_left_out() -> None:
    found = Found(Tied(), torch.randint(0, 20, (4, 7)))
    assert found.names == {"first.weight", "first.bias", "second.weight"}
    assert not found.numbers("embedding")


def test_weights_that_are_computed_are_left_out() -> None:
    model = Residual()
    weight_norm(model.first[0])
    found = Found(model, torch.randn(IMAGE))
    assert not any(name.startswith(("first", "norm")) for name in found.names)


def test_leaf_modules_are_left_out() -> None:
    found = Found(Residual(), torch.randn(IMAGE), leaves=("second.0",))
    assert not found.names


def test_tensors_with_a_fixed_range_are_left_out() -> None:
    found = Found(Shared(), torch.randn(IMAGE), fixed=("relu_1",))
    assert not found.names


def test_channels_that_are_always_zero_stay_as_they_are() -> None:
    model = randomised(Residual())
    with torch.no_grad():
        model.norm.weight[3] = model.norm.bias[3] = 0.0
        for _, norm in (model.first, model.second):
            norm.weight[3] = norm.bias[3] = 0.0
    captured = capture(model, (torch.randn(IMAGE),))
    groups = find_groups(captured, model, (torch.randn(IMAGE),))
    scales = even_ranges(groups, channel_ranges(captured, groups, [(torch.randn(IMAGE),)]))
    assert scales[groups.tensors["add"].reshape(-1)[3]] == 1.0
    assert np.isfinite(scales).all()


def test_an_equalisation_survives_json_and_gives_the_same_weights() -> None:
    found = Found(Residual(), torch.randn(IMAGE))
    again = value_of(Equalisation, json_of(found.equalisation))
    assert again == found.equalisation
    before, after = found.other.state_dict(), rescaled(found.model, again).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_another_model_is_refused() -> None:
    found = Found(Residual(), torch.randn(IMAGE))
    with pytest.raises(ModelError, match="norm"):
        rescaled(Shared(), found.equalisation)


def test_the_given_model_is_not_changed() -> None:
    model = randomised(Residual())
    before = copy.deepcopy(model.state_dict())
    Found(model, torch.randn(IMAGE))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_factor_has_as_many_values_as_its_shape_says() -> None:
    with pytest.raises(ValueError, match="3 values"):
        Factor("weight", (2, 2), (1.0, 2.0, 3.0))


class Heads(nn.Module):
    """torch's attention keeps samples and heads in one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


def test_ranges_of_more_samples_than_the_groups_were_found_with() -> None:
    found = Found(Heads(), torch.randn(2, 5, 16))
    batches = [torch.randn(count, 5, 16) for count in (3, 1)]
    both = channel_ranges(found.captured, found.groups, [(item,) for item in batches])
    apart = [channel_ranges(found.captured, found.groups, [(item,)]) for item in batches]
    assert both
    for name, largest in both.items():
        assert np.array_equal(largest, np.maximum(apart[0][name], apart[1][name]))
    assert max(float(item.max()) for item in both.values()) > 0
