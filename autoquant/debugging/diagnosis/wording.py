"""Proven suspects and coarse ops as findings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from autoquant.core.findings.diagnosis import Cause, Finding
from autoquant.core.glance import few
from autoquant.debugging.diagnosis.findings import Coarse, Proof
from autoquant.debugging.diagnosis.suspects import FLAT, Suspect, own_ratio
from autoquant.model.data.output_noise import to_decibels


def span(low: float, high: float) -> str:
    """A range as it is read."""
    return f"[{low:.4g}, {high:.4g}]"


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


def _clipped(suspect: Suspect) -> str:
    first = suspect.audits[0]
    return (
        f"{len(suspect.audits)} tensors are clipped, first {first.tensor} at {first.op}: its range "
        f"is {span(first.low, first.high)}, the data reach "
        f"{span(first.clipping.low, first.clipping.high)} on about "
        f"{first.clipping.effective_samples:.0f} of {first.clipping.samples} samples, where "
        f"clipping loses {first.clip_ratio_there:.3g} times what rounding does"
    )


def _outlier_sample(suspect: Suspect) -> str:
    return f"sample {few(suspect.samples)} is out of range: {_clipped(suspect)}"


def _saturated(suspect: Suspect) -> str:
    item = suspect.audits[0]
    return (
        f"{few(item.readers)} reads {item.tensor} on a range of {span(item.low, item.high)}, of "
        f"which beyond +-{FLAT:g} it is flat: its step of {item.step:.3g} leaves "
        f"{2 * FLAT / item.step:.0f} levels where the function changes"
    )


def _outlier_calibration(suspect: Suspect) -> str:
    item = suspect.audits[0]
    return (
        f"calibration sample {few(suspect.samples)} sets the ranges of {len(suspect.audits)} "
        f"tensors: that of {item.tensor} at {item.op} is {item.over_samples:.0f} times what the "
        "median sample needs"
    )


def _varying(suspect: Suspect) -> str:
    item = max(suspect.audits, key=lambda item: own_ratio(item, item.over_samples))
    return (
        f"the ranges of {len(suspect.audits)} tensors differ from sample to sample, most at "
        f"{item.tensor} ({item.op}): one static scale is {item.over_samples:.0f} times what the "
        f"median sample needs, and {len(item.wide_samples())} of {len(item.sample_widths)} "
        "calibration samples need more than a quarter of it"
    )


def _channels(suspect: Suspect) -> str:
    item = max(suspect.audits, key=lambda item: own_ratio(item, item.over_channels))
    return (
        f"channels {few(item.wide_channels())} of {len(item.channel_widths)} set the range of "
        f"{item.tensor} ({item.op}): it is {item.over_channels:.0f} times what the median channel "
        "needs, and one scale serves all channels of an activation"
    )


def _weights(suspect: Suspect) -> str:
    return (
        f"the weights of {few(suspect.weights)} have one scale for all channels, and the largest "
        f"channel is {suspect.ratio:.0f} times the median one"
    )


EVIDENCE: Mapping[Cause, Callable[[Suspect], str]] = {
    Cause.OUTLIER_SAMPLE: _outlier_sample,
    Cause.OUTLIER_CALIBRATION: _outlier_calibration,
    Cause.CLIPPED_RANGE: _clipped,
    Cause.VARYING_RANGE: _varying,
    Cause.SATURATED: _saturated,
    Cause.OUTLIER_CHANNELS: _channels,
    Cause.PER_TENSOR_WEIGHT: _weights,
}
"""A sentence for each cause."""


Dynamic = frozenset[str]
"""Sites that the target runs in int8_dynamic."""


def _per_channel(suspect: Suspect, dynamic: Dynamic) -> str:  # noqa: ARG001
    return (
        "these weights need a scale for each channel, for which this engine has no kernel: raise "
        f"{few(suspect.weights)}, or even its channels out in float"
    )


def _recalibrate(suspect: Suspect, dynamic: Dynamic) -> str:  # noqa: ARG001
    first = suspect.audits[0]
    if first.seen.low <= first.clipping.low and first.seen.high >= first.clipping.high:
        return "calibration saw these values and the observer cut them off: " + (
            "--set calibration.observer=minmax"
        )
    return (
        "calibrate on data like those that the model meets (data.calibration; more of them: "
        "calibration.samples), with the same preprocessing"
    )


def _look_at_sample(suspect: Suspect, dynamic: Dynamic) -> str:  # noqa: ARG001
    return (
        f"look at sample {few(suspect.samples)}: if such inputs are real, put some into "
        "data.calibration; if not, clean the data"
    )


def _drop_calibration_sample(suspect: Suspect, dynamic: Dynamic) -> str:  # noqa: ARG001
    return (
        f"take sample {few(suspect.samples)} out of data.calibration; if such samples are real, no "
        "int8 range fits them and the others: more bits (int16, bf16)"
    )


def _go_dynamic(suspect: Suspect, dynamic: Dynamic) -> str:
    names = suspect.touching
    able = [name for name in names if name in dynamic]
    advice = f"int8_dynamic for {few(able)}" if able else ""
    others = few([name for name in names if name not in dynamic])
    wider = others and f"more bits (int16, bf16) for {others}, which no kernel runs dynamically"
    return "a static scale cannot work: " + ", ".join(filter(None, (advice, wider)))


def go_wider(names: Sequence[str], dynamic: Dynamic, batch_db: float, single_db: float) -> str:
    """The step of a varying range that int8_dynamic does not mend.

    Args:
        names: Ops that write or read it.
        dynamic: Sites that the target runs in int8_dynamic.
        batch_db: SQNR of the outputs with these in int8_dynamic, samples together in a batch.
        single_db: With each sample alone.
    """
    return (
        f"a static scale cannot work: more bits (int16, bf16) for {few(names)}; int8_dynamic for "
        f"{few([name for name in names if name in dynamic])} gives {batch_db:.1f} dB, since its "
        f"scale is that of a whole batch, and {single_db:.1f} dB where samples come one by one"
    )


def _fix_range(suspect: Suspect, dynamic: Dynamic) -> str:  # noqa: ARG001
    ranges = [
        f"{item.site or f'inputs.{item.tensor}'}: "
        f"[{max(item.low, -FLAT):g}, {min(item.high, FLAT):g}]"
        for item in suspect.audits
    ]
    return (
        "cut the input's range to where the function changes: "
        f"--set 'calibration.fixed_ranges={{{', '.join(ranges)}}}'"
    )


def _raise(suspect: Suspect, dynamic: Dynamic) -> str:  # noqa: ARG001
    return f"raise every op that writes or reads these tensors: {few(suspect.touching)}"


STEPS: Mapping[Cause, Callable[[Suspect, Dynamic], str]] = {
    Cause.OUTLIER_SAMPLE: _look_at_sample,
    Cause.OUTLIER_CALIBRATION: _drop_calibration_sample,
    Cause.CLIPPED_RANGE: _recalibrate,
    Cause.VARYING_RANGE: _go_dynamic,
    Cause.SATURATED: _fix_range,
    Cause.OUTLIER_CHANNELS: _raise,
    Cause.PER_TENSOR_WEIGHT: _per_channel,
}
"""The step of each cause."""
