"""The subject: one model with its data and metric, and the recipes that load it in a process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import cloudpickle
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoquant.errors import DataError, JobError, MetricError, ModelError
from autoquant.job import Entry, Job
from autoquant.model.batches import Batch, read_batches, take_samples
from autoquant.model.entry_points import call_entry, load_entry
from autoquant.model.float_model import check_float_model, in_eval_mode

Metric = Callable[[Any, Any], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """What is searched.

    Attributes:
        model: The float model, in eval mode.
        calibration: Batches to calibrate on.
        evaluation: Batches to compare candidates on.
        heldout: Batches that the search never sees; None where there are none.
        metric: Scores outputs against targets; higher is better.
        loss: As the metric, but lower is better; measured beside it. None: not measured.
        leaf_modules: Paths of modules that capture must not look into.
        capture: What finds its sites: `fx`, `export`, `eager`.
    """

    model: nn.Module
    calibration: tuple[Batch, ...]
    evaluation: tuple[Batch, ...]
    heldout: tuple[Batch, ...] | None
    metric: Metric
    loss: Metric | None = None
    leaf_modules: tuple[str, ...] = ()
    capture: str = "fx"

    @property
    def example(self) -> tuple[Tensor, ...]:
        """Inputs of the first calibration batch."""
        return self.calibration[0].inputs


class SubjectRecipe(Protocol):
    """Picklable: loads the subject in whatever process calls it."""

    def __call__(self) -> Subject:
        """Load the subject."""


@dataclass(frozen=True, slots=True)
class JobRecipe:
    """Loads the subject from a job's entry points."""

    job: Job

    def __call__(self) -> Subject:
        """Call the entry points.

        Raises:
            AutoquantError: One of them fails or gives something unusable.
        """
        model_source, data = self.job.model, self.job.data
        if model_source is None or data is None:
            raise ValueError("a job without model and data has no recipe")
        model = load_model(self.job)
        sources = {
            name: _load_data(entry, data.arguments)
            for name in ("calibration", "evaluation", "heldout")
            if (entry := getattr(data, name)) is not None
        }
        return build_subject(
            model,
            calibration=sources["calibration"],
            evaluation=sources["evaluation"],
            heldout=sources.get("heldout"),
            metric=load_entry(data.metric.entry),
            loss=None if data.loss is None else load_entry(data.loss.entry),
            leaf_modules=model_source.leaf_modules,
            capture=model_source.capture,
            calibration_samples=self.job.calibration.samples,
        )


def load_calibration(job: Job) -> tuple[Batch, ...]:
    """Call the entry point of a job's calibration data alone.

    Raises:
        JobError: The job names none (it was a search from Python), or the call is wrong.
        DataError: It fails, or gives something unusable.
    """
    if job.data is None:
        raise JobError(
            "this job names no data: its search ran on some in memory",
            hint="give a job file that names them, or use the Python function",
        )
    found = _load_data(job.data.calibration, job.data.arguments)
    batches = read_batches(found, "calibration", needs_targets=False)
    samples = job.calibration.samples
    return batches if samples is None else take_samples(batches, samples)


def _load_data(entry: Entry, shared: Mapping[str, Any]) -> object:
    """Call the entry point of a data set; None would mean that the job names none."""
    found = call_entry(entry.entry, {**shared, **entry.arguments}, DataError)
    if found is None:
        raise DataError(f"{entry.entry} returned None", hint="return the data that it makes")
    return found


def parameter_count(model: nn.Module) -> int:
    """Elements of all parameters."""
    return sum(item.numel() for item in model.parameters())


def load_model(job: Job) -> nn.Module:
    """Call the entry point of a job's model.

    Raises:
        JobError: The job names none (it was a search from Python), or the call is wrong.
        ModelError: It fails, or gives no module.
    """
    if job.model is None:
        raise JobError(
            "this job names no model: its search ran on one in memory",
            hint="use autoquant.load_result(folder) and candidate.quantize(model) in Python",
        )
    model = call_entry(job.model.entry, job.model.arguments, ModelError)
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{job.model.entry} returned a {type(model).__name__}, not a torch.nn.Module",
            hint="return the module itself",
        )
    return model


@dataclass(frozen=True, slots=True, eq=False)
class HeldRecipe:
    """Carries a subject that lives in this process already; pickled by value for workers."""

    subject: Subject

    def __call__(self) -> Subject:
        """Give it."""
        return self.subject

    def __reduce__(self) -> tuple[Any, ...]:
        return (_unpickle, (cloudpickle.dumps(self.subject),))


def _unpickle(data: bytes) -> HeldRecipe:
    return HeldRecipe(cloudpickle.loads(data))


def build_subject(
    model: object,
    *,
    calibration: object,
    evaluation: object,
    heldout: object | None,
    metric: Metric,
    loss: Metric | None = None,
    leaf_modules: tuple[str, ...] = (),
    capture: str = "fx",
    calibration_samples: int | None = None,
) -> Subject:
    """Check model, data and metric together, and give the subject.

    Raises:
        ModelError: `model` is no float module, holds NaN, or differs from call to call.
        DataError: Data are unusable; names the batch.
        MetricError: The metric fails on the float model's outputs.
    """
    checked = check_float_model(model, leaf_modules)
    batches = read_batches(calibration, "calibration", needs_targets=False)
    if calibration_samples is not None:
        batches = take_samples(batches, calibration_samples)
    subject = Subject(
        model=in_eval_mode(checked),
        calibration=batches,
        evaluation=read_batches(evaluation, "evaluation", needs_targets=True),
        heldout=None if heldout is None else read_batches(heldout, "heldout", needs_targets=True),
        metric=metric,
        loss=loss,
        leaf_modules=leaf_modules,
        capture=capture,
    )
    _check_outputs(subject, subject.evaluation[0], "evaluation")
    if subject.heldout is not None:
        _check_outputs(subject, subject.heldout[0], "heldout")
    with torch.no_grad():
        _forward(subject.model, subject.calibration[0], "calibration")
    return subject


def _check_outputs(subject: Subject, batch: Batch, name: str) -> None:
    """Run the first batch of a data set twice: it must work, repeat itself, and be scored."""
    with torch.no_grad():
        first, second = (_forward(subject.model, batch, name) for _ in range(2))
    for before, again in zip(output_rows(first, batch), output_rows(second, batch), strict=True):
        if not torch.isfinite(before).all():
            raise ModelError(
                f"the float model's outputs hold NaN or infinity on {name} batch 0",
                hint="check the checkpoint and the preprocessing of the data",
            )
        if not torch.equal(before, again):
            raise ModelError(
                "the model gives different outputs for the same batch "
                f"(largest difference {float((before - again).abs().max()):.3g})",
                hint="remove randomness (dropout outside eval mode, sampling) and state kept "
                "between calls",
            )
    for function in filter(None, (subject.metric, subject.loss)):
        score_batch(function, first, batch)


def _forward(model: nn.Module, batch: Batch, name: str) -> Any:
    try:
        return model(*batch.inputs)
    except Exception as error:
        inputs = ", ".join(
            f"{tuple(item.shape)} {str(item.dtype).removeprefix('torch.')}" for item in batch.inputs
        )
        raise ModelError(
            f"the model failed on {name} batch 0 of shape {inputs}: "
            f"{type(error).__name__}: {error}",
            hint="give batches of the shape and dtype that model.forward takes",
        ) from error


def output_rows(outputs: Any, batch: Batch) -> list[Tensor]:
    """Every floating output as a tensor of shape (batch, elements).

    Raises:
        ModelError: There is none, or its first dimension is not the batch.
    """
    leaves = [
        leaf
        for leaf in pytree.tree_leaves(outputs)
        if isinstance(leaf, Tensor) and leaf.is_floating_point()
    ]
    if not leaves:
        raise ModelError(
            f"the model returns {type(outputs).__name__} without a floating tensor",
            hint="return logits or other floats; integers (argmax, top-k) cannot be compared",
        )
    for leaf in leaves:
        if leaf.ndim == 0 or len(leaf) != len(batch):
            raise ModelError(
                f"an output of shape {tuple(leaf.shape)} does not start with the "
                f"{len(batch)} samples of its batch",
                hint="return one row for each sample",
            )
    return [leaf.detach().reshape(len(batch), -1) for leaf in leaves]


def score_batch(metric: Metric, outputs: Any, batch: Batch) -> Tensor:
    """Score one batch.

    Returns:
        Shape (batch,), one score a sample; or shape (1,) where the metric gives one number.

    Raises:
        MetricError: The metric fails, or gives neither.
    """
    name = getattr(metric, "__name__", type(metric).__name__)
    try:
        found = metric(outputs, batch.targets)
    except Exception as error:
        raise MetricError(
            f"metric {name!r} failed: {type(error).__name__}: {error}",
            hint="it is called as metric(outputs, targets) with one batch of the model's outputs",
        ) from error
    try:
        scores = torch.as_tensor(found, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise MetricError(
            f"metric {name!r} returned a {type(found).__name__}, which is no number",
            hint="return one score for each sample, or one number for the batch",
        ) from error
    if scores.ndim > 1 or scores.numel() not in (1, len(batch)):
        raise MetricError(
            f"metric {name!r} returned shape {tuple(scores.shape)} for a batch of {len(batch)}",
            hint="return one score for each sample, or one number for the batch",
        )
    if not torch.isfinite(scores).all():
        raise MetricError(f"metric {name!r} returned NaN or infinity", hint="return finite scores")
    return scores.reshape(-1)
