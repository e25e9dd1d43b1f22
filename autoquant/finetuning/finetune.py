"""`autoquant.finetune` and `autoquant finetune`: quantization-aware training of a plan."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from autoquant import metrics
from autoquant.core.calls import Count, checked
from autoquant.core.plan import Plan
from autoquant.core.progress import Progress
from autoquant.errors import DataError, JobError
from autoquant.finetuning.order import Task, check_task, finetune_plan, make_task
from autoquant.finetuning.result import FinetuneResult
from autoquant.finetuning.training.objective import Loss
from autoquant.finetuning.training.schedule import Schedule
from autoquant.job import Finetuning, Job, RunSettings, TrainingSettings, explain_mistakes
from autoquant.job.document import settings_from
from autoquant.model.building import build_subject
from autoquant.model.data.entry_points import call_entry, load_entry
from autoquant.model.data.readings import DataForm, Prepare
from autoquant.model.data.scoring import Metric
from autoquant.model.recipes import JobRecipe, load_subject
from autoquant.model.subject import Subject
from autoquant.results.finetune_folder import FinetuneFolder
from autoquant.results.terminal import shown
from autoquant.searching.pair import find_plan, needs_torch, prepare_untimed
from autoquant.searching.preparing.preparation import Preparation

FOLDER = "finetune"
"""Where `autoquant finetune` writes, within the job's output folder."""


@checked
def finetune(
    model: nn.Module,
    plan: Plan | str,
    train_loader: object,
    loss: Loss,
    *,
    float_steps: int,
    calibration: object,
    evaluation: object,
    metric: Metric | str = metrics.accuracy,
    heldout: object | None = None,
    backend: str | Mapping[str, Any] = "auto",
    float_schedule: Schedule | None = None,
    seed: int = 0,
    output: str | Path | None = None,
    resume: bool = False,
    tracking_uri: str | None = None,
    name: str = "finetune",
    capture: str = "auto",
    leaf_modules: Sequence[str] = (),
    equalise: str = "auto",
    target: str | None = None,
    prepare: Prepare | None = None,
    dynamic: Mapping[str, Sequence[int]] | None = None,
    cache_mb: Count = 256,
    sections: Mapping[str, Any] | None = None,
    progress: Progress | bool | None = None,
    **settings: Any,
) -> FinetuneResult:
    """Train a plan, quantization-aware, and build it with the trained weights.

    The forward pass rounds what the converted model quantizes, on the scales of calibration; the
    backward pass takes rounding for the identity (Jacob et al., CVPR 2018, sec. 3). Sites in fp32
    are left alone. A learning-rate probe runs first; the weights with the best metric on the
    evaluation data are kept, those before training among them.

    Args:
        model: The trained float model; it is never changed.
        plan: What to train: a plan, a scheme's name (`int8`), or what `--plan` takes.
        train_loader: A DataLoader, a list of `(inputs, targets)` batches, an object that can be
            iterated over again and again, or a pair of tensors, which is shuffled.
        loss: `loss(outputs, targets)`: a tensor of one number, or one for each sample.
        float_steps: How many steps the float training took; `share` of them is the limit.
        calibration: Inputs to calibrate on.
        evaluation: Inputs and targets that choose learning rate and weights.
        metric: `metric(outputs, targets)`, higher is better.
        heldout: Data that neither training nor any choice sees: report these figures.
        backend: A torch engine, or `auto`: the first that runs here.
        float_schedule: Learning rate of the float training by its progress from 0 to 1, whose last
            part is followed; None: half a cosine.
        seed: Of the order of a DataLoader or of tensors, and of augmentation by torch.
        output: Folder for checkpoint and findings; None: a new temporary one.
        resume: Go on where the checkpoint in `output` stands.
        tracking_uri: MLflow store; None: no tracking.
        name: Of the run in MLflow.
        capture: As `autoquant.search` takes it; so are all arguments down to `cache_mb`.
        leaf_modules: Paths that capture must not look into.
        equalise: `always` rescales channels first; `auto` and `never` do not.
        target: The key of the targets, where batches are mappings.
        prepare: Makes batches of the items of the data.
        dynamic: By input, the axes whose size may change.
        cache_mb: A larger data set is read again for each use.
        sections: Other sections of a job file, as mappings (`{"calibration": ...}`).
        progress: Shown the progress; None: standard error is, False: nothing is.
        settings: Other keys of a job's section `finetune` (`share`, `steps`, `learning_rates`,
            `optimizer`, `batch_norm`, `ranges`...); see docs/job-file.md.

    Returns:
        The trained float model, the plan as the engine runs it, and what was measured.

    Raises:
        AutoquantError: A mistake that can be mended; the message says how.
    """
    try:
        chosen = TrainingSettings.model_validate({"float_steps": float_steps, **settings})
    except ValidationError as error:
        mistakes = explain_mistakes(error, TrainingSettings)
        raise JobError.of("autoquant.finetune", mistakes) from error
    document = {
        "name": name,
        "space": {"schemes": ["int8", "fp32"]},
        "backend": backend,
        "seed": seed,
        "output": str(output or tempfile.mkdtemp(prefix="autoquant-")),
        "tracking": {"enabled": tracking_uri is not None, "uri": tracking_uri},
    }
    run = settings_from(RunSettings, "autoquant.finetune", document, sections=sections)
    needs_torch(run, "finetune")
    folder = FinetuneFolder(run.output, resume=resume)
    subject = build_subject(
        model,
        calibration=calibration,
        evaluation=evaluation,
        heldout=heldout,
        metric=metric,
        leaf_modules=leaf_modules,
        equalise=equalise,
        capture=capture,
        calibration_samples=run.calibration.samples,
        form=DataForm.of_call(target, prepare, dynamic, cache_mb),
        outputs=run.outputs,
    )
    task = make_task(chosen, train_loader, subject.reader(), loss, float_schedule, seed)
    check_task(task, subject)
    progress = shown(progress)
    prepared = prepare_untimed(run, subject, progress, plan)
    return finetune_plan(run, task, prepared, find_plan(plan, prepared, progress), folder, progress)


def run_finetune(
    job: Job, plan: str, progress: Progress, *, output: Path | None = None, resume: bool = False
) -> FinetuneResult:
    """Fine-tune a plan of a job, as its section `finetune` says.

    Raises:
        JobError: The job has no such section.
        AutoquantError: Another mistake that can be mended.
    """
    folder = FinetuneFolder(output or job.output / FOLDER, resume=resume)
    task, prepared, chosen = order_of(job, plan, progress)
    return finetune_plan(job, task, prepared, chosen, folder, progress)


def order_of(job: Job, plan: str, progress: Progress) -> tuple[Task, Preparation, Plan]:
    """What a job's fine-tuning trains, on what, and the plan; raises as `run_finetune`."""
    needs_torch(job, "finetune")
    section = _section_of(job)
    subject = load_subject(JobRecipe(job), progress)
    task = _task_of(job, section, subject)
    check_task(task, subject)
    prepared = prepare_untimed(job, subject, progress, plan)
    return task, prepared, find_plan(plan, prepared, progress)


def _section_of(job: Job) -> Finetuning:
    if job.finetune is None or job.data is None:
        raise JobError(
            f"job {job.name!r} has no section finetune",
            hint="add finetune: {data: ..., loss: ..., float_steps: ...}; see docs/job-file.md",
        )
    return job.finetune


def _task_of(job: Job, section: Finetuning, subject: Subject) -> Task:
    """Call the entry points of the section `finetune`."""
    shared = {} if job.data is None else job.data.arguments
    arguments = {**shared, **section.data.arguments}
    source = call_entry(section.data.entry, arguments, DataError)
    schedule = section.float_schedule
    return make_task(
        section,
        source,
        subject.reader(),
        load_entry(section.loss.entry),
        None if schedule is None else _bound(schedule.entry, schedule.arguments),
        job.seed,
        {"arguments": {name: repr(value) for name, value in arguments.items()}},
    )


def _bound(entry: str, arguments: dict[str, Any]) -> Schedule:
    function = load_entry(entry)
    return lambda progress: function(progress, **arguments)
