"""Several guides, one for each cost: each proposes in its turn, all learn from every candidate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoquant.core.measurement import Candidate
from autoquant.core.plan import Plan
from autoquant.searching.proposing.refusals import Taken
from autoquant.searching.proposing.strategy import Proposer


class InTurn:
    """Asks proposers in turn; one that offers nothing is passed over.

    Whose turn it is follows from how many plans were asked for, so that a resumed search goes on
    with the same one.
    """

    def __init__(self, proposers: Sequence[Proposer]) -> None:
        self._proposers = tuple(proposers)

    def observe(self, candidate: Candidate, *, is_feasible: bool) -> None:
        """Let all take in a candidate."""
        for proposer in self._proposers:
            proposer.observe(candidate, is_feasible=is_feasible)

    def propose(
        self, random: np.random.Generator, pending: Sequence[Plan], taken: Taken
    ) -> Plan | None:
        """Give the plan of the one whose turn it is, or of the next that has one."""
        count = len(self._proposers)
        first = len(taken) % count
        for place in range(count):
            found = self._proposers[(first + place) % count].propose(random, pending, taken)
            if found is not None:
                return found
        return None
