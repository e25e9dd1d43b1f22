"""What litert-torch made of a graph is kept for the tests that convert its like again.

It traces a graph four times: two seconds for a small network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule

from autoquant.model.graph.captured import Capture

Convert = Callable[[Capture, tuple[Tensor, ...]], bytes]


def keeping(convert: Convert) -> Convert:
    """litert's `_converted`, which converts what it has not seen yet."""
    kept: dict[str, bytes] = {}

    def convert_or_take(captured: Capture, inputs: tuple[Tensor, ...]) -> bytes:
        key = _key(captured.graph, inputs)
        if key not in kept:
            kept[key] = convert(captured, inputs)
        return kept[key]

    return convert_or_take


def _key(graph: GraphModule, inputs: Sequence[Tensor]) -> str:
    """A digest of the code and all tensors of a graph, and of the sizes that it is asked for."""
    found = hashlib.sha256(repr([(item.shape, item.dtype) for item in inputs]).encode())
    for path, module in graph.named_modules():
        found.update(f"{path} {getattr(module, 'code', type(module))}\n".encode())
        for name, item in _tensors(module):
            found.update(f"{name} {item.shape} {item.dtype} {item.stride()}\n".encode())
            found.update(item.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _tensors(module: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    for held in (module._parameters, module._buffers, vars(module)):
        yield from ((name, item) for name, item in held.items() if isinstance(item, Tensor))
