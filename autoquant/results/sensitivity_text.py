"""A sensitivity report in words and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from autoquant.core.findings.sensitivity_report import NEAR_ZERO, DualOp, SensitivityReport, Tail
from autoquant.core.json_values import fields_json, json_of
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Part, SensitivityRow

_SMALLEST_SHARE = 1e-4
_NUMBERS = ("sqnr_db", "cosine", "mse", "l1", "kl", "noise", "noise_stderr")


def sensitivity_sentences(report: SensitivityReport) -> Iterator[str]:
    """What stands out, and what to do about it, one finding each."""
    if report.tail is not None and not report.tail.is_near_zero:
        yield _tail_sentence(report.tail)
    for op in report.dual:
        yield _dual_sentence(op)


def _tail_sentence(tail: Tail) -> str:
    return (
        f"warning: even the least sensitive ops ({', '.join(tail.knobs)}) in {tail.scheme.value} "
        f"change the outputs by {tail.noise:.1%} of their power; below {NEAR_ZERO:.0%} is sane. "
        "Something behind them makes small changes large, most likely post-processing that is "
        "left in the model (top-k, argmax, a threshold, non-maximum suppression): give autoquant "
        "the model without it, and leave it to the metric. Until then the ranking says little."
    )


def _dual_sentence(op: DualOp) -> str:
    start = (
        f"{op.knob} is sensitive in both its weights ({_share(op.weight_noise)} of the outputs' "
        f"power) and its activations ({_share(op.activation_noise)}) in {op.scheme.value}: "
    )
    if op.remedy is not None:
        why = "" if op.remedy is Scheme.INT16 else "; int16 would keep its weights in 8 bits"
        return f"{start}raise it to {op.remedy.value}, which leaves {_share(op.remedy_noise)}{why}."
    return (
        f"{start}the best scheme of this space leaves {_share(op.remedy_noise)}. Add fp16 or fp32 "
        "to space.schemes for this op, equalise its channels (move a factor from its producer's "
        "weights into its own), or train it with quantization."
    )


def _share(noise: float) -> str:
    return f"{noise:.2%}" if noise >= _SMALLEST_SHARE else f"less than {_SMALLEST_SHARE:.2%}"


def sensitivity_json(report: SensitivityReport) -> dict[str, Any]:
    """Give the report as JSON values."""
    tail = report.tail
    return {
        "samples": report.table.samples,
        "indices": json_of(report.indices),
        "method": report.table.method,
        "by": report.by.value,
        "rows": [_row_json(row, report) for row in report.table.rows],
        "tail": tail and {**fields_json(tail), "is_near_zero": tail.is_near_zero},
        "dual": json_of(report.dual),
        "warnings": list(sensitivity_sentences(report)),
    }


def _row_json(row: SensitivityRow, report: SensitivityReport) -> dict[str, Any]:
    found = report.metric.get((row.knob, row.scheme), {}) if row.part is Part.BOTH else {}
    drop = found.get("accuracy_drop")
    return {
        "knob": row.knob,
        "sites": list(report.space.by_name[row.knob].sites),
        "type": report.kinds.get(row.knob, ""),
        "dtype": {"activation": row.scheme.activation.value, "weight": row.scheme.weight.value},
        "scheme": row.scheme.value,
        "part": row.part.value,
        **{name: getattr(row, name) for name in _NUMBERS},
        "method": row.method.value,
        "metric_drop": json_of(drop),
    }
