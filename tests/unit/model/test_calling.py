from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import warnings
from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoquant.errors import DataError
from autoquant.model.data.arguments import Arguments
from autoquant.model.data.calling import Calling

X, MASK = torch.randn(2, 3), torch.ones(2, 3)
Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Graph:
    nodes: Tensor
    weight: Tensor | None = None
    layers: int = 1


class OneInput(nn.Module):
    def forward(self, x: Any) -> Any:
        return x


class TwoInputs(nn.Module):
    def forward(self, x: Any, mask: Any) -> Any:
        return x, mask


class OptionalInputs(nn.Module):
    def forward(self, x: Any, mask: Any = None, scale: float = 1.0, *, flag: bool = False) -> Any:
        return x, mask, scale, flag


class AnyInputs(nn.Module):
    def forward(self, *columns: Any, **named: Any) -> Any:
        return columns, named


@pytest.mark.parametrize(
    ("inputs", "model", "names", "expected"),
    [
        (X, OneInput(), ("x",), ((X,), {})),
        ((X, MASK), TwoInputs(), ("x", "mask"), ((X, MASK), {})),
        ([X, MASK], TwoInputs(), ("x", "mask"), ((X, MASK), {})),
        ({"mask": MASK, "x": X}, TwoInputs(), ("x", "mask"), ((), {"x": X, "mask": MASK})),
        (UserDict(x=X, mask=MASK), TwoInputs(), ("x", "mask"), ((), {"x": X, "mask": MASK})),
        ({"a": X, "b": MASK}, OneInput(), ("x.a", "x.b"), (({"a": X, "b": MASK},), {})),
        ((X, MASK), OneInput(), ("x.0", "x.1"), (((X, MASK),), {})),
        ([X, MASK], OneInput(), ("x.0", "x.1"), (([X, MASK],), {})),
        (((X, MASK),), OneInput(), ("x.0", "x.1"), (((X, MASK),), {})),
        (Pair(X, MASK), OneInput(), ("x.left", "x.right"), ((Pair(X, MASK),), {})),
        ((X, None, 0.5), OptionalInputs(), ("x",), ((X, None, 0.5), {})),
        ({"x": X, "flag": True}, OptionalInputs(), ("x",), ((), {"x": X, "flag": True})),
        ((X, MASK), AnyInputs(), ("columns.0", "columns.1"), ((X, MASK), {})),
        ({"left": X}, AnyInputs(), ("left",), ((), {"left": X})),
        (
            Arguments((X,), {"mask": MASK}),
            OptionalInputs(),
            ("x", "mask"),
            ((X,), {"mask": MASK}),
        ),
        (torch.tensor(3), OneInput(), ("x",), ((torch.tensor(3),), {})),
        ((np.float32(0.5), X), TwoInputs(), ("mask",), ((0.5, X), {})),
    ],
    ids=[
        "a tensor",
        "a tuple",
        "a list",
        "a dict in another order",
        "a mapping that is no dict",
        "a dict as the one input",
        "a tuple as the one input",
        "a list as the one input",
        "a tuple in a tuple",
        "a named tuple as the one input",
        "constants by place",
        "constants by name",
        "any places",
        "any names",
        "arguments in so many words",
        "a tensor without dimensions",
        "a number of numpy's",
    ],
)
def test_a_structure_of_inputs_becomes_the_arguments_of_forward(
    inputs: Any, model: nn.Module, names: tuple[str, ...], expected: Any
) -> None:
    calling, tensors = Calling.of(inputs, model)
    assert calling.names == names
    assert len(tensors) == len(names)
    assert _shown(calling.arguments(tensors)) == _shown(expected)
    assert _shown(pickle.loads(pickle.dumps(calling)).arguments(tensors)) == _shown(expected)


def test_the_model_is_called_with_other_tensors_of_the_same_structure() -> None:
    calling, _ = Calling.of({"x": X, "scale": 3.0}, OptionalInputs())
    x, mask, scale, flag = calling.call(OptionalInputs(), (MASK,))
    assert x is MASK
    assert (mask, scale, flag) == (None, 3.0, False)


def test_a_dataclass_of_tensors_is_looked_into() -> None:
    calling, tensors = Calling.of(Graph(X, layers=2), OneInput())
    assert calling.names == ("x.nodes",)
    found = calling.call(OneInput(), (MASK,))
    assert found.nodes is MASK
    assert (found.weight, found.layers, len(tensors)) == (None, 2, 1)


def test_a_calling_with_a_dataclass_works_in_another_process(tmp_path: Path) -> None:
    calling, tensors = Calling.of(Graph(X, MASK), OneInput())
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        (tmp_path / "calling").write_bytes(cloudpickle.dumps((calling, tensors)))
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    script = (
        "import cloudpickle, pathlib, sys\n"
        "calling, tensors = cloudpickle.loads(pathlib.Path(sys.argv[1]).read_bytes())\n"
        "(graph,), _ = calling.arguments(tensors)\n"
        "print(type(graph).__name__, tuple(graph.weight.shape))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "calling")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.stdout.strip() == "Graph (2, 3)"


def test_arrays_become_tensors_and_double_arrays_float32() -> None:
    calling, tensors = Calling.of((np.zeros((2, 3)), np.array([1, 2])), TwoInputs())
    assert [item.dtype for item in tensors] == [torch.float32, torch.int64]
    assert calling.names == ("x", "mask")


def test_tensors_made_under_inference_mode_can_take_part_in_gradients() -> None:
    with torch.inference_mode():
        made = torch.ones(2, 3)
    _, (tensor,) = Calling.of(made, OneInput())
    layer = nn.Linear(3, 1)
    layer(tensor).sum().backward()
    assert layer.weight.grad is not None


def test_what_is_built_takes_inputs_by_place_or_by_name_as_the_model_does() -> None:
    model = TwoInputs()
    built = Calling.of({"mask": MASK, "x": X}, model)[0].nest(TwoInputs(), model)
    for found in (built(X, MASK), built(x=X, mask=MASK), built(X, mask=MASK)):
        assert found[0] is X
        assert found[1] is MASK


def test_another_batch_may_name_its_inputs_in_another_order() -> None:
    calling, _ = Calling.of({"a": X, "b": MASK}, OneInput())
    found = calling.tensors(Arguments((OrderedDict(b=MASK, a=X),)))
    assert found[0] is X
    assert found[1] is MASK


@pytest.mark.parametrize(
    ("inputs", "model", "message"),
    [
        ((X, MASK, X), TwoInputs(), "has 3 inputs, but model.forward takes 2: x, mask"),
        (X, TwoInputs(), "does not give 'mask', which model.forward requires; it gives 1: x"),
        ({"x": X, "label": MASK}, TwoInputs(), "an input 'label', which is no parameter"),
        ((X, object()), TwoInputs(), "input 'mask' is a object, which is no tensor"),
        ((X, np.array(["a"])), TwoInputs(), "input 'mask' is an array of <U1"),
        ((None, 3), TwoInputs(), "holds no tensor"),
    ],
    ids=["too many", "too few", "unknown name", "an object", "array of words", "no tensor"],
)
def test_inputs_that_forward_cannot_take_are_refused_by_name(
    inputs: Any, model: nn.Module, message: str
) -> None:
    with pytest.raises(DataError, match="calibration batch 0") as caught:
        Calling.of(inputs, model, "calibration batch 0")
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (Arguments((X, 0.25)), "a constant input is 0.25, in the first batch 0.5"),
        (Arguments((X, MASK)), "a constant input is a tensor of shape (2, 3)"),
        (Arguments((None, 0.5)), "input 'x' is None, in the first batch a tensor"),
        (Arguments((X,)), "another structure than the first batch"),
    ],
    ids=["a constant differs", "a constant became a tensor", "a tensor is missing", "structure"],
)
def test_a_batch_unlike_the_first_is_refused(arguments: Arguments, message: str) -> None:
    calling, _ = Calling.of((X, 0.5), TwoInputs())
    with pytest.raises(DataError) as caught:
        calling.tensors(arguments)
    assert message in caught.value.message


def test_a_plain_calling_passes_tensors_by_place() -> None:
    assert Calling.plain(2).call(TwoInputs(), (X, MASK)) == (X, MASK)
    with pytest.raises(ValueError, match="expected 2 tensors, got 1"):
        Calling.plain(2).arguments((X,))


def _shown(value: Any) -> Any:
    """A structure with tensors by their identity or values, to compare."""
    if isinstance(value, Tensor):
        return ("tensor", tuple(value.shape), value.flatten().tolist())
    if isinstance(value, dict):
        return {key: _shown(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return (type(value), [_shown(item) for item in value])
    return value


def test_a_calling_goes_through_json() -> None:
    calling, tensors = Calling.of({"input": torch.ones(2, 4)}, nn.Linear(4, 4))
    again = Calling.from_json(json.loads(json.dumps(calling.to_json())))
    assert again == calling
    assert torch.equal(again.arguments(tensors)[1]["input"], tensors[0])


def test_a_calling_is_copied_and_pickled_in_silence_and_shows_its_structure() -> None:
    calling = Calling.plain(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copies = copy.deepcopy(calling.structure), pickle.loads(pickle.dumps(calling.structure))
    assert copies == (calling.structure, calling.structure)
    assert repr(calling).count("*") == 2
