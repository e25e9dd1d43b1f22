"""The stages of `autoquant tune`, in their order: read `Walk.run`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autoquant.core.findings.tuning import Attempt, Stage, TuneReport, Verdict, fewest_int16, judge
from autoquant.core.measurement import Candidate
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.raised_plans import raise_knobs
from autoquant.core.sensitivity import SensitivityTable
from autoquant.core.space import Knob, SearchSpace

SCHEMES = (Scheme.INT8, Scheme.INT16, Scheme.FP16)

Measure = Callable[[Plan, str], Candidate]
"""Measures a plan of some origin on all evaluation samples."""

Refine = Callable[[SearchSpace, Attempt], Sequence[Attempt]]
"""Searches a space for plans with fewer int16 ops than an attempt that was taken."""


class Walk:
    """Walks the stages and stops where the goal is met."""

    def __init__(
        self,
        space: SearchSpace,
        table: SensitivityTable,
        measure: Measure,
        *,
        goal: float,
        refine: Refine,
        show: Callable[[Attempt], None],
    ) -> None:
        self._space = narrow(space, SCHEMES, {})
        self._table = table
        self._measure_plan = measure
        self._goal = goal
        self._refine = refine
        self._show = show
        self._attempts: list[Attempt] = []
        self._results: list[Attempt] = []
        self._takes_noise = False

    def run(self) -> TuneReport:
        """Find the upper bound, try the lower one, and narrow what lies between."""
        top, fixed = self._upper_bound()
        if top is None:
            return self._report(None, self._why_out_of_reach())
        bottom = self._measure(Stage.INT8, self._space.uniform(Scheme.INT8), "lower bound")
        self._results.append(bottom)
        if self._is_taken(bottom):
            return self._report(bottom, "All int8 meets the goal: nothing needs to be raised.")
        stage = Stage.THREE_WAY if fixed else Stage.INT8_INT16
        start = self._bisect_int16(stage, top, fixed)
        self._results.append(start)
        pinned = {knob.name: start.plan[knob.name] for knob in fixed}
        found = self._refine(narrow(self._space, (Scheme.INT8, Scheme.INT16), pinned), start)
        for attempt in found:
            self._keep(attempt)
        best = fewest_int16([start, *(item for item in found if self._is_taken(item))])
        if best is not start:
            self._results.append(best)
        return self._report(best, self._how_far(start, best, fixed))

    def _upper_bound(self) -> tuple[Attempt | None, Sequence[Knob]]:
        """The most precise plan that meets the goal, and the knobs that it needs in fp16."""
        all_int16 = self._space.uniform(Scheme.INT16)
        top = self._measure(Stage.INT16, all_int16, "upper bound")
        self._results.append(top)
        if self._is_taken(top):
            return top, ()
        ranked = rank_by_gain(self._space, self._table, Scheme.INT16, Scheme.FP16)
        limit = top
        if ranked:
            limit = self._measure(Stage.INT16_FP16, self._raised(all_int16, ranked), "all fp16")
        self._takes_noise = limit.verdict is Verdict.WITHIN_NOISE
        if self._is_taken(top):
            return top, ()
        if not self._is_taken(limit):
            return None, ()
        taken = {len(ranked): limit}

        def is_taken(count: int) -> bool:
            why = f"{count} of {len(ranked)} knobs in fp16"
            plan = self._raised(all_int16, ranked[:count])
            taken[count] = self._measure(Stage.INT16_FP16, plan, why)
            return self._is_taken(taken[count])

        count = fewest(0, len(ranked), is_taken)
        self._results.append(taken[count])
        return taken[count], ranked[:count]

    def _bisect_int16(self, stage: Stage, top: Attempt, fixed: Sequence[Knob]) -> Attempt:
        """Raise as few of the knobs as meet the goal, in the order of what raising gains."""
        bottom = self._space.uniform(Scheme.INT8)
        bottom = raise_knobs(self._space, bottom, fixed, Scheme.FP16)
        ranked = [
            knob
            for knob in rank_by_gain(self._space, self._table, Scheme.INT8, Scheme.INT16)
            if knob not in fixed
        ]
        taken = {len(ranked): top}

        def is_taken(count: int) -> bool:
            plan = raise_knobs(self._space, bottom, ranked[:count], Scheme.INT16)
            taken[count] = self._measure(stage, plan, f"{count} of {len(ranked)} knobs in int16")
            return self._is_taken(taken[count])

        if fixed and is_taken(0):
            return taken[0]
        return taken[fewest(0, len(ranked), is_taken)]

    def _raised(self, plan: Plan, knobs: Sequence[Knob]) -> Plan:
        return raise_knobs(self._space, plan, knobs, Scheme.FP16)

    def _measure(self, stage: Stage, plan: Plan, why: str) -> Attempt:
        candidate = self._measure_plan(plan, f"tune:{stage.name.lower()}")
        attempt = Attempt(stage, why, candidate, judge(candidate, self._goal))
        self._keep(attempt)
        return attempt

    def _keep(self, attempt: Attempt) -> None:
        self._attempts.append(attempt)
        self._show(attempt)

    def _is_taken(self, attempt: Attempt) -> bool:
        if attempt.verdict is Verdict.WITHIN_NOISE:
            return self._takes_noise and attempt.drop <= self._goal
        return attempt.verdict is Verdict.MET

    def _report(self, chosen: Attempt | None, conclusion: str) -> TuneReport:
        if self._takes_noise and chosen is not None:
            conclusion += (
                " Even the most precise plan is within noise of the goal, so drops within it were "
                "taken as they are: more evaluation samples would decide."
            )
        return TuneReport(
            self._goal, tuple(self._attempts), tuple(self._results), chosen, conclusion
        )

    def _why_out_of_reach(self) -> str:
        best = self._attempts[-1]
        what = "fp16" if best.stage is Stage.INT16_FP16 else "int16 (the space has no fp16)"
        return (
            f"The goal is out of reach: even all {what} is {best.verdict.value}. Relax "
            "constraints.accuracy_drop, allow fp32 or bf16 and search, or train with quantization; "
            "a fault of the model or its ranges shows in `autoquant check` and `diagnose`."
        )

    def _how_far(self, start: Attempt, best: Attempt, fixed: Sequence[Knob]) -> str:
        sites = sum(len(knob.sites) for knob in fixed)
        mixed = f", beside {sites} fixed in fp16" if sites else ""
        share = best.plan.int16_share
        if best is start:
            found = "the search found no smaller share"
        else:
            found = f"{start.plan.int16_share:.0%} by bisection, the rest by the search"
        return f"Int16 at {share:.0%} of the ops meets the goal{mixed}: {found}."


def fewest(low: int, high: int, is_taken: Callable[[int], bool]) -> int:
    """Find a count that is taken while the one below it is not.

    Where being taken does not grow with the count, it finds one such place of several.

    Args:
        low: A count that is not taken.
        high: A count that is.
        is_taken: Asked about counts between them, each once: log2(high - low) times, rounded up.

    >>> fewest(0, 10, lambda count: count >= 3)
    3
    """
    while high - low > 1:
        middle = (low + high) // 2
        if is_taken(middle):
            high = middle
        else:
            low = middle
    return high


def rank_by_gain(
    space: SearchSpace, table: SensitivityTable, before: Scheme, after: Scheme
) -> Sequence[Knob]:
    """Knobs that allow both schemes, by the noise that the change takes away, most first.

    An op whose noise the finer scheme keeps (int16 keeps weights in 8 bits) comes late, however
    sensitive it is. Ties stay in graph order.
    """
    losses = table.losses()

    def gain(knob: Knob) -> float:
        return losses.get((knob.name, before), 0.0) - losses.get((knob.name, after), 0.0)

    free = [knob for knob in space.free if before in knob.schemes and after in knob.schemes]
    return sorted(free, key=lambda knob: -gain(knob))


def narrow(space: SearchSpace, schemes: Sequence[Scheme], pinned: dict[str, Scheme]) -> SearchSpace:
    """Leave to each knob only some schemes, or the one that it is pinned to.

    A knob that allows none of them stays as it is, at its most precise scheme.
    """
    knobs = []
    for knob in space.knobs:
        kept = tuple(scheme for scheme in knob.schemes if scheme in schemes) or knob.schemes[-1:]
        chosen = pinned.get(knob.name)
        knobs.append(Knob(knob.name, knob.sites, kept if chosen is None else (chosen,)))
    return SearchSpace(tuple(knobs))
