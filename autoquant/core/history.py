"""What a search asked for, was told, and knows: all that its strategy goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from autoquant.core.measurement import Candidate
from autoquant.core.plan import Plan


class StopReason(Enum):
    """Why a search ended."""

    BUDGET = "the budget of trials is spent"
    TIME = "the time is up"
    EXHAUSTED = "every plan of the space was tried"
    NOTHING_TO_GAIN = "nothing that is left would gain enough"
    QUICK = "a quick search ends after the program's best few plans"
    INTERRUPTED = "it was interrupted"
    FAILED = "it failed"

    @property
    def word(self) -> str:
        """The reason in a file."""
        return self.name.lower()

    @classmethod
    def of(cls, word: str) -> StopReason:
        """Read back what `word` gave."""
        return cls[word.upper()]


@dataclass(frozen=True, slots=True)
class Ask:
    """A plan that the strategy wants measured.

    Attributes:
        number: Its candidate's.
        plan: What to measure.
        origin: Where it comes from.
        round: The round that asks for it: all its plans were asked for before any was told.
    """

    number: int
    plan: Plan
    origin: str
    round: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError(f"{self.number} is no candidate's number")

    def to_json(self) -> dict[str, Any]:
        """Give the ask as JSON values: one line of the history."""
        return {
            "number": self.number,
            "round": self.round,
            "digest": self.plan.digest,
            "origin": self.origin,
            "plan": self.plan.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Past:
    """What earlier processes did of a search.

    Attributes:
        asked: Every ask, in order.
        told: By number, each candidate as it was when its round was told; rounds in order.
        candidates: Everything measured, as it is known now, by number.
    """

    asked: tuple[Ask, ...] = ()
    told: Mapping[int, Candidate] = field(default_factory=dict)
    candidates: tuple[Candidate, ...] = ()


class AskLog(Protocol):
    """Keeps what a strategy asks for and is told; each call returns when that is safe."""

    def asked(self, ask: Ask) -> None:
        """Keep that a plan was asked for."""

    def told(self, number: int) -> None:
        """Keep that the strategy was told of all candidates of a round, as they are kept."""


class Recorder(Protocol):
    """Keeps candidates: in the result folder, in MLflow."""

    def candidate(self, candidate: Candidate) -> None:
        """Keep a candidate. The same number again replaces what was kept before."""
