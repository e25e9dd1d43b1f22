"""Ops that are sensitive in both their weights and their activations, and what would mend them."""

from __future__ import annotations

from dataclasses import dataclass

from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Part, SensitivityTable

SENSITIVE_NOISE = 1e-3
"""A part that alone adds more than this share of the outputs' power (30 dB) is sensitive."""


@dataclass(frozen=True, slots=True)
class DualOp:
    """A knob whose weights and activations are each sensitive under one scheme.

    Raising only one of them (int16 keeps weights in int8, int16_weight keeps activations in int8)
    leaves the noise of the other.

    Attributes:
        knob: Its name.
        scheme: Under which it was found.
        weight_noise: Noise-to-signal ratio with its weights alone quantized.
        activation_noise: With its activations alone quantized.
        remedy: The first more precise scheme of the table that is not sensitive; None: there is
            none.
        remedy_noise: Noise under the remedy, or under the best scheme where there is none.
    """

    knob: str
    scheme: Scheme
    weight_noise: float
    activation_noise: float
    remedy: Scheme | None
    remedy_noise: float


def find_dual_ops(table: SensitivityTable, scheme: Scheme) -> tuple[DualOp, ...]:
    """Find the knobs that are sensitive in both parts under a scheme, the worst first."""
    rows = table.by_key
    found = []
    for row in table.ranking(scheme):
        weight = rows.get((row.knob, scheme, Part.WEIGHT))
        activation = rows.get((row.knob, scheme, Part.ACTIVATION))
        if weight is None or activation is None:
            continue
        if min(weight.noise, activation.noise) > SENSITIVE_NOISE:
            remedy, left = _remedy(table, row.knob, scheme)
            found.append(DualOp(row.knob, scheme, weight.noise, activation.noise, remedy, left))
    return tuple(found)


def _remedy(table: SensitivityTable, knob: str, scheme: Scheme) -> tuple[Scheme | None, float]:
    """The cheapest other scheme that is not sensitive, and the noise that it leaves."""
    noise = {other: value for (name, other), value in table.losses().items() if name == knob}
    for other in Scheme:
        if other is not scheme and other in noise and noise[other] <= SENSITIVE_NOISE:
            return other, noise[other]
    return None, min(noise.values())
