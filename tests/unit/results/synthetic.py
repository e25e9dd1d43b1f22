"""A search that never ran: sites, candidates and a frontier with the shape of real ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoquant.core.frontier import find_frontier
from autoquant.core.measurement import Candidate, Failure, Kind, Measurement
from autoquant.core.objectives import Objective
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.readback import Ran
from autoquant.core.sensitivity import Part, SensitivityRow, SensitivityTable
from autoquant.core.sites import OpKind, Site
from autoquant.results.findings import Findings, SearchFacts

FP32_BYTES = 1_102_000.0
SAMPLES = 448

FACTS = SearchFacts(
    search_id="0f3c9d1e",
    name="digits",
    metric="accuracy",
    target="torch onednn, 1 thread, batch 64",
    max_drop=0.01,
    settings={"budget.trials": 57, "sampler": "tpe", "seed": 0, "execution.address": None},
)

BASELINE = {
    "accuracy": Measurement(0.9821, Kind.MEASURED, stderr=0.006, samples=SAMPLES),
    "heldout_accuracy": Measurement(0.9799, Kind.MEASURED, stderr=0.006, samples=SAMPLES),
    "size_bytes": Measurement(FP32_BYTES, Kind.ESTIMATED),
    "latency_ms": Measurement(23.4, Kind.MEASURED, stderr=0.2, samples=20),
}

ENVIRONMENT = {
    "versions": {"python": "3.11.2", "torch": "2.13.0", "ray": None},
    "platform": "Linux",
    "cpu": {"model": "AMD EPYC 9B45", "cores": 2, "flags": ["avx512_vnni"]},
    "git": {"revision": "4f1c2aa", "dirty": False},
}


def make_site(name: str, kind: OpKind = OpKind.CONV2D, weights: int = 9216) -> Site:
    weighted = kind.is_weighted
    return Site(
        name=name,
        kind=kind,
        module=name,
        function=None,
        index=None,
        node=name.replace(".", "_"),
        fused=(kind.value, "batch_norm", "relu") if kind is OpKind.CONV2D else (kind.value,),
        input_shapes=((64, 48, 16, 16),),
        output_shape=(64, 48, 16, 16),
        macs=weights * 256 if weighted else 0,
        parameter_count=weights + 48 if weighted else 0,
        weight_count=weights if weighted else 0,
    )


def make_sites() -> tuple[Site, ...]:
    """The sites of three inverted-residual blocks."""
    sites = [make_site("stem.conv", weights=432)]
    for block in range(3):
        path = f"blocks.{block}"
        sites += [
            make_site(f"{path}.expand.conv"),
            make_site(f"{path}.depthwise.conv", weights=864),
            make_site(f"{path}.squeeze.reduce", OpKind.LINEAR, 1152),
            make_site(f"{path}.squeeze.expand", OpKind.LINEAR, 1152),
            make_site(f"{path}:_operator.mul:0", OpKind.MUL),
            make_site(f"{path}.project.conv"),
            make_site(f"{path}:_operator.add:0", OpKind.ADD),
        ]
    return (*sites, make_site("head.conv", weights=27648), make_site("head.fc", OpKind.LINEAR, 960))


def make_candidate(
    number: int,
    schemes: dict[str, Scheme],
    *,
    drop: float = 0.002,
    sqnr: float = 30.0,
    speedup: float | None = 2.5,
    origin: str = "tpe",
    kind: Kind = Kind.MEASURED,
    heldout: float | None = None,
) -> Candidate:
    """A candidate with the measurements of a real one, none of them random."""
    measurements = {
        "accuracy": Measurement(0.9821 - drop, kind, stderr=0.0065, samples=SAMPLES),
        "accuracy_drop": Measurement(drop, kind, stderr=0.0024, samples=SAMPLES),
        "sqnr_db": Measurement(sqnr, kind, stderr=0.35, samples=SAMPLES),
        "kl": Measurement(10 ** (-sqnr / 10), kind, stderr=0.0001, samples=SAMPLES),
        "size_bytes": Measurement(FP32_BYTES * _size(schemes), Kind.ESTIMATED),
        "bops_ratio": Measurement(_size(schemes) ** 2, Kind.ESTIMATED),
    }
    if speedup is not None:
        measurements |= {
            "speedup": Measurement(speedup, Kind.MEASURED, stderr=0.04, samples=20),
            "latency_ms": Measurement(23.4 / speedup, Kind.MEASURED, stderr=0.3, samples=20),
        }
    if heldout is not None:
        measurements["heldout_accuracy_drop"] = Measurement(heldout, kind, 0.003, SAMPLES)
    way = Support.EMULATED if kind is Kind.EMULATED else Support.NATIVE
    return Candidate(
        number=number,
        plan=Plan.of(schemes),
        origin=origin,
        measurements=measurements,
        seconds={"build": 0.7, "quality": 1.3, "latency": 1.1},
        executed={name: Ran(scheme, way) for name, scheme in schemes.items()},
    )


def _size(schemes: dict[str, Scheme]) -> float:
    bits = [scheme.weight.bits for scheme in schemes.values()]
    return sum(bits) / (32 * len(bits))


def make_candidates(sites: Sequence[Site], count: int = 57, seed: int = 3) -> list[Candidate]:
    """Seeds, a cloud of mixed plans, some emulated ones without speed, and one failure."""
    rng = np.random.default_rng(seed)
    names = [site.name for site in sites]
    uniform = [
        (Scheme.FP32, 0.0, 150.0, 1.0),
        (Scheme.INT8, 0.0022, 27.4, 2.94),
        (Scheme.BF16, 0.0, 41.2, 1.72),
        (Scheme.INT16, 0.0, 33.0, None),
    ]
    found = [
        make_candidate(
            number,
            dict.fromkeys(names, scheme),
            drop=drop,
            sqnr=sqnr,
            speedup=speedup,
            origin=f"seed:uniform-{scheme.value}",
            kind=Kind.MEASURED if speedup else Kind.EMULATED,
        )
        for number, (scheme, drop, sqnr, speedup) in enumerate(uniform)
    ]
    choices = (Scheme.INT8, Scheme.BF16, Scheme.INT8_DYNAMIC, Scheme.FP32)
    for number in range(len(uniform), count):
        share = rng.uniform(0.02, 0.6)
        picked = rng.choice(4, len(names), p=[1 - share, share * 0.6, share * 0.2, share * 0.2])
        speedup = 2.94 - 1.9 * share + rng.normal(0, 0.06)
        found.append(
            make_candidate(
                number,
                {name: choices[index] for name, index in zip(names, picked, strict=True)},
                drop=float(np.round(rng.normal(0.004 * (1 - share), 0.002) * 448) / 448),
                sqnr=27.4 + 15 * share + rng.normal(0, 1.2),
                speedup=float(speedup),
                origin="seed:ladder-20%" if number < 8 else "tpe",
            )
        )
    found[20] = make_candidate(20, dict(found[20].plan.schemes), drop=0.41, sqnr=4.0, speedup=2.2)
    found[11] = Candidate(
        number=11,
        plan=found[11].plan,
        origin="tpe",
        failure=Failure("outputs hold NaN or infinity on batch 2"),
        seconds={"build": 0.6},
    )
    return found


def make_sensitivity(sites: Sequence[Site], seed: int = 5) -> SensitivityTable:
    rng = np.random.default_rng(seed)
    rows = []
    for scheme, level in ((Scheme.INT8, 1e-3), (Scheme.INT16, 2e-4), (Scheme.BF16, 1e-5)):
        for site in sites:
            weight, activation = level * rng.lognormal(0, 1.2, 2)
            both = weight + activation
            parts = [(Part.BOTH, both), (Part.WEIGHT, weight), (Part.ACTIVATION, activation)]
            for part, noise in parts if site.kind.is_weighted else parts[:1]:
                rows.append(make_row(site.name, scheme, part, float(noise)))
    return SensitivityTable(tuple(rows), method="each knob alone", samples=128)


def make_row(knob: str, scheme: Scheme, part: Part, noise: float) -> SensitivityRow:
    return SensitivityRow(
        knob=knob,
        scheme=scheme,
        part=part,
        sqnr_db=float(-10 * np.log10(noise)),
        cosine=1 - noise / 2,
        mse=noise * 3.1,
        l1=noise**0.5,
        kl=noise / 7,
        noise=noise,
        noise_stderr=noise / 9,
    )


def make_findings(count: int = 57) -> Findings:
    """Everything, with held-out values on the frontier."""
    sites = make_sites()
    candidates = make_candidates(sites, count)
    objectives = (Objective.OUTPUT_ERROR, Objective.LATENCY)
    allowed = [
        item for item in candidates if item.failure is None and item.value("accuracy_drop") <= 0.01
    ]
    members = {item.number for item in find_frontier(allowed, BASELINE, objectives).members}
    scored = [_with_heldout(item) if item.number in members else item for item in candidates]
    frontier = find_frontier(
        [item for item in scored if item.failure is None and item.value("accuracy_drop") <= 0.01],
        BASELINE,
        objectives,
    )
    return Findings(
        facts=FACTS,
        job_text="name: digits\nbudget:\n  trials: 57\n",
        environment=ENVIRONMENT,
        sites=sites,
        candidates=tuple(scored),
        frontier=frontier,
        sensitivity=make_sensitivity(sites),
    )


def _with_heldout(candidate: Candidate) -> Candidate:
    drop = candidate.value("accuracy_drop") + 0.001
    return Candidate(
        number=candidate.number,
        plan=candidate.plan,
        origin=candidate.origin,
        measurements={
            **candidate.measurements,
            "heldout_accuracy_drop": Measurement(drop, Kind.MEASURED, 0.003, SAMPLES),
        },
        seconds=candidate.seconds,
        executed=candidate.executed,
    )
