"""Arguments of a call from Python as the sections of a job file that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from autoquant.core.calls import find_unwritable
from autoquant.errors import JobError
from autoquant.job import Setup, explain_mistakes, find_space_rules
from autoquant.job.backend import resolve_backend

Settings = TypeVar("Settings", bound=Setup)


def settings_from(
    kind: type[Settings],
    caller: str,
    document: Mapping[str, Any],
    *,
    ranges: Mapping[str, Any] | None = None,
    sections: Mapping[str, Any] | None = None,
) -> Settings:
    """Check the arguments of a call, as a job file is checked.

    Args:
        kind: What they are settings of.
        caller: The function, for errors.
        document: Arguments by the key of the section that they stand for.
        ranges: The section `calibration`, whose name is that of the data in a call.
        sections: Further sections; a mapping extends the section that it meets.

    Raises:
        JobError: Whatever is wrong, all of it in one error.
    """
    whole = dict(document)
    for section, values in {"calibration": dict(ranges or {}), **(sections or {})}.items():
        known = whole.get(section)
        if isinstance(known, Mapping) and isinstance(values, Mapping):
            whole[section] = {**known, **values}
        else:
            whole[section] = values
    if isinstance(whole.get("space"), str):
        whole["space"] = find_space_rules(whole["space"])
    if "backend" in whole:
        whole["backend"] = resolve_backend(whole["backend"])
    if unwritable := list(find_unwritable(whole)):
        raise JobError.of(caller, unwritable)
    try:
        return kind.model_validate(whole)
    except ValidationError as error:
        raise JobError.of(caller, explain_mistakes(error, kind)) from error
