"""Sensitivity: how much the output errs when one knob alone takes one scheme."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from autoquant.core.glance import Glance, Glanced
from autoquant.core.precision import Scheme
from autoquant.core.space import SearchSpace
from autoquant.errors import PlanError


class Part(Enum):
    """What of a knob was quantized."""

    BOTH = "both"
    WEIGHT = "weight"
    ACTIVATION = "activation"


class Method(Enum):
    """How a row was obtained.

    `exact`: the knob was rounded and what lies downstream of it ran again. `gradient`: the output
    error to first order in the rounding errors. `weights_only`: from the weights, without data.
    `engine`: the knob's plan was built and run by the engine.
    """

    EXACT = "exact"
    GRADIENT = "gradient"
    WEIGHTS_ONLY = "weights_only"
    ENGINE = "engine"


class Procedure(Enum):
    """How a whole table is taken.

    `auto`: by gradient, and then exactly where most of the noise is. `gradient`: one forward and
    one backward pass. `exact`: every row measured. `weights_only`: without data. `engine`: every
    row built and run by the engine, which is the only way where there is no graph.
    """

    AUTO = "auto"
    GRADIENT = "gradient"
    EXACT = "exact"
    WEIGHTS_ONLY = "weights_only"
    ENGINE = "engine"


class Measure(Enum):
    """By what knobs are ranked, most sensitive first.

    `sqnr`: noise-to-signal power of the outputs, which every method gives. `cosine`: one minus it.
    `mse`, `l1`, `kl`: as the rows have them. `metric`: the drop of the user's metric.
    """

    SQNR = "sqnr"
    COSINE = "cosine"
    MSE = "mse"
    L1 = "l1"
    KL = "kl"
    METRIC = "metric"

    @classmethod
    def named(cls, text: str) -> Measure:
        """Give the member of a name."""
        known = {item.value: item for item in cls}
        if text not in known:
            raise PlanError(f"no measure is called {text!r}", hint=f"choose of {', '.join(known)}")
        return known[text]


RowKey = tuple[str, Scheme, Part]


@dataclass(frozen=True, slots=True)
class SensitivityRow:
    """Output error against float with one knob, one scheme and one part quantized.

    Attributes:
        knob: Name of the knob.
        scheme: The scheme it took; every other site stayed as the table says.
        part: Which of its tensors were quantized.
        sqnr_db: Signal to quantization noise of the outputs, decibels; higher is better.
        cosine: Mean over samples of the cosine similarity of the outputs; None where the method
            does not give it, as for the next three.
        mse: Mean squared error of the outputs.
        l1: Mean absolute error of the outputs.
        kl: Mean over samples of KL(softmax(float) || softmax(quantized)), nats.
        noise: Noise-to-signal power ratio: the additive loss that ranks; lower is better.
        noise_stderr: Its standard error over samples and random probes.
        method: How the row was obtained.
        metric_drop: How far the user's metric falls, in its unit; None where not measured.
    """

    knob: str
    scheme: Scheme
    part: Part
    sqnr_db: float
    cosine: float | None
    mse: float | None
    l1: float | None
    kl: float | None
    noise: float
    noise_stderr: float
    method: Method = Method.EXACT
    metric_drop: float | None = None

    def loss(self, by: Measure) -> float | None:
        """How sensitive it is by a measure, lower is better; None where the row does not say."""
        if by is Measure.COSINE:
            return None if self.cosine is None else 1.0 - self.cosine
        found = {
            Measure.SQNR: self.noise,
            Measure.MSE: self.mse,
            Measure.L1: self.l1,
            Measure.KL: self.kl,
            Measure.METRIC: self.metric_drop,
        }
        return found[by]

    @property
    def key(self) -> RowKey:
        """What the row is about."""
        return self.knob, self.scheme, self.part


@dataclass(frozen=True, repr=False)
class SensitivityTable(Glanced):
    """Rows of all knobs and schemes.

    Attributes:
        rows: Knobs in graph order, each with its schemes and parts.
        method: How they were obtained, in words.
        samples: How many samples stand behind each row.
        digest: Hash of the model, the data and the settings that it stands for; empty: unknown.
        around: Digest of the plan that each row changes at one knob; None: of the float model.
        around_noise: Noise of that plan itself; 0 for the float model.
        space: The knobs that the rows are of; None where a file did not say.
    """

    rows: tuple[SensitivityRow, ...]
    method: str
    samples: int
    digest: str = ""
    around: str | None = None
    around_noise: float = 0.0
    space: SearchSpace | None = field(default=None, compare=False, repr=False)

    @property
    def by_key(self) -> Mapping[RowKey, SensitivityRow]:
        """Rows by knob, scheme and part."""
        return {row.key: row for row in self.rows}

    def losses(self, by: Measure = Measure.SQNR) -> Mapping[tuple[str, Scheme], float]:
        """Loss by knob and scheme, weights and activations together: the noise-to-signal ratio.

        Args:
            by: Another measure; rows that do not say it are left out.
        """
        rows = ((row, row.loss(by)) for row in self.rows if row.part is Part.BOTH)
        return {(row.knob, row.scheme): loss for row, loss in rows if loss is not None}

    @property
    def glance(self) -> Glance:
        """The most sensitive knobs in a few lines."""
        rows = sorted((row for row in self.rows if row.part is Part.BOTH), key=lambda r: -r.noise)
        cells = [(row.knob, row.scheme.value, f"{row.sqnr_db:.1f}") for row in rows]
        title = f"sensitivity of {len({row.knob for row in rows})} knobs ({self.method})"
        step = "table.ranking(aq.Scheme.INT8), aq.raise_most_sensitive(table, ratio=0.2)"
        return Glance(title, ("knob", "scheme", "SQNR, dB"), cells, step)

    def ranking(self, scheme: Scheme, by: Measure = Measure.SQNR) -> Sequence[SensitivityRow]:
        """Rows of one scheme, most sensitive first; last those that do not say the measure."""
        rows = [row for row in self.rows if row.part is Part.BOTH and row.scheme is scheme]
        losses = self.losses(by)
        return sorted(rows, key=lambda row: -losses.get((row.knob, scheme), -math.inf))
