"""The float model as an ONNX graph, whose nodes know the site that they compute."""

from __future__ import annotations

import operator
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxscript import rewriter

from autoquant.backends.onnxruntime.bodies import read_by, rename_outer
from autoquant.backends.onnxruntime.grids import Array
from autoquant.backends.onnxruntime.plan_model import LEAST_BESIDE
from autoquant.backends.onnxruntime.spatial_mean import replace_spatial_means
from autoquant.core.quiet import quiet
from autoquant.errors import BackendError, first_line
from autoquant.model.data.outputs import OutputStructure
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.exported import Exported, origins
from autoquant.model.graph.places import places
from autoquant.model.graph.recurrent_shapes import is_projected, recurrent_shapes

_NO_OPS: Collection[Any] = ()
with suppress(ImportError):
    from onnxscript.rewriter.rules.common import _no_op

    _NO_OPS = tuple(_no_op.rules)

OPSET = 21
"""The first in which QuantizeLinear knows int16."""

MOVING = frozenset(
    {
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Pad",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
"""Nodes that move values without changing them: they move codes as well."""

_RESHAPING = frozenset({"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Those of them that give every value, and no other."""

_RULES = "_DEFAULT_REWRITE_RULES"
_FX_NODE = "pkg.torch.onnx.fx_node"
_FX_NAME = re.compile(r"%(\S+) :")


@dataclass(frozen=True, slots=True, eq=False)
class FloatGraph:
    """A float model in ONNX.

    Every node has one name of the form `site/Op`, or `node of the captured graph/Op` where it
    computes no site; so has the tensor that it writes.

    Attributes:
        nodes: In execution order.
        initializers: By name.
        inputs: Of the graph, in the order in which the model takes them.
        outputs: By output of the graph, flattened: the tensor that it is, and how it is declared.
        output_tree: How torch puts the outputs together again.
        owner: By node name, the site that it computes.
        tensors: By tensor, the node of the captured graph that gives it: a key of the
            calibration statistics. Tensors within such a node are not listed, unless they only
            hold values of a tensor that is.
    """

    nodes: tuple[NodeProto, ...]
    initializers: Mapping[str, Array]
    inputs: tuple[onnx.ValueInfoProto, ...]
    outputs: tuple[tuple[str, onnx.ValueInfoProto], ...]
    output_tree: OutputStructure
    owner: Mapping[str, str]
    tensors: Mapping[str, str]


def convert_float(captured: Capture, exported: Exported) -> FloatGraph:
    """Convert an exported program to ONNX.

    Raises:
        BackendError: torch cannot write it, or it has an LSTM with projections, which ONNX has not.
    """
    projected = next(filter(is_projected, captured.graph.graph.nodes), None)
    if projected is not None:
        raise BackendError(
            f"onnxruntime: {projected.name} is an LSTM with projections, which ONNX does not have",
            hint="search with backend.name: torch, or with openvino where all data have one length",
        )
    with quiet(), redirect_stdout(StringIO()), recurrent_shapes(), _small_terms_kept():
        try:
            written = torch.onnx.export(
                exported.program, dynamo=True, verbose=False, opset_version=OPSET
            )
        except Exception as error:
            said = _last_line(error)
            at = places(exported.program.graph.nodes, said)
            raise BackendError(
                f"onnxruntime: torch cannot write the model in ONNX: {said}{at}",
                hint="rewrite the op that it names, or choose another backend.name",
            ) from error
    program = None if written is None else written.exported_program
    if written is None or program is None:
        raise BackendError("onnxruntime: torch.onnx.export gave no model")
    origin = {**origins(exported.program.graph), **origins(program.graph)}
    constants = _take_constants(written.model)
    model: ModelProto = written.model_proto
    origin_of = {node.name: _captured_node(node, origin) for node in model.graph.node}
    replace_spatial_means(model.graph, origin_of)
    placeholders = [n.name for n in captured.graph.graph.nodes if n.op == "placeholder"]
    user_inputs = [name for name in program.graph_signature.user_inputs if isinstance(name, str)]
    names = dict(zip(user_inputs, placeholders, strict=False))
    return _rename(captured, model, constants, origin_of, names, exported.outputs)


def _take_constants(model: ir.Model) -> dict[str, Array]:
    """Take the larger constants from a model, the memory that they share with the torch model's.

    They would be copied where the model is written.
    """
    found = {}
    for name, value in model.graph.initializers.items():
        if value.const_value is not None and value.const_value.nbytes >= LEAST_BESIDE:
            found[name] = np.ascontiguousarray(value.const_value.numpy())
            value.const_value = ir.tensor(np.zeros(0, np.float32))
    return found


@contextmanager
def _small_terms_kept() -> Iterator[None]:
    """Keep torch's exporter from taking 1e-8 for nothing, as in `x / (n + 1e-8).sqrt()`.

    Its rules for `x + 0` and `x * 1` compare to within 1e-8, and 1e-5 of a factor. An onnxscript
    that holds them in other places exports as it does.
    """
    before = getattr(rewriter, _RULES, ())
    setattr(rewriter, _RULES, tuple(item for item in before if item not in _NO_OPS))
    try:
        yield
    finally:
        setattr(rewriter, _RULES, before)


def _captured_node(node: NodeProto, origin: Mapping[str, str]) -> str | None:
    """The node of the captured graph that an ONNX node comes from."""
    for item in node.metadata_props:
        if item.key == _FX_NODE:
            found = _FX_NAME.match(item.value)
            return origin.get(found[1]) if found else None
    return None


def _rename(
    captured: Capture,
    model: ModelProto,
    constants: Mapping[str, Array],
    origin_of: Mapping[str, str | None],
    input_names: Mapping[str, str],
    output_tree: OutputStructure,
) -> FloatGraph:
    """Name nodes and tensors after sites, inputs after the model's arguments."""
    graph = model.graph
    site_of = captured.site_of
    first_of = {  # a module that gives several tensors has statistics of its first one only
        node.args[0].name: node.name
        for node in captured.graph.graph.nodes
        if node.target is operator.getitem and node.args[1] == 0
    }
    called = dict(zip(input_names.values(), captured.calling.names, strict=True))
    output_names = _output_names(graph, output_tree, called.values())
    # the exporter calls an input that is an output too by another name, but moves none
    renamed = dict(zip([item.name for item in graph.input], called.values(), strict=True))
    tensors = {called[node]: node for node in input_names.values()}
    owner: dict[str, str] = {}
    used: Counter[str] = Counter(renamed.values())
    nodes: list[NodeProto] = []
    origins_of: dict[str, str | None] = {}
    for source in graph.node:
        origin = origin_of[source.name]
        site = site_of.get(origin or "")
        stem = f"{site or origin or 'model'}/{source.op_type}"
        used[stem] += 1
        name = stem if used[stem] == 1 else f"{stem}.{used[stem] - 1}"
        node = NodeProto(op_type=source.op_type, domain=source.domain, name=name)
        node.input.extend(renamed.get(item, item) for item in source.input)
        for index, output in enumerate(source.output):
            renamed[output] = (name if index == 0 else f"{name}:{index}") if output else ""
            node.output.append(renamed[output])
        node.attribute.extend(source.attribute)
        rename_outer(node, lambda item: renamed.get(item, item))
        if site is not None:
            owner[name] = site
        nodes.append(node)
        origins_of[name] = origin
    readers = consumers(nodes)
    for node in nodes:
        origin = origins_of[node.name]
        for output in node.output:
            inner = any(origins_of[reader.name] == origin for reader in readers.get(output, []))
            if origin is not None and not inner:
                tensors[output] = first_of.get(origin, origin)
            elif _hands_on(node) and node.input[0] in tensors:
                tensors[output] = tensors[node.input[0]]
    for node in reversed(nodes):  # within a node of the captured graph, before a change of shape
        if node.op_type in _RESHAPING and node.output[0] in tensors:
            tensors.setdefault(node.input[0], tensors[node.output[0]])
    return FloatGraph(
        nodes=tuple(nodes),
        initializers={
            item.name: constants.get(item.name, numpy_helper.to_array(item))
            for item in graph.initializer
        },
        inputs=tuple(_value(item, renamed[item.name]) for item in graph.input),
        outputs=tuple(
            (renamed.get(item.name, item.name), _value(item, name))
            for item, name in zip(graph.output, output_names, strict=True)
        ),
        output_tree=output_tree,
        owner=owner,
        tensors=tensors,
    )


def _hands_on(node: NodeProto) -> bool:
    """Whether the values that a node writes are those that it reads."""
    to_float = attributes_of(node).get("to") == TensorProto.FLOAT
    return node.op_type in MOVING or (node.op_type == "Cast" and to_float)


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """Attributes of a node by name."""
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _output_names(
    graph: onnx.GraphProto, output_tree: OutputStructure, inputs: Collection[str]
) -> tuple[str, ...]:
    count = len(graph.output)
    if count != output_tree.tensor_count:
        raise BackendError(
            f"onnxruntime: the model gives {output_tree.tensor_count} tensors, its file {count}",
            hint="return each tensor once from forward",
        )
    return output_tree.names_beside(inputs)


def _value(item: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    """A graph input or output under another name."""
    renamed = onnx.ValueInfoProto(name=name)
    renamed.type.CopyFrom(item.type)
    return renamed


def _last_line(error: Exception) -> str:
    line = first_line(error.__cause__ or error)
    return line.partition(" : [num_users")[0]  # of a node, its name without all that it reads


def consumers(nodes: Iterable[NodeProto]) -> dict[str, list[NodeProto]]:
    """By tensor, the nodes that read it."""
    found: dict[str, list[NodeProto]] = defaultdict(list)
    for node in nodes:
        for name in read_by(node):
            found[name].append(node)
    return found
