"""What a search gives back: its candidates, and the frontier among them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from autoquant.core.glance import Glance, Glanced
from autoquant.core.history import StopReason
from autoquant.core.measurement import Measurements
from autoquant.core.objectives import own_goals
from autoquant.core.sensitivity import SensitivityTable
from autoquant.errors import PlanError
from autoquant.results.choices import is_no_faster
from autoquant.results.findings import Findings
from autoquant.results.summary import NO_FASTER, summarize
from autoquant.results.table import CandidateTable, candidate_table
from autoquant.results.wording import counts_text, or_busy
from autoquant.searching.build_context import BuildContext
from autoquant.searching.candidate import ResultCandidate

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from torch import nn


_LOGGER = logging.getLogger("autoquant.searching")


class FrontierMembers(tuple[ResultCandidate, ...]):
    """A frontier's candidates, as a tuple that shows itself line by line."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "\n".join(map(repr, self))

    def _repr_html_(self) -> str:
        names = [
            name
            for name in ("accuracy", "accuracy_drop", "sqnr_db", "speedup", "size_bytes")
            if any(name in item.measurements for item in self)
        ]
        rows = [
            (
                str(item.number),
                *(
                    or_busy(item.measurements[name], f"{item.value(name):.4g}")
                    if name in item.measurements
                    else "-"
                    for name in names
                ),
                counts_text(item.plan),
            )
            for item in self
        ]
        return Glance(f"{len(self)} candidates", ("#", *names, "ops"), rows).html


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SearchResult(Glanced):
    """Everything that a search found."""

    findings: Findings
    context: BuildContext
    folder: Path

    @property
    def frontier(self) -> FrontierMembers:
        """The candidates worth choosing between, fastest (or smallest) first."""
        return FrontierMembers(
            ResultCandidate(item, self.context) for item in self.findings.frontier
        )

    @property
    def glance(self) -> Glance:
        """What came out, in a few lines: the frontier by the columns that matter most."""
        table = self.table().narrow
        title = " ".join([f"{self.findings.facts.name}:", *summarize(self.findings)[:2]])
        heads = tuple(column.title for column in table.columns)
        step = "result.best().quantize(model), result.plot(), result.to_dataframe()"
        return Glance(title, heads, table.rows, step)

    @property
    def candidates(self) -> Sequence[ResultCandidate]:
        """Everything that was tried, by number."""
        return tuple(ResultCandidate(item, self.context) for item in self.findings.candidates)

    def candidate(self, number: int) -> ResultCandidate:
        """The candidate of a number.

        Raises:
            PlanError: There is none.
        """
        known = {item.number: item for item in self.candidates}
        if number not in known:
            members = ", ".join(str(item.number) for item in self.frontier)
            raise PlanError(
                f"no candidate {number} in {self.folder}", hint=f"frontier members: {members}"
            )
        return known[number]

    @property
    def baseline(self) -> Measurements:
        """Measurements of the float model."""
        return self.findings.frontier.baseline

    @property
    def sensitivity(self) -> SensitivityTable | None:
        """The sensitivity table."""
        return self.findings.sensitivity

    @property
    def stopped(self) -> StopReason | None:
        """Why the search ended; None where an older version searched."""
        return self.findings.facts.stopped

    @property
    def hypervolume(self) -> float:
        """Hypervolume of what was found, in the objectives' losses."""
        return self.findings.frontier.hypervolume

    def __iter__(self) -> Iterator[ResultCandidate]:
        return iter(self.frontier)

    def best(
        self,
        max_drop: float | None = None,
        *,
        mappable: bool = False,
        model: nn.Module | None = None,
    ) -> ResultCandidate:
        """The cheapest frontier member within an accuracy drop.

        Of those that are as fast within noise, the most exact.

        Args:
            max_drop: Largest allowed drop, in the metric's unit; None: the job's own limit.
            mappable: Only of those that a QConfigMapping carries whole, which torch is asked for
                one by one (`candidate.mapping_coverage`).
            model: As for `candidate.qconfig_mapping`, which `mappable` asks.

        Raises:
            PlanError: No member is within it (says how near the nearest comes), or there is none,
                or none that a QConfigMapping carries.
        """
        limit = self.findings.facts.max_drop if max_drop is None else max_drop
        if not self.frontier:
            raise PlanError(
                "the frontier is empty: no candidate keeps the job's constraints",
                hint="loosen constraints, widen the search space, or search for longer",
            )
        picked = self.findings.frontier.pick(limit)
        if picked is None:
            nearest = min(item.value("accuracy_drop") for item in self.frontier)
            raise PlanError(
                f"no frontier member drops at most {limit}; the least drop is {nearest:.4g}",
                hint="allow a larger drop, widen the search space, or search for longer",
            )
        found = ResultCandidate(picked, self.context)
        if mappable:
            found = self._best_mappable(limit, model)
        if is_no_faster(found):
            _LOGGER.warning(NO_FASTER)
        return found

    def _best_mappable(self, limit: float | None, model: nn.Module | None) -> ResultCandidate:
        """The best of those members that a QConfigMapping carries whole."""
        way = self.context.open_way_out(self.context.find_model(model))
        frontier, told = self.findings.frontier, []
        while (picked := frontier.pick(limit)) is not None:
            coverage = way.of(picked.plan).coverage
            if coverage.is_complete:
                return ResultCandidate(picked, self.context)
            told.append(f"#{picked.number}: {coverage.carried} of {coverage.planned} sites")
            left = tuple(item for item in frontier.members if item is not picked)
            frontier = replace(frontier, members=left)
        raise PlanError(
            f"a QConfigMapping carries no frontier member within {limit} whole ({', '.join(told)})",
            hint="search with space.schemes int8 and fp32, which torch.ao has; or take "
            "best().qconfig_mapping(), which says what it leaves in fp32",
        )

    def table(self) -> CandidateTable:
        """The frontier as a table."""
        return candidate_table(
            self.findings.frontier.members,
            self.baseline,
            self.findings.facts.rival,
            self.findings.facts.metric,
            own_goals(self.findings.frontier.objectives),
        )

    def to_dataframe(self) -> pd.DataFrame:
        """All candidates as a data frame; see docs/result-folder.md for its columns."""
        from autoquant.results.frame import candidates_frame

        return candidates_frame(self.findings.candidates)

    def plot(self) -> go.Figure:
        """The Pareto plot."""
        from autoquant.results.plots.pareto import pareto_figure

        return pareto_figure(self.findings)
