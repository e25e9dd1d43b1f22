"""What litert-torch and torch.onnx made of a graph is kept for tests that convert its like again.

Both trace a graph anew, several times: two seconds for a small network.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoquant.model.graph.captured import Capture
from autoquant.model.graph.exported import Exported

ToLiteRt = Callable[[Capture, tuple[Tensor, ...]], bytes]
ToOnnx = Callable[[Capture, Exported], Any]


def keeping_litert(convert: ToLiteRt) -> ToLiteRt:
    """litert's `_converted`, which converts what it has not seen yet."""
    kept: dict[str, bytes] = {}

    def convert_or_take(captured: Capture, inputs: tuple[Tensor, ...]) -> bytes:
        key = _key((captured.graph,), [(item.shape, item.dtype) for item in inputs])
        if key not in kept:
            kept[key] = convert(captured, inputs)
        return kept[key]

    return convert_or_take


def keeping_onnx(convert: ToOnnx) -> ToOnnx:
    """onnxruntime's `convert_float`, which converts what it has not seen yet."""
    kept: dict[str, Any] = {}

    def convert_or_take(captured: Capture, exported: Exported) -> Any:
        program = exported.program
        said = (str(program), exported.origin, exported.outputs, captured.calling, captured.site_of)
        key = _key((captured.graph, program.graph_module), said, program.state_dict.values())
        if key not in kept:
            kept[key] = convert(captured, exported)
        return copy.deepcopy(kept[key])

    return convert_or_take


def _key(graphs: Sequence[nn.Module], said: object, more: Iterable[Tensor] = ()) -> str:
    """A digest of the code and all tensors of graphs, and of what else a conversion follows."""
    found = hashlib.sha256(repr(said).encode())
    named = [(str(place), item) for place, item in enumerate(more)]
    for graph in graphs:
        for path, module in graph.named_modules():
            found.update(f"{path} {getattr(module, 'code', type(module))}\n".encode())
            named += _tensors(module)
    for name, item in named:
        found.update(f"{name} {item.shape} {item.dtype} {item.stride()}\n".encode())
        found.update(item.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for held in (module._parameters, module._buffers, vars(module)):
        yield from ((name, item) for name, item in held.items() if isinstance(item, Tensor))
