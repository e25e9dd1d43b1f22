"""Leaves of a tree are named, also in classes that were registered without names."""

from __future__ import annotations

import math
from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import autoquant as aq
from autoquant.model.data.trees import flatten_with_paths, is_same


class Output(OrderedDict[str, Tensor]):
    """A dictionary of its own class, registered as diffusers registers its outputs."""


class Pair:
    """Two values of a class that keeps nothing of their names."""

    def __init__(self, first: Any, second: Any) -> None:
        self.values = (first, second)


Named = namedtuple("Named", ["mean", "spread"])


@pytest.fixture(scope="module", autouse=True)
def _registered() -> None:
    pytree.register_pytree_node(
        Output,
        lambda output: (list(output.values()), list(output)),
        lambda values, names: Output(zip(names, values, strict=True)),
        serialized_type_name="tests.Output",
    )
    pytree.register_pytree_node(
        Pair,
        lambda pair: (list(pair.values), None),
        lambda values, _: Pair(*values),
        serialized_type_name="tests.Pair",
    )


def test_each_leaf_has_the_keys_that_lead_to_it() -> None:
    tree = {"a": Output(sample=1, scale=Pair(2, Named(3, 4))), "b": [5]}
    leaves, structure = flatten_with_paths(tree)
    assert {pytree.keystr(path): leaf for path, leaf in leaves} == {
        "['a']['sample']": 1,
        "['a']['scale'][0]": 2,
        "['a']['scale'][1]['mean']": 3,
        "['a']['scale'][1]['spread']": 4,
        "['b'][0]": 5,
    }
    assert structure == pytree.tree_structure(tree)


class Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Output:
        return Output(sample=self.second(torch.relu(self.first(x))))


@pytest.mark.slow
def test_a_model_that_returns_such_a_class_is_searched(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = Denoiser().eval()
    pairs = [(torch.randn(4, 2, 8, 8), torch.randn(4, 2, 8, 8)) for _ in range(2)]
    result = aq.search(
        model,
        calibration=pairs,
        evaluation=pairs,
        metric=lambda output, target: -((output["sample"] - target) ** 2).mean((1, 2, 3)),
        max_drop=None,
        trials=3,
        output=tmp_path / "out",
    )
    returned = result.frontier[0].quantize(model)(pairs[0][0])
    assert isinstance(returned, Output)
    assert returned["sample"].shape == (4, 2, 8, 8)


NAN = torch.tensor([1.0, math.nan])
SAME = [
    (NAN, NAN.clone(), True),
    (NAN, torch.tensor([1.0, 0.0]), False),
    (NAN, NAN.half(), False),
    (NAN, NAN[:1], False),
    ({"logits": NAN, "cache": None}, {"logits": NAN.clone(), "cache": None}, True),
    ((NAN, 2), (NAN, 3), False),
    ((NAN, 2), (NAN, True), False),
    ([NAN], [NAN, NAN], False),
]


@pytest.mark.parametrize(("first", "second", "expected"), SAME)
def test_trees_are_the_same_by_their_values(first: Any, second: Any, expected: bool) -> None:
    assert is_same(first, second) is expected
