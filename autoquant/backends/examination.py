"""What was configured beside what a converted model really runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn

from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.qconfigs import QConfigFacts
from autoquant.core.readback import ReadBack


@dataclass(frozen=True, slots=True)
class WeightType:
    """How a weight is stored.

    Attributes:
        dtype: `qint8`; `int16 in float32` where its values were rounded and stay floats.
        axis: Channel axis of its scales; None: one scale, or a float.
        scale_count: How many scales; 0 for floats.
    """

    dtype: str
    axis: int | None = None
    scale_count: int = 0


@dataclass(frozen=True, slots=True)
class OpTypes:
    """The types of one op's tensors.

    Attributes:
        inputs: Of what arrives; `int16 in float32` for floats on an integer grid.
        output: Of what it gives.
        weight: None where the op owns none.
    """

    inputs: tuple[str, ...]
    output: str
    weight: WeightType | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Examination:
    """What was configured, and what a converted model really runs.

    Attributes:
        module: The converted model.
        qconfigs: By call of the float graph, what torch was asked for.
        schemes: By site, the scheme that this is; None where it is none of autoquant's.
        executed: By site, what really runs, as in `Executable`.
        honoured: By site, whether that is the scheme.
        types: By call of the float graph, the types of its tensors.
    """

    module: nn.Module
    qconfigs: Mapping[str, QConfigFacts | None]
    schemes: Mapping[str, Scheme | None]
    executed: ReadBack
    honoured: Mapping[str, bool]
    types: Mapping[str, OpTypes]


@runtime_checkable
class Examiner(Protocol):
    """A backend that can say what it would run, op by op."""

    def examine(self, plan: Plan) -> Examination:
        """Build a plan and say what runs, whether or not it is what was planned.

        Raises:
            BackendError: The engine refuses an op.
        """
