"""What a search is, when it is opened and when it has ended."""

from __future__ import annotations

import uuid
from dataclasses import replace

from autoquant.core.backends import is_estimate
from autoquant.core.frontier import Frontier
from autoquant.core.history import StopReason
from autoquant.job import Job, SearchSettings
from autoquant.model.data.scoring import metric_title
from autoquant.results.findings import WEIGHTS, SearchFacts
from autoquant.results.folder import ResultFolder
from autoquant.results.forms import FACTS
from autoquant.results.kept import Kept
from autoquant.searching.frontier_again import noise_notice
from autoquant.searching.preparing.preparation import Preparation
from autoquant.searching.settings import settings_after, settings_of


def open_facts(job: SearchSettings, folder: ResultFolder, resume: bool) -> SearchFacts:
    """What the search is; a resumed one keeps its id and what its preparation settled.

    A new one is written at once, so that whoever resumes it finds its id.
    """
    if resume:
        known = FACTS.known(folder.path)
        if known is not None:
            settings = settings_after(job, known.settings, folder.path)
            return replace(known, name=job.name, settings=settings)
    of_file = job.data if isinstance(job, Job) else None
    facts = SearchFacts(
        search_id=uuid.uuid4().hex,
        name=job.name,
        metric=of_file.metric.entry.rpartition(":")[2] if of_file is not None else "metric",
        target=job.backend.name,
        max_drop=job.constraints.accuracy_drop,
        settings=settings_of(job),
    )
    folder.write(FACTS, facts)
    return facts


_GOES_ON = {StopReason.INTERRUPTED: "interrupted", StopReason.FAILED: "it failed"}

TAKEN = "taken_from_earlier_searches"
"""Among a search's settings: what was not found out anew, with the time when it was."""


def taken_before(facts: SearchFacts) -> str:
    """What a search that is resumed had taken from earlier searches."""
    return str(facts.settings.get(TAKEN, ""))


def with_taken(facts: SearchFacts, kept: Kept) -> SearchFacts:
    """The facts with what was taken from earlier searches so far."""
    if not kept.taken:
        return facts
    return replace(facts, settings={**facts.settings, TAKEN: ", ".join(kept.taken)})


def settle_facts(
    job: SearchSettings,
    facts: SearchFacts,
    prepared: Preparation,
    frontier: Frontier,
    reason: StopReason | None,
) -> SearchFacts:
    """Add to the facts what preparation found out, and how the search ended; None: it goes on."""
    batch, threads = prepared.latency_batch, job.backend.threads
    build, name = prepared.settings.build, prepared.backend.name
    target = (
        f"{name.replace('/', ' ')}, {threads} thread{'s' if threads > 1 else ''}, batch {batch}"
    )
    facts = with_taken(facts, prepared.kept)
    settings = {
        **facts.settings,
        "engine": prepared.engine,
        "reduce_range": build.ranges.is_reduced,
        "latency_batch": batch,
        "sites": len(prepared.captured.sites),
        "knobs": len(prepared.space.free),
        "equalised": bool(build.equalisation),
        "leaf_modules": ",".join(prepared.captured.leaf_modules),
        WEIGHTS: prepared.weights,
    }
    rival = prepared.backend.rival if is_estimate(build.backend) else facts.rival
    notices = [*prepared.notices, noise_notice(frontier)]
    if taken := taken_before(facts):
        notices.append(
            f"found out by earlier searches, not by this one: {taken}; every plan was measured anew"
        )
    if reason in _GOES_ON:
        notices.append(
            f"{_GOES_ON[reason]}; continue with --resume, in Python resume=True ({job.output})"
        )
    return replace(
        facts,
        metric=metric_title(prepared.subject.metric),
        target=target,
        rival=rival,
        settings=settings,
        notices=tuple(filter(None, notices)),
        stopped=reason,
    )
