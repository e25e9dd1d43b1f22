"""Shared modules that torch's fusion tears apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn
from torch.fx import GraphModule, Node

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_FUSING = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, *_NORMS),
)


def fused_differently(apart: GraphModule) -> Iterator[str]:
    """Paths of modules that torch fuses with different neighbours at different calls.

    Torch's fusion writes the fused module back to the path of the first op: with another batch
    norm behind each call, or a relu behind one call alone, the last fusion overwrites the others
    and the traced model computes something else.
    """
    modules = dict(apart.named_modules())
    for path, names in calls_by_path(apart).items():
        chains = {_chain(node, modules) for node in apart.graph.nodes if node.name in set(names)}
        if len(chains) > 1:
            yield path


def calls_by_path(graph: GraphModule) -> dict[str, list[str]]:
    """Names of the calls of each module."""
    found: dict[str, list[str]] = {}
    for node in graph.graph.nodes:
        if node.op == "call_module":
            found.setdefault(str(node.target), []).append(node.name)
    return found


def _chain(node: Node, modules: Mapping[str, nn.Module]) -> tuple[str, ...]:
    """What torch would fuse behind a convolution or a linear layer."""
    if not isinstance(modules[str(node.target)], _FUSING):
        return ()
    chain: list[str] = []
    while len(node.users) == 1:
        node = next(iter(node.users))
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, _NORMS) and not chain:
            chain.append(str(node.target))
        elif isinstance(module, nn.ReLU) or node.target is nn.functional.relu:
            return (*chain, "relu")
        else:
            break
    return tuple(chain)
