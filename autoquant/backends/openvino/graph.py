"""The float model as an OpenVINO graph, converted once, every op marked to stay in f32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
import openvino as ov
import torch
from openvino import opset1, opset3, passes
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch import ConversionExtension
from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
from torch import Tensor
from torch.fx import GraphModule, Node

from autoquant.backends.openvino.decompositions import decompositions
from autoquant.backends.openvino.engine import from_bytes, to_bytes
from autoquant.backends.openvino.fourier import take_out_transforms
from autoquant.backends.openvino.recurrent import RECURRENT, take_out
from autoquant.backends.openvino.written_out import write_out
from autoquant.core.quiet import no_warnings
from autoquant.errors import ModelError
from autoquant.model.data.outputs import OutputStructure
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.decomposing import decompose
from autoquant.model.graph.exported import export_float, origins
from autoquant.model.graph.node_shapes import fixed_sizes
from autoquant.model.graph.places import places
from autoquant.model.graph.real_form import write_in_real_numbers
from autoquant.model.graph.recurrent_shapes import is_projected, number_of_steps, recurrent_shapes

PRECISE = "DisablePrecisionConversion_0"
"""Key under which a model that was read from a file holds the mark that keeps an op in f32."""


_MARK = {"name": "precise", "version": "0"}
"""The same mark in a file. Python can read a file that has it and remove it, but not set it."""

_BROADCASTING = frozenset({"Add", "Subtract", "Multiply", "Divide", "Power", "Maximum", "Minimum"})

_MATMUL = torch.ops.aten.matmul.default
_UNFOLD = torch.ops.aten.unfold.default
_UNMARKED = frozenset({"Const", "Parameter", "Result"})


@dataclass(frozen=True, slots=True, eq=False)
class FloatGraph:
    """A converted float model.

    Attributes:
        model: Every op carries the mark `PRECISE`; clone it, never change it.
        origin: By program node, the node of the captured graph that it comes from. An op's
            program node is the part of its friendly name before the first slash.
        outputs: How its results become the model's outputs.
    """

    model: ov.Model
    origin: Mapping[str, str]
    outputs: OutputStructure

    def captured_node(self, name: str) -> str | None:
        """Node of the captured graph that an op of this friendly name computes."""
        return self.origin.get(name.partition("/")[0])


def convert_float(captured: Capture, example: tuple[Tensor, ...]) -> FloatGraph:
    """Convert a captured float model; the axes that the capture leaves open stay so.

    Decomposes the exported program as OpenVINO's front end does and hands it the graph, instead
    of the program: the front end would decompose once more, which renames nodes.

    Raises:
        ModelError: torch.export or OpenVINO refuses the model, or it has an LSTM with projections
            and data of several lengths.
    """
    _refuse_open_steps(captured)
    with no_warnings(), torch.no_grad():
        graph, outputs = _decomposed(captured, example)
        _name_for_front_end(graph)
        origin = origins(graph.graph)
        extensions = [*take_out(graph), *take_out_transforms(graph)]
        try:
            model = _translate(graph, extensions)
        except Exception as error:
            said = str(error).strip().splitlines()[-1]
            raise ModelError(
                f"OpenVINO cannot convert the model: {said}{places(graph.graph.nodes, said)}",
                hint="search with backend.name: torch, or rewrite the op that it names",
            ) from error
    origin |= origins(graph.graph)
    inputs = [node.name for node in captured.graph.graph.nodes if node.op == "placeholder"]
    placeholders = [node.name for node in graph.graph.nodes if node.op == "placeholder"]
    origin.update(zip(placeholders, inputs, strict=False))  # defaults come after the inputs
    _keep_marks_of_rewritten(model)
    _keep_marks_of_matmuls(model)
    write_out(model)
    _fold_constants(model)
    _give_scalars_an_axis(model)
    called = captured.calling.names
    _name_ends(model, called, outputs.names_beside(called))
    return FloatGraph(mark_precise(model), origin, outputs)


def _decomposed(
    captured: Capture, example: tuple[Tensor, ...]
) -> tuple[GraphModule, OutputStructure]:
    """The captured graph in the ops that the front end knows."""
    written_out = any(map(is_projected, captured.graph.graph.nodes))
    table = decompositions(() if written_out else RECURRENT)
    with nullcontext() if written_out else recurrent_shapes():
        if captured.how == "export":
            graph = decompose(captured.graph, table)
            for node in graph.graph.nodes:
                if node.target is torch.ops.aten.reshape.default:
                    node.target = torch.ops.aten.view.default  # the front end has no reshape
                if node.target is torch.ops.aten.view.default:
                    _name_size_left_open(node)
            write_in_real_numbers(graph, table)
            return graph, OutputStructure.of(captured.graph(*example))
        exported = export_float(captured, example)
        graph = exported.program.run_decompositions(dict(table)).module()
    assert isinstance(graph, GraphModule)
    return graph, exported.outputs


def _name_size_left_open(view: Node) -> None:
    """Give the size that a view leaves open as -1, where it is known, in place.

    The engine takes open sizes for each other where others beside them agree: of an attention with
    as many tokens as a head has channels it would not know how many heads there are.
    """
    source, sizes = view.args
    known = fixed_sizes(view)
    if not isinstance(sizes, (list, tuple)) or len(known) != len(sizes):
        return
    pairs = zip(sizes, known, strict=True)
    view.args = (source, [fixed if size == -1 and fixed else size for size, fixed in pairs])


def _refuse_open_steps(captured: Capture) -> None:
    """Refuse LSTMs with projections over any number of steps: their steps are written out."""
    for node in captured.graph.graph.nodes:
        if is_projected(node) and isinstance(number_of_steps(node), torch.SymInt):
            raise ModelError(
                f"OpenVINO runs {node.name}, an LSTM with projections, at one number of steps, and "
                "the data have several",
                hint="pad batches to one length, or search with backend.name: torch",
            )


def _name_ends(model: ov.Model, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Name inputs and outputs as the model calls them, in place."""
    ends = ((model.outputs, outputs), (model.inputs, inputs))
    for end in (*model.outputs, *model.inputs):
        end.get_tensor().set_names(set())
    for side, names in ends:
        for end, name in zip(side, names, strict=True):
            end.get_tensor().add_names({name})  # one tensor may be several outputs


def mark_precise(model: ov.Model) -> ov.Model:
    """Copy a model, with every op marked to stay in f32 whatever the precision hint says.

    The mark can only be set in the text of a file, so the model goes through one.
    """
    text, weights = to_bytes(model)
    document = ElementTree.fromstring(text)
    layers = document.find("layers")
    for layer in layers if layers is not None else ():
        if layer.get("type") not in _UNMARKED:
            info = layer.find("rt_info")
            if info is None:
                info = ElementTree.SubElement(layer, "rt_info")
            ElementTree.SubElement(info, "attribute", _MARK)
    return from_bytes(ElementTree.tostring(document), weights)


def _translate(graph: GraphModule, extensions: Sequence[ConversionExtension]) -> ov.Model:
    """Give a graph's ops one for one.

    By the front end alone: `openvino.convert_model` would go on to make one op of an attention,
    in which no matmul can be given a precision of its own.
    """
    front_end = FrontEndManager().load_by_framework("pytorch")
    for item in extensions:
        front_end.add_extension(item)
    decoder = TorchFXPythonDecoder(graph)  # the front end keeps no reference to it
    model = front_end.convert(front_end.load(decoder))
    _fold_constants(model)
    return model


def _fold_constants(model: ov.Model) -> None:
    """Compute what depends on constants alone, in place."""
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(model)


def _name_for_front_end(graph: GraphModule) -> None:
    """Call matmuls and axes of windows what the front end knows, in place.

    It makes a MatMul of any rank from `bmm` and has no rule for `matmul`, whose decomposition
    copies both operands into three dimensions; of `unfold` it takes no axis counted from the end.
    """
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.target is _MATMUL:
            node.target = torch.ops.aten.bmm.default
        elif node.op == "call_function" and node.target is _UNFOLD:
            source, axis, *window = node.args
            node.args = (source, axis % source.meta["val"].ndim, *window)


def _keep_marks_of_rewritten(model: ov.Model) -> None:
    """Write pools and softmaxes in the oldest opset that has what they do, in place.

    The plugin rewrites newer ones to that when it compiles, and loses their marks.
    """
    for node in model.get_ordered_ops():
        older = _oldest_softmax(node) or _oldest_pool(node)
        if older is None or older.get_output_partial_shape(0) != node.get_output_partial_shape(0):
            continue
        older.set_friendly_name(node.get_friendly_name())
        for target in node.output(0).get_target_inputs():
            target.replace_source_output(older.output(0))


def _oldest_softmax(node: ov.Node) -> ov.Node | None:
    """The same softmax, whose axis the oldest opset counts from the front; None for others."""
    rank = node.get_output_partial_shape(0).rank if node.get_output_size() else None
    if node.get_type_name() != "Softmax" or rank is None or rank.is_dynamic:
        return None
    axis: int = node.get_attributes()["axis"]
    return opset1.softmax(node.input_value(0), axis % rank.get_length())


def _oldest_pool(node: ov.Node) -> ov.Node | None:
    """The same pool in the oldest opset; None for what is no pool or does more."""
    kind = node.get_type_name()
    if kind not in ("MaxPool", "AvgPool"):
        return None
    facts = node.get_attributes()
    source, rounding = node.input_value(0), facts["rounding_type"].replace("_torch", "")
    window = (list(facts[key]) for key in ("strides", "pads_begin", "pads_end", "kernel"))
    if kind == "AvgPool":
        return opset1.avg_pool(source, *window, facts["exclude-pad"], rounding, facts["auto_pad"])
    dilated = any(step != 1 for step in facts.get("dilations", ()))
    indexed = node.get_output_size() > 1 and bool(node.output(1).get_target_inputs())
    if dilated or indexed:
        return None
    return opset1.max_pool(source, *window, rounding, facts["auto_pad"])


def _keep_marks_of_matmuls(model: ov.Model) -> None:
    """Let matmuls transpose their operands themselves, in place.

    The plugin does the same when it compiles, and loses their marks.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        values, flips = node.input_values(), list(node.get_attributes().values())
        for index, value in enumerate(values):
            writer = value.get_node()
            if writer.get_type_name() == "Transpose" and _swaps_last_two(writer):
                values[index], flips[index] = writer.input_value(0), not flips[index]
        values[0] = _spread(*values)
        if values != node.input_values():
            matmul = opset1.matmul(*values, *flips)
            matmul.set_friendly_name(node.get_friendly_name())
            for target in node.output(0).get_target_inputs():
                target.replace_source_output(matmul.output(0))


def _spread(matrix: ov.Output, stack: ov.Output) -> ov.Output:
    """A matrix for each of a stack of constant ones: the plugin fails to spread it itself."""
    rows, sizes = matrix.get_partial_shape(), stack.get_partial_shape()
    is_constant = stack.get_node().get_type_name() == "Constant"
    if not is_constant or not 1 < len(rows) <= len(sizes) or len(sizes) == 2:
        return matrix
    if any(size != 1 for size in list(rows)[:-2]):
        return matrix
    shape = np.array([size.get_length() for size in list(sizes)[:-2]] + [1, 1])
    return opset3.broadcast(matrix, shape, broadcast_spec="BIDIRECTIONAL").output(0)


def _give_scalars_an_axis(model: ov.Model) -> None:
    """Let what computes with an input of no axis see one of one axis, in place.

    The plugin crashes on a linear layer whose output is divided by a scalar input.
    """
    for scalar in model.get_parameters():
        if scalar.get_output_partial_shape(0).rank != 0:
            continue
        given = None
        for target in scalar.output(0).get_target_inputs():
            reader = target.get_node()
            if reader.get_type_name() in _BROADCASTING and any(
                value.get_partial_shape().rank != 0 for value in reader.input_values()
            ):
                given = given or opset1.reshape(scalar, np.array([1], np.int64), False)
                target.replace_source_output(given.output(0))


def _swaps_last_two(transpose: ov.Node) -> bool:
    order = transpose.input_value(1).get_node()
    if order.get_type_name() != "Constant":
        return False
    axes: list[int] = np.asarray(order.get_data()).tolist()
    last = len(axes) - 1
    return axes == [*range(last - 1), last, last - 1]
