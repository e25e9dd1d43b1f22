"""What a sensitivity table is asked about: its rows, and its samples in chunks that fit memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch.fx import GraphModule
from torch.fx.passes.shape_prop import TensorMetadata

from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Part, RowKey
from autoquant.core.sites import Site
from autoquant.core.space import Knob, SearchSpace
from autoquant.model.data.batches import Batch, take_samples
from autoquant.model.data.outputs import OutputWeights
from autoquant.model.graph.captured import Capture
from autoquant.model.numerics.rounding import SchemeRounding

_CHUNK = 32
_CHUNK_BYTES = 1 << 22
"""A chunk has more samples than 32 where the network's tensors for them fit a cache: of a small
network most of the time goes to calls, not to numbers."""
_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What a sensitivity table is asked about.

    Attributes:
        captured: The captured model.
        space: Knobs and their schemes.
        rounding: Rounds tensors as schemes do.
        batches: Evaluation data.
        samples: How many of them to use, from the first on.
        outputs: Which outputs count.
    """

    captured: Capture
    space: SearchSpace
    rounding: SchemeRounding
    batches: Sequence[Batch]
    samples: int
    outputs: OutputWeights = field(default_factory=OutputWeights)

    def trials(self) -> tuple[Trial, ...]:
        """All rows."""
        return list_trials(self.space, self.captured.by_name)

    def chunks(self, memory_bytes: int) -> tuple[Batch, ...]:
        """The samples in chunks; all tensors of the network for one chunk fit in memory."""
        one = max(1, _sample_bytes(self.captured.graph))
        size = min(max(_CHUNK, _CHUNK_BYTES // one), max(1, memory_bytes // one))
        return tuple(_cut(take_samples(self.batches, self.samples), size))


@dataclass(frozen=True, slots=True)
class Trial:
    """One row to measure."""

    knob: Knob
    scheme: Scheme
    part: Part

    @property
    def key(self) -> RowKey:
        """What the row is about."""
        return self.knob.name, self.scheme, self.part


def list_trials(space: SearchSpace, sites: Mapping[str, Site]) -> tuple[Trial, ...]:
    """Every knob and scheme but fp32; weights and activations apart where there are weights."""
    trials = []
    for knob in space.free:
        weighted = any(sites[name].kind.is_weighted for name in knob.sites)
        parts = (Part.BOTH, Part.WEIGHT, Part.ACTIVATION) if weighted else (Part.BOTH,)
        for scheme in knob.schemes:
            if scheme is not Scheme.FP32:
                trials += [Trial(knob, scheme, part) for part in parts]
    return tuple(trials)


def list_changes(space: SearchSpace, plan: Plan) -> tuple[Trial, ...]:
    """Every change of one knob from its scheme in `plan` to another that it allows."""
    chosen = space.choices(plan)
    return tuple(
        Trial(knob, scheme, Part.BOTH)
        for knob in space.free
        for scheme in knob.schemes
        if scheme is not chosen[knob.name]
    )


def by_knob(trials: Sequence[Trial]) -> Mapping[Knob, Sequence[Trial]]:
    """The trials of each knob, in order."""
    found: dict[Knob, list[Trial]] = {}
    for trial in trials:
        found.setdefault(trial.knob, []).append(trial)
    return found


def _cut(batches: Sequence[Batch], size: int) -> Iterator[Batch]:
    for batch in batches:
        yield from Batch(batch.inputs, axes=batch.axes).parts(size)


def _sample_bytes(graph: GraphModule) -> int:
    """Bytes of all tensors of the network for one sample, as shape propagation saw them."""
    total = 0
    for node in graph.graph.nodes:
        meta = node.meta.get("tensor_meta")
        if node.op != "get_attr" and isinstance(meta, TensorMetadata):
            total += math.prod(meta.shape[1:]) * _FLOAT_BYTES
    return total
