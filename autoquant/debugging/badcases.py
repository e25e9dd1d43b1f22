"""Bad cases of a pair, and `autoquant.find_bad_cases` for models in this process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from autoquant.comparing.own_error import OwnError
from autoquant.core.calls import Positive, checked
from autoquant.core.findings.badcases import BadCases
from autoquant.core.progress import Progress
from autoquant.debugging.samples.find import Run
from autoquant.debugging.samples.find import find_bad_cases as find_among
from autoquant.errors import DataError
from autoquant.model.data.batches import Batch, first_samples, take_samples
from autoquant.model.data.calling import failing
from autoquant.model.data.data_set import sizes_of
from autoquant.model.data.number_outputs import returned, sourced
from autoquant.model.data.reader import DataReader
from autoquant.model.data.readings import DataForm, Prepare
from autoquant.model.graph.float_model import check_float_model, check_module, in_eval_mode
from autoquant.model.subject import Subject
from autoquant.results.terminal import shown
from autoquant.searching.pair import Pair

TOP = 10
"""How many samples are kept for each output and metric, unless said otherwise."""


@checked
def find_bad_cases(
    model: nn.Module,
    quantized: nn.Module,
    data: object,
    *,
    top: Positive = TOP,
    samples: Positive | None = None,
    outputs: Sequence[str] = (),
    error: OwnError | None = None,
    target: str | None = None,
    prepare: Prepare | None = None,
    progress: Progress | bool | None = None,
) -> BadCases:
    """Find the samples on which a quantized model is furthest from its float model.

    Takes one batch after the other; memory does not depend on how many there are.

    Args:
        model: The float model; it is never changed.
        quantized: Its quantized version, from wherever it comes: `candidate.quantize(model)`,
            torch's `convert_fx`, a fake-quantized model in eval mode.
        data: Inputs: tensors, a list of batches, or a DataLoader; targets are not needed.
        top: How many samples to keep for each output and metric.
        samples: How many samples to look at, from the first on; None: all.
        outputs: Which outputs to look at, by name; none: all.
        error: `error(expected, found)` of what both models return for a batch: a number for each
            sample, higher is worse (with `error.higher_is_better = True` lower is). They are
            ranked by it too.
        target: As `autoquant.search` takes it; so is `prepare`.
        prepare: Makes batches of the items of the data.
        progress: Shown the progress; None: standard error is, False: nothing is.

    Raises:
        ModelError: The outputs cannot be compared.
        DataError: A batch is empty, not finite or of another shape than the first.
    """
    check_module(quantized)
    float_model = in_eval_mode(check_float_model(model))
    reader = DataReader(float_model, DataForm(target, prepare))
    batches = first_samples(reader.stream(data, "data", needs_targets=False), samples)

    def run(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        name = "model" if module is float_model else "quantized model"
        with torch.no_grad(), failing(f"the {name}", "data", inputs):
            return reader.calling.call(module, inputs)

    def run_float(inputs: tuple[Tensor, ...]) -> Any:
        found = sourced(partial(run, float_model, inputs), (*inputs, *float_model.parameters()))
        return found if found.differs else returned(found)

    with shown(progress).stage("comparing outputs", None) as advance:
        runs = run_float, partial(run, quantized)
        return find_among(*runs, batches, top, advance, outputs=outputs, error=error)


def bad_cases_of(
    pair: Pair,
    data: str,
    top: int,
    progress: Progress,
    *,
    samples: int | None = None,
    outputs: Sequence[str] = (),
    error: OwnError | None = None,
) -> BadCases:
    """Find the bad cases of a pair."""
    batches = take_samples(data_set(pair.prepared.subject, data), samples)
    with progress.stage("comparing outputs", sum(sizes_of(batches))) as advance:
        runs = runs_of(pair)
        return find_among(*runs, batches, top, advance, outputs=outputs, error=error)


def runs_of(pair: Pair) -> tuple[Run, Run]:
    """What calls the float model and the plan, both on the plan's engine."""
    run = pair.backend.run
    return partial(run, pair.prepared.subject.flat), partial(run, pair.executable.module)


def data_set(subject: Subject, name: str) -> Sequence[Batch]:
    """One of a job's data sets, by its name there."""
    sets = {
        "evaluation": subject.evaluation,
        "calibration": subject.calibration,
        "heldout": subject.heldout,
    }
    found = sets.get(name)
    if found is None:
        known = ", ".join(key for key, value in sets.items() if value is not None)
        raise DataError(f"--data {name}: the job has no such data", hint=f"it has {known}")
    return found
