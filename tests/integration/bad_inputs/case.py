"""A mistake: what is given, what the user reads, and the mend."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.integration.bad_inputs.stage import FAULTY, Stage

NOTHING, READING, CALIBRATING, SENSITIVITY, SEARCHING = (
    "loading model and data ...",
    "reading the model ...",
    "calibrating ...",
    "measuring sensitivity ...",
    "searching ...",
)
"""Stages of a search: a mistake must show before the one that its case names."""


@dataclass(frozen=True)
class Case:
    """A mistake in a job, made through the command line.

    Attributes:
        name: Test id.
        given: First column of docs/errors.md.
        message: Second column, stands in the error; `...` stands for anything.
        mend: Third column, as `message`; empty where the message says what is allowed.
        job: Replaces or extends sections of a good job.
        arguments: Further words of the command line.
        before: The stage that must not begin.
    """

    name: str
    given: str
    message: str
    mend: str = ""
    job: dict[str, Any] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    before: str = NOTHING


@dataclass(frozen=True)
class Scene:
    """A mistake that takes more than a job: other commands, a damaged folder, a call from Python.

    Attributes:
        name: Test id.
        given: First column of docs/errors.md.
        message: Second column, stands in what `play` gives; `...` stands for anything.
        mend: Third column, as `message`; empty where the message says what is allowed.
        play: Makes the mistake on a stage; gives what the user reads.
        before: The stage of a search that must not begin.
    """

    name: str
    given: str
    message: str
    mend: str
    play: Callable[[Stage], str]
    before: str = NOTHING


def model(name: str, **more: object) -> dict[str, Any]:
    """The section of a job whose model is one of tests/faulty.py."""
    return {"model": {"entry": FAULTY + name, **more}}


def data(**parts: str) -> dict[str, Any]:
    """The section of a job some of whose data are those of tests/faulty.py."""
    return {"data": {part: FAULTY + name for part, name in parts.items()}}


def appears(fragment: str, text: str) -> bool:
    """Whether a fragment stands in a text, `...` and the spaces around it for anything."""
    parts = re.split(r"\s*\.\.\.\s*", fragment)
    return re.search(".*?".join(map(re.escape, parts)), text, re.DOTALL) is not None
