"""What a model returns, as named floating tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from autoquant.errors import ModelError
from autoquant.metrics import class_axis
from autoquant.model.data.batches import Batch
from autoquant.model.data.number_outputs import judged, returned
from autoquant.model.data.trees import flatten_with_paths, key_name, register_dataclasses

_CONSTANTS = (bool, int, float, complex, str, torch.dtype, torch.device)

ALONE = "output"
"""The name of a model's only output."""


@dataclass(frozen=True, slots=True)
class OutputWeights:
    """Which outputs guide a search, and how much.

    Attributes:
        weights: By output; empty: whichever is worst.
    """

    weights: Mapping[str, float] = field(default_factory=dict)

    def scales(self, outputs: Mapping[str, Tensor]) -> dict[str, float]:
        """Factors that make the summed energy of outputs what guides: 1 for an only output.

        Each output is taken in units of its own energy; by the square roots of the weights, where
        there are some.

        Args:
            outputs: Of the float model on some samples.
        """
        if len(outputs) == 1:
            return dict.fromkeys(outputs, 1.0)
        total = sum(self.weights.values())
        shares = {name: self.weights.get(name, 0.0) / total if total else 1.0 for name in outputs}
        energies = {
            name: float((value.detach().double() ** 2).sum()) for name, value in outputs.items()
        }
        return {
            name: math.sqrt(shares[name] / energies[name]) if energies[name] else 0.0
            for name in outputs
        }

    def check(self, names: tuple[str, ...]) -> None:
        """Refuse weights of what the model does not return.

        Raises:
            ModelError: There is no such floating output.
        """
        for name in self.weights:
            if name not in names:
                raise ModelError(
                    f"outputs: the model returns no {name!r}",
                    hint=f"its floating outputs are {', '.join(names)}",
                )


@dataclass(frozen=True, slots=True)
class OutputStructure:
    """What a model returns, without the tensors.

    Attributes:
        structure: Of all that is returned.
        constants: By place among the leaves: strings, numbers, None.
    """

    structure: pytree.TreeSpec
    constants: Mapping[int, Any]

    @classmethod
    def of(cls, outputs: Any) -> OutputStructure:
        """Read it off what a model returned."""
        leaves, structure = pytree.tree_flatten(outputs)
        constants = {at: leaf for at, leaf in enumerate(leaves) if not isinstance(leaf, Tensor)}
        return cls(structure, constants)

    @property
    def tensor_count(self) -> int:
        """How many tensors are returned."""
        return self.structure.num_leaves - len(self.constants)

    @property
    def names(self) -> tuple[str, ...]:
        """Of each tensor: keys and fields that lead to it; `output_` before a place alone."""
        places = pytree.tree_unflatten(list(range(self.structure.num_leaves)), self.structure)
        leaves, _ = flatten_with_paths(places)
        found = [output_name(path) for path, place in leaves if place not in self.constants]
        return tuple(f"output_{name}" if name[:1].isdigit() else name for name in found)

    def names_beside(self, inputs: Collection[str]) -> tuple[str, ...]:
        """The names, with `output_` before those that inputs have: in a file they are tensors."""
        return tuple(f"output_{name}" if name in inputs else name for name in self.names)

    def build(self, tensors: Sequence[Tensor]) -> Any:
        """Put tensors together as the model returns them."""
        given = iter(tensors)
        leaves = [
            self.constants[at] if at in self.constants else next(given)
            for at in range(self.structure.num_leaves)
        ]
        return pytree.tree_unflatten(leaves, self.structure)


def named_outputs(outputs: Any, *, detached: bool = True) -> dict[str, Tensor]:
    """`floating_outputs`, of which there must be some."""
    found = floating_outputs(outputs, detached=detached)
    if not found:
        raise ModelError(
            f"the model returns {type(returned(outputs)).__name__} without a floating tensor",
            hint="return logits or other floats; whole numbers are compared by the floats that "
            "torch computes them from in Python, and here there are none",
        )
    return found


def floating_outputs(outputs: Any, *, detached: bool = True) -> dict[str, Tensor]:
    """Every floating output by its name: by key in a mapping, by place in a tuple.

    Complex tensors come as pairs of reals. Whole numbers are floats that they were computed from,
    where these are handed out (`Sourced`); other numbers, strings, None and the like are left out.
    """
    outputs = judged(outputs)
    register_dataclasses(outputs)
    leaves, _ = flatten_with_paths(outputs)
    found: dict[str, Tensor] = {}
    for path, leaf in leaves:
        if not isinstance(leaf, Tensor) or not (leaf.is_floating_point() or leaf.is_complex()):
            continue
        value = leaf.detach() if detached else leaf
        found[output_name(path)] = torch.view_as_real(value) if value.is_complex() else value
    return found


def opaque_outputs(outputs: Any) -> dict[str, str]:
    """By name, the classes of what a model returns that torch's pytree cannot look into."""
    leaves, _ = flatten_with_paths(outputs)
    return {output_name(path): type(leaf).__name__ for path, leaf in leaves if _is_opaque(leaf)}


def without_opaque(outputs: Any) -> Any:
    """The same with None in their places."""
    register_dataclasses(outputs)
    return pytree.tree_map(lambda leaf: None if _is_opaque(leaf) else leaf, outputs)


def _is_opaque(leaf: object) -> bool:
    return leaf is not None and not isinstance(leaf, (Tensor, torch.SymInt, *_CONSTANTS))


def output_name(path: tuple[Any, ...]) -> str:
    """The name of a leaf of what a model returns: `logits`, `0`, `boxes.1`."""
    return ".".join(re.sub(r"[^\w\-]", "_", key_name(key)) for key in path) or ALONE


def rows_of(value: Tensor, samples: int) -> Tensor:
    """An output by sample, shape (samples, elements); one row where no axis counts samples."""
    starts = value.ndim > 0 and value.shape[0] == samples
    return value.reshape(samples if starts else 1, -1)


def output_rows(outputs: Any, batch: Batch) -> list[Tensor]:
    """Every floating output as a tensor of shape (batch, elements).

    Where one of them does not start with the samples of the batch (time first, one value a batch),
    all are of one row, so that the batch is judged as a whole.

    Raises:
        ModelError: There is none.
    """
    rows = [rows_of(value, len(batch)) for value in named_outputs(outputs).values()]
    if any(len(row) != len(batch) for row in rows):
        return [row.reshape(1, -1) for row in rows]
    return rows


def difference(expected: Tensor, found: Tensor | None) -> Tensor:
    """Expected minus found; what only one of them has (a box that only one finds) against zero."""
    if found is None:
        return expected
    if found.ndim != expected.ndim:
        return difference(expected.flatten(), found.flatten())
    if found.shape == expected.shape:
        return expected - found
    shape = [max(sizes) for sizes in zip(expected.shape, found.shape, strict=True)]
    return _padded(expected, shape) - _padded(found, shape)


def _padded(value: Tensor, shape: list[int]) -> Tensor:
    whole = value.new_zeros(shape)
    whole[tuple(slice(0, size) for size in value.shape)] = value
    return whole


def divergence(expected: Tensor, found: Tensor, samples: int) -> Tensor:
    """KL(softmax(expected) || softmax(found)) in nats, by sample, in float64.

    Over the classes: the last axis of (batch, classes) and (batch, time, vocabulary), the axis 1 of
    (batch, classes, height, width); the mean over the positions of a sample. One logit alone is
    that of the second of two classes, whose first has the logit 0 (a sigmoid).

    Returns:
        Shape (samples,), or (1,) where the logits have no axis of samples.
    """
    if expected.ndim < 2:
        expected, found = rows_of(expected, samples), rows_of(found, samples)
    axis = class_axis(expected)
    if expected.shape[axis] == 1:
        expected, found = (torch.cat([0 * item, item], axis) for item in (expected, found))
    log_p = torch.log_softmax(expected.double(), axis)
    log_q = torch.log_softmax(found.double(), axis)
    by_position = (log_p.exp() * (log_p - log_q)).sum(axis)
    return rows_of(by_position, samples).mean(1)
