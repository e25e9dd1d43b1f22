"""The integer grids that a plan's sites read and write on."""

from __future__ import annotations

from collections.abc import Mapping

from autoquant.core.plan import Plan
from autoquant.model.calibration.ranges.grid import Grid
from autoquant.model.graph.site_nodes import SiteNodes
from autoquant.model.numerics.rounding import SchemeRounding


def planned_grids(marked: SiteNodes, plan: Plan, rounding: SchemeRounding) -> Mapping[str, Grid]:
    """Give the grids on which a plan's sites read, and those that write integers write.

    Not of what the model returns: a target hands that out unrounded where it can.

    Returns:
        By name of the float node that gives the tensor. Tensors that no site rounds to a fixed
        grid are missing; of two grids for one tensor the first reader's is taken.
    """
    found: dict[str, Grid] = {}
    for root, site in marked.roots.items():
        for source in marked.operands[root].reads:
            how = rounding.read_format(site, plan[site.name], source.name)
            if isinstance(how, Grid) and source.op != "get_attr":
                found.setdefault(source.name, how)
    for node, site in marked.lasts.items():
        how = rounding.write_format(site, plan[site.name], node.name)
        if isinstance(how, Grid) and any(user.op != "output" for user in node.users):
            found.setdefault(node.name, how)
    return found
