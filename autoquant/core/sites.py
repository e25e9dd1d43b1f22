"""Sites: the places of a model where a precision can be chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from autoquant.errors import PlanError


class OpKind(Enum):
    """What a site computes, as rules of search spaces and support tables name it."""

    CONV1D = "conv1d"
    CONV2D = "conv2d"
    CONV3D = "conv3d"
    CONV_TRANSPOSE1D = "conv_transpose1d"
    CONV_TRANSPOSE2D = "conv_transpose2d"
    CONV_TRANSPOSE3D = "conv_transpose3d"
    LINEAR = "linear"
    EMBEDDING = "embedding"
    EMBEDDING_BAG = "embedding_bag"
    LSTM = "lstm"
    GRU = "gru"
    ADD = "add"
    MUL = "mul"
    MATMUL = "matmul"
    ATTENTION = "attention"
    CAT = "cat"
    POOL = "pool"
    ACTIVATION = "activation"
    NORM = "norm"
    CUSTOM = "custom"

    @property
    def is_weighted(self) -> bool:
        """Whether the op owns a weight worth storing in fewer bits."""
        return self not in _UNWEIGHTED


_UNWEIGHTED = frozenset(
    {
        OpKind.ADD,
        OpKind.MUL,
        OpKind.MATMUL,
        OpKind.ATTENTION,
        OpKind.CAT,
        OpKind.POOL,
        OpKind.ACTIVATION,
        OpKind.NORM,
    }
)

TRANSPOSED = frozenset({OpKind.CONV_TRANSPOSE1D, OpKind.CONV_TRANSPOSE2D, OpKind.CONV_TRANSPOSE3D})
"""Their weights are (inputs, outputs); torch's int8 kernels have one scale for all of it."""
RECURRENT = frozenset({OpKind.LSTM, OpKind.GRU})
LOOKUPS = frozenset({OpKind.EMBEDDING, OpKind.EMBEDDING_BAG})

FOLLOWING_KINDS = frozenset({OpKind.ACTIVATION, OpKind.NORM, OpKind.POOL, OpKind.CAT})
"""Kinds that agree with the producers of their inputs.

Pools and concatenations share their input's scale. Activations and norms would not have to, but
torch's lowering runs them in int8 whenever their neighbours are, whatever their own qconfig says,
so a plan that keeps them apart could not be honoured.
"""


@dataclass(frozen=True, slots=True)
class Site:
    """One place where a precision can be chosen, addressed as a QConfigMapping addresses it.

    Attributes:
        name: The module's path, or `path:function:index` for the index-th call of a function in
            the module at that path (an empty path is the root).
        kind: What the site computes.
        module: Path of the module, or of the module whose forward calls the function.
        function: Qualified name of the function (`_operator.add`), None for a module.
        index: Which call of the function within the module, in graph order; None for a module.
        node: Name of the site's root node in the traced graph.
        fused: Names of the ops that run as one with it (`Conv2d`, `ReLU`; a batch norm is folded).
        input_shapes: Shapes of the tensors it reads, at the example batch.
        output_shape: Shape of the tensor it writes, at the example batch.
        macs: Multiply-accumulates for one sample, over all calls of the module.
        parameter_count: Elements of weight and bias.
        weight_count: Elements of the weight alone, which the scheme's weight precision stores.
        output_range: Bounds that the op's definition puts on its output (a sigmoid's 0 and 1).
        follows: The site that feeds it, for kinds that always take their producer's scheme (pools,
            concatenations, activations, norms); None where it decides for itself.
        shares: The earlier site whose stored weight it reads too (a head tied to an embedding);
            None where its weight is its own.
    """

    name: str
    kind: OpKind
    module: str
    function: str | None
    index: int | None
    node: str
    fused: tuple[str, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    output_shape: tuple[int, ...]
    macs: int
    parameter_count: int
    weight_count: int
    output_range: tuple[float, float] | None = None
    follows: str | None = None
    shares: str | None = None

    @property
    def block(self) -> str:
        """Path of the module that holds the site: its block."""
        if self.function is not None:
            return self.module
        return self.module.rpartition(".")[0]

    @property
    def weight_channels(self) -> int:
        """Output channels of the weight, or rows of a table: each has a scale of its own."""
        if self.kind in LOOKUPS:
            width = self.output_shape[-1] if self.output_shape else 1
            return self.weight_count // max(width, 1)
        if self.kind is OpKind.LINEAR:
            return self.output_shape[-1] if self.output_shape else 1
        return self.output_shape[1] if len(self.output_shape) > 1 else 1

    @property
    def weight_row(self) -> int:
        """Weights of one output channel: the input features of a linear layer, a table's width."""
        return self.weight_count // max(self.weight_channels, 1)

    @property
    def output_elements(self) -> int:
        """Elements written at the example batch."""
        return math.prod(self.output_shape)


def check_sites(
    name: str,
    named: Mapping[str, OpKind | None],
    sites: Sequence[Site],
    hint: str = "give a plan of this very model; --dry-run lists its sites",
) -> None:
    """Refuse what was made for another model.

    Args:
        name: What is held against the model, for the error.
        named: Kind of each site that it names; None: any.
        sites: Of the model.
        hint: How to mend it.
    """
    known = {site.name: site.kind for site in sites}
    other = {item for item in known.keys() & named.keys() if named[item] not in (None, known[item])}
    for names, what in (
        (known.keys() - named.keys(), "lacks the site"),
        ((named.keys() - known.keys()) | other, "names the site"),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            missing = ", which this model does not have" if what.startswith("names") else ""
            raise PlanError(f"{name} {what} {min(names)!r}{more}{missing}", hint=hint)
