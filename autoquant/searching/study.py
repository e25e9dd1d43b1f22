"""What a search asked for and was told, as a study that optuna-dashboard opens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution, distribution_to_json
from optuna.storages.journal._storage import JournalOperation
from optuna.study import StudyDirection
from optuna.trial import TrialState

from autoquant.core.measurement import Failure, Measurement
from autoquant.core.space import SearchSpace
from autoquant.errors import StorageError
from autoquant.searching.journal import Entry, Journal

STUDY_NAME = "autoquant"

SHOWN_KNOBS = 128
"""Up to so many free knobs a trial shows them as parameters; of more it has the choices alone."""

_WRITER = "autoquant"
_ASKED = ("origin", "digest", "choices", "round")


@dataclass(frozen=True, slots=True)
class Asked:
    """A plan that was asked for.

    Attributes:
        number: Its candidate's.
        origin: Where it came from.
        digest: The plan's.
        choices: One character for each free knob: which of its schemes.
        round: The round that asked for it.
    """

    number: int
    origin: str
    digest: str
    choices: str
    round: int


@dataclass(frozen=True, slots=True)
class Told:
    """How it did.

    Attributes:
        measurements: What was measured of it.
        failure: Why nothing was.
        stopped: Why it was not measured whole.
    """

    measurements: Mapping[str, Measurement]
    failure: Failure | None
    stopped: str | None


class Study:
    """Keeps what is asked and told: a line for each ask, one write for each tell.

    Neither costs more the longer the study is, and nothing of it stays in memory.

    Args:
        path: Where it is kept; None: nowhere.
        space: What is drawn from.
        objective_count: How many losses each tell has.

    Attributes:
        asked: What an earlier process asked for, in order.
        told: What it told, by number.

    Raises:
        StorageError: The file cannot be written, or is damaged.
    """

    def __init__(self, path: Path | None, space: SearchSpace, objective_count: int) -> None:
        self._journal = None if path is None else Journal(path)
        shown = space.free if len(space.free) <= SHOWN_KNOBS else ()
        self._shown = [knob.name for knob in shown]
        self._distributions = {
            knob.name: distribution_to_json(
                CategoricalDistribution([scheme.value for scheme in knob.schemes])
            )
            for knob in shown
        }
        entries = () if self._journal is None else self._journal.entries
        self.asked = tuple(_asked(entries, path))
        self.told = dict(_told(entries))
        if not entries:
            directions = [int(StudyDirection.MINIMIZE)] * objective_count
            operation = JournalOperation.CREATE_STUDY
            self._write(_entry(operation, study_name=STUDY_NAME, directions=directions))

    def ask(self, asked: Asked) -> None:
        """Keep that a plan was asked for.

        Raises:
            StorageError: The disk is full or fails.
        """
        digits = zip(self._shown, asked.choices, strict=False)
        self._write(
            _entry(
                JournalOperation.CREATE_TRIAL,
                study_id=0,
                state=int(TrialState.RUNNING),
                value=None,
                values=None,
                datetime_start=_now(),
                params={name: int(digit, 36) for name, digit in digits},
                distributions=self._distributions,
                user_attrs={name: getattr(asked, name) for name in _ASKED},
                system_attrs={},
                intermediate_values={},
            )
        )

    def tell(
        self,
        number: int,
        told: Told,
        *,
        losses: Sequence[float] | None,
        excess: Mapping[str, float],
    ) -> None:
        """Keep how a plan did.

        Args:
            number: Of the plan.
            told: What is known of it.
            losses: What is minimized; None: it failed.
            excess: By how much it violates each constraint.

        Raises:
            StorageError: The disk is full or fails.
        """
        attributes = {name: item.value for name, item in told.measurements.items()}
        state = TrialState.FAIL if losses is None else TrialState.COMPLETE
        self._write(
            *(_attribute(number, name, value) for name, value in attributes.items()),
            *(
                _entry(
                    JournalOperation.SET_TRIAL_SYSTEM_ATTR,
                    trial_id=number,
                    system_attr={f"constraints:{name}": value},
                )
                for name, value in excess.items()
            ),
            _attribute(number, "candidate", _told_to_json(told)),
            _entry(
                JournalOperation.SET_TRIAL_STATE_VALUES,
                trial_id=number,
                state=int(state),
                values=None if losses is None else list(losses),
                datetime_complete=_now(),
            ),
        )

    def forget(self) -> None:
        """Give up what was read at the start."""
        self.asked, self.told = (), {}
        if self._journal is not None:
            self._journal.entries = ()

    def _write(self, *entries: Entry) -> None:
        if self._journal is not None:
            self._journal.append(entries)


def _asked(entries: Sequence[Entry], path: Path | None) -> Iterator[Asked]:
    number = 0
    for entry in entries:
        if entry["op_code"] == JournalOperation.CREATE_TRIAL:
            attributes = entry.get("user_attrs", {})
            if not set(_ASKED) <= attributes.keys():
                raise StorageError(
                    f"{path} holds a study that this version did not write",
                    hint="remove the file and go on with --resume: plans are asked for again, and "
                    "what was measured is kept",
                )
            yield Asked(number, **{name: attributes[name] for name in _ASKED})
            number += 1


def _told(entries: Sequence[Entry]) -> Iterator[tuple[int, Told]]:
    last: dict[int, Told] = {}
    for entry in entries:
        if entry["op_code"] == JournalOperation.SET_TRIAL_USER_ATTR:
            content = entry["user_attr"].get("candidate")
            if content is not None:
                last[entry["trial_id"]] = _told_from_json(content)
        elif entry["op_code"] == JournalOperation.SET_TRIAL_STATE_VALUES:
            yield entry["trial_id"], last.pop(entry["trial_id"])


def _told_to_json(told: Told) -> dict[str, Any]:
    return {
        "values": {name: item.to_json() for name, item in told.measurements.items()},
        "failure": told.failure.to_json() if told.failure else None,
        "stopped": told.stopped,
    }


def _told_from_json(data: Mapping[str, Any]) -> Told:
    values = {name: Measurement.from_json(item) for name, item in data["values"].items()}
    failure = Failure.from_json(data["failure"]) if data["failure"] else None
    return Told(values, failure, data["stopped"])


def _attribute(number: int, name: str, value: object) -> Entry:
    operation = JournalOperation.SET_TRIAL_USER_ATTR
    return _entry(operation, trial_id=number, user_attr={name: value})


def _entry(operation: JournalOperation, **fields: object) -> Entry:
    return {"op_code": int(operation), "worker_id": _WRITER, **fields}


def _now() -> str:
    return datetime.now(tz=timezone.utc).isoformat(timespec="microseconds")
