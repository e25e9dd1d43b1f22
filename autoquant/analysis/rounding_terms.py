"""The rounding errors that each row of a sensitivity table is made of, tensor by tensor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

import torch
from torch.fx import Node

from autoquant.analysis.marks import MarkedGraph, gives_float
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Part, RowKey
from autoquant.core.sites import OpKind, Site
from autoquant.core.space import Knob, SearchSpace
from autoquant.model.torch_ao.rounding import Cast, Format, SchemeRounding

WHOLE = ""
"""Stands for all readers of a tensor."""

Rows = list[RowKey]
Terms = Mapping[Format, Mapping[str, Rows]]
"""By format and reader (a node's name, or `WHOLE`), the rows that hold the rounding error."""


class RoundingTerms:
    """Lists, for every tensor, how the schemes of the free knobs round it.

    Equal roundings of one tensor are one term, whichever schemes and sites make them: the tensor
    that one op writes and another reads is rounded once for both. A term of part `BOTH` counts
    for the whole row alone (bf16's bias).

    Args:
        marked: The graph.
        space: Its knobs.
        rounding: How schemes round tensors.
        parts: What is listed; the others have no terms.
    """

    def __init__(
        self,
        marked: MarkedGraph,
        space: SearchSpace,
        rounding: SchemeRounding,
        parts: Collection[Part] = tuple(Part),
    ) -> None:
        self._marked = marked
        self._rounding = rounding
        self._knobs = {site: knob for knob in space.free for site in knob.sites}
        self._parts = parts
        self.activations: Mapping[Node, Terms] = (
            self._activation_terms() if Part.ACTIVATION in parts else {}
        )

    def readers_apart(self, source: Node) -> frozenset[str]:
        """Names of the readers of a tensor whose rounding is not that of all its readers."""
        terms = self.activations.get(source, {})
        return frozenset(reader for readers in terms.values() for reader in readers) - {WHOLE}

    def weights(self, readers: Iterable[Node]) -> Terms:
        """Terms of a weight that the sites at these nodes read."""
        terms = _empty()
        for node in readers:
            for site, knob in self._free_site(node):
                for scheme in _rounding_schemes(knob):
                    how = self._rounding.weight_format(site, scheme)
                    if how is not None:
                        terms[how][WHOLE].append((knob.name, scheme, Part.WEIGHT))
        return terms

    def biases(self, node: Node) -> Terms:
        """Terms of the biases of the site at a node: bf16 kernels alone round them."""
        terms = _empty()
        for _, knob in self._free_site(node):
            if Scheme.BF16 in knob.schemes and Part.BOTH in self._parts:
                row = (knob.name, Scheme.BF16, Part.BOTH)
                terms[Cast(torch.bfloat16)][WHOLE].append(row)
        return terms

    def _free_site(self, node: Node) -> Iterable[tuple[Site, Knob]]:
        site = self._marked.roots.get(node)
        if site is not None and site.name in self._knobs:
            yield site, self._knobs[site.name]

    def _activation_terms(self) -> Mapping[Node, Terms]:
        found: dict[Node, dict[Format, dict[str, Rows]]] = defaultdict(_empty)
        for node in self._marked.nodes:
            writer = self._marked.writers.get(node)
            if writer is not None and writer.name in self._knobs:
                knob = self._knobs[writer.name]
                for scheme in _rounding_schemes(knob):
                    how = self._rounding.output_format(writer, scheme, node.name)
                    if how is not None and not self._is_on_grid(node, writer, scheme, how):
                        row = (knob.name, scheme, Part.ACTIVATION)
                        found[node][how][WHOLE].append(row)
            for site, knob in self._free_site(node):
                for scheme in _rounding_schemes(knob):
                    for source in self._marked.rounded_inputs(node, scheme):
                        how = self._rounding.input_format(site, scheme, source.name)
                        if how is not None:
                            reader = WHOLE if len(source.users) == 1 else node.name
                            row = (knob.name, scheme, Part.ACTIVATION)
                            found[source][how][reader].append(row)
        return dict(found)

    def _is_on_grid(self, node: Node, site: Site, scheme: Scheme, how: Format) -> bool:
        """Whether the node only hands on values that the same knob rounded to the same grid."""
        if self._marked.roots.get(node) is site and not _only_selects(site):
            return False
        for source in filter(gives_float, node.all_input_nodes):
            writer = self._marked.writers.get(source)
            if writer is None or not self._marked.agree(writer, site):
                return False
            if self._rounding.output_format(writer, scheme, source.name) != how:
                return False
        return True


def _rounding_schemes(knob: Knob) -> Iterable[Scheme]:
    return (scheme for scheme in knob.schemes if scheme is not Scheme.FP32)


def _only_selects(site: Site) -> bool:
    """Whether an op's outputs are some of its inputs' values."""
    return site.kind is OpKind.CAT or (
        site.kind is OpKind.POOL and any("max" in name.lower() for name in site.fused)
    )


def _empty() -> dict[Format, dict[str, Rows]]:
    return defaultdict(lambda: defaultdict(list))
