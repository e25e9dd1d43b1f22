"""What of a model's outputs is compared, and what cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree

from autoquant.core.findings.concerns import Concern, Topic, attention, note
from autoquant.core.findings.structure import OutputFacts
from autoquant.model.data.number_outputs import Sourced, returned
from autoquant.model.data.trees import flatten_with_paths
from autoquant.model.graph.captured import Capture


def list_outputs(captured: Capture, inputs: tuple[Tensor, ...]) -> tuple[OutputFacts, ...]:
    """Run a captured model and say of each of its outputs which tensors are compared."""
    with torch.no_grad():
        found = captured.graph(*inputs)
    output = next(iter(reversed(captured.graph.graph.nodes)))
    nodes = _leaves(output.args[0])
    named = pytree.tree_unflatten(nodes, pytree.tree_structure(found))
    values, names = (Sourced.of(item).by_output() for item in (found, named))

    def compared(at: int) -> Iterator[str]:
        (value, floats), (node, made) = values[at], names[at]
        if type(floats) is int:  # what stands at another output
            yield from compared(floats)
            return
        pairs = (
            [(value, node)] if floats is True else zip(*map(_leaves, (floats, made)), strict=True)
        )
        for item, giver in pairs:
            rows = item.ndim and len(item) == len(inputs[0])
            if item.is_floating_point() and (rows or floats is not True):
                yield giver.name

    return tuple(
        OutputFacts(
            pytree.keystr(path),
            str(value.dtype).removeprefix("torch."),
            tuple(value.shape),
            ", ".join(compared(at)) or None,
        )
        if isinstance(value, Tensor)
        else OutputFacts(pytree.keystr(path), type(value).__name__, (), None)
        for at, (path, value) in enumerate(flatten_with_paths(returned(found))[0])
    )


def _leaves(tree: Any) -> list[Any]:
    return pytree.tree_leaves(tree, is_leaf=lambda item: isinstance(item, Node))


def find_uncompared(facts: Sequence[OutputFacts], samples: int) -> Iterator[Concern]:
    """Name the outputs that other tensors are compared for, and those that cannot be compared."""
    for fact in facts:
        where = (fact.path or "output",)
        if fact.compared is None:
            yield attention(
                Topic.OUTPUTS,
                where,
                f"cannot be compared: {_reason(fact, samples)}",
                "no error measure of this output can say how good a plan is",
                "return floats with one row for each sample (logits, scores, boxes)",
            )
        elif not fact.dtype.startswith(_FLOATS):
            yield note(
                Topic.OUTPUTS,
                where,
                f"holds {fact.dtype}; {fact.compared}, from which it is computed, is compared in "
                "its place",
                "whole numbers either agree or do not: their distance says nothing about any op",
                "nothing: every command does so, and metrics score what the model returns",
            )
    if facts and all(fact.compared is None for fact in facts):
        yield attention(
            Topic.OUTPUTS,
            ("output",),
            "no output can be compared",
            "sensitivity, comparison and search all measure the output error",
            "return at least one float tensor with one row for each sample",
        )


_FLOATS = ("float", "bfloat")


def _reason(fact: OutputFacts, samples: int) -> str:
    if not fact.shape and fact.dtype not in ("float32", "float64"):
        return f"it is a {fact.dtype}"
    if not fact.dtype.startswith(_FLOATS):
        return f"it holds {fact.dtype}"
    return f"its shape {fact.shape} does not start with the {samples} samples of the batch"
