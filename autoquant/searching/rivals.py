"""Rivals of a search: the float model on other engines."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from autoquant.backends.targets import load_target
from autoquant.core.evaluation import Phase
from autoquant.core.measurement import (
    RIVAL_PLAN,
    SINGLE_RIVAL_PLAN,
    Measurement,
    Measurements,
    float_plans,
    rival_plans,
)
from autoquant.core.progress import Progress
from autoquant.errors import first_line
from autoquant.job import SearchSettings, SpaceRules
from autoquant.model.heap import free_large
from autoquant.results.forms import BASELINE
from autoquant.searching.measuring.evaluator import MeasurementSettings, latency_inputs
from autoquant.searching.measuring.plan_timer import FLOAT_SCHEMES
from autoquant.searching.preparing.bench import SubjectBench
from autoquant.searching.preparing.earlier import structure_of, timing_of, versions_of
from autoquant.searching.preparing.elsewhere import prepare_elsewhere
from autoquant.searching.preparing.faithful_target import refuse_unfaithful
from autoquant.searching.preparing.preparation import Preparation


def time_rivals(
    prepared: Preparation, job: SearchSettings, known: Measurements, progress: Progress
) -> Measurements:
    """Time the float plans of a job's rivals, over fp32 as given; on one sample too.

    An engine that refuses the model, or computes something else, is no rival; that is said.

    Args:
        prepared: Model and data of the search, and what earlier searches found.
        job: Names the rivals.
        known: What an earlier process has timed, which is not timed again.
        progress: Shown the progress.

    Returns:
        Speed-ups: what `rival_plans` reads.
    """
    done = {engine for engine, _ in rival_plans(known)}
    found: dict[str, Measurement] = {}
    for rival in job.rival_engines:
        if rival in done:
            continue
        setup = job.on(rival).model_copy(update={"space": SpaceRules(schemes=FLOAT_SCHEMES)})
        try:
            times = prepared.kept.recall(
                f"times of {rival}",
                BASELINE,
                partial(_depends_on, prepared, setup),
                partial(_time_floats, prepared, setup, rival, progress),
                is_worth_keeping=_are_quiet,
            )
            found.update(times)
        except Exception as error:  # noqa: BLE001  # it stands beside the search, and ends none
            progress.note(f"the rival {rival} is not timed: {first_line(error)}")
        finally:
            free_large(prepared.captured.float_bytes)
    return found


def _are_quiet(times: Measurements) -> bool:
    return not any(item.busy for item in times.values())


def _depends_on(prepared: Preparation, setup: SearchSettings) -> object | None:
    """All that decides the times of a rival; None: that cannot be told."""
    structure, versions = structure_of(prepared.captured), versions_of(setup.backend.name)
    if structure is None or versions is None:
        return None
    inputs = latency_inputs(prepared.subject, prepared.settings.latency_batch)
    own = setup.backend.model_dump(mode="json")
    return *structure, own, versions, timing_of(prepared.settings, inputs)


def _time_floats(
    prepared: Preparation, setup: SearchSettings, rival: str, progress: Progress
) -> dict[str, Measurement]:
    """Times of an engine's float plans over the float model, taken as those of candidates.

    Raises:
        AutoquantError: The engine refuses the model, or computes something else in its all-fp32
            plan.
    """
    parts = (prepared.subject, prepared.captured, prepared.statistics, prepared.settings.build)
    with progress.stage(f"timing the rival {rival}", None):
        there = prepare_elsewhere(setup, *parts, progress, settle=_without_timing)
        evaluator = refuse_unfaithful(there, progress).evaluator
        found = _named(RIVAL_PLAN, rival, evaluator.rivals())
        if prepared.latency_batch > 1:
            try:
                found |= _named(SINGLE_RIVAL_PLAN, rival, evaluator.rivals(Phase.SINGLE))
            except Exception as error:  # noqa: BLE001  # its time at the job's batch stands
                progress.note(f"the rival {rival} is not timed on one sample: {first_line(error)}")
        return found


def _named(kind: str, rival: str, timed: Measurements) -> dict[str, Measurement]:
    """Speed-ups of float plans by the names that they have in a baseline."""
    return {
        f"{kind}{rival}.all-{scheme.value}": speedup
        for scheme, speedup in float_plans(timed).items()
    }


def _without_timing(bench: SubjectBench) -> MeasurementSettings:
    """What a backend takes where nothing is timed: float plans run alike on torch's engines."""
    settings = bench.settings
    settle = load_target(settings.build.backend).settle
    return replace(settings, build=settle(settings.build, None))
