"""The captured float graph, converted by litert-torch."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings

import torch
from torch import Tensor
from torch.fx import GraphModule

from autoquant.backends.litert.constants import Constants
from autoquant.backends.litert.flatbuffer import FloatFile
from autoquant.backends.litert.formats import Formats
from autoquant.backends.litert.origins import find_origins
from autoquant.backends.litert.schema import Graph
from autoquant.backends.printing import STDERR, captured_prints
from autoquant.errors import BackendError
from autoquant.model.capture import Capture
from autoquant.model.ranges.tensor_ranges import TensorRanges

_SCALING = frozenset({torch.ops.aten.add.Tensor, torch.ops.aten.sub.Tensor})


def convert_float(captured: Capture, inputs: tuple[Tensor, ...], ranges: TensorRanges) -> FloatFile:
    """Convert the captured graph for one batch size; litert-torch leaves none open.

    Args:
        captured: The captured model, batch norms folded.
        inputs: One batch of that size; also what tensors are told apart by.
        ranges: Of the captured nodes.

    Raises:
        BackendError: litert-torch cannot convert the model.
    """
    content = _converted(captured, inputs)
    graph = Graph(content)
    origins = find_origins(content, graph, captured, inputs)
    formats = Formats(graph, origins.nodes, ranges)
    return FloatFile(content, graph, origins, formats, Constants(graph), len(inputs[0]))


def _converted(captured: Capture, inputs: tuple[Tensor, ...]) -> bytes:
    silence = io.StringIO()
    before = logging.root.manager.disable
    try:
        logging.disable(logging.WARNING)
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(silence),
            contextlib.redirect_stderr(silence),
            captured_prints(STDERR),
        ):
            warnings.simplefilter("ignore")
            import litert_torch  # seconds, and it prints

            model = litert_torch.convert(_without_alpha(captured.graph).eval(), inputs)
            return bytes(model.model_content())
    except Exception as error:
        raise BackendError(
            f"litert-torch cannot convert the model: {str(error).strip().splitlines()[0]}",
            hint="search with backend.name: torch, or rewrite what it names",
        ) from error
    finally:
        logging.disable(before)


def _without_alpha(graph: GraphModule) -> GraphModule:
    """A copy in which a + alpha * b is a product and a sum: the converter knows no alpha."""
    found = copy.deepcopy(graph)
    for node in list(found.graph.nodes):
        if node.target in _SCALING and node.kwargs.get("alpha", 1) != 1:
            with found.graph.inserting_before(node):
                factors = (node.args[1], node.kwargs["alpha"])
                scaled = found.graph.call_function(torch.ops.aten.mul.Tensor, factors)
            node.args, node.kwargs = (node.args[0], scaled), {}
    found.recompile()
    return found
