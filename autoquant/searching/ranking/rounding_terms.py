"""The rounding errors that each row of a sensitivity table is made of, tensor by tensor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping

import torch
from torch.fx import Node

from autoquant.core.precision import Precision, Scheme
from autoquant.core.sensitivity import Part, RowKey
from autoquant.core.space import Knob, SearchSpace
from autoquant.model.numerics.rounding import Cast, Format, SchemeRounding
from autoquant.searching.ranking.marks import MarkedGraph

Readers = tuple[str, ...]
WHOLE: Readers = ()
"""Stands for all readers of a tensor."""

Rows = list[RowKey]
Terms = Mapping[Format, Mapping[Readers, Rows]]
"""By format and readers (names of nodes, or `WHOLE`), the rows that hold the rounding error."""

_Error = tuple[Node, Format, Part]


class RoundingTerms:
    """Lists, for every tensor, how the schemes of the free knobs round it.

    Equal roundings of one tensor for the same readers are one term, whichever schemes and sites
    make them. What several sites of a knob read is rounded once for all of them. A term of part
    `BOTH` counts for the whole row alone (bf16's bias).
    """

    def __init__(
        self,
        marked: MarkedGraph,
        space: SearchSpace,
        rounding: SchemeRounding,
        parts: Collection[Part] = tuple(Part),
    ) -> None:
        self._marked = marked.sites
        self._rounding = rounding
        activations: dict[Node, Terms] = defaultdict(_empty)
        constants: dict[Node, Terms] = defaultdict(_empty)
        roots = _roots_by_knob(marked)
        for knob in space.free:
            for scheme in knob.schemes:
                for (node, how, part), readers in self._errors(roots[knob.name], knob, scheme):
                    if part in parts:
                        whole = readers == WHOLE or set(readers) >= {n.name for n in node.users}
                        found = activations if part is Part.ACTIVATION else constants
                        rows = found[node][how][WHOLE if whole else readers]
                        rows.append((knob.name, scheme, part))
        self.activations: Mapping[Node, Terms] = dict(activations)
        self.constants: Mapping[Node, Terms] = dict(constants)

    def readers_apart(self, source: Node) -> frozenset[str]:
        """Names of the readers of a tensor whose rounding is not that of all its readers."""
        found = (self.activations.get(source, {}), self.constants.get(source, {}))
        return frozenset(
            reader
            for terms in found
            for groups in terms.values()
            for readers in groups
            for reader in readers
        )

    def _errors(
        self, roots: Iterable[Node], knob: Knob, scheme: Scheme
    ) -> Iterator[tuple[_Error, Readers]]:
        """Every rounding error of a knob under a scheme, with the readers that it reaches."""
        if scheme is Scheme.FP32:
            return
        readers: dict[_Error, list[str]] = defaultdict(list)
        written: set[tuple[Node, Format]] = set()
        for node, site in self._marked.lasts.items():
            if site.name not in knob.sites:
                continue
            how = self._rounding.write_format(site, scheme, node.name)
            if how is not None:
                written.add((node, how))
                yield (node, how, Part.ACTIVATION), WHOLE
        for root in roots:
            for error in self._errors_at(root, scheme):
                if error[:2] not in written:
                    readers[error].append(root.name)
        for error, names in readers.items():
            yield error, tuple(names)

    def _errors_at(self, root: Node, scheme: Scheme) -> Iterator[_Error]:
        site, operands = self._marked.roots[root], self._marked.operands[root]
        for source in operands.reads:
            how = self._rounding.read_format(site, scheme, source.name)
            if how is not None:
                yield source, how, Part.ACTIVATION
        weight = self._rounding.weight_format(site, scheme)
        if weight is not None:
            for source in operands.weights:
                yield source, weight, Part.WEIGHT
        if scheme.activation is Precision.BF16:  # its kernels alone round biases
            for source in operands.parameters:
                yield source, Cast(torch.bfloat16), Part.BOTH


def _roots_by_knob(marked: MarkedGraph) -> Mapping[str, list[Node]]:
    roots: dict[str, list[Node]] = defaultdict(list)
    for node, site in marked.sites.roots.items():
        if site.name in marked.knob_of:
            roots[marked.knob_of[site.name]].append(node)
    return roots


def _empty() -> dict[Format, dict[Readers, Rows]]:
    return defaultdict(lambda: defaultdict(list))
