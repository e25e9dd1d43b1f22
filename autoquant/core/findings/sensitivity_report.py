"""A sensitivity table with what was found in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from autoquant.core.findings.least_sensitive import Tail
from autoquant.core.findings.weight_or_input import DualOp
from autoquant.core.measurement import Measurements
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Measure, SensitivityTable
from autoquant.core.space import SearchSpace


@dataclass(frozen=True, slots=True, eq=False)
class SensitivityReport:
    """What each op does to the outputs and to the user's metric, and what stands out.

    Attributes:
        table: All rows: output error by knob, scheme and part.
        space: The knobs.
        metric: By knob and scheme, of the noisiest rows only: `accuracy` and `accuracy_drop` with
            this one alone, the drop paired with fp32 on the same samples.
        indices: Which evaluation samples were looked at; None: the first ones.
        tail: The least sensitive rows, measured exactly; None: there are too few knobs.
        dual: Ops that are sensitive in weights and activations.
        kinds: By site, the kind of its op.
        by: The measure that ranks.
    """

    table: SensitivityTable
    space: SearchSpace
    metric: Mapping[tuple[str, Scheme], Measurements]
    indices: tuple[int, ...] | None
    tail: Tail | None
    dual: tuple[DualOp, ...]
    kinds: Mapping[str, str] = field(default_factory=dict)
    by: Measure = Measure.SQNR
