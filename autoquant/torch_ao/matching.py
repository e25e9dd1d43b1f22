"""Pair the sites and tensors of the exported graph with the calls of torch.fx's graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.fx import Node

from autoquant.core.sites import Site
from autoquant.errors import ModelError
from autoquant.model.graph.aten import op_name
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.scopes import scope_of
from autoquant.torch_ao.calls import CALLS, shared_name, short_name
from autoquant.torch_ao.tracing import FxModel
from autoquant.torch_ao.values import is_same, node_values, varying_nodes


@dataclass(frozen=True, slots=True, eq=False)
class Matched:
    """The exported graph beside the one of torch.fx.

    Attributes:
        traced: The graph of torch.fx.
        sites: By name of a call of its fused graph, the site that the call computes.
        missing: By site that no call computes, the reason.
        tensors: By name of a node of the fused graph, the node of the exported graph that gives
            the same tensor: its key in the statistics.
        values: By node of the exported graph, what it gives on the example.
    """

    traced: FxModel
    sites: Mapping[str, str]
    missing: Mapping[str, str]
    tensors: Mapping[str, str]
    values: Mapping[str, Any]


def match(
    model: nn.Module,
    captured: Capture,
    traced: FxModel,
    tensors: tuple[Tensor, ...],
    inputs: Sequence[Any],
) -> Matched:
    """Find the call of each site by where it is made, what it computes and what it reads.

    Both graphs are run on one example. A call of torch.fx computes a site's call where the two
    are of one op in one module, the tensors that they read are equal, and neither is paired yet;
    so calls may be written as functions, operators, methods or modules, a module may have several
    names, and what either graph dropped or wrote otherwise shifts nothing.

    Raises:
        ModelError: torch's own fusion changes the model.
    """
    search = _Search(model, captured, traced, tensors, inputs)
    _refuse_torn(traced, search.traced_values, inputs)
    sites: dict[str, str] = {}
    missing: dict[str, str] = {}
    for site in captured.sites:
        for group in captured.members[site.name]:
            found = search.find(site, group[0])
            if found is None:
                missing[site.name] = search.reason(site)
            else:
                sites[found.name] = site.name
    kept = {node.name for node in traced.fused.graph.nodes}
    gone = set(missing)
    return Matched(
        traced=traced,
        sites={name: site for name, site in sites.items() if name in kept and site not in gone},
        missing=missing,
        tensors=_same_tensors(captured, traced, search),
        values=search.exported_values,
    )


class _Search:
    """Looks for the calls of sites in torch.fx's graph."""

    def __init__(
        self,
        model: nn.Module,
        captured: Capture,
        traced: FxModel,
        tensors: tuple[Tensor, ...],
        inputs: Sequence[Any],
    ) -> None:
        self.exported_values = node_values(captured.graph, tensors)
        self.traced_values = node_values(traced.apart, inputs)
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._nodes = captured.nodes
        self._scopes = traced.scopes
        self._graph = traced.apart
        self._varying = varying_nodes(traced.apart)
        self._left: list[Node] = [
            node for node in traced.apart.graph.nodes if node.op in CALLS and node in self._varying
        ]

    def find(self, site: Site, root: str) -> Node | None:
        """The first call that is not yet paired and computes this call of the site."""
        exported = self._nodes[root]
        reads = [
            self.exported_values[item.name]
            for item in exported.all_input_nodes
            if item.op != "get_attr" and isinstance(self.exported_values[item.name], Tensor)
        ]
        name, scope = shared_name(op_name(exported).strip("_")), scope_of(exported)
        for node in self._left:
            if self._may_be(node, site, name, scope) and self._reads(node, reads):
                self._left.remove(node)
                return node
        return None

    def reason(self, site: Site) -> str:
        """Why no call of torch.fx computes a site."""
        path = site.module
        while path:
            module = self._modules.get(path)
            whole = [
                node
                for node in self._graph.graph.nodes
                if node.op == "call_module" and self._modules.get(str(node.target)) is module
            ]
            if whole and (path != site.module or site.function is not None):
                return f"torch.fx keeps {path!r} ({type(module).__name__}) whole"
            path = path.rpartition(".")[0]
        return "no call of torch.fx's graph computes it"

    def _may_be(self, node: Node, site: Site, name: str, scope: str) -> bool:
        if node.op == "call_module":
            same = self._modules.get(str(node.target)) is self._modules.get(site.module)
            return same and site.function is None
        owner = self._modules.get(self._scopes[node.name][0])
        return owner is self._modules.get(scope) and short_name(node, self._graph) == name

    def _reads(self, node: Node, expected: Sequence[Tensor]) -> bool:
        found = [
            self.traced_values[item.name] for item in node.all_input_nodes if item in self._varying
        ]
        found = [item for item in found if isinstance(item, Tensor)]
        if not found or len(found) > len(expected):
            return False
        return all(is_same(a, b) for a, b in zip(found, expected, strict=False))


def _same_tensors(captured: Capture, traced: FxModel, search: _Search) -> dict[str, str]:
    """By node of the fused graph, the exported node that gives the same tensor."""
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for name, value in search.exported_values.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            by_shape.setdefault(tuple(value.shape), []).append(name)
    found: dict[str, str] = {}
    last = -1
    order = {name: place for place, name in enumerate(captured.nodes)}
    tails = _tails(traced)
    for node in traced.fused.graph.nodes:
        value = search.traced_values.get(tails.get(node.name, node.name))
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        # of several equal tensors the next one in order: the two graphs run alike
        candidates = by_shape.get(tuple(value.shape), [])
        for name in sorted(candidates, key=lambda item: (order[item] <= last, order[item])):
            if is_same(search.exported_values[name], value):
                found[node.name], last = name, order[name]
                break
    return found


def _refuse_torn(traced: FxModel, values: Mapping[str, Any], inputs: Sequence[Any]) -> None:
    """Refuse a model that torch's own fusion changes.

    It writes what it fused back to the module's path, so that a module with another op behind
    each of its calls takes the last one everywhere.
    """
    tails, fused = _tails(traced), node_values(traced.fused, inputs)
    for node in traced.fused.graph.nodes:
        expected = values.get(tails.get(node.name, node.name))
        if node.op != "call_module" or not isinstance(expected, Tensor):
            continue
        if not is_same(expected, fused[node.name]):
            path = str(node.target)
            raise ModelError(
                f"torch.ao's fusion changes what {path!r} computes: it is called several times, "
                "with other ops behind each call",
                hint=f"search aq.split_shared(model, batch, [{path!r}]), in which each call has "
                "a module of its own; or use quantize(model), which needs no torch.ao",
            )


def _tails(traced: FxModel) -> dict[str, str]:
    """By node that stands for several fused ones, the last of these in the unfused graph."""
    kept = {node.name: node for node in traced.fused.graph.nodes}
    tails: dict[str, str] = {}
    for node in traced.apart.graph.nodes:
        tail = node
        while node.name in kept and len(tail.users) == 1:
            reader = next(iter(tail.users))
            if reader.name in kept or reader.op not in CALLS:
                break
            tail = reader
        if tail is not node:
            tails[node.name] = tail.name
    return tails
