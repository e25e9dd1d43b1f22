"""The section of a job that says on what to run: of each backend, its own class."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import Field, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from autoquant.core.backends import TORCH, Row, find_rows, is_estimate
from autoquant.job.section import Section

UNKNOWN_OPTION = "unknown_option"
MISSING_OPTION = "missing_option"
"""Types of mistakes whose text says everything: of a given value, and of none."""


class BackendSettings(Section):
    """The target, and how latency is measured on it. A backend with options has a class of it."""

    name: str = TORCH
    threads: Annotated[int, Field(ge=1, le=4096)] = 1
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    pairs: Annotated[int, Field(ge=3)] = 20

    @classmethod
    def resolve(cls, section: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:  # noqa: ARG003
        """Give a section with its paths made absolute; a backend with paths has its own.

        Raises:
            JobError: There is no such file.
        """
        return section

    @property
    def options(self) -> dict[str, Any]:
        """What only this backend has."""
        return {name: getattr(self, name) for name in _own_fields(type(self))}

    def build_options(self) -> dict[str, Any]:
        """What of them decides how plans are built, as JSON values; they travel to workers."""
        return self.model_dump(mode="json", include=set(self.options))

    def check_untimed(self) -> None:
        """Refuse options that need latency among the objectives.

        Raises:
            ValueError: One does; says which.
        """


class Int8Settings(BackendSettings):
    """Of an engine whose int8 sums may overflow: whether int8 leaves out a bit."""

    reduce_range: Literal["auto", True, False] = "auto"


def backend_from_text(name: str) -> dict[str, str]:
    """Read the short form: the name of a backend, or of an engine of torch's."""
    engines = get_args(_section_of(find_rows()[TORCH]).model_fields["engine"].annotation)
    return {"engine": name} if name in engines else {"name": name}


def check_rival(name: str) -> str:
    """Refuse what names no backend or engine of torch's, and what is not timed but estimated."""
    if name in find_rows() and is_estimate(name):
        raise ValueError(f"{name} estimates its times; a rival must run here, as openvino does")
    backend_settings(name)
    return name


def installed_rivals(own: str) -> tuple[str, ...]:
    """Other backends that are installed, serve on this machine, and build a plan within seconds."""
    return tuple(
        name
        for name, row in find_rows().items()
        if name != own and not (row.is_estimate or row.is_slow or row.is_mobile or row.missing)
    )


def resolve_backend(value: object, folder: Path = Path()) -> object:
    """Make the paths of a `backend` section absolute, as the backend that it names has them.

    Raises:
        JobError: There is no such file.
    """
    if not isinstance(value, Mapping):
        return value
    row = find_rows().get(str(value.get("name", TORCH)))
    return value if row is None else _section_of(row).resolve(value, folder)


def backend_settings(value: object) -> object:
    """Check a `backend` section by the class of the backend that it names."""
    if isinstance(value, str):
        value = backend_from_text(value)
    if not isinstance(value, Mapping):
        return value
    rows, name = find_rows(), value.get("name", TORCH)
    if not isinstance(name, str) or name not in rows:
        expected = ", ".join(map(repr, rows))
        raise _mistakes(
            InitErrorDetails(
                type="literal_error", loc=("name",), input=name, ctx={"expected": expected}
            )
        )
    section = _section_of(rows[name])
    wrong, kept = [], {}
    for key, given in value.items():
        if key in section.model_fields:
            kept[key] = given
        elif not (given in (None, "auto") and _owner(key, rows) is not None):
            # older jobs name the options of all backends, with nothing chosen
            wrong.append(_unknown(name, key, given, rows))
    if wrong:
        raise _mistakes(*wrong)
    return section.model_validate(kept)


def _section_of(row: Row) -> type[BackendSettings]:
    if not row.section:
        return BackendSettings
    module, _, name = row.section.partition(":")
    return cast("type[BackendSettings]", getattr(importlib.import_module(module), name))


def _own_fields(section: type[BackendSettings]) -> list[str]:
    return [name for name in section.model_fields if name not in BackendSettings.model_fields]


def _owner(option: str, rows: Mapping[str, Row]) -> str | None:
    """The backend of autoquant's or of a package that has an option."""
    return next(
        (name for name, row in rows.items() if option in _own_fields(_section_of(row))), None
    )


def _unknown(name: str, key: str, given: object, rows: Mapping[str, Row]) -> InitErrorDetails:
    known, owner = list(_section_of(rows[name]).model_fields), _owner(key, rows)
    close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
    if owner is not None:
        text = (
            f"is a choice of the backend {owner}, but backend.name is {name}; leave it out, or "
            f"choose {owner}"
        )
    elif close:
        text = f"is given for no option of the backend {name}; did you mean {close[0]!r}?"
    else:
        text = f"is given for no option of the backend {name}; it has {', '.join(known)}"
    problem = PydanticCustomError(UNKNOWN_OPTION, "{text}", {"text": text})
    return InitErrorDetails(type=problem, loc=(key,), input=str(given))


def _mistakes(*found: InitErrorDetails) -> ValidationError:
    return ValidationError.from_exception_data("backend", list(found))
