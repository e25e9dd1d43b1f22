"""Splitting shared modules changes nothing but who is called."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from autoquant import split_shared
from autoquant.debugging.structure.calls import count_calls
from autoquant.errors import ModelError
from autoquant.model.graph.capture import capture
from tests import misbuilt as nets
from tests.networks import images

NETWORKS = [
    pytest.param(lambda: nets.Shared(6.0), id="module"),
    pytest.param(nets.SharedBehindNorms, id="norms"),
    pytest.param(nets.SharedBlock, id="block and aliases"),
    pytest.param(nets.SharedBelow, id="child of a child"),
]
network = pytest.mark.parametrize("build", NETWORKS)


@network
def test_the_split_model_is_bit_equal(build: type[nn.Module]) -> None:
    model = nets.misbuilt(build())
    inputs = images(4)
    with torch.no_grad():
        assert torch.equal(split_shared(model, inputs)(inputs), model(inputs))


@network
def test_nothing_is_called_twice_any_more(build: type[nn.Module]) -> None:
    split = split_shared(nets.misbuilt(build()), images(2))
    assert max(count_calls(split, lambda model: model(*(images(2),))).calls.values()) == 1


@network
def test_the_model_itself_is_not_changed(build: type[nn.Module]) -> None:
    model = nets.misbuilt(build())
    before = copy.deepcopy(model.state_dict())
    paths = [path for path, _ in model.named_modules(remove_duplicate=False)]
    split_shared(model, images(2))
    assert [path for path, _ in model.named_modules(remove_duplicate=False)] == paths
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@network
def test_the_state_dict_keeps_its_names_and_copies_get_the_same_values(
    build: type[nn.Module],
) -> None:
    model = nets.misbuilt(build())
    before, after = model.state_dict(), split_shared(model, images(2)).state_dict()
    assert before.keys() < after.keys()
    for name, value in after.items():
        assert torch.equal(value, before[name.replace("_2", "").replace("_3", "")])
    storages = [value.data_ptr() for value in after.values()]
    assert len(set(storages)) == len(storages)
    assert not set(storages) & {value.data_ptr() for value in before.values()}


@pytest.mark.slow
def test_names_of_sites_outside_stay_and_the_copies_are_sites() -> None:
    model = nets.misbuilt(nets.SharedBlock())
    before = {site.name for site in capture(model, (images(2),)).sites}
    after = {site.name for site in capture(split_shared(model, images(2)), (images(2),)).sites}
    gone = {"block:tanh:1", "block:add:1"}  # those of the block's second call
    assert before - after == gone
    assert {"block_2.conv", "block_2:add:0"} <= after


def test_batch_norms_of_a_split_module_are_folded_each_into_its_own_copy() -> None:
    model, inputs = nets.misbuilt(nets.SharedBehindNorms()), images(4)
    with torch.no_grad():
        expected = model(inputs)
        fused = capture(split_shared(model, inputs), (inputs,)).graph(inputs)
    # capture folds each batch norm into its convolution, which rounds anew
    assert torch.allclose(fused, expected, rtol=1e-4, atol=1e-5)


def test_named_modules_alone_are_split() -> None:
    split = split_shared(nets.misbuilt(nets.Shared(6.0)), images(2), ["conv"])
    assert count_calls(split, lambda model: model(*(images(2),))).calls["act"] == 2


def test_other_attributes_buffers_and_default_arguments_survive() -> None:
    split = split_shared(nets.misbuilt(nets.SharedBlock()), images(2))
    assert split.width == 3
    assert int(split.steps) == 7
    with torch.no_grad():
        assert not torch.equal(split(images(2)), split(images(2), 5.0))


def test_a_split_model_can_be_copied_and_pickled() -> None:
    split, inputs = split_shared(nets.misbuilt(nets.SharedBlock()), images(2)), images(2)
    with torch.no_grad():
        for other in (copy.deepcopy(split), pickle.loads(pickle.dumps(split))):
            assert torch.equal(other(inputs), split(inputs))


@pytest.mark.parametrize(
    ("path", "message"),
    [("convolution", "no module 'convolution'"), ("head", "'head' is not called several times")],
)
def test_a_path_that_cannot_be_split_is_refused(path: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        split_shared(nets.misbuilt(nets.Shared(6.0)), images(2), [path])


class Counting(nn.Module):
    """Its second call adds a bias that its first does not: its forward keeps state."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.head = nn.Conv2d(3, 3, 1)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.head(self.conv(self.conv(x))) + float(self.calls)


def test_a_split_that_computes_something_else_is_refused() -> None:
    with pytest.raises(ModelError, match="gives other outputs than the model"):
        split_shared(Counting().eval(), images(2))


class Random(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv(x)) + torch.rand(1)


def test_a_model_that_draws_random_numbers_is_refused() -> None:
    with pytest.raises(ModelError, match="other outputs each time"):
        split_shared(Random().eval(), images(2))


def test_a_forward_hook_that_the_rewrite_would_lose_is_not_lost_in_silence() -> None:
    model = nets.misbuilt(nets.Shared(6.0))
    model.register_forward_hook(lambda module, args, output: output * 2.0)
    with pytest.raises(ModelError, match="hooks"):
        split_shared(model, images(2))
