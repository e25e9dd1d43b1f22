"""Whether each op of a converted model computes what its plan says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from autoquant.core.precision import Mode, Precision, Scheme
from autoquant.core.sites import TRANSPOSED, OpKind, Site
from autoquant.model.calibration.ranges.grid import Grid
from autoquant.model.graph.aten import op_name
from autoquant.model.numerics.weight_grids import INT8_LEVELS, WeightGrid
from autoquant.torch_ao.carried import Carried, Setting
from autoquant.torch_ao.readback import float_name

_LEVELS = 1.1
"""A kernel rounds to the nearest level; what it sums in another order may land on the next."""
_SHARE = 0.05
"""Of a float result: dynamic kernels round inputs to a grid of this very batch."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far the result of an op is from what it should be.

    Attributes:
        site: Whose op it is.
        error: The largest difference in levels of the op's integer output; of a float output its
            root mean square as a share of the result's.
        limit: The largest that rounding explains.
    """

    site: str
    error: float
    limit: float

    @property
    def is_rounding(self) -> bool:
        """Whether it is no more than rounding."""
        return self.error <= self.limit


def differences(carried: Carried, setting: Setting) -> Iterator[Difference]:
    """Compare what each op of a converted model gives with what it should, in order.

    Each op is computed again by the exported graph's own float op, from the very tensors that
    arrived at it and from weights on its scheme's grid. So no difference is handed on, and each
    op has to agree within one level of what it writes.
    """
    exported = setting.captured.nodes
    calls: dict[str, int] = {}
    for node, value in carried.spy.values.items():
        site = setting.matched.sites.get(float_name(node))
        if site is None or node not in carried.spy.computed:
            continue
        groups = setting.captured.members[site]
        group = groups[min(calls.get(site, 0), len(groups) - 1)]
        calls[site] = calls.get(site, 0) + 1
        found = _first(value)
        if found is None:
            continue
        scheme = carried.plan[site]
        arrived = list(carried.spy.inputs[node])
        wanted = _expected([exported[name] for name in group], arrived, scheme, setting, site)
        moves = setting.captured.by_name[site].kind is OpKind.CAT
        errors = [
            _difference(site, found, item, moves=moves)
            for item in wanted
            if item.shape == found.shape
        ]
        if errors:
            yield min(errors, key=lambda item: item.error / item.limit)


def _expected(
    group: Sequence[Node],
    arrived: Sequence[Tensor],
    scheme: Scheme,
    setting: Setting,
    name: str,
) -> list[Tensor]:
    """What the op may give: alone, with the relu that torch fused to it, or with all its parts."""
    root, site = group[0], setting.captured.by_name[name]
    bits = setting.build.ranges.weight_bits if scheme is Scheme.INT8 else None
    reads = [item for item in root.all_input_nodes if item.op != "get_attr"]
    reads = [item for item in reads if isinstance(setting.matched.values[item.name], Tensor)]
    env: dict[Node, Any] = dict(zip(reads, arrived, strict=False))

    def value(node: Node) -> Any:
        if node in env:
            return env[node]
        known = setting.matched.values[node.name]
        return _weight(known, scheme, site, bits) if node.op == "get_attr" else known

    with torch.no_grad():
        for node in group:
            env[node] = node.target(*map_arg(node.args, value), **map_arg(node.kwargs, value))  # type: ignore[operator]
    alone, whole = _first(env[root]), _first(env[group[-1]])
    if alone is None or whole is None:
        return []
    is_before_relu = [op_name(reader) for reader in root.users] == ["relu"]
    return [alone, whole, *([alone.relu()] if is_before_relu else [])]


def _weight(value: Any, scheme: Scheme, site: Site, bits: int | None) -> Any:
    """A constant as the site's kernel reads it: its weights on the scheme's grid."""
    if not isinstance(value, Tensor) or value.ndim < 2 or not site.kind.is_weighted:
        return value
    if scheme.weight is Precision.FP16:
        return value.half().float()
    if scheme.weight is not Precision.INT8 or scheme.mode is Mode.WEIGHT_ONLY:
        return value
    return WeightGrid(None if site.kind in TRANSPOSED else 0, *INT8_LEVELS[bits or 8])(value)


def _difference(site: str, found: Tensor, wanted: Tensor, *, moves: bool) -> Difference:
    """Compare a result; what only moves integers must not clip them to the grid of one of them."""
    if found.is_quantized:
        grid = _grid(found)
        floats = wanted.float()
        error = (found.dequantize() - (floats if moves else grid(floats))).abs().max() / grid.scale
        return Difference(site, float(error), _LEVELS)
    plain, wanted = found.double(), wanted.double()
    error = (plain - wanted).square().mean().sqrt()
    size = wanted.square().mean().sqrt().clamp_min(1e-12)
    return Difference(site, float(error / size), _SHARE)


def _grid(tensor: Tensor) -> Grid:
    return Grid(tensor.q_scale(), tensor.q_zero_point(), 0, 255)


def _first(value: Any) -> Tensor | None:
    """The tensor that a value is, or begins with."""
    while isinstance(value, (tuple, list)) and value:
        value = value[0]
    return value if isinstance(value, Tensor) and _is_number(value) else None


def _is_number(tensor: Tensor) -> bool:
    return tensor.is_quantized or tensor.is_floating_point()
