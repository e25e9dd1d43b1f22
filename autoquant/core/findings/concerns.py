"""Concerns: what of a model or its settings needs attention, why, and the mend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from autoquant.core.json_values import fields_json
from autoquant.core.precision import Scheme


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
class Trial:
    """A mend that can be tried: what is built otherwise where the concern is.

    Attributes:
        scheme: That the ops take; None, and nothing else is changed: the cheapest of the space
            whose weights and activations both have 16 bits.
        weight_bits: Of int8 weights that meet int8 activations.
        leaves_out: Whether ranges that the job fixes are left out.
    """

    scheme: Scheme | None = None
    weight_bits: int | None = None
    leaves_out: bool = False

    @property
    def changes_ops(self) -> bool:
        """Whether the ops themselves are configured otherwise, and not only ranges of tensors."""
        return self.scheme is not None or self.weight_bits is not None


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
        trial: The mend as something to build, where it can be tried.
    """

    topic: Topic
    severity: Severity
    where: tuple[str, ...]
    what: str
    why: str
    mend: str
    trial: Trial | None = None

    def __post_init__(self) -> None:
        if not (self.where and self.what and self.why and self.mend):
            raise ValueError("a concern says where, what, why and the mend")

    def to_json(self) -> dict[str, Any]:
        """Give the concern as JSON values."""
        return fields_json(self, but=("trial",))


def attention(
    topic: Topic,
    where: Sequence[str],
    what: str,
    why: str,
    mend: str,
    trial: Trial | None = None,
) -> Concern:
    """A concern that somebody must act on."""
    return Concern(topic, Severity.ATTENTION, tuple(where), what, why, mend, trial)


def note(topic: Topic, where: Sequence[str], what: str, why: str, mend: str) -> Concern:
    """A concern that is good to know."""
    return Concern(topic, Severity.NOTE, tuple(where), what, why, mend)
