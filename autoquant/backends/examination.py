"""What was configured beside what a converted model really runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from autoquant.core.findings.structure import OpRow, WeightRow
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.qconfigs import QConfigFacts
from autoquant.core.readback import ReadBack
from autoquant.core.sites import Site


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

    @classmethod
    def of(cls, weight: Tensor) -> WeightType:
        """That of a tensor."""
        dtype = str(weight.dtype).removeprefix("torch.")
        if not weight.is_quantized:
            return cls(dtype)
        if str(weight.qscheme()).startswith("torch.per_channel"):
            return cls(dtype, weight.q_per_channel_axis(), weight.q_per_channel_scales().numel())
        return cls(dtype, None, 1)


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
        qconfigs: By call of the float graph, what torch was asked for.
        schemes: By site, the scheme that this is; None where it is none of autoquant's.
        executed: By site, what really runs, as in `Executable`.
        honoured: By site, whether that is the scheme.
        types: By call of the float graph, the types of its tensors.
    """

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


_STORED = {"qint8": "int8", "quint8": "int8", "float16": "fp16", "bfloat16": "bf16"}
"""What a format is called where its values are rounded and stay floats."""


def site_row(
    site: Site,
    node: str,
    scheme: Scheme | None,
    facts: QConfigFacts | None,
    runs: str,
    types: OpTypes | None,
    *,
    took_effect: bool,
) -> OpRow:
    """The row of one call of a site."""
    observer = facts.activation if facts is not None and facts.activation.is_quantizing else None
    return OpRow(
        name=site.name,
        node=node,
        kind=site.kind.value,
        configured=scheme.value if scheme is not None else str(facts),
        runs=runs,
        inputs=types.inputs if types else (),
        output=types.output if types else "",
        axis=observer.axis if observer else None,
        observer=observer.name if observer else "",
        took_effect=took_effect,
    )


def other_row(name: str, node: str, owner: str | None, types: OpTypes | None) -> OpRow:
    """A call without a scheme of its own: it takes what arrives, or the scheme of a site."""
    return OpRow(
        name=name,
        node=node,
        kind="",
        configured=f"as {owner}" if owner else "",
        runs="",
        inputs=types.inputs if types else (),
        output=types.output if types else "",
    )


def weight_row(
    site: Site, scheme: Scheme | None, facts: QConfigFacts | None, types: OpTypes | None
) -> WeightRow | None:
    """The row of a site's weight; None where it owns none that was seen."""
    if not site.kind.is_weighted or types is None or types.weight is None:
        return None
    stored = types.weight
    observer = facts.weight if facts is not None and facts.weight.is_quantizing else None
    configured = "bfloat16" if scheme is Scheme.BF16 else observer.dtype if observer else "float32"
    is_emulated = stored.dtype.endswith("in float32")
    return WeightRow(
        site=site.name,
        configured=configured,
        stored=stored.dtype,
        axis=observer.axis if is_emulated and observer else stored.axis,
        scale_count=stored.scale_count,
        observer=observer.name if observer else "",
        took_effect=stored.dtype.partition(" ")[0] in (configured, _STORED.get(configured)),
    )
