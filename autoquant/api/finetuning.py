"""The order of a fine-tuning: train a plan, build it by the engine, compare with what it was."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import torch

from autoquant.api.export import write_torchscript
from autoquant.api.finetune_result import FinetuneResult
from autoquant.api.pair import Pair, build_pair
from autoquant.api.preparation import Preparation
from autoquant.api.watch import Watch
from autoquant.core.finetuning import Recovery, Trial
from autoquant.core.plan import Plan
from autoquant.errors import AutoquantError, DataError
from autoquant.evaluate.evaluator import build_backend, with_threads
from autoquant.evaluate.recovery import Runs, measure_recovery
from autoquant.job import Job, TrainingSettings
from autoquant.model.capture import capture
from autoquant.model.subject import Subject
from autoquant.record.finetune_folder import FINDINGS, QUANTIZED, FinetuneFolder
from autoquant.record.mlflow_finetune import (
    FinetuneTracker,
    NullFinetuneTracker,
    open_finetune_tracker,
)
from autoquant.record.mlflow_store import TrackingSettings
from autoquant.training.data import TrainingData
from autoquant.training.objective import Loss, Objective, batch_loss
from autoquant.training.probe import begin, probe
from autoquant.training.schedule import Schedule, cosine, tail_of
from autoquant.training.state import TrainingState, dump_state, load_state
from autoquant.training.trainer import Trainer
from autoquant.training.twin import Twin
from autoquant.training.weights import TrainableWeights


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What a fine-tuning needs beside a model and a plan.

    Attributes:
        settings: How to train.
        data: Training batches.
        loss: What training lowers.
        schedule: Of the learning rate.
        sources: What is known of where they come from; a resumed fine-tuning must have the same.
    """

    settings: TrainingSettings
    data: TrainingData
    loss: Loss
    schedule: Schedule
    sources: dict[str, Any] = field(default_factory=dict)


def make_task(
    settings: TrainingSettings,
    source: object,
    loss: Loss,
    float_schedule: Schedule | None,
    seed: int,
    sources: dict[str, Any] | None = None,
) -> Task:
    """Gather a task; the schedule is the tail of the float training's, or a cosine."""
    schedule: Schedule = cosine
    if float_schedule is not None:
        schedule = tail_of(float_schedule, min(settings.training_steps / settings.float_steps, 1.0))
    return Task(settings, TrainingData(source, seed), loss, schedule, sources or {})


def check_task(task: Task, subject: Subject) -> None:
    """Run one training batch through the float model, before anything expensive.

    Raises:
        DataError: The batch is unusable, or the model fails on it.
        MetricError: The loss fails on its outputs, or cannot be lowered.
    """
    batch = task.data.first()
    with torch.enable_grad():
        try:
            outputs = subject.model(*batch.inputs)
        except Exception as error:
            shapes = ", ".join(str(tuple(item.shape)) for item in batch.inputs)
            raise DataError(
                f"the model failed on training batch 0 of shape {shapes}: "
                f"{type(error).__name__}: {error}",
                hint="give batches of the shape and dtype that model.forward takes",
            ) from error
        batch_loss(task.loss, outputs, batch)
    first = subject.evaluation[0]
    with torch.no_grad():
        batch_loss(task.loss, subject.model(*first.inputs), first)


def finetune_plan(
    job: Job,
    task: Task,
    prepared: Preparation,
    plan: Plan,
    folder: FinetuneFolder | None,
    watch: Watch,
) -> FinetuneResult:
    """Train a plan, build it with the trained weights, and compare.

    Args:
        job: How to calibrate, build and measure.
        task: How to train, on what.
        prepared: The float model, captured and calibrated.
        plan: What to train.
        folder: Where to keep checkpoint and findings; one that holds a checkpoint is continued.
        watch: Shown the progress.

    Raises:
        DataError: Every learning rate of the probe diverges.
        BackendError: The engine refuses the plan.
    """
    pair = build_pair(prepared, plan, watch)
    identity = _identity(job, task, prepared, plan)
    resumes = folder is not None and folder.read_checkpoint() is not None
    tracker = _open_tracker(job, task, plan, identity, resumes=resumes)
    trainer = _trainer(task, prepared, plan)
    try:
        with with_threads(prepared.settings.quality_threads):
            state = _train(task, trainer, folder, identity, tracker, watch)
            result = _finish(trainer, state, pair, folder, watch)
    except (AutoquantError, KeyboardInterrupt) as error:
        tracker.stop(str(error) or "interrupted")
        raise
    tracker.finish(result.recoveries, [folder.path / FINDINGS] if folder else [])
    return result


def _trainer(task: Task, prepared: Preparation, plan: Plan) -> Trainer:
    subject, captured = prepared.subject, prepared.captured
    weights = TrainableWeights(subject.model, captured.traced, task.settings.batch_norm)
    return Trainer(
        twin=Twin(captured, plan, prepared.quantization, weights, subject.example),
        data=task.data,
        objective=Objective(task.loss, subject.metric, subject.evaluation),
        calibration=[batch.inputs for batch in subject.calibration],
        statistics=prepared.statistics,
        settings=task.settings,
        schedule=task.schedule,
    )


def _train(
    task: Task,
    trainer: Trainer,
    folder: FinetuneFolder | None,
    identity: str,
    tracker: FinetuneTracker,
    watch: Watch,
) -> TrainingState:
    """Probe and train, or go on where a checkpoint stands."""

    def keep(state: TrainingState) -> None:
        if folder is not None:
            folder.write_checkpoint(dump_state(state, identity))
        tracker.checks(state.checks)

    content = folder.read_checkpoint() if folder is not None else None
    if folder is not None and content is not None:
        state = load_state(content, identity, str(folder.checkpoint_path))
    else:
        state = _probe(task.settings, trainer, watch)
        keep(state)
    steps = task.settings.training_steps
    with watch.stage("fine-tuning", steps) as advance:
        advance(state.step)
        return trainer.run(state, steps, advance, keep)


def _probe(settings: TrainingSettings, trainer: Trainer, watch: Watch) -> TrainingState:
    start, count = trainer.start(), len(settings.candidates)
    trials: tuple[Trial, ...] = ()
    if settings.probe_steps:
        with watch.stage("probing learning rates", settings.probe_steps * count) as advance:
            trials = probe(trainer, start, settings.candidates, settings.probe_steps, advance)
    state = begin(trainer, start, trials, settings.candidates[0])
    if state is None:
        raise DataError(
            "the loss diverges at every learning rate that was tried: "
            + ", ".join(f"{rate:g}" for rate in settings.learning_rates),
            hint="list lower learning_rates, or set gradient_norm",
        )
    return state


def _finish(
    trainer: Trainer,
    state: TrainingState,
    pair: Pair,
    folder: FinetuneFolder | None,
    watch: Watch,
) -> FinetuneResult:
    """Build the plan from the best weights by the normal backend, and compare."""
    prepared = pair.prepared
    trainer.take(state.best_weights, state.ranges)
    with torch.no_grad(), watch.stage("building the trained plan", None):
        model = trainer.twin.weights.model.requires_grad_(False)
        captured = capture(model, prepared.subject.example, prepared.subject.leaf_modules)
        backend = build_backend(
            prepared.subject, captured, trainer.twin.statistics, prepared.settings
        )
        executable = backend.build(pair.plan)
    runs = Runs(
        float_model=lambda inputs: pair.backend.run(prepared.subject.model, inputs),
        before=lambda inputs: pair.backend.run(pair.executable.module, inputs),
        after=lambda inputs: backend.run(executable.module, inputs),
        emulated=lambda inputs: backend.run(_Emulated(trainer.twin), inputs),
        trained_float=lambda inputs: backend.run(model, inputs),
        kind=executable.kind,
    )
    result = FinetuneResult(
        plan=pair.plan,
        model=model,
        quantized=executable.module,
        statistics=trainer.twin.statistics,
        learning_rate=state.learning_rate,
        ranges=state.ranges.value,
        trials=state.trials,
        checks=state.checks,
        best=state.best,
        steps=state.step + sum(trial.steps for trial in state.trials),
        stopped=state.stopped,
        recoveries=_recoveries(runs, prepared.subject, watch),
        folder=folder.path if folder else None,
    )
    if folder is not None:
        _keep(folder, result, prepared)
    return result


class _Emulated(torch.nn.Module):
    """The twin as a module."""

    def __init__(self, twin: Twin) -> None:
        super().__init__()
        self._twin = twin

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self._twin(inputs)


def _recoveries(runs: Runs, subject: Subject, watch: Watch) -> tuple[Recovery, ...]:
    sets = [("evaluation", subject.evaluation)]
    if subject.heldout is not None:
        sets.append(("heldout", subject.heldout))
    found = []
    with watch.stage("comparing before and after", len(sets)) as advance:
        for name, batches in sets:
            found.append(measure_recovery(runs, batches, subject.metric, name))
            advance(1)
    return tuple(found)


def _keep(folder: FinetuneFolder, result: FinetuneResult, prepared: Preparation) -> None:
    """Write what was found, and the quantized model as a TorchScript file."""
    folder.write_findings(
        result.to_json(), result.plan, result.statistics, result.model.state_dict()
    )
    engine = prepared.settings.engine
    write_torchscript(
        result.quantized,
        prepared.subject.example,
        folder.path / QUANTIZED,
        engine,
        result.to_json() | {"engine": engine},
        "the trained plan",
    )


def _identity(job: Job, task: Task, prepared: Preparation, plan: Plan) -> str:
    """Equal for fine-tunings that do the same; `statistics.digest` stands for model and data."""
    facts = {
        "settings": task.settings.model_dump(mode="json"),
        "sources": task.sources,
        "plan": plan.digest,
        "statistics": prepared.statistics.digest,
        "engine": prepared.settings.engine,
        "seed": job.seed,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _open_tracker(
    job: Job, task: Task, plan: Plan, identity: str, *, resumes: bool
) -> FinetuneTracker:
    if not job.tracking.enabled:
        return NullFinetuneTracker()
    settings = TrackingSettings(
        uri=job.tracking_uri,
        experiment=job.tracking.experiment or job.name,
        tags=job.tracking.tags,
    )
    parameters = {name: str(value) for name, value in task.settings.model_dump(mode="json").items()}
    parameters |= {"plan": plan.digest, "seed": str(job.seed)}
    name = f"finetune {job.name}"
    return open_finetune_tracker(settings, name, identity, parameters, resumes=resumes)
