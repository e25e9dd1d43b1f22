"""A job's settings in flat form, and whether a job may continue an earlier one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from autoquant.core.equalisation import Equalise
from autoquant.errors import JobError
from autoquant.job import Calibration, SearchSettings, dump_job
from autoquant.results.findings import Setting
from autoquant.results.reading import load_job_document

FREE_TO_CHANGE = ("budget", "execution", "finetune", "tracking", "output", "name", "cache")
"""Sections that a resumed search may change: they do not decide what a candidate's values are."""


BY_PATTERN = ("calibration.sites", "calibration.fixed_ranges")
"""Mappings whose keys are globs: each is one setting, since MLflow takes no `*` in a name."""


def settings_of(job: SearchSettings) -> dict[str, Setting]:
    """Every setting by dotted key, lists joined by commas."""
    document = yaml.safe_load(dump_job(job))
    document.pop("output")
    return dict(_flatten(document, ""))


def settings_after(
    job: SearchSettings, known: Mapping[str, Setting], folder: Path
) -> dict[str, Setting]:
    """Every setting of a resumed search: the job's own, and what its preparation had found out.

    Args:
        job: The job that resumes it.
        known: Settings of the search so far.
        folder: Its result folder, which still holds the job so far.
    """
    before = dict(_flatten(load_job_document(folder), ""))
    settled = {key: value for key, value in known.items() if key not in before}
    return {**settled, **settings_of(job)}


def _flatten(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Setting]]:
    for key, item in value.items():
        name = f"{prefix}{key}"
        if name in BY_PATTERN:
            if item:
                yield name, "; ".join(f"{pattern}: {found}" for pattern, found in item.items())
        elif isinstance(item, Mapping):
            yield from _flatten(item, f"{name}.")
        elif isinstance(item, list):
            yield name, ", ".join(str(part) for part in item)
        elif item is not None:
            yield name, item


def check_resumable(job: SearchSettings, folder: Path) -> None:
    """Refuse to continue a search with a job that would have measured something else.

    Raises:
        JobError: A setting differs; names it with both values.
    """
    before = dict(_flatten(_completed(load_job_document(folder)), ""))
    now = dict(_flatten(yaml.safe_load(dump_job(job)), ""))
    changed = [
        f"{key}: {_show(now.get(key))}, but the search in this folder has "
        f"{_show(before.get(key))}; put it back, or choose another output"
        for key in dict.fromkeys([*now, *before])
        if key.partition(".")[0] not in FREE_TO_CHANGE and now.get(key) != before.get(key)
    ]
    if changed:
        raise JobError.of(f"--resume {folder}", changed)


def _completed(document: Mapping[str, Any]) -> dict[str, Any]:
    """A job's document with the settings that an earlier version did not know.

    What that version settled on stands in its folder: nothing is equalised on resuming it.
    """
    known = Calibration().model_dump(mode="json")
    found = {**document, "calibration": {**known, **document.get("calibration", {})}}
    if isinstance(document.get("model"), Mapping):
        found["model"] = {"equalise": Equalise.AUTO.value, **document["model"]}
    return found


def _show(value: Setting | None) -> str:
    """A setting in a message; lists of rules can be long."""
    text = "nothing" if value in (None, "") else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
