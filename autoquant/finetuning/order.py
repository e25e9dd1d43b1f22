"""The order of a fine-tuning: train a plan, build it by the engine, compare with what it was."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from autoquant.core.findings.finetuning import Ranges, Trial
from autoquant.core.plan import Plan
from autoquant.core.progress import Progress
from autoquant.errors import AutoquantError, DataError
from autoquant.finetuning.outcome import build_outcome
from autoquant.finetuning.result import FinetuneResult
from autoquant.finetuning.training.data import TrainingData
from autoquant.finetuning.training.objective import Loss, Objective, batch_loss
from autoquant.finetuning.training.probe import begin, probe
from autoquant.finetuning.training.schedule import Schedule, cosine, tail_of
from autoquant.finetuning.training.state import TrainingState, dump_state, load_state
from autoquant.finetuning.training.trainer import Trainer, check_factors, rate_groups
from autoquant.finetuning.training.twin import SCALES, Twin
from autoquant.finetuning.training.weights import TrainableWeights
from autoquant.job import RunSettings, TrainingSettings
from autoquant.model.data.calling import failing
from autoquant.model.data.data_set import InputsOf
from autoquant.model.data.reader import DataReader
from autoquant.model.subject import Subject
from autoquant.results.finetune_folder import FINDINGS, FinetuneFolder
from autoquant.results.mlflow.finetunings import (
    FinetuneTracker,
    open_finetune_tracker,
)
from autoquant.results.mlflow.store import tracking_of
from autoquant.searching.measuring.evaluator import with_threads
from autoquant.searching.pair import build_pair
from autoquant.searching.preparing.preparation import Preparation

_USUAL_SHARE = 0.2
_TIMED_STEPS = 2


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


@dataclass(frozen=True, slots=True)
class TrainingTime:
    """What a fine-tuning takes here.

    Attributes:
        step_s: Seconds of a step.
        look_s: Of a look at the evaluation data.
        parameters: Elements of each parameter that is trained, by name.
    """

    step_s: float
    look_s: float
    parameters: Mapping[str, int]


def make_task(
    settings: TrainingSettings,
    source: object,
    reader: DataReader,
    loss: Loss,
    float_schedule: Schedule | None,
    seed: int,
    sources: dict[str, Any] | None = None,
) -> Task:
    """Gather a task; the schedule is the tail of the float training's, or a cosine."""
    schedule: Schedule = cosine
    if float_schedule is not None:
        schedule = tail_of(float_schedule, min(settings.training_steps / settings.float_steps, 1.0))
    return Task(settings, TrainingData(source, seed, reader), loss, schedule, sources or {})


def check_task(task: Task, subject: Subject) -> None:
    """Run one training batch through the float model, before anything expensive.

    Raises:
        DataError: The batch is unusable.
        ModelError: The model fails on it.
        MetricError: The loss fails on its outputs, or cannot be lowered.
        JobError: A pattern of rates matches no parameter of the model.
    """
    factors = [name for name in task.settings.rate_factors if not name.startswith(SCALES)]
    check_factors(factors, [name for name, _ in subject.model.named_parameters()])
    batch = task.data.first()
    with torch.enable_grad():
        with failing("the model", "training batch 0", batch.inputs):
            outputs = subject.run(batch)
        batch_loss(task.loss, outputs, batch)
    first = subject.evaluation[0]
    with torch.no_grad():
        batch_loss(task.loss, subject.run(first), first)


def finetune_plan(
    run: RunSettings,
    task: Task,
    prepared: Preparation,
    plan: Plan,
    folder: FinetuneFolder | None,
    progress: Progress,
) -> FinetuneResult:
    """Train a plan, build it with the trained weights, and compare.

    A folder that holds a checkpoint is continued.

    Raises:
        DataError: Every learning rate of the probe diverges.
        BackendError: The engine refuses the plan.
    """
    pair = build_pair(prepared, plan, progress)
    identity = _identity(run, task, prepared, plan)
    resumes = folder is not None and folder.read_checkpoint() is not None
    trainer = _trainer(task, prepared, plan)
    tracker = _open_tracker(run, task, plan, identity, resumes=resumes)
    if (many := many_steps(task.settings)) is not None:
        progress.note(many)
    try:
        with with_threads(prepared.settings.quality_threads):
            state = _train(task, trainer, folder, identity, tracker, progress)
            result = build_outcome(trainer, state, pair, folder, progress)
    except (AutoquantError, KeyboardInterrupt) as error:
        tracker.stop(str(error) or "interrupted")
        raise
    tracker.finish(result.recoveries, [folder.path / FINDINGS] if folder else [])
    return result


def many_steps(settings: TrainingSettings) -> str | None:
    """A warning where fine-tuning takes more than a fifth of the float training's steps."""
    if settings.budget <= _USUAL_SHARE * settings.float_steps:
        return None
    return (
        f"{settings.budget} steps are {settings.budget / settings.float_steps:.0%} of the float "
        "training's: above a fifth a plan is seldom worth it; raise its worst ops instead "
        "(autoquant tune)"
    )


def time_training(task: Task, prepared: Preparation, plan: Plan) -> TrainingTime:
    """Train two steps and look once, keep nothing, and say how long each took."""
    trainer = _trainer(task, prepared, plan)
    with with_threads(prepared.settings.quality_threads):
        began = time.perf_counter()
        start = trainer.start()
        look = time.perf_counter() - began
        began = time.perf_counter()
        probe(trainer, start, task.settings.candidates[:1], _TIMED_STEPS, lambda steps: None)
        steps = time.perf_counter() - began
    return TrainingTime(
        step_s=max(steps - look, 0.0) / _TIMED_STEPS,
        look_s=look,
        parameters={name: item.numel() for name, item in trainer.twin.trainable().items()},
    )


def _trainer(task: Task, prepared: Preparation, plan: Plan) -> Trainer:
    """Refuses patterns that match no parameter before any step."""
    subject, twin = prepared.subject, _twin(task, prepared, plan)
    rate_groups(twin.trainable(), task.settings.rate_factors)
    return Trainer(
        twin=twin,
        data=task.data,
        objective=Objective(task.loss, subject.metric, subject.evaluation),
        calibration=InputsOf(subject.calibration),
        statistics=prepared.statistics,
        settings=task.settings,
        schedule=task.schedule,
    )


def _twin(task: Task, prepared: Preparation, plan: Plan) -> Twin:
    model, captured = prepared.subject.model, prepared.captured
    trained = TrainableWeights(model, captured, task.settings.batch_norm)
    learns = task.settings.ranges is Ranges.LEARNED
    twin = Twin(captured, plan, prepared.settings.build, trained, learns=learns)
    twin.take_ranges(prepared.statistics)
    return twin


def _train(
    task: Task,
    trainer: Trainer,
    folder: FinetuneFolder | None,
    identity: str,
    tracker: FinetuneTracker,
    progress: Progress,
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
        state = _probe(task.settings, trainer, progress)
        keep(state)
    steps = task.settings.training_steps
    with progress.stage("fine-tuning", steps) as advance:
        advance(state.step)
        return trainer.run(state, steps, advance, keep)


def _probe(settings: TrainingSettings, trainer: Trainer, progress: Progress) -> TrainingState:
    start, count = trainer.start(), len(settings.candidates)
    trials: tuple[Trial, ...] = ()
    if settings.probe_steps:
        with progress.stage("probing learning rates", settings.probe_steps * count) as advance:
            trials = probe(trainer, start, settings.candidates, settings.probe_steps, advance)
    state = begin(trainer, start, trials, settings.candidates[0])
    if state is None:
        raise DataError(
            "the loss diverges at every learning rate that was tried: "
            + ", ".join(f"{rate:g}" for rate in settings.learning_rates),
            hint="list lower learning_rates, or set gradient_norm; if the float model diverges at "
            "these rates too (plan fp32), its training is the matter, not the plan",
        )
    return state


def _identity(run: RunSettings, task: Task, prepared: Preparation, plan: Plan) -> str:
    """Equal for fine-tunings that do the same; `statistics.digest` stands for model and data."""
    settings = task.settings.model_dump(mode="json")
    if not task.settings.rate_factors:
        del settings["rate_factors"]  # checkpoints of before it stay valid
    facts = {
        "settings": settings,
        "sources": task.sources,
        "plan": plan.digest,
        "statistics": prepared.statistics.digest,
        "engine": prepared.engine,
        "seed": run.seed,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _open_tracker(
    run: RunSettings, task: Task, plan: Plan, identity: str, *, resumes: bool
) -> FinetuneTracker:
    settings = tracking_of(run)
    if settings is None:
        return FinetuneTracker()
    parameters = {name: str(value) for name, value in task.settings.model_dump(mode="json").items()}
    parameters |= {"plan": plan.digest, "seed": str(run.seed)}
    name = f"finetune {run.name}"
    return open_finetune_tracker(settings, name, identity, parameters, resumes=resumes)
