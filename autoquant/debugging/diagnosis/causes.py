"""Causes of what a pair shows: suspects, proven by mending them, in words."""

from __future__ import annotations

from dataclasses import replace

from autoquant.core.findings.diagnosis import Cause, Finding, Pattern
from autoquant.core.precision import Scheme
from autoquant.core.progress import Progress
from autoquant.debugging.diagnosis.findings import Proof, find_coarse, prove
from autoquant.debugging.diagnosis.pattern import BAD_DB
from autoquant.debugging.diagnosis.suspects import REACH, find_suspects, find_weight_suspects
from autoquant.debugging.diagnosis.symptoms import Symptoms, dynamic_sites
from autoquant.debugging.diagnosis.wording import word_coarse, word_finding
from autoquant.model.numerics.rounding import SchemeRounding


def find_causes(seen: Symptoms, progress: Progress) -> tuple[Finding, ...]:
    """Find the causes of an error that is there and that kernels do not explain.

    Returns:
        The causes that explain at least half of the error; where no range does, the ops whose
        resolution does.
    """
    sites = seen.pair.prepared.captured.by_name
    repairs = seen.repairs
    suspects = (
        *find_suspects(seen.audits, seen.grids, sites, reach=0.0 if seen.bad else REACH),
        *find_weight_suspects(seen.marked, seen.plan, SchemeRounding(seen.ranges)),
    )
    if suspects:
        limit = seen.limit_db if seen.pattern is Pattern.INSENSITIVE else BAD_DB
        with progress.stage("mending suspects", len(suspects)) as advance:
            proofs = prove(suspects, repairs, seen.probe.loss, limit, advance)
        if proofs:
            return tuple(
                word_finding(_placed(proof, seen), dynamic_sites(seen.pair)) for proof in proofs
            )
    count = sum(scheme is not Scheme.FP32 for _, scheme in seen.plan.assignment)
    with progress.stage("raising ops one by one", count) as advance:
        coarse = find_coarse(repairs, seen.probe.loss, advance)
    return (word_coarse(coarse, count, seen.bad),)


def _placed(proof: Proof, seen: Symptoms) -> Proof:
    """Where single samples are bad, they are what the cause was proven on."""
    suspect = proof.suspect
    if not seen.bad or suspect.cause is Cause.OUTLIER_CALIBRATION:
        return proof
    return replace(proof, suspect=replace(suspect, samples=seen.bad))
