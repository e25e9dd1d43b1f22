"""Concerns: what of a model or its settings needs attention, why, and the mend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any


class Topic(Enum):
    """What a concern is about."""

    FUSION = "fusion"
    CALLS = "calls"
    OUTPUTS = "outputs"
    CONFIGURATION = "configuration"
    SETTINGS = "settings"


class Severity(Enum):
    """`attention`: mend it, or know why not. `note`: good to know; nothing is wrong with it."""

    ATTENTION = "attention"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Concern:
    """One finding about a model or its settings.

    Attributes:
        topic: What it is about.
        severity: Whether somebody must act.
        where: Paths of modules, names of sites or of nodes, in graph order.
        what: What was found, with the values.
        why: Why it matters.
        mend: What to do about it.
    """

    topic: Topic
    severity: Severity
    where: tuple[str, ...]
    what: str
    why: str
    mend: str

    def __post_init__(self) -> None:
        if not (self.where and self.what and self.why and self.mend):
            raise ValueError("a concern says where, what, why and the mend")

    def to_json(self) -> dict[str, Any]:
        """Give the concern as JSON values."""
        return asdict(self) | {"topic": self.topic.value, "severity": self.severity.value}


def attention(topic: Topic, where: Sequence[str], what: str, why: str, mend: str) -> Concern:
    """A concern that somebody must act on."""
    return Concern(topic, Severity.ATTENTION, tuple(where), what, why, mend)


def note(topic: Topic, where: Sequence[str], what: str, why: str, mend: str) -> Concern:
    """A concern that is good to know."""
    return Concern(topic, Severity.NOTE, tuple(where), what, why, mend)
