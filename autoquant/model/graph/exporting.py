"""A model by torch.export: what ran, op by op, free of the model's Python."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from autoquant.core.quiet import quiet
from autoquant.errors import ModelError
from autoquant.model.data.calling import Calling
from autoquant.model.data.outputs import opaque_outputs, without_opaque
from autoquant.model.data.trees import register_dataclasses
from autoquant.model.graph.causal_masks import masks_as_given
from autoquant.model.graph.cells import CELLS
from autoquant.model.graph.free_sizes import free_sizes
from autoquant.model.graph.other_forward import as_class, with_forward
from autoquant.model.graph.places import said_of
from autoquant.model.graph.recurrent_shapes import recurrent_shapes
from autoquant.model.graph.scripts import without_scripts
from autoquant.model.graph.settled_values import with_settled_values
from autoquant.model.graph.size_guards import SizeGuards
from autoquant.model.graph.writes import Writes, find_writes


def export_program(
    model: nn.Module,
    calling: Calling,
    example: Sequence[Tensor],
    dynamic: Sequence[Sequence[int]],
) -> tuple[ExportedProgram, Writes, SizeGuards]:
    """Export a model, with composite ops whole.

    Args:
        model: Any float module in eval mode; it is neither copied nor changed.
        calling: How the model takes its inputs.
        example: Their tensors, one batch.
        dynamic: By tensor, axes whose size may change; an axis that the model itself fixes is
            taken as fixed, also where it takes no more than the one that the example has.

    Returns:
        The program, what it writes in place, and what it takes for granted of sizes.

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
    with followed_by_export():
        for tensors, free, dim in tries:
            args, kwargs = calling.arguments(tensors)
            shapes = ShapesCollection()
            for tensor, axes in zip(tensors, free, strict=True):
                if axes:
                    shapes[tensor] = dict.fromkeys(axes, dim)
            try:
                with free_sizes():
                    program = torch.export.export(
                        model,
                        args,
                        kwargs,
                        dynamic_shapes=shapes.dynamic_shapes(model, args, kwargs),
                        strict=False,
                    )
                guards, writes = SizeGuards.of(program, model, calling), find_writes(program)
                if writes is None:
                    program = program.run_decompositions(dict(CELLS))
                    writes = Writes({}, bool(program.graph_signature.user_inputs_to_mutate))
            except Exception as error:  # noqa: BLE001  torch.export raises whatever a model raises
                if failure is None:
                    known = _with_known_outputs(model, calling, tensors)
                    known = known or with_settled_values(model, calling, tensors)
                    if known is not None:
                        return export_program(known, calling, example, dynamic)
                failure = failure or error
            else:
                return program, writes, guards
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
    kind = type(type(model).__name__, (nn.Module,), {"forward": type(model).forward})
    return as_class(model, kind)


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

    return with_forward(model, forward)


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

    return with_forward(model, forward, signature.replace(parameters=named))


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


def grown(tensor: Tensor, axes: Sequence[int]) -> Tensor:
    """A copy, with two of what there is one of: torch.export takes a size of 1 for a constant.

    Of a view of some columns it cannot write its guards.
    """
    for axis in axes:
        if tensor.shape[axis] == 1:
            tensor = torch.cat([tensor, tensor], axis)
    return tensor.clone()


@contextmanager
def followed_by_export() -> Iterator[None]:
    """What torch.export is called within: it is quiet, and told what it cannot find out itself."""
    with quiet_export(), recurrent_shapes(), masks_as_given(), torch.no_grad():
        yield


@contextmanager
def quiet_export() -> Iterator[None]:
    """Leave out what torch warns of, logs and prints while it exports; what it raises is said."""
    with quiet(), redirect_stderr(StringIO()):
        yield


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect no garbage meanwhile: that takes a fifth of what tracing takes, and finds little."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
