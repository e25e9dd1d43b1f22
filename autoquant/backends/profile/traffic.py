"""Tensors between sites: who writes them, who reads them, and how large they are."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from torch.fx import Node

from autoquant.model.graph.captured import Capture
from autoquant.model.graph.site_nodes import find_owners


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """What crosses boundaries, at the example batch.

    Attributes:
        between: By (writing site, reading site), elements of each tensor.
        read_from_outside: By site, elements of each tensor that no site writes.
        written_outside: By site, elements of each tensor that no site reads.
        unlisted: Names of the ops of no site, in graph order.
    """

    between: dict[tuple[str, str], list[int]]
    read_from_outside: dict[str, list[int]]
    written_outside: dict[str, list[int]]
    unlisted: tuple[str, ...]


def find_traffic(captured: Capture) -> Traffic:
    """Walk the captured graph's tensors from writer to reader.

    An op that hands its input's format on (flatten, reshape) belongs to the site that feeds it.
    Parameters are no traffic between ops.
    """
    owner = find_owners(captured)
    between: dict[tuple[str, str], list[int]] = defaultdict(list)
    read: dict[str, list[int]] = defaultdict(list)
    written: dict[str, list[int]] = defaultdict(list)
    unlisted = []
    for node in captured.graph.graph.nodes:
        reader = owner.get(node.name)
        if reader is None and node.op.startswith("call") and _carries(node, captured):
            unlisted.append(node.name)
        for source in node.all_input_nodes:
            if not _carries(source, captured):
                continue
            writer = owner.get(source.name)
            if writer is not None and reader is not None:
                if writer != reader:
                    between[writer, reader].append(_elements(source))
            elif reader is not None:
                read[reader].append(_elements(source))
            elif writer is not None:
                written[writer].append(_elements(source))
    return Traffic(dict(between), dict(read), dict(written), tuple(unlisted))


def _carries(node: Node, captured: Capture) -> bool:
    """Whether a node gives activations, whose format a plan may change."""
    return node.op != "get_attr" and node.name not in captured.no_tensors


def _elements(node: Node) -> int:
    meta = node.meta["tensor_meta"]
    first = meta if hasattr(meta, "shape") else meta[0]  # a recurrent layer gives several
    return math.prod(first.shape)
