"""What came of a fine-tuning: the trained plan, built by the engine and compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from autoquant.backends.protocol import Backend
from autoquant.core.findings.finetuning import Recovery, Standing
from autoquant.core.measurement import Kind, Measurement
from autoquant.core.progress import Progress, Silent
from autoquant.finetuning.result import FinetuneResult
from autoquant.finetuning.training.state import TrainingState
from autoquant.finetuning.training.trainer import Trainer
from autoquant.finetuning.training.twin import Twin
from autoquant.model.data.batches import Batch
from autoquant.model.data.number_outputs import without_sources
from autoquant.model.data.scoring import Metric
from autoquant.model.subject import Subject
from autoquant.results.finetune_folder import QUANTIZED, FinetuneFolder
from autoquant.searching.measuring.evaluator import Calibrated
from autoquant.searching.measuring.quality import FloatReference, measure_quality, run_reference
from autoquant.searching.pair import Pair
from autoquant.searching.preparing.preparation import capture_subject


def build_outcome(
    trainer: Trainer,
    state: TrainingState,
    pair: Pair,
    folder: FinetuneFolder | None,
    progress: Progress,
) -> FinetuneResult:
    """Build the plan from the best weights by the normal backend, compare, and write."""
    prepared = pair.prepared
    trainer.take(state.best_weights, state.ranges)
    with torch.no_grad(), progress.stage("building the trained plan", None):
        model = trainer.twin.weights.model.requires_grad_(False)
        subject = replace(prepared.subject, model=model)
        statistics = trainer.twin.statistics
        settings = replace(prepared.settings, build=trainer.twin.settings)

        def opened(subject: Subject) -> Backend:
            captured = capture_subject(subject, Silent())
            return Calibrated(subject, captured, statistics, settings).backend

        backend = handed = opened(subject)
        executable = quantized = backend.build(pair.plan)
        own = without_sources(model)
        if own is not model:  # what is measured hands out more than what the user gets
            handed = opened(replace(subject, model=own))
            quantized = handed.build(pair.plan)
    runs = Runs(
        float_model=lambda inputs: pair.backend.run(prepared.subject.flat, inputs),
        before=lambda inputs: pair.backend.run(pair.executable.module, inputs),
        after=lambda inputs: backend.run(executable.module, inputs),
        emulated=lambda inputs: backend.run(_Emulated(trainer.twin), inputs),
        trained_float=lambda inputs: backend.run(subject.flat, inputs),
        kind=executable.kind,
    )
    result = FinetuneResult(
        plan=pair.plan,
        model=own,
        quantized=quantized.module,
        statistics=statistics,
        learning_rate=state.learning_rate,
        ranges=state.ranges.value,
        learned=() if trainer.twin.scales is None else trainer.twin.scales.found,
        trials=state.trials,
        checks=state.checks,
        best=state.best,
        steps=state.step + sum(trial.steps for trial in state.trials),
        stopped=state.stopped,
        recoveries=_recoveries(runs, prepared.subject, progress),
        folder=folder.path if folder else None,
    )
    if folder is not None:
        _keep(folder, result, handed)
    return result


class _Emulated(nn.Module):
    """The twin as a module."""

    def __init__(self, twin: Twin) -> None:
        super().__init__()
        self._twin = twin

    def forward(self, *inputs: Tensor) -> Any:
        return self._twin(inputs)


def _recoveries(runs: Runs, subject: Subject, progress: Progress) -> tuple[Recovery, ...]:
    sets = [("evaluation", subject.evaluation)]
    if subject.heldout is not None:
        sets.append(("heldout", subject.heldout))
    found = []
    with progress.stage("comparing before and after", len(sets)) as advance:
        for name, batches in sets:
            found.append(measure_recovery(runs, batches, subject.metric, name))
            advance(1)
    return tuple(found)


def _keep(folder: FinetuneFolder, result: FinetuneResult, backend: Backend) -> None:
    """Write what was found, and the quantized model as a file."""
    folder.write_findings(
        result.to_json(), result.plan, result.statistics, result.model.state_dict()
    )
    path = folder.path / QUANTIZED
    if backend.suffix != ".ts":  # a description's plan, no TorchScript
        path = path.with_suffix(backend.suffix)
    backend.export(result.plan, path, result.to_json())


Run = Callable[[tuple[Tensor, ...]], Any]

_NAME = "accuracy"


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """The models that are compared, each as a function of a batch's inputs.

    Attributes:
        float_model: As the user gave it.
        before: The plan, built before training.
        after: The plan, built after training.
        emulated: The fake-quantized model after training.
        trained_float: The float model with the trained weights.
        kind: Of what the engine gave: `emulated` where an op of the plan is.
    """

    float_model: Run
    before: Run
    after: Run
    emulated: Run
    trained_float: Run
    kind: Kind


def measure_recovery(runs: Runs, batches: Sequence[Batch], metric: Metric, data: str) -> Recovery:
    """Measure all of them on one data set.

    Raises:
        NotFiniteError: Outputs hold NaN or infinity; names the batch.
    """
    functions = {_NAME: metric}
    floats = run_reference(runs.float_model, batches, functions)

    def standing(run: Run, kind: Kind) -> Standing:
        found = _measure(run, floats, metric, kind)
        return Standing(found[_NAME], found[f"{_NAME}_drop"])

    before = run_reference(runs.before, batches, functions)
    gained = _measure(runs.after, before, metric, runs.kind)[f"{_NAME}_drop"]
    engine = run_reference(runs.after, batches, functions)
    apart = _measure(runs.emulated, engine, metric, Kind.EMULATED)
    return Recovery(
        data=data,
        float_score=_measure(runs.float_model, floats, metric, Kind.MEASURED)[_NAME],
        before=standing(runs.before, runs.kind),
        after=standing(runs.after, runs.kind),
        emulated=standing(runs.emulated, Kind.EMULATED),
        trained_float=standing(runs.trained_float, Kind.MEASURED),
        gain=replace(gained, value=0.0 - gained.value),  # no minus before a zero
        gap=apart[f"{_NAME}_drop"],
        gap_sqnr_db=apart["sqnr_db"],
    )


def _measure(
    run: Run, reference: FloatReference, metric: Metric, kind: Kind
) -> dict[str, Measurement]:
    return measure_quality(run, reference, {_NAME: metric}, kind).measurements
