"""What `check` found of a model: calls, outputs, and how every op and weight is configured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from autoquant.core.findings.concerns import Concern, Severity
from autoquant.core.glance import Glance, Glanced
from autoquant.core.json_values import fields_json
from autoquant.core.precision import Scheme
from autoquant.core.qconfigs import QConfigFacts


class Verdict(Enum):
    """What a module's calls mean for its scale.

    `by_weight`: never called, and its weight is read by a function call. `scaleless`: called
    several times, and its int8 kernel keeps no scale of its own. `apart`: plans give each call a
    scale of its own, and need to.
    """

    NEVER = "never called"
    BY_WEIGHT = "read by its weight"
    ONCE = "called once"
    SCALELESS = "may stay: it keeps no scale"
    MAY_STAY = "may stay"
    APART = "needs a scale for each call"
    UNKNOWN = "unknown: its calls are no sites"
    UNSEEN = "called in a way that hooks do not see"
    UNREAD = "called, and no output depends on it"


@dataclass(frozen=True, slots=True)
class ModuleCalls:
    """How often one forward pass calls a module.

    Attributes:
        path: Of the module.
        kind: Its class.
        count: Calls in one forward pass.
        verdict: What that means.
        bits_lost: Of several calls: the most bits of resolution that one of them loses when all
            share a scale, log2(joint range / own range); None where not compared.
        distance: Of several calls: the largest Kolmogorov-Smirnov distance between the outputs
            of two of them, from 0 (alike) to 1; None where not compared.
    """

    path: str
    kind: str
    count: int
    verdict: Verdict
    bits_lost: float | None = None
    distance: float | None = None


@dataclass(frozen=True, slots=True)
class OutputFacts:
    """One leaf of what the model returns.

    Attributes:
        path: Where in the returned value (`[0]`, `['boxes']`); empty for a bare tensor.
        dtype: Of the tensor; the type's name where it is none.
        shape: Of the tensor at the example batch.
        compared: Name of the node that is compared in its place, its own where nothing replaces
            it; None where it cannot be compared.
        given: In which type the op that gives it hands it out, read back: `float32` is the kernel's
            accumulator, unrounded; integers are rounded to a grid. Empty where that is not known.
    """

    path: str
    dtype: str
    shape: tuple[int, ...]
    compared: str | None
    given: str = ""


@dataclass(frozen=True, slots=True)
class OpRow:
    """How one call of the graph is configured, and what it really runs.

    Attributes:
        name: The site's name, or the function or method where the call is no site.
        node: Name of the call in the traced graph.
        kind: Kind of the site, or what is called.
        configured: What was asked for: a scheme, or the types of a QConfig that is none.
        runs: What runs, read back from the converted graph (`int8 native`); empty where it runs
            nothing of its own (a pass-through, an op that is no site).
        inputs: Types of the tensors that arrive, read back.
        output: Type of the tensor that it gives, read back; empty: gone after conversion.
        axis: Channel axis of its activation's scale; None: one scale for the tensor.
        observer: Class of its activation's observer; empty: none.
        took_effect: Whether what runs is what was configured.
    """

    name: str
    node: str
    kind: str
    configured: str
    runs: str
    inputs: tuple[str, ...]
    output: str
    axis: int | None = None
    observer: str = ""
    took_effect: bool = True


@dataclass(frozen=True, slots=True)
class WeightRow:
    """How one weight is configured, and how it is really stored.

    Attributes:
        site: Name of the site that owns it.
        configured: Type that was asked for; `float32` where none.
        stored: Type in the converted graph, read back.
        axis: Channel axis of its scales; None: one scale, or none.
        scale_count: How many scales it has; 0 for floats.
        observer: Class of its observer; empty: none.
        took_effect: Whether `stored` is what was configured.
    """

    site: str
    configured: str
    stored: str
    axis: int | None
    scale_count: int
    observer: str
    took_effect: bool


@dataclass(frozen=True, slots=True, eq=False)
class ShownConfiguration:
    """What a plan or a mapping configures, and what a model that is built so really runs.

    Attributes:
        ops: A row for every call of the graph, in order.
        weights: A row for the weight of every site that owns one.
        qconfigs: By site, what torch was asked for; None where nothing.
        schemes: By site, the scheme that this is; None where it is none of autoquant's.
        floats: Sites that compute in fp32.
        unmatched: Entries of a mapping that reach nothing, in words.
    """

    ops: tuple[OpRow, ...]
    weights: tuple[WeightRow, ...]
    qconfigs: Mapping[str, QConfigFacts | None]
    schemes: Mapping[str, Scheme | None]
    floats: frozenset[str]
    unmatched: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class CheckReport(Glanced):
    """Everything that `check` found.

    Attributes:
        concerns: Those that need attention first.
        modules: In the order of the model.
        outputs: In the order in which the model returns them.
        ops: Every call of the graph, in execution order; empty where the engine refused.
        weights: Every weight of a site; empty where the engine refused.
        engine: Torch engine that the configuration was built for.
        configuration: What was configured: a plan's digest and schemes, or `QConfigMapping`.
        samples: Calibration samples that ranges come from.
        reach: How much of the model its sites hold, in words; empty where that is not known.
        classes: Whether the calibration data hold every class, in words; empty where their targets
            are no classes.
    """

    concerns: tuple[Concern, ...]
    modules: tuple[ModuleCalls, ...]
    outputs: tuple[OutputFacts, ...]
    ops: tuple[OpRow, ...]
    weights: tuple[WeightRow, ...]
    engine: str
    configuration: str
    samples: int
    reach: str = ""
    classes: str = ""

    @property
    def needs_attention(self) -> bool:
        """Whether somebody must act."""
        return any(item.severity is Severity.ATTENTION for item in self.concerns)

    @property
    def glance(self) -> Glance:
        """What runs, op by op, and the first mend."""
        sites = [row for row in self.ops if row.configured]
        rows = [(row.name, row.configured, row.runs, row.output) for row in sites]
        found = [item for item in self.concerns if item.severity is Severity.ATTENTION]
        title = f"{self.configuration} on {self.engine}: {len(found)} findings need attention"
        step = found[0].mend if found else ""
        return Glance(title, ("op", "configured", "runs", "gives"), rows, step)

    def to_json(self) -> dict[str, Any]:
        """Give the report as JSON values."""
        return {"needs_attention": self.needs_attention, **fields_json(self)}
