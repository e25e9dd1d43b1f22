"""Rivals of a search: the float model on other engines."""

from __future__ import annotations

from dataclasses import replace

from autoquant.backends.targets import load_target
from autoquant.core.measurement import RIVAL_PLAN, Measurements, float_plans, rival_plans
from autoquant.core.progress import Progress
from autoquant.errors import first_line
from autoquant.job import SearchSettings, SpaceRules
from autoquant.model.heap import free_large
from autoquant.searching.measuring.evaluator import MeasurementSettings
from autoquant.searching.measuring.plan_timer import FLOAT_SCHEMES
from autoquant.searching.preparing.bench import SubjectBench
from autoquant.searching.preparing.elsewhere import prepare_elsewhere
from autoquant.searching.preparing.faithful_target import refuse_unfaithful
from autoquant.searching.preparing.preparation import Preparation


def time_rivals(
    prepared: Preparation, job: SearchSettings, known: Measurements, progress: Progress
) -> Measurements:
    """Time the float plans of a job's rivals, over fp32 as given.

    An engine that refuses the model, or computes something else, is no rival; that is said.

    Args:
        prepared: Model and data of the search.
        job: Names the rivals.
        known: What an earlier process has timed, which is not timed again.
        progress: Shown the progress.

    Returns:
        Speed-ups: what `rival_plans` reads.
    """
    done = {engine for engine, _ in rival_plans(known)}
    found = {}
    for rival in job.rival_engines:
        if rival in done:
            continue
        try:
            timed = _time_floats(prepared, job, rival, progress)
        except Exception as error:  # noqa: BLE001  # it stands beside the search, and ends none
            progress.note(f"the rival {rival} is not timed: {first_line(error)}")
            continue
        finally:
            free_large(prepared.captured.float_bytes)
        for scheme, speedup in float_plans(timed).items():
            found[f"{RIVAL_PLAN}{rival}.all-{scheme.value}"] = speedup
    return found


def _time_floats(
    prepared: Preparation, job: SearchSettings, rival: str, progress: Progress
) -> Measurements:
    """Times of the float model and of an engine's float plans, taken as those of candidates.

    Raises:
        AutoquantError: The engine refuses the model, or computes something else in its all-fp32
            plan.
    """
    setup = job.on(rival).model_copy(update={"space": SpaceRules(schemes=FLOAT_SCHEMES)})
    parts = (prepared.subject, prepared.captured, prepared.statistics, prepared.settings.build)
    with progress.stage(f"timing the rival {rival}", None):
        there = prepare_elsewhere(setup, *parts, progress, settle=_without_timing)
        return refuse_unfaithful(there, progress).evaluator.rivals()


def _without_timing(bench: SubjectBench) -> MeasurementSettings:
    """What a backend takes where nothing is timed: float plans run alike on torch's engines."""
    settings = bench.settings
    settle = load_target(settings.build.backend).settle
    return replace(settings, build=settle(settings.build, None))
