"""What guides a search: costs before anything is measured, seeds, the pruner and the proposals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from autoquant.core.backends import is_estimate
from autoquant.core.costs import CostTable
from autoquant.core.measurement import Candidate, Measurements
from autoquant.core.objectives import Goal, Objective, OwnObjective
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.progress import Progress
from autoquant.core.sensitivity import SensitivityTable
from autoquant.core.space import SearchSpace
from autoquant.job import Constraints, Effort, SearchSettings
from autoquant.results.forms import COSTS
from autoquant.searching.costing.cost_model import CostModel, Observation, Trust
from autoquant.searching.costing.forecast import Forecast
from autoquant.searching.measuring.cost_profile import latency_costs, spread_costs
from autoquant.searching.measuring.evaluator import latency_inputs
from autoquant.searching.measuring.own_costs import exact_costs
from autoquant.searching.measuring.size import bops_table, int16_table, size_table
from autoquant.searching.preparing.earlier import structure_of, timing_of
from autoquant.searching.preparing.preparation import Preparation
from autoquant.searching.proposing.constraints import Limits
from autoquant.searching.proposing.guided import CostAxis, Guide
from autoquant.searching.proposing.in_turn import InTurn
from autoquant.searching.proposing.prospects import ENOUGH_SHARE, AllProspects, Prospects
from autoquant.searching.proposing.pruner import Pruner
from autoquant.searching.proposing.sampled import GUIDED
from autoquant.searching.proposing.strategy import Proposer
from autoquant.searching.ranking.exact import measure_exact
from autoquant.searching.ranking.ranked import question_of
from autoquant.searching.seeding.program.additive import Limit
from autoquant.searching.seeding.seeds import PROGRAM, Seed, best_few, seed_plans

_NOISE_TRUST = Trust(term=0.5, group=0.3, constant=0.0, misfit=0.1)
"""Sensitivities are taken on few samples and add up only roughly: interactions are the misfit."""

_MOST_CHANGES = 256
"""Of a plan with more neighbours than this no sensitivities are taken around it."""
_FEW_SAMPLES = 64
_FEW_SAMPLES_ERROR = 0.1
"""How far reference numerics on a few samples may be off from the engine on all; with more than
64 they are known better than that, and no more is learnt."""

_THOROUGH = 0.1
"""What a thorough search finds enough to gain, beside a normal one."""

Costs = Mapping[Goal, CostTable]


@dataclass(frozen=True, slots=True, eq=False)
class Guidance:
    """What a search starts from and is led by.

    Attributes:
        seeds: What to try first.
        pruner: Says what of a candidate is worth measuring.
        proposer: Says what to try next; None: the job's sampler does.
        prospects: Says whether there is anything left to gain; None: nothing does.
    """

    seeds: tuple[Seed, ...]
    pruner: Pruner
    proposer: Proposer | None
    prospects: AllProspects | None = None


Profile = Callable[[Preparation], CostTable]
"""Times ops and boundaries."""


def find_costs(
    goals: Sequence[Goal],
    prepared: Preparation,
    progress: Progress,
    folder: Path | None = None,
    times: Mapping[Scheme, float] | None = None,
    profile: Profile | None = None,
    baseline: Measurements | None = None,
) -> Costs:
    """Find what each op costs in each objective: exactly, or for latency by timing a few plans.

    Where `times` of the uniform plans are given, latency is spread over ops from them and nothing
    more is timed; `folder` is that of an earlier process, whose profile is taken over. With the
    float model's measurements that of an earlier search is too.

    Raises:
        BackendError: No plan of the space can be built.
    """
    sites = prepared.captured.sites
    whole = bops_table(sites)
    full = whole.predict(Plan.uniform((site.name for site in sites), Scheme.FP32))
    found: dict[Goal, CostTable] = {}
    for objective in goals:
        if objective is Objective.SIZE:
            found[objective] = size_table(sites, prepared.captured.stored_count)
        elif objective is Objective.BOPS:
            found[objective] = whole.scaled(1.0 / max(full, 1.0), "bops_ratio")
        elif objective is Objective.INT16_SHARE:
            found[objective] = int16_table(sites)
        elif objective is Objective.LATENCY:
            found[objective] = _latency_costs(prepared, progress, folder, times, profile, baseline)
        elif isinstance(objective, OwnObjective):
            found[objective] = prepared.settings.own[objective.value]
    return found


def _latency_costs(
    prepared: Preparation,
    progress: Progress,
    folder: Path | None,
    times: Mapping[Scheme, float] | None,
    profile: Profile | None,
    baseline: Measurements | None,
) -> CostTable:
    earlier = COSTS.known(folder)
    if earlier is not None:
        return earlier
    if times:
        return spread_costs(prepared.space, prepared.captured.sites, times)

    def find() -> CostTable:
        with progress.stage("timing ops and boundaries", None):
            return (profile or profile_here)(prepared)

    return find() if baseline is None else _kept_costs(prepared, baseline, find)


def _kept_costs(
    prepared: Preparation, baseline: Measurements, find: Callable[[], CostTable]
) -> CostTable:
    """Time ops and boundaries, or take what an earlier search found for a model of this form.

    Costs are kept in units of what the float model took in the same sitting, so that another
    sitting's pace cancels.
    """
    build, baseline_ms = prepared.settings.build, baseline["latency_ms"].value

    def depends_on() -> object | None:
        structure = structure_of(prepared.captured)
        if structure is None or is_estimate(build.backend):
            return None
        inputs = latency_inputs(prepared.subject, prepared.settings.latency_batch)
        own = (build.backend, dict(build.options), build.ranges.weight_bits)
        return *structure, *own, timing_of(prepared.settings, inputs), prepared.space

    unit = "of the float model's time"
    kept = prepared.kept.recall(
        "costs of ops", COSTS, depends_on, lambda: find().scaled(1.0 / baseline_ms, unit)
    )
    return kept.scaled(baseline_ms, "ms")


def profile_here(prepared: Preparation) -> CostTable:
    """Time ops and boundaries in this process."""
    return latency_costs(prepared, prepared.space)


def guide(
    job: SearchSettings,
    prepared: Preparation,
    table: SensitivityTable,
    costs: Costs,
    baseline: Measurements,
    limits: Limits,
    templates: Sequence[Plan] = (),
    measured: Sequence[Candidate] = (),
    *,
    note: Callable[[str], None] = lambda text: None,
) -> Guidance:
    """Turn sensitivities and costs into seeds, a pruner and a proposer.

    Each cost guides: seeds are shared among their frontiers, a candidate is pruned only where a
    rival costs no more in any, and proposals trade output error for each in turn.
    """
    space = prepared.space
    latency = costs.get(Objective.LATENCY)
    baseline_ms = baseline["latency_ms"].value if "latency_ms" in baseline else 0.0
    forecast = Forecast(
        space,
        partial(exact_costs, prepared.captured, prepared.settings.own),
        None if latency is None else CostModel(latency.by_knob(space)),
        baseline_ms,
    )
    axes = [
        _axis(goal, table, space, job.constraints, baseline_ms) for goal, table in costs.items()
    ]
    noise = CostModel(noise_table(space, table), trust=_NOISE_TRUST)
    rows = _hard_limits(job.constraints, prepared, baseline, costs)
    is_guided = job.sampler == GUIDED
    effort = job.budget.effort
    seeds = seed_plans(
        space,
        table,
        tuple(costs.values()),
        rows,
        sites=prepared.captured.sites,
        templates=templates,
        ladders=effort is Effort.THOROUGH or not is_guided,
    )
    if effort is Effort.QUICK:
        of_program = [seed for seed in seeds if seed.origin.startswith(PROGRAM)]
        few = [
            seed
            for cost in costs.values()
            for seed in best_few(
                of_program,
                space,
                noise.prior,
                cost.by_knob(space),
                measured,
                job.constraints.accuracy_drop,
            )
        ]
        seeds = tuple(seed for seed in seeds if seed not in of_program or seed in few)
    guides: list[Guide] = []
    if is_guided and effort is not Effort.QUICK:
        count = min(job.sensitivity.samples, _FEW_SAMPLES)
        retake = cache(partial(_noise_around, prepared, count, note))
        guides = [Guide(space, noise, axis, retake) for axis in axes]
    prospects = [
        Prospects(
            space,
            guide,
            limits,
            tuple(Limit(row.name, row.costs.by_knob(space), row.bound) for row in rows),
            share=ENOUGH_SHARE * (_THOROUGH if effort is Effort.THOROUGH else 1.0),
            round_size=job.budget.round_size,
            seed=job.seed,
        )
        for guide in guides
    ]
    return Guidance(
        seeds,
        Pruner(job.goals, limits, forecast),
        InTurn(guides) if guides else None,
        AllProspects(tuple(prospects)) if prospects else None,
    )


def plain_pruner(job: SearchSettings, prepared: Preparation, limits: Limits) -> Pruner:
    """What rules before any cost is known: only what follows from a plan is foreseen."""
    known = partial(exact_costs, prepared.captured, prepared.settings.own)
    return Pruner(job.goals, limits, Forecast(prepared.space, known))


def _axis(
    goal: Goal, table: CostTable, space: SearchSpace, constraints: Constraints, baseline_ms: float
) -> CostAxis:
    """How one cost is traded against output error: by a model that learns, or exactly."""
    by_knob, is_timed = table.by_knob(space), goal is Objective.LATENCY
    return CostAxis(
        goal,
        CostModel(by_knob) if is_timed else by_knob,
        baseline_ms=baseline_ms if is_timed else None,
        limit=_axis_limit(constraints, goal),
    )


def _axis_limit(constraints: Constraints, objective: Goal) -> float:
    """The largest share of int16 ops that is worth proposing; other costs are not limited here."""
    share = constraints.int16_share
    return share if objective is Objective.INT16_SHARE and share is not None else math.inf


def noise_table(space: SearchSpace, table: SensitivityTable) -> CostTable:
    """The sensitivity table as additive noise over knobs; what it lacks adds none."""
    losses = table.losses()
    ops = {
        (knob.name, scheme): losses.get((knob.name, scheme), 0.0)
        for knob in space.knobs
        for scheme in knob.schemes
    }
    return CostTable(0.0, ops, unit="noise-to-signal ratio")


def _noise_around(
    prepared: Preparation, samples: int, note: Callable[[str], None], plan: Plan
) -> Sequence[Observation]:
    """Output noise of every plan one change away, by reference numerics on a few samples."""
    space = prepared.space
    changes = sum(len(knob.schemes) - 1 for knob in space.free)
    if changes > _MOST_CHANGES or prepared.captured.how != "export":
        return ()
    note(f"measuring sensitivity around the best plan so far ({changes} changes, emulated) ...")
    choices = space.choices(plan)
    table = measure_exact(question_of(prepared, samples), around=plan)
    return [
        Observation(
            Plan.of({**choices, row.knob: row.scheme}),
            row.noise,
            max(row.noise_stderr, _FEW_SAMPLES_ERROR * row.noise),
        )
        for row in table.rows
    ]


def _hard_limits(
    constraints: Constraints, prepared: Preparation, baseline: Measurements, costs: Costs
) -> tuple[Limit, ...]:
    """The user's constraints on costs, as rows of the integer program."""
    limits = []
    if constraints.size_ratio is not None:
        table = size_table(prepared.captured.sites, prepared.captured.stored_count)
        bound = constraints.size_ratio * baseline["size_bytes"].value
        limits.append(Limit("constraints.size_ratio (bytes)", table, bound))
    if constraints.latency_ratio is not None and Objective.LATENCY in costs:
        bound = constraints.latency_ratio * baseline["latency_ms"].value
        limits.append(Limit("constraints.latency_ratio (ms)", costs[Objective.LATENCY], bound))
    if constraints.int16_share is not None:
        table = int16_table(prepared.captured.sites)
        limits.append(Limit("constraints.int16_share", table, constraints.int16_share))
    return tuple(limits)
