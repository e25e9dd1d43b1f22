"""What to do about each cause, with the command or the job's keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from autoquant.core.findings.diagnosis import Cause
from autoquant.debugging.diagnosis.phrases import few
from autoquant.debugging.diagnosis.suspects import FLAT, Suspect

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
