"""Arguments of a call from Python as the sections of a job file that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

from pydantic import ValidationError

from autoquant.errors import JobError
from autoquant.job import Setup, explain_mistakes, find_space_rules, find_unwritable
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


_FORMS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "backend": ((str, Mapping), "a name or a mapping"),
    "objectives": ((list, tuple), "a list of names"),
    "leaf_modules": ((list, tuple), "a list of paths"),
    "ranges": ((Mapping, NoneType), "a mapping, the section calibration"),
    "seeds": ((list, tuple), "a list of plans or of files"),
    "output": ((str, Path, NoneType), "a path"),
    "capture": ((str,), "a name"),
    "equalise": ((str,), "a name"),
    "target": ((str, NoneType), "the name of a key"),
    "dynamic": ((Mapping, NoneType), "a mapping from inputs to axes"),
    "cache_mb": ((int,), "a whole number"),
}
"""Of which kind the arguments are that no section of a job file checks first."""


def check_forms(caller: str, **arguments: object) -> None:
    """Check that arguments are of the kind that can be looked into at all.

    Raises:
        JobError: Some are not, all of them in one error.
    """
    wrong = [
        f"{name}: {type(value).__name__} is not {_FORMS[name][1]}"
        for name, value in arguments.items()
        if not isinstance(value, _FORMS[name][0])
    ]
    cache_mb = arguments.get("cache_mb")
    if isinstance(cache_mb, int) and cache_mb < 0:
        wrong.append(f"cache_mb: {cache_mb} is below 0")
    wrong += find_unwritable({key: str(arguments.get(key)) for key in ("output", "target")})
    if wrong:
        raise JobError.of(caller, wrong)
