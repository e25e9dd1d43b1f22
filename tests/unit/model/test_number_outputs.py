"""What whole numbers are computed from: found in a model as it runs, and in its exported graph."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest
import torch
from torch import Tensor, nn

from autoquant.model.building import build_subject
from autoquant.model.data.number_outputs import (
    Sourced,
    judged,
    returned,
    with_sources,
    without_sources,
)
from autoquant.model.data.outputs import named_outputs

Tail = Callable[[Tensor], Any]


class Tailed(nn.Module):
    """One linear layer, and what becomes of its scores."""

    def __init__(self, tail: Tail) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 5)
        self.tail = tail

    def forward(self, x: Tensor) -> Any:
        return self.tail(self.layer(x))


def labelled(scores: Tensor) -> dict[str, Tensor]:
    found = scores.softmax(1).max(1)
    return {"label": found.indices, "score": found.values}


def written(scores: Tensor) -> Tensor:
    """Numbers that are written into a tensor which no float made."""
    found = torch.zeros(len(scores), dtype=torch.int64)
    found[:] = scores.argmax(1)
    return found


ROWS = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))

TAILS: dict[str, tuple[Tail, Callable[[Tensor], dict[str, Tensor]]]] = {
    "argmax": (lambda scores: scores.argmax(1), lambda scores: {"output": scores}),
    "argmax by a lookup": (
        lambda scores: torch.tensor([4, 3, 2, 1, 0])[scores.argmax(1)].int(),
        lambda scores: {"output": scores},
    ),
    "written into another tensor": (written, lambda scores: {"output": scores}),
    "top-k": (
        lambda scores: tuple(scores.topk(2)),
        lambda scores: {"0": scores.topk(2).values, "1": scores},
    ),
    "a threshold as floats": (
        lambda scores: ((scores > 0) & (scores < 1)).float(),
        lambda scores: {"output": scores},
    ),
    "places": (
        lambda scores: torch.nonzero(scores.sigmoid() > 0.5),
        lambda scores: {"output": scores.sigmoid()},
    ),
    "two scores": (
        lambda scores: scores.sigmoid() > scores.softmax(1),
        lambda scores: {"0": scores.sigmoid(), "1": scores.softmax(1)},
    ),
    "label and score": (
        labelled,
        lambda scores: {"label": scores.softmax(1), "score": scores.softmax(1).max(1).values},
    ),
    "judged at another output": (
        lambda scores: {"best": scores.argmax(1), "logits": scores, "worst": scores.argmin(1)},
        lambda scores: {"logits": scores},
    ),
}


@pytest.mark.parametrize("name", TAILS)
def test_whole_numbers_are_judged_by_the_floats_before_them(name: str) -> None:
    tail, expected = TAILS[name]
    model = Tailed(tail).eval()
    subject = build_subject(model, calibration=ROWS)
    with torch.no_grad():
        own, wanted = model(ROWS), expected(model.layer(ROWS))
        found, graph = subject.flat(ROWS), subject.find_sites().graph(ROWS)
    for outputs in (found, graph):
        judged_by = named_outputs(outputs)
        assert list(judged_by) == list(wanted)
        assert all(torch.allclose(judged_by[key], wanted[key]) for key in wanted)
        torch.testing.assert_close(returned(outputs), own)


@pytest.mark.parametrize(
    "tail",
    [lambda scores: scores, lambda scores: (scores, torch.arange(len(scores)))],
    ids=["logits", "numbers of no float"],
)
def test_a_model_whose_numbers_come_from_no_float_is_left_alone(tail: Tail) -> None:
    model = Tailed(tail).eval()
    assert build_subject(model, calibration=ROWS).model is model


def test_tokens_that_are_handed_on_are_judged_by_nothing() -> None:
    model = with_sources(Tailed(lambda scores: scores))
    model.tail = lambda scores: (scores, ROWS > 0)  # an input has no error
    assert not model(ROWS).differs


def test_the_model_keeps_its_class_paths_and_weights_and_is_given_back() -> None:
    model = Tailed(TAILS["argmax"][0]).eval()
    made = with_sources(model)
    assert type(made).__name__ == "Tailed"
    assert isinstance(made, Tailed)
    assert [name for name, _ in made.named_parameters()] == ["layer.weight", "layer.bias"]
    assert made.layer is model.layer
    assert isinstance(model(ROWS), Tensor)
    assert type(without_sources(made)) is Tailed
    assert without_sources(model) is model


@pytest.mark.parametrize("with_kwargs", [False, True])
def test_hooks_on_the_outputs_see_and_change_the_models_own(with_kwargs: bool) -> None:
    model = Tailed(TAILS["label and score"][0]).eval()
    model.register_forward_hook(
        lambda module, *given: {**given[-1], "label": given[-1]["label"] + 1},
        with_kwargs=with_kwargs,
    )
    subject = build_subject(model, calibration=ROWS)
    with torch.no_grad():
        own = model(ROWS)
        for outputs in (subject.flat(ROWS), subject.find_sites().graph(ROWS)):
            torch.testing.assert_close(returned(outputs), own)
            assert list(named_outputs(outputs)) == ["label", "score"]
        torch.testing.assert_close(without_sources(subject.model)(ROWS), own)


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda model: cloudpickle.loads(cloudpickle.dumps(model))]
)
def test_a_copy_runs_on_weights_of_its_own(again: Callable[[nn.Module], nn.Module]) -> None:
    made: Any = with_sources(Tailed(TAILS["argmax"][0]).eval())
    copied: Any = again(made)
    with torch.no_grad():
        copied.layer.weight.zero_()
        copied.layer.bias.zero_()
    found = copied(ROWS)
    assert isinstance(found, Sourced)
    assert not judged(found).any()
    assert judged(made(ROWS)).any()
