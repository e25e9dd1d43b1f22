"""Runs the user's model before anything is measured: what it does to itself and to its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from autoquant.errors import ModelError
from autoquant.model.data.batches import Batch
from autoquant.model.data.calling import failing
from autoquant.model.data.number_outputs import NumberSources, with_sources
from autoquant.model.data.outputs import (
    difference,
    floating_outputs,
    named_outputs,
    opaque_outputs,
    without_opaque,
)
from autoquant.model.data.scoring import check_metric
from autoquant.model.data.trees import is_same
from autoquant.model.graph.float_model import (
    buffers_kept,
    compute_padding,
    copy_of,
    packs_padding,
    unwrapped,
)
from autoquant.model.subject import Subject


def protected(subject: Subject, given: object) -> Subject:
    """The same with what was done to the user's model, which stays as it is.

    It is given copies where it writes into its inputs, and is a copy where it writes into itself.

    Raises:
        ModelError: It fails on the first calibration batch.
    """
    notices = list(subject.notices)
    if isinstance(given, nn.Module) and unwrapped(given) is not given:
        notices.append(f"taken out of {type(given).__name__}: the module that it wraps is searched")
    batch = subject.calibration[0]
    inputs = tuple(item.clone() for item in batch.inputs)
    sources = NumberSources([*inputs, *subject.model.parameters(), *subject.model.buffers()])
    with torch.no_grad(), buffers_kept(subject.model) as changed, sources:
        outputs = _forward(subject, replace(batch, inputs=inputs), "calibration batch 0")
    writes = not is_same(inputs, batch.inputs)
    if writes:
        notices.append("the model's forward writes into its inputs; it is given copies of them")
    opaque = ", ".join(f"{name} ({kind})" for name, kind in opaque_outputs(outputs).items())
    if opaque:
        notices.append(
            f"the model returns what torch cannot look into, {opaque}: it is not compared, and "
            "what is built of the exported graph returns None for it"
        )
    sourced = sources.beside(without_opaque(outputs))
    silent = [name for name, value in floating_outputs(sourced).items() if not value.any()]
    if silent:
        notices.append(
            f"the model gives nothing but zeros on calibration batch 0 ({', '.join(silent)}): "
            "no plan can lose anything there, and SQNR says nothing of it"
        )
    if changed:
        subject, how = _of_copy(subject)
        notices.append(f"the model's forward writes into its buffers ({', '.join(changed)}); {how}")
    subject, notice = _without_nested_tensors(subject)
    if sourced.differs:
        given = subject.given or subject.model
        subject = replace(subject, model=with_sources(subject.model), given=given)
        notices.append(
            "the model returns whole numbers (class numbers, places): the floats that they are "
            "computed from are compared in their place, and metrics score what it returns"
        )
    return replace(subject, writes_inputs=writes, notices=(*notices, *notice))


def _without_nested_tensors(subject: Subject) -> tuple[Subject, tuple[str, ...]]:
    """The same with encoders that compute every position, as no graph can leave padding out."""
    if not packs_padding(subject.model, partial(subject.run, subject.calibration[0])):
        return subject, ()
    copied = subject if subject.given is not None else _of_copy(subject)[0]
    if copied.given is None:
        return subject, ()
    compute_padding(copied.model)
    return copied, (
        "nn.TransformerEncoder leaves padding out (by nested tensors), which no graph can: a copy "
        "that computes all positions is searched, and timed as fp32",
    )


def _of_copy(subject: Subject) -> tuple[Subject, str]:
    """The same of a copy of the model, where it can be copied, and what becomes of the user's."""
    try:
        copied = copy_of(subject.model)
    except (TypeError, RuntimeError) as error:
        return subject, f"it cannot be copied, so that a search changes them ({error})"
    how = "a copy of it is searched, and what is built leaves them alone"
    return replace(subject, model=copied, given=subject.model), how


_ROUNDOFF = 1e-5
"""Of the largest output: what sums in another order make of the same numbers, call by call."""


def check_outputs(subject: Subject, batches: Sequence[Batch], name: str) -> Any:
    """Run the first batch of a data set twice: it must work, repeat itself, and be scored.

    Returns:
        The model's outputs on it.
    """
    batch = batches[0]
    with torch.no_grad():
        first, second = (_forward(subject, batch, f"{name} batch 0") for _ in range(2))
    before, again = named_outputs(first), named_outputs(second)
    subject.outputs.check(tuple(before))
    for key, value in before.items():
        if not torch.isfinite(value).all():
            raise ModelError(
                f"the float model's outputs hold NaN or infinity on {name} batch 0",
                hint="check the checkpoint and the preprocessing of the data",
            )
        apart = difference(value, again.get(key))
        least = _ROUNDOFF * _largest(value) if value.is_floating_point() else 0.0
        if _largest(apart) > least:
            raise ModelError(
                "the model gives different outputs for the same batch "
                f"(largest difference {_largest(apart):.3g})",
                hint="remove randomness (dropout outside eval mode, sampling) and state kept "
                "between calls",
            )
    for function in subject.functions.values():
        check_metric(function, first, batch)
    check_runs(subject, batches, name)
    return first


def _largest(value: Tensor) -> float:
    """Largest magnitude; 0 where there is none."""
    return float(value.abs().max()) if value.numel() else 0.0


def check_runs(subject: Subject, batches: Sequence[Batch], name: str) -> None:
    """Run the batches with the smallest and the largest samples: the model must take both."""
    if not batches:
        return
    smallest = largest = (0.0, 0, batches[0])
    for index, batch in enumerate(batches):
        size = sum(item.numel() for item in batch.inputs) / len(batch)
        if not index or size < smallest[0]:
            smallest = (size, index, batch)
        if not index or size > largest[0]:
            largest = (size, index, batch)
    for index, batch in {item[1]: item[2] for item in (smallest, largest)}.items():
        with torch.no_grad():
            _forward(subject, batch, f"{name} batch {index}")


def _forward(subject: Subject, batch: Batch, where: str) -> Any:
    with failing("the model", where, batch.inputs):
        return subject.run(batch)
