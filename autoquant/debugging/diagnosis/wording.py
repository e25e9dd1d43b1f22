"""Proven suspects and coarse ops as findings."""

from __future__ import annotations

from autoquant.core.findings.diagnosis import Cause, Finding
from autoquant.debugging.diagnosis.evidence import EVIDENCE
from autoquant.debugging.diagnosis.findings import Coarse, Proof
from autoquant.debugging.diagnosis.phrases import few
from autoquant.debugging.diagnosis.steps import STEPS
from autoquant.debugging.diagnosis.suspects import Suspect
from autoquant.model.data.output_noise import to_decibels

SPREAD = 0.25
"""Where half of the error takes more than a quarter of the ops, no few ops are to blame."""


def word_finding(proof: Proof, dynamic: frozenset[str]) -> Finding:
    """Put a proven suspect in words."""
    suspect = proof.suspect
    return Finding(
        cause=suspect.cause,
        sites=blamed(suspect),
        touching=suspect.touching,
        samples=suspect.samples,
        evidence=EVIDENCE[suspect.cause](suspect),
        step=STEPS[suspect.cause](suspect, dynamic),
        before_db=to_decibels(proof.before),
        after_db=to_decibels(proof.after),
    )


def word_coarse(coarse: Coarse, count: int, samples: tuple[int, ...]) -> Finding:
    """Put in words that ranges are right and resolution is not."""
    is_even = len(coarse.sites) > SPREAD * count
    spread = (
        "; the error is spread over the network: find a calibration that suits it better "
        "(`autoquant calibrate`), or train with quantization (`autoquant finetune`)"
    )
    return Finding(
        cause=Cause.RESOLUTION,
        sites=coarse.sites,
        touching=coarse.sites,
        samples=samples,
        evidence=(
            f"no range is wrong, but {len(coarse.sites)} of {count} ops make at least half of the "
            "error by rounding alone"
        ),
        step=f"raise {few(coarse.sites)} to more bits" + (spread if is_even else ""),
        before_db=to_decibels(coarse.before),
        after_db=to_decibels(coarse.after),
    )


def blamed(suspect: Suspect) -> tuple[str, ...]:
    """The ops of a suspect: of a saturated activation the activation, else who writes."""
    if suspect.cause is Cause.SATURATED:
        return tuple(dict.fromkeys(name for item in suspect.audits for name in item.readers))
    return tuple(dict.fromkeys([*(item.op for item in suspect.audits), *suspect.weights]))
