"""An exported program as one graph of pure ops over tensors."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.fx import Graph, GraphModule, Node
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from autoquant.errors import ModelError
from autoquant.model.data.calling import Calling
from autoquant.model.data.trees import plain_structure
from autoquant.model.graph.aten import op_name
from autoquant.model.graph.composites import (
    is_written_out,
    mode_of,
    splice,
    without_write,
    write_out,
)
from autoquant.model.graph.tensor_paths import as_root
from autoquant.model.graph.writes import Writes

_CHECKS = ("_assert", "sym_constrain_range", "_check")
_IDENTITIES = frozenset({"alias", "detach", "lift_fresh", "lift_fresh_copy", "clone"})
_HELD = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


def functional_graph(program: ExportedProgram, writes: Writes) -> GraphModule:
    """Give a program as a graph of pure ops over the tensors of its inputs.

    Constant inputs are baked in, what a forward writes into its inputs or buffers is dropped,
    and so are checks, copies and dead code. What is computed twice of the same tensors is computed
    once, as engines do: two ops that one kernel runs cannot have two schemes. A view becomes a
    reshape, so that tensors may come in another memory format; a batch norm is one node. Every
    output stays bit for bit.

    Args:
        program: From `export_program`; not changed.
        writes: What it writes in place.

    Returns:
        A module: tensors in, in the order of `Calling`; the model's own output structure out.

    Raises:
        ModelError: The program needs what no graph of tensors can hold.
    """
    graph = Graph()
    made: dict[Node, Any] = {}
    held: dict[str, Any] = {}
    inputs: list[Node] = []
    for spec, node in zip(program.graph_signature.input_specs, program.graph.nodes, strict=False):
        if isinstance(spec.arg, ConstantArgument):
            made[node] = spec.arg.value
        elif spec.kind is InputKind.USER_INPUT:
            made[node] = graph.node_copy(node)
            inputs.append(made[node])
        elif spec.kind in _HELD:
            name = str(spec.target)
            held[name] = program.state_dict.get(name, program.constants.get(name))
            made[node] = graph.get_attr(name)
            made[node].meta = dict(node.meta)
        else:
            raise ModelError(
                f"the model holds a {spec.kind.name.lower()} ({spec.target}), which no graph of "
                "tensors can carry",
                hint="model.capture: modules looks at weighted modules alone",
            )
    mode = mode_of(program.graph)
    for node in program.graph.nodes:
        if node.op not in ("call_function", "get_attr") or _is_check(node):
            continue
        if node.op == "get_attr":
            held[str(node.target)] = getattr(program.graph_module, str(node.target))
        if op_name(node) == "batch_norm" or not is_written_out(without_write(node.target), {}):
            made[node] = _copy(graph, node, made)
        else:
            traced = write_out(node, lambda item: item.meta["val"], {}, mode)
            made[node] = splice(node, traced, made, held, partial(_copy_step, graph, node))
        for renewed in writes.renewed.get(node, ()):
            made[renewed] = made[node]
    results = _user_outputs(program, made)
    graph.output(results)
    _give_structure(graph, [item.name for item in inputs], program.call_spec.out_spec)
    module = GraphModule(as_root(held), graph)
    _read_sizes_of_inputs(module.graph, inputs)
    _merge_equal_nodes(module.graph)
    _merge_batch_norms(module)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return module


def _read_sizes_of_inputs(graph: Graph, inputs: Sequence[Node]) -> None:
    """Let a size that is the size of an input be read there: then it holds back no kernel.

    A tensor that is read for its size alone has no reader to an engine that fuses ops.
    """
    known: dict[str, tuple[Node, int]] = {}
    for node in inputs:
        for axis, size in enumerate(getattr(node.meta["val"], "shape", ())):
            known.setdefault(str(size), (node, axis))
    for node in graph.nodes:
        if node.target is torch.ops.aten.sym_size.int and str(node.meta["val"]) in known:
            node.args = known[str(node.meta["val"])]


def _merge_equal_nodes(graph: Graph) -> None:
    """Let the readers of a node that repeats an earlier one read that one."""
    first: dict[str, Node] = {}
    for node in graph.nodes:
        tags = getattr(node.target, "tags", ())
        if node.op == "call_function" and torch.Tag.nondeterministic_seeded not in tags:
            known = first.setdefault(f"{node.target} {node.args} {node.kwargs}", node)
            if known is not node:
                node.replace_all_uses_with(known)


def _copy_step(graph: Graph, node: Node, inner: Node, made: Mapping[Node, Any]) -> Any:
    """Write one of the ops that compute a node, in the node's place."""
    inner.meta = {**node.meta, "val": inner.meta.get("val")}
    inner.meta.pop("tensor_meta", None)  # of what the node gives, not of this step
    return _copy(graph, inner, made)


def _copy(graph: Graph, node: Node, made: Mapping[Node, Any]) -> Any:
    """Write one node into the new graph; give its source where it only hands that on."""
    name = op_name(node).removesuffix("_")
    args: Any = node.args
    if name in _IDENTITIES and not node.kwargs and isinstance(made[args[0]], Node):
        return made[args[0]]
    if node.target is operator.getitem and isinstance(made[args[0]], (tuple, list)):
        return made[args[0]][args[1]]
    if name == "copy":
        return _overwritten(graph, node, made)
    if name == "type_as":
        return _typed(graph, node, made)
    if name == "cat":
        joined = _without_empty(args[0])
        if len(joined) == 1:
            return made[joined[0]]
        args = (joined, *args[1:])
    if name == "clamp" and node.meta["val"].is_floating_point():
        args = (args[0], *map(_as_float, args[1:]))  # torch's ONNX exporter takes no 0 beside 0.5
    typed = _typed(graph, node, made) if name == "rsub" else None
    is_view = name in ("view", "_unsafe_view") and not isinstance(args[1], torch.dtype)
    copied = graph.create_node(  # a name of its own: the program's hold numbers of symbols
        node.op,
        torch.ops.aten.reshape.default if is_view else without_write(node.target),
        map_arg(args, lambda item: made[item]),
        map_arg(node.kwargs, lambda item: made[item]),
        name if node.op == "call_function" and name else None,
    )
    copied.meta = dict(node.meta)
    if typed is not None:  # 1.0 - mask: torch's ONNX exporter converts no whole numbers there
        copied.update_arg(0, typed)
    return copied


def _typed(graph: Graph, node: Node, made: Mapping[Node, Any]) -> Any:
    """A tensor in the type that another has, which is known: then it does not depend on that."""
    source: Any = node.args[0]
    return _as_type(graph, node, made[source], source.meta["val"].dtype)


def _as_type(graph: Graph, node: Node, given: Any, kind: torch.dtype) -> Any:
    """A tensor of one type in the type of a node."""
    wanted = node.meta["val"].dtype
    if kind == wanted:
        return given
    typed = graph.call_function(torch.ops.aten.to.dtype, (given, wanted))
    typed.meta = dict(node.meta)
    return typed


def _as_float(number: Any) -> Any:
    return float(number) if isinstance(number, int) else number


def _without_empty(joined: Sequence[Node]) -> list[Node]:
    """What a concatenation joins; torch skips `tensor([])` beside tensors of more axes."""
    full = [item for item in joined if not _is_nothing(item.meta["val"].shape)]
    return full or list(joined)


def _is_nothing(shape: torch.Size) -> bool:
    return len(shape) == 1 and isinstance(shape[0], int) and shape[0] == 0


def _overwritten(graph: Graph, node: Node, made: Mapping[Node, Any]) -> Node:
    """A tensor that takes another's values: in a form that has a derivative, unlike `copy`."""
    args: Any = node.args
    before, source = args[:2]
    given = _as_type(graph, node, made[source], source.meta["val"].dtype)
    spread = graph.call_function(torch.ops.aten.expand_as.default, (given, made[before]))
    spread.meta = dict(node.meta)
    return spread


def _is_check(node: Node) -> bool:
    return op_name(node).startswith(_CHECKS) and not node.users


def _user_outputs(program: ExportedProgram, made: Mapping[Node, Any]) -> tuple[Any, ...]:
    written = next(node for node in program.graph.nodes if node.op == "output").args[0]
    specs = program.graph_signature.output_specs
    return tuple(
        made[item] if isinstance(item, Node) else item
        for item, spec in zip(written, specs, strict=True)
        if spec.kind is OutputKind.USER_OUTPUT
    )


def _give_structure(graph: Graph, inputs: list[str], outputs: pytree.TreeSpec) -> None:
    """Let the graph take its tensors one by one and nest its outputs as the model does."""
    flat = Calling.plain(len(inputs)).structure
    graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo(inputs, flat, plain_structure(outputs))))


def _merge_batch_norms(module: GraphModule) -> None:
    """Make each batch norm in eval mode the one op that engines know, in place."""
    for node in list(module.graph.nodes):
        if op_name(node) != "_native_batch_norm_legit_no_training":
            continue
        if any(user.target is not operator.getitem or user.args[1] != 0 for user in node.users):
            continue
        source, weight, bias, mean, variance, momentum, epsilon = node.args
        with module.graph.inserting_before(node):
            merged = module.graph.call_function(
                torch.ops.aten.batch_norm.default,
                (source, weight, bias, mean, variance, False, momentum, epsilon, False),
            )
        for user in list(node.users):
            merged.meta = dict(user.meta)
            user.replace_all_uses_with(merged)
            module.graph.erase_node(user)
        module.graph.erase_node(node)
