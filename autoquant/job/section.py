"""What every section of a job is made of: strict values, and the user's functions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator


class Section(BaseModel):
    """Settings that neither change nor take keys they do not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def entry_from_text(value: object) -> object:
    """Read the short form: a text is an entry without arguments."""
    return {"entry": value} if isinstance(value, str) else value


def check_entry(value: str) -> str:
    """Refuse what names no function."""
    place, _, name = value.rpartition(":")
    if not place or not name.isidentifier():
        raise ValueError("write package.module:function or path/file.py:function")
    return value


EntryText = Annotated[str, Field(min_length=3)]


class Entry(Section):
    """A function of the user's, and what to call it with."""

    entry: EntryText
    arguments: dict[str, Any] = {}

    _form = field_validator("entry")(check_entry)


AnyEntry = Annotated[Entry, BeforeValidator(entry_from_text)]


class Score(Section):
    """A function that scores outputs against targets; called with these two and nothing else."""

    entry: EntryText

    _form = field_validator("entry")(check_entry)


def shipped_folders(kind: str) -> tuple[Path, ...]:
    """Where files of a kind (`spaces`) may be: in a checkout, and in an installed package."""
    package = Path(__file__).resolve().parent.parent
    return (package.parent / kind, package / kind)
