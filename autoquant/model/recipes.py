"""The recipes that load a subject in whatever process calls them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import cloudpickle
from torch import nn

from autoquant.core.progress import Progress
from autoquant.errors import DataError, JobError, ModelError
from autoquant.job import DataSource, Entry, Job
from autoquant.model.building import build_subject
from autoquant.model.data.entry_points import call_entry, load_entry
from autoquant.model.data.readings import DataForm
from autoquant.model.graph.float_model import way_to_module
from autoquant.model.subject import Subject


class SubjectRecipe(Protocol):
    """Picklable: loads the subject in whatever process calls it."""

    def __call__(self) -> Subject:
        """Load the subject."""


def load_subject(recipe: SubjectRecipe, progress: Progress) -> Subject:
    """Load a subject, which may take its time."""
    with progress.stage("loading model and data", None):
        return recipe()


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
            raise JobError(
                "the job names no model or no data: `model` or `data` is empty",
                hint="name the functions that give them; see docs/job-file.md",
            )
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
            equalise=model_source.equalise,
            calibration_samples=self.job.calibration.samples,
            form=_form_of(data),
            outputs=self.job.outputs,
        )


def load_unscored(job: Job) -> Subject:
    """Load the model and the calibration data of a job alone.

    Raises:
        JobError: The job names none (it was a search from Python), or the call is wrong.
        ModelError: The model is no float module.
        DataError: The data fail, or are unusable.
    """
    model = load_model(job)
    if job.data is None or job.model is None:
        raise JobError(
            "this job names no data: its search ran on some in memory",
            hint="give a job file that names them, or use the Python function",
        )
    return build_subject(
        model,
        calibration=_load_data(job.data.calibration, job.data.arguments),
        leaf_modules=job.model.leaf_modules,
        capture=job.model.capture,
        equalise=job.model.equalise,
        calibration_samples=job.calibration.samples,
        form=_form_of(job.data),
    )


def _form_of(data: DataSource) -> DataForm:
    prepare = None if data.prepare is None else load_entry(data.prepare.entry)
    return DataForm.of_call(data.target, prepare, data.dynamic, data.cache_mb)


def _load_data(entry: Entry, shared: Mapping[str, Any]) -> object:
    """Call the entry point of a data set; None would mean that the job names none."""
    found = call_entry(entry.entry, {**shared, **entry.arguments}, DataError)
    if found is None:
        raise DataError(f"{entry.entry} returned None", hint="return the data that it makes")
    return found


def load_model(job: Job) -> nn.Module:
    """Call the entry point of a job's model; a module that it names is the model itself."""
    if job.model is None:
        raise JobError(
            "this job names no model: its search ran on one in memory",
            hint="use autoquant.load_result(folder) and candidate.quantize(model) in Python",
        )
    model = load_entry(job.model.entry)
    if job.model.arguments or not isinstance(model, nn.Module):
        model = call_entry(job.model.entry, job.model.arguments, ModelError)
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{job.model.entry} returned a {type(model).__name__}, not a torch.nn.Module",
            hint=way_to_module(model),
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
        try:
            return (_unpickle, (cloudpickle.dumps(self.subject),))
        except (TypeError, AttributeError) as error:
            raise ModelError(
                f"model, data or metric cannot be sent to workers: {error}",
                hint="search in this process (workers=None), or by a job file, whose functions "
                "every worker calls itself",
            ) from error


def _unpickle(data: bytes) -> HeldRecipe:
    return HeldRecipe(cloudpickle.loads(data))
