"""Additive costs: what a plan costs as a sum over ops and over boundaries between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from autoquant.core.measurement import Kind
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import SearchSpace

OpCosts = Mapping[tuple[str, Scheme], float]
PairCosts = Mapping[tuple[str, str], Mapping[tuple[Scheme, Scheme], float]]


@dataclass(frozen=True, eq=False)
class CostTable:
    """Cost of a plan = constant + sum over sites + sum over edges between sites.

    An op's cost depends on its own scheme. An edge's cost depends on the schemes of the site that
    writes a tensor and of the one that reads it, in that order: int8 -> fp32 is a dequantize,
    fp32 -> int8 a quantize, and they cost differently.

    Attributes:
        constant: What every plan costs.
        ops: By site and scheme.
        edges: By (writing site, reading site), then by their schemes; a missing pair costs 0.
        kind: How the numbers were obtained.
        unit: `ms`, `bytes`, `bops`.
    """

    constant: float
    ops: OpCosts
    edges: PairCosts = field(default_factory=dict)
    kind: Kind = Kind.ESTIMATED
    unit: str = "ms"

    def predict(self, plan: Plan) -> float:
        """Cost of a plan.

        Raises:
            KeyError: The table lacks a site of the plan under the plan's scheme.
        """
        schemes = dict(plan.assignment)
        ops = sum(self.ops[site, scheme] for site, scheme in plan.assignment)
        edges = sum(
            pairs.get((schemes[writer], schemes[reader]), 0.0)
            for (writer, reader), pairs in self.edges.items()
        )
        return self.constant + ops + edges

    def scaled(self, factor: float, unit: str) -> CostTable:
        """The same costs in another unit."""
        return CostTable(
            self.constant * factor,
            {key: cost * factor for key, cost in self.ops.items()},
            {
                edge: {pair: cost * factor for pair, cost in pairs.items()}
                for edge, pairs in self.edges.items()
            },
            self.kind,
            unit,
        )

    def by_knob(self, space: SearchSpace) -> CostTable:
        """The same costs over knobs instead of sites, as an integer program needs them.

        Edges between sites of one knob become part of the knob's own cost; edges between two
        knobs are added up, writer first. `predict` of a plan over knobs gives what `predict` of
        the plan over sites gives.
        """
        knob_of = {site: knob for knob in space.knobs for site in knob.sites}
        ops = {
            (knob.name, scheme): sum(self.ops[site, scheme] for site in knob.sites)
            for knob in space.knobs
            for scheme in knob.schemes
        }
        edges: dict[tuple[str, str], dict[tuple[Scheme, Scheme], float]] = defaultdict(dict)
        for (writer, reader), pairs in self.edges.items():
            first, second = knob_of[writer], knob_of[reader]
            for (before, after), cost in pairs.items():
                if before not in first.schemes or after not in second.schemes:
                    continue
                if first is second:
                    if before is after:
                        ops[first.name, before] += cost
                    continue
                known = edges[first.name, second.name]
                known[before, after] = known.get((before, after), 0.0) + cost
        return CostTable(self.constant, ops, dict(edges), self.kind, self.unit)
