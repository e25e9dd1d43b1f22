"""The captured float model, as a graph to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch.fx import GraphModule


@dataclass(frozen=True, slots=True, eq=False)
class FloatGraph:
    """The captured float model.

    Attributes:
        module: Its graph; where no graph was captured, one node that calls the whole model.
        scopes: By node name, path and class of the module whose forward made the call.
        folded: By path of a convolution or linear layer, path of the batch norm that was folded
            into it.
        how: What captured it.
    """

    module: GraphModule
    scopes: Mapping[str, tuple[str, type]]
    folded: Mapping[str, str]
    how: str
