"""A job's settings in flat form, and whether a job may continue an earlier one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from autoquant.errors import JobError
from autoquant.job import Job, dump_job
from autoquant.record.findings import Setting
from autoquant.record.results import load_job_text

FREE_TO_CHANGE = ("budget", "execution", "tracking", "output", "name")
"""Sections that a resumed search may change: they do not decide what a candidate's values are."""


def settings_of(job: Job) -> dict[str, Setting]:
    """Every setting by dotted key, lists joined by commas."""
    document = yaml.safe_load(dump_job(job))
    document.pop("output")
    return dict(_flatten(document, ""))


def _flatten(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Setting]]:
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            yield from _flatten(item, f"{name}.")
        elif isinstance(item, list):
            yield name, ", ".join(str(part) for part in item)
        elif item is not None:
            yield name, item


def check_resumable(job: Job, folder: Path) -> None:
    """Refuse to continue a search with a job that would have measured something else.

    Raises:
        JobError: A section differs; names its keys.
    """
    before = yaml.safe_load(load_job_text(folder))
    now = yaml.safe_load(dump_job(job))
    changed = [
        key
        for key in sorted({*before, *now} - set(FREE_TO_CHANGE))
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise JobError.of(
            f"--resume {folder}",
            [
                f"{key}: differs from the search in this folder; put it back, or choose another "
                "output"
                for key in changed
            ],
        )
