"""Ops that no scheme reaches: in what capture does not look into, or of another library."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch._ops import OpOverload
from torch.fx import Node

from autoquant.core.findings.concerns import Concern, Topic, attention, note
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.node_shapes import is_float

_WEIGHTED = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.Embedding, nn.EmbeddingBag),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.RNNBase, nn.RNNCellBase),
)
_KNOWN = frozenset({"aten", "prims", "higher_order"})


def find_hidden(captured: Capture, model: nn.Module) -> Iterator[Concern]:
    """Find the ops of a model that no plan can reach."""
    for path in captured.leaf_modules:
        yield from _inside(path, model.get_submodule(path))
    seen: set[str] = set()
    for node in captured.graph.graph.nodes:
        name = _foreign_name(node)
        if name is not None and name not in seen:
            seen.add(name)
            yield _foreign(node, name)
    yield from _unseen(captured)


def _inside(path: str, module: nn.Module) -> Iterator[Concern]:
    """Quantizable modules inside one that the user keeps whole."""
    inner = [name or path for name, item in module.named_modules() if isinstance(item, _WEIGHTED)]
    if inner:
        yield note(
            Topic.FUSION,
            (path,),
            f"{type(module).__name__} is a leaf module: {len(inner)} quantizable modules in it "
            f"stay fp32 ({', '.join(inner[:3])}{', ...' if len(inner) > 3 else ''})",
            "nothing inside can be fused or quantized",
            "take it out of leaf_modules, if its ops may be quantized",
        )


def _foreign_name(node: Node) -> str | None:
    """Name of an op that another library registered; None where it is torch's."""
    if not isinstance(node.target, OpOverload) or node.target.namespace in _KNOWN:
        return None
    return str(node.target.name()) if is_float(node) else None


def _foreign(node: Node, name: str) -> Concern:
    return attention(
        Topic.FUSION,
        (node.name,),
        f"{name} is an op of another library: what it computes stays fp32",
        "nothing is known of the ops inside, so they are neither fused nor quantized",
        "write it with torch's own ops, if it holds much of the work",
    )


def _unseen(captured: Capture) -> Iterator[Concern]:
    """Weights and work that no site holds."""
    reach = captured.reach
    if reach is None or reach.notice is None or not reach.unseen:
        return
    yield note(
        Topic.FUSION,
        reach.unseen,
        f"sites hold {reach.weights:.1%} of the weights and {reach.macs:.1%} of the MACs",
        "what no site holds stays fp32 under every plan",
        "nothing, if these are tables and masks; else compute them with an op of docs/sites.md",
    )
