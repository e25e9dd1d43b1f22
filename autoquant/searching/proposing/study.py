"""A finished search as an Optuna study, for optuna-dashboard; nothing reads it back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from autoquant.core.measurement import Candidate
from autoquant.core.objectives import Goal, losses_of
from autoquant.core.os_errors import storage_errors
from autoquant.core.space import SearchSpace
from autoquant.searching.proposing.constraints import Limits

STUDY_NAME = "autoquant"

SHOWN_KNOBS = 128
"""Up to so many free knobs a trial shows them as parameters."""


def write_study(
    path: Path,
    space: SearchSpace,
    objectives: Sequence[Goal],
    limits: Limits,
    candidates: Sequence[Candidate],
) -> None:
    """Write candidates as a study in Optuna's journal; what the file held is replaced.

    Raises:
        StorageError: The file cannot be written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    shown = space.free if len(space.free) <= SHOWN_KNOBS else ()
    distributions: dict[str, BaseDistribution] = {
        knob.name: CategoricalDistribution([scheme.value for scheme in knob.schemes])
        for knob in shown
    }
    journal = _Journal()
    study = optuna.create_study(
        storage=JournalStorage(journal),
        study_name=STUDY_NAME,
        directions=["minimize"] * len(objectives),
    )
    study.add_trials(
        _trial(item, distributions, losses_of(objectives, item), limits) for item in candidates
    )
    with storage_errors(path, "write"):
        path.write_text("".join(f"{json.dumps(log)}\n" for log in journal.logs), encoding="utf-8")


class _Journal(BaseJournalBackend):
    """A journal in memory; Optuna's own waits for the disk at every trial."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Keep more entries."""
        self.logs += logs

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Give the entries from one on."""
        return iter(self.logs[log_number_from:])


def _trial(
    candidate: Candidate,
    distributions: dict[str, BaseDistribution],
    losses: Sequence[float] | None,
    limits: Limits,
) -> FrozenTrial:
    schemes = dict(candidate.plan.assignment)
    values = {name: item.value for name, item in candidate.measurements.items()}
    return create_trial(
        state=TrialState.FAIL if losses is None else TrialState.COMPLETE,
        values=losses,
        params={name: schemes[name].value for name in distributions},
        distributions=distributions,
        user_attrs={"number": candidate.number, "origin": candidate.origin, **values},
        constraints={} if candidate.failure else dict(limits.violations(candidate)),
    )
