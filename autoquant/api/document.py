"""Arguments of a call from Python as a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from autoquant.errors import JobError
from autoquant.job import Job, explain_mistakes


def merge(document: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Put further sections into a document, in place; a mapping extends the section it meets."""
    for section, values in settings.items():
        known = document.get(section)
        both = isinstance(known, dict) and isinstance(values, dict)
        document[section] = known | values if both else values


def job_of(document: Mapping[str, Any], caller: str) -> Job:
    """Check a document and give the job, its output resolved.

    Raises:
        JobError: Whatever is wrong, all of it in one error, under the name of the caller.
    """
    try:
        job = Job.model_validate(document)
    except ValidationError as error:
        raise JobError.of(caller, explain_mistakes(error, Job)) from error
    return job.model_copy(update={"output": job.output.resolve()})
