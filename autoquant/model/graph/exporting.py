"""torch.export's functional graph of a model: what ran, op by op, free of the model's Python."""

from __future__ import annotations

import builtins
import inspect
import logging
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.fx import Graph, GraphModule, Node
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from autoquant.errors import ModelError
from autoquant.model.data.calling import Calling
from autoquant.model.data.outputs import opaque_outputs, without_opaque
from autoquant.model.data.trees import plain_structure, register_dataclasses
from autoquant.model.graph.aten import op_name
from autoquant.model.graph.cells import CELLS
from autoquant.model.graph.places import said_of
from autoquant.model.graph.recurrent_shapes import recurrent_shapes
from autoquant.model.graph.scripts import without_scripts
from autoquant.model.graph.size_guards import SizeGuards

_CHECKS = ("_assert", "sym_constrain_range", "_check")
_IDENTITIES = frozenset({"alias", "detach", "lift_fresh", "lift_fresh_copy", "clone"})
_HELD = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


def export_program(
    model: nn.Module,
    calling: Calling,
    example: Sequence[Tensor],
    dynamic: Sequence[Sequence[int]],
) -> tuple[ExportedProgram, SizeGuards]:
    """Export a model, with composite ops whole and without writes in place.

    Args:
        model: Any float module in eval mode; it is neither copied nor changed.
        calling: How the model takes its inputs.
        example: Their tensors, one batch.
        dynamic: By tensor, axes whose size may change; an axis that the model itself fixes is
            taken as fixed, also where it takes no more than the one that the example has.

    Returns:
        The program, and what it takes for granted of sizes.

    Raises:
        ModelError: torch.export cannot follow the model.
    """
    more = tuple(map(grown, example, dynamic))
    with quiet_export(), torch.no_grad():
        model = without_scripts(
            model, lambda made: calling.call(made, [item.clone() for item in example])
        )
    model = _with_keywords(_plain(model), calling.arguments(more)[1])
    tries = [(more, dynamic, Dim.DYNAMIC), (more, dynamic, Dim.AUTO)]
    longer = [
        [axis for axis in axes if tensor.shape[axis] > 1]
        for tensor, axes in zip(example, dynamic, strict=True)
    ]
    if longer != [list(axes) for axes in dynamic]:
        tries.append((tuple(item.clone() for item in example), longer, Dim.AUTO))
    failure: Exception | None = None
    with quiet_export(), recurrent_shapes(), torch.no_grad():
        for tensors, free, dim in tries:
            args, kwargs = calling.arguments(tensors)
            shapes = ShapesCollection()
            for tensor, axes in zip(tensors, free, strict=True):
                if axes:
                    shapes[tensor] = dict.fromkeys(axes, dim)
            try:
                with _free_lengths():
                    program = torch.export.export(
                        model,
                        args,
                        kwargs,
                        dynamic_shapes=shapes.dynamic_shapes(model, args, kwargs),
                        strict=False,
                    )
                functional: ExportedProgram = program.run_decompositions(dict(CELLS))
            except Exception as error:  # noqa: BLE001  torch.export raises whatever a model raises
                known = None if failure else _with_known_outputs(model, calling, tensors)
                if known is not None:
                    return export_program(known, calling, example, dynamic)
                failure = failure or error
            else:
                return functional, SizeGuards.of(program, model, calling)
    raise ModelError(
        f"torch.export cannot capture the model: {said_of(failure)}",
        hint="rewrite that line without control flow that depends on values; or take "
        "model.capture: modules, which looks at weighted modules alone",
    ) from failure


def _plain(model: nn.Module) -> nn.Module:
    """A traced model as a plain module over the same parts.

    Of a GraphModule torch.export tells the paths of children, and not of what lies below them.
    """
    if not isinstance(model, GraphModule):
        return model
    made = nn.Module()
    made.__class__ = type(type(model).__name__, (nn.Module,), {"forward": type(model).forward})
    made.__dict__.update(model.__dict__)
    return made


def _with_known_outputs(
    model: nn.Module, calling: Calling, tensors: Sequence[Tensor]
) -> nn.Module | None:
    """Let torch's pytree know all that a model returns; None where it did already.

    Dataclasses are registered. An object of another class (a cache of keys and values) is None
    in what the module given here returns.
    """
    known = len(pytree.SUPPORTED_NODES)
    try:
        outputs = calling.call(model, [item.clone() for item in tensors])
        register_dataclasses(outputs)
    except Exception:  # noqa: BLE001  the model's own mistake: what torch.export said of it stands
        return None
    if opaque_outputs(outputs):
        return _without_opaque_outputs(model)
    return model if len(pytree.SUPPORTED_NODES) > known else None


def _without_opaque_outputs(model: nn.Module) -> nn.Module:
    """The same module with a forward that says less."""
    plain = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return without_opaque(plain(*args, **kwargs))

    return _with_forward(model, forward, inspect.signature(plain))


def _with_keywords(model: nn.Module, given: Mapping[str, Any]) -> nn.Module:
    """The same module with a forward that names what it takes as `**kwargs`.

    torch.export takes no dynamic axes where keywords go into those.
    """
    signature = inspect.signature(model.forward)
    named = [item for item in signature.parameters.values() if item.kind is not item.VAR_KEYWORD]
    unnamed = given.keys() - {item.name for item in named}
    if not unnamed:
        return model
    named += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in given if name in unnamed
    ]
    plain = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return plain(*args, **kwargs)

    return _with_forward(model, forward, signature.replace(parameters=named))


def _with_forward(
    model: nn.Module, forward: Callable[..., Any], signature: inspect.Signature
) -> nn.Module:
    """A module with the same parts at the same paths, and a forward of its own."""
    forward.__signature__ = signature  # type: ignore[attr-defined]
    made = nn.Module()
    made.__class__ = type(type(model).__name__, (type(model),), {})
    made.__dict__.update(model.__dict__)
    made.__dict__["forward"] = forward
    return made


def functional_graph(program: ExportedProgram) -> GraphModule:
    """Give a program as a graph of ops over the tensors of its inputs.

    Constant inputs are baked in, what a forward writes into its inputs or buffers is dropped,
    and so are checks, copies and dead code. What is computed twice of the same tensors is computed
    once, as engines do: two ops that one kernel runs cannot have two schemes. A view becomes a
    reshape, so that tensors may come in another memory format; a batch norm is one node. Every
    output stays bit for bit.

    Args:
        program: From `export_program`.

    Returns:
        A module: tensors in, in the order of `Calling`; the model's own output structure out.

    Raises:
        ModelError: The program needs what no graph of tensors can hold.
    """
    graph = Graph()
    made: dict[Node, Any] = {}
    held: dict[str, Any] = {}
    inputs: list[str] = []
    for spec, node in zip(program.graph_signature.input_specs, program.graph.nodes, strict=False):
        if isinstance(spec.arg, ConstantArgument):
            made[node] = spec.arg.value
        elif spec.kind is InputKind.USER_INPUT:
            made[node] = graph.node_copy(node)
            inputs.append(made[node].name)
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
    for node in program.graph.nodes:
        if node.op == "get_attr":
            held[str(node.target)] = getattr(program.graph_module, str(node.target))
        if node.op in ("call_function", "get_attr") and not _is_check(node):
            made[node] = _copy(graph, node, made)
    results = _user_outputs(program, made)
    graph.output(results)
    _give_structure(graph, inputs, program.call_spec.out_spec)
    module = GraphModule(_as_root(held), graph)
    _merge_equal_nodes(module.graph)
    _merge_batch_norms(module)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return module


def _merge_equal_nodes(graph: Graph) -> None:
    """Let the readers of a node that repeats an earlier one read that one."""
    first: dict[str, Node] = {}
    for node in graph.nodes:
        tags = getattr(node.target, "tags", ())
        if node.op == "call_function" and torch.Tag.nondeterministic_seeded not in tags:
            known = first.setdefault(f"{node.target} {node.args} {node.kwargs}", node)
            if known is not node:
                node.replace_all_uses_with(known)


def free_axes(program: ExportedProgram) -> tuple[tuple[int, ...], ...]:
    """By input tensor, the axes whose size the program leaves open."""
    found = []
    for spec, node in zip(program.graph_signature.input_specs, program.graph.nodes, strict=False):
        if spec.kind is InputKind.USER_INPUT and not isinstance(spec.arg, ConstantArgument):
            sizes = node.meta["val"].shape
            found.append(tuple(axis for axis, size in enumerate(sizes) if _is_free(size)))
    return tuple(found)


def _is_free(size: int | torch.SymInt) -> bool:
    return not isinstance(size, int) and size.node.maybe_as_int() is None


def writes_inputs(program: ExportedProgram) -> bool:
    """Whether the model's forward changes a tensor that it is given."""
    return bool(program.graph_signature.user_inputs_to_mutate)


def scope_of(node: Node) -> str:
    """Path of the module whose forward made a call; calls of one module share it."""
    return call_of(node).partition("@")[0]


def call_of(node: Node) -> str:
    """Path of that module and, where it runs several times, `@` and which call this was."""
    stack = node.meta.get("nn_module_stack") or {}
    if not stack:
        return ""
    key, (path, _) = list(stack.items())[-1]
    path = str(path).removeprefix("L['self'].")
    if path.startswith(("_empty", "L['self']")):
        return ""
    _, at, number = str(key).rpartition("@")
    plain = path.partition("@")[0]
    return f"{plain}@{number}" if at and number.isdigit() else plain


def grown(tensor: Tensor, axes: Sequence[int]) -> Tensor:
    """A copy, with two of what there is one of: torch.export takes a size of 1 for a constant.

    Of a view of some columns it cannot write its guards.
    """
    for axis in axes:
        if tensor.shape[axis] == 1:
            tensor = torch.cat([tensor, tensor], axis)
    return tensor.clone()


def _copy(graph: Graph, node: Node, made: Mapping[Node, Any]) -> Any:
    """Write one node into the new graph; give its source where it only hands that on."""
    name = op_name(node)
    if name in _IDENTITIES and not node.kwargs:
        source = made[node.args[0]]  # type: ignore[index]
        if isinstance(source, Node):
            return source
    if name == "copy":
        return _overwritten(graph, node, made)
    if name == "type_as":
        return _typed(graph, node, made)
    args = node.args
    if name == "cat":
        joined = _without_empty(args[0])  # type: ignore[arg-type]
        if len(joined) == 1:
            return made[joined[0]]
        args = (joined, *args[1:])
    typed = _typed(graph, node, made) if name == "rsub" else None
    is_view = name in ("view", "_unsafe_view") and not isinstance(node.args[1], torch.dtype)
    copied = graph.create_node(  # a name of its own: the program's hold numbers of symbols
        node.op,
        torch.ops.aten.reshape.default if is_view else node.target,
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
    given, kind = made[node.args[0]], node.meta["val"].dtype  # type: ignore[index]
    if node.args[0].meta["val"].dtype == kind:  # type: ignore[union-attr]
        return given
    typed = graph.call_function(torch.ops.aten.to.dtype, (given, kind))
    typed.meta = dict(node.meta)
    return typed


def _without_empty(joined: Sequence[Node]) -> list[Node]:
    """What a concatenation joins; torch skips `tensor([])` beside tensors of more axes."""
    full = [item for item in joined if not _is_nothing(item.meta["val"].shape)]
    return full or list(joined)


def _is_nothing(shape: torch.Size) -> bool:
    return len(shape) == 1 and isinstance(shape[0], int) and shape[0] == 0


def _overwritten(graph: Graph, node: Node, made: Mapping[Node, Any]) -> Node:
    """A tensor that takes another's values: in a form that has a derivative, unlike `copy`."""
    before, source = node.args[:2]
    given = made[source]  # type: ignore[index]
    value = node.meta["val"]
    if value.dtype != source.meta["val"].dtype:  # type: ignore[union-attr]
        given = graph.call_function(torch.ops.aten.to.dtype, (given, value.dtype))
        given.meta = dict(node.meta)
    spread = graph.call_function(torch.ops.aten.expand_as.default, (given, made[before]))  # type: ignore[index]
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


def _as_root(held: Mapping[str, Any]) -> nn.Module:
    """A module that holds tensors at their paths."""
    root = nn.Module()
    for name, value in held.items():
        put(root, name, value)
    return root


def put(root: nn.Module, name: str, value: Any) -> None:
    """Set a tensor at a path, making the modules on the way."""
    *path, last = name.split(".")
    for part in path:
        if not isinstance(getattr(root, part, None), nn.Module):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    if isinstance(value, nn.Parameter):
        root.register_parameter(last, value)
    elif isinstance(value, Tensor):
        root.register_buffer(last, value)
    else:
        setattr(root, last, value)


def take(root: nn.Module, name: str) -> Any:
    """What stands at a path."""
    return operator.attrgetter(name)(root)


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


@contextmanager
def _free_lengths() -> Iterator[None]:
    """Let `len(x)` of a tensor stay a size that may change, as `x.shape[0]` does.

    Python makes a plain number of what `__len__` gives, which would fix the batch size. Only
    replacing the function itself helps, as torch.export does with `max` and `min`.
    """
    plain = builtins.len

    def length(item: Any, /) -> Any:
        return item.shape[0] if isinstance(item, Tensor) and item.ndim else plain(item)

    builtins.len = length
    try:
        yield
    finally:
        builtins.len = plain


@contextmanager
def quiet_export() -> Iterator[None]:
    """Leave out what torch warns of, logs and prints while it exports; what it raises is said."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
