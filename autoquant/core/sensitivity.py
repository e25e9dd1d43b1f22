"""Sensitivity: how much the output errs when one knob alone takes one scheme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from autoquant.core.precision import Scheme


class Part(Enum):
    """What of a knob was quantized."""

    BOTH = "both"
    WEIGHT = "weight"
    ACTIVATION = "activation"


@dataclass(frozen=True, slots=True)
class SensitivityRow:
    """Output error against float with one knob, one scheme and one part quantized.

    Attributes:
        knob: Name of the knob.
        scheme: The scheme it took; every other site stayed in fp32.
        part: Which of its tensors were quantized.
        sqnr_db: Signal to quantization noise of the outputs, decibels; higher is better.
        cosine: Mean over samples of the cosine similarity of the outputs.
        mse: Mean squared error of the outputs.
        l1: Mean absolute error of the outputs.
        kl: Mean over samples of KL(softmax(float) || softmax(quantized)), nats.
        noise: Noise-to-signal power ratio: the additive loss that ranks; lower is better.
        noise_stderr: Its standard error over samples.
    """

    knob: str
    scheme: Scheme
    part: Part
    sqnr_db: float
    cosine: float
    mse: float
    l1: float
    kl: float
    noise: float
    noise_stderr: float


@dataclass(frozen=True)
class SensitivityTable:
    """Rows of all knobs and schemes.

    Attributes:
        rows: In the order in which they were measured.
        method: How they were obtained.
        samples: How many samples stand behind each row.
    """

    rows: tuple[SensitivityRow, ...]
    method: str
    samples: int

    def losses(self) -> Mapping[tuple[str, Scheme], float]:
        """Noise-to-signal ratio by knob and scheme, weights and activations together."""
        return {(row.knob, row.scheme): row.noise for row in self.rows if row.part is Part.BOTH}

    def ranking(self, scheme: Scheme) -> Sequence[SensitivityRow]:
        """Rows of one scheme, most sensitive first."""
        rows = [row for row in self.rows if row.part is Part.BOTH and row.scheme is scheme]
        return sorted(rows, key=lambda row: -row.noise)
