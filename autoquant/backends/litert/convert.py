"""The captured float graph, converted by litert-torch."""

from __future__ import annotations

import contextlib
import copy
import io

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from autoquant.backends.litert.constants import Constants
from autoquant.backends.litert.flatbuffer import FloatFile
from autoquant.backends.litert.formats import Formats
from autoquant.backends.litert.origins import find_origins
from autoquant.backends.litert.schema import Graph
from autoquant.backends.litert.written_out import write_out
from autoquant.backends.printing import STDERR, captured_prints
from autoquant.core.quiet import quiet
from autoquant.errors import BackendError, first_line
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.data.outputs import OutputStructure
from autoquant.model.data.trees import tensors_of
from autoquant.model.graph.aten import op_name
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.places import places


def convert_float(captured: Capture, inputs: tuple[Tensor, ...], ranges: TensorRanges) -> FloatFile:
    """Convert the captured graph for the size of a batch; litert-torch leaves none open.

    Inputs and outputs are called as the model calls them; tensors are told apart by their values on
    the batch.

    Raises:
        BackendError: litert-torch cannot convert the model.
    """
    graph = Graph(_converted(captured, inputs))
    with torch.no_grad():
        outputs = OutputStructure.of(captured.graph(*inputs)).names
    graph.name_signature(captured.calling.names, outputs)
    content = graph.pack()
    origins = find_origins(content, graph, captured, inputs)
    formats = Formats(graph, origins.nodes, ranges)
    return FloatFile(content, graph, origins, formats, Constants(graph), len(inputs[0]))


class _Tensors(nn.Module):
    """Gives the tensors of what a graph returns, without what nests them."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__()
        self.traced = graph
        _write_factors(graph)
        write_out(graph)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensors_of(self.traced(*inputs)))


def _write_factors(graph: GraphModule) -> None:
    """Write the factor of a scaled sum as a product, in place: litert-torch does not know it."""
    for node in graph.graph.nodes:
        if "alpha" in node.kwargs and op_name(node) in ("add", "sub"):
            alpha = node.kwargs["alpha"]
            with graph.graph.inserting_before(node):
                if alpha != 1:
                    scaled = graph.graph.call_function(
                        torch.ops.aten.mul.Tensor, (node.args[1], alpha)
                    )
                    node.args = (node.args[0], scaled)
            node.kwargs = {}
    graph.recompile()


def _converted(captured: Capture, inputs: tuple[Tensor, ...]) -> bytes:
    silence = io.StringIO()
    try:
        with (
            quiet(),
            contextlib.redirect_stdout(silence),
            contextlib.redirect_stderr(silence),
            captured_prints(STDERR),
        ):
            import litert_torch  # seconds, and it prints

            model = litert_torch.convert(_Tensors(copy.deepcopy(captured.graph)).eval(), inputs)
            return bytes(model.model_content())
    except Exception as error:
        said = first_line(error)
        at = places(captured.graph.graph.nodes, said)
        raise BackendError(
            f"litert-torch cannot convert the model: {said}{at}",
            hint="search with backend.name: torch, or rewrite what it names",
        ) from error
