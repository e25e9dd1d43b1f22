"""How a model is called: flat tensors <-> the arguments of its forward."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoquant.errors import DataError, ModelError
from autoquant.model.data.arguments import Arguments, Parameters, find_arguments
from autoquant.model.data.trees import (
    flatten_with_paths,
    key_name,
    plain_structure,
    register_by_name,
    register_class,
    register_dataclasses,
)

Constant = bool | int | float | str | None


_MORE_THAN_INPUTS = "; where they hold more, let `prepare` return (inputs, targets)"


@contextmanager
def failing(who: str, where: str, inputs: Sequence[Tensor]) -> Iterator[None]:
    """Within, a user's model runs; whatever it raises is an error that names its inputs.

    Args:
        who: Fails: "the model".
        where: The inputs come from: "calibration batch 0".
        inputs: What it is given.
    """
    try:
        yield
    except Exception as error:
        raise ModelError(
            f"{who} failed on {where} of shape {', '.join(map(_form, inputs))}: "
            f"{type(error).__name__}: {error}",
            hint="give batches of the shape and dtype that model.forward takes"
            + (_MORE_THAN_INPUTS if len(inputs) > 1 else ""),
        ) from error


def _form(item: Tensor) -> str:
    """Shape and dtype; a nested tensor has no shape."""
    shape = "nested" if item.is_nested else str(tuple(item.shape))
    return f"{shape} {str(item.dtype).removeprefix('torch.')}"


@dataclass(frozen=True, slots=True)
class Calling:
    """The structure of a model's inputs, without the tensors.

    Tensors are in the order of torch's pytree of `(args, kwargs)`. What is no tensor (None,
    booleans, numbers, strings) is a constant, the same for every batch.

    Attributes:
        structure: Of `(args, kwargs)`.
        constants: By place among the leaves.
        names: Of each tensor, as a reader would say it: `x`, `input_ids`, `batch.mask`.
    """

    structure: pytree.TreeSpec
    constants: Mapping[int, Constant]
    names: tuple[str, ...]

    @classmethod
    def of(
        cls, inputs: object, model: nn.Module, where: str = "the batch"
    ) -> tuple[Calling, tuple[Tensor, ...]]:
        """Find how a model is called with the inputs of one batch.

        Args:
            inputs: As `find_arguments` reads them: dicts, tuples, dataclasses, arrays, tensors.
            model: What is called.
            where: What to call the batch in errors.

        Returns:
            The calling, and the tensors of this batch.

        Raises:
            DataError: Forward cannot be called so, or something in it is neither a tensor nor a
                constant.
        """
        parameters = Parameters.of(model)
        return cls.of_arguments(find_arguments(inputs, parameters, where), parameters, where)

    @classmethod
    def of_arguments(
        cls, arguments: Arguments, parameters: Parameters, where: str = "the batch"
    ) -> tuple[Calling, tuple[Tensor, ...]]:
        """Find the calling of arguments that were read already."""
        tree = (tuple(arguments.args), dict(arguments.kwargs))
        register_dataclasses(tree)
        paths, structure = flatten_with_paths(tree)
        constants: dict[int, Constant] = {}
        names, tensors = [], []
        for index, (path, leaf) in enumerate(paths):
            name = _name(path, parameters)
            value = _read_leaf(leaf, f"{where}: input {name!r}")
            if isinstance(value, Tensor):
                names.append(name)
                tensors.append(value)
            else:
                constants[index] = value
        if not tensors:
            raise DataError(f"{where} holds no tensor", hint="give the model's inputs as tensors")
        return cls(plain_structure(structure), constants, tuple(names)), tuple(tensors)

    @classmethod
    def plain(cls, count: int) -> Calling:
        """The calling of a function that takes so many tensors by place."""
        leaves = tuple(range(count))
        structure = plain_structure(pytree.tree_structure((leaves, {})))
        return cls(structure, {}, tuple(f"input_{i}" for i in leaves))

    def argument_names(self, parameters: Parameters) -> tuple[str, ...]:
        """Names of the arguments that forward is called with."""
        args, kwargs = self.structure.children()
        return (*map(parameters.name_of, range(args.num_children)), *kwargs.context)

    def like(self, arguments: Arguments, parameters: Parameters) -> Arguments:
        """The same arguments, by place and by name as this calling has them where that is so."""
        names = [parameters.name_of(place) for place in range(len(arguments.args))]
        found = {**dict(zip(names, arguments.args, strict=True)), **arguments.kwargs}
        wanted = self.argument_names(parameters)
        if set(found) != set(wanted):
            return arguments
        count = self.structure.child(0).num_children
        return Arguments(
            tuple(found[name] for name in wanted[:count]),
            {name: found[name] for name in wanted[count:]},
        )

    def tensors(
        self, arguments: Arguments, where: str = "the batch", first: str = "the first batch"
    ) -> tuple[Tensor, ...]:
        """Take the tensors out of the arguments of another batch."""
        tree = (tuple(arguments.args), dict(arguments.kwargs))
        register_dataclasses(tree)
        try:
            leaves = self.structure.flatten_up_to(tree)
            if not all(pytree.tree_structure(leaf).is_leaf() for leaf in leaves):
                raise ValueError("it has a container where there was one value")
        except ValueError as error:
            raise DataError(
                f"{where} has inputs of another structure than {first}, which gives "
                f"{', '.join(self.names)}: {error}",
                hint="give every batch the same inputs, in the same containers",
            ) from error
        names = iter(self.names)
        found = []
        for index, leaf in enumerate(leaves):
            constant = index in self.constants
            what = "a constant input" if constant else f"input {next(names)!r}"
            value = _read_leaf(leaf, f"{where}: {what}")
            if isinstance(value, Tensor) and not constant:
                found.append(value)
            elif not constant or not _same(value, self.constants[index]):
                before = repr(self.constants[index]) if constant else "a tensor"
                raise DataError(
                    f"{where}: {what} is {_show(value)}, in {first} {before}",
                    hint="give what changes from batch to batch as a tensor in every batch "
                    "(torch.tensor(0.5)); numbers, strings and None are constants",
                )
        return tuple(found)

    def arguments(self, tensors: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Give `(args, kwargs)` of forward."""
        if len(tensors) != len(self.names):
            raise ValueError(f"expected {len(self.names)} tensors, got {len(tensors)}")
        given = iter(tensors)
        leaves = [
            self.constants[index] if index in self.constants else next(given)
            for index in range(self.structure.num_leaves)
        ]
        args, kwargs = pytree.tree_unflatten(leaves, self.structure)
        return args, kwargs

    def call(self, model: Callable[..., Any], tensors: Sequence[Tensor]) -> Any:
        """Call a model that takes inputs as the user gives them."""
        args, kwargs = self.arguments(tensors)
        found = model(*args, **kwargs)
        register_dataclasses(found)
        return found

    @property
    def is_plain(self) -> bool:
        """Whether the model takes the tensors themselves, by place."""
        args, kwargs = self.structure.children()
        by_place = kwargs.num_children == 0 and all(item.is_leaf() for item in args.children())
        return by_place and not self.constants

    def flatten(self, model: nn.Module) -> nn.Module:
        """A module that runs the model on flat tensors: the model itself where it takes them."""
        return model if self.is_plain else FlatModel(model, self)

    def nest(self, module: nn.Module, model: nn.Module) -> nn.Module:
        """A module of flat tensors, called as the model is: itself where it takes them."""
        return module if self.is_plain else NestedModule(module, self, Parameters.of(model))

    def to_json(self) -> dict[str, Any]:
        """Give the calling as JSON values."""
        return {
            "structure": pytree.treespec_dumps(self.structure),
            "constants": {str(index): value for index, value in self.constants.items()},
            "names": list(self.names),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Calling:
        """Read back what `to_json` gave.

        A dataclass among the inputs is looked up in the modules that are imported already; no
        code is imported for it.
        """
        text = str(data["structure"])
        for name in re.findall(r'"type": "([^"]+)"', text):
            register_by_name(name)
        try:
            structure = pytree.treespec_loads(text)
        except NotImplementedError as error:
            raise DataError(
                f"the model's inputs are of a class that is not there: {error}",
                hint="import the module that defines it first",
            ) from error
        constants = {int(index): value for index, value in data["constants"].items()}
        return cls(plain_structure(structure), constants, tuple(data["names"]))

    def __reduce__(self) -> tuple[Any, ...]:
        return (_restore, (self.structure, dict(self.constants), self.names))


class FlatModel(nn.Module):
    """Runs a model on the flat tensors of its inputs."""

    def __init__(self, model: nn.Module, calling: Calling) -> None:
        super().__init__()
        self.model = model
        self._calling = calling
        self.train(model.training)

    def forward(self, *tensors: Tensor) -> Any:
        """Call the model."""
        return self._calling.call(self.model, tensors)


class OnCopies(nn.Module):
    """Runs a model of flat tensors on copies of them: its forward writes into its inputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)

    def forward(self, *tensors: Tensor) -> Any:
        """Call the model."""
        return self.model(*(item.clone() for item in tensors))


class NestedModule(nn.Module):
    """Takes inputs as the user gives them to the model, and runs a module of flat tensors."""

    def __init__(self, module: nn.Module, calling: Calling, parameters: Parameters) -> None:
        super().__init__()
        self.module = module
        self._calling, self._forward = calling, parameters
        self.train(module.training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module; by place or by name, whichever it was searched with."""
        given = self._calling.like(Arguments(args, kwargs), self._forward)
        return self.module(*self._calling.tensors(given))


def _restore(
    structure: pytree.TreeSpec, constants: Mapping[int, Constant], names: tuple[str, ...]
) -> Calling:
    """Give a calling in another process, where dataclasses may not be registered yet."""
    for kind in {node.type for node in _nodes(structure)}:
        if dataclasses.is_dataclass(kind):
            register_class(cast("type", kind))
    return Calling(structure, constants, names)


def _nodes(structure: pytree.TreeSpec) -> list[pytree.TreeSpec]:
    return [structure, *(node for child in structure.children() for node in _nodes(child))]


def _odd_form(tensor: Tensor) -> str | None:
    """How a tensor keeps its values, where that is not one number for each place."""
    if tensor.is_meta:
        return "meta"
    if tensor.is_quantized:
        return "quantized"
    if tensor.is_nested:
        return "nested"
    return None if tensor.layout is torch.strided else str(tensor.layout)


def _read_leaf(leaf: object, where: str) -> Tensor | Constant:
    if isinstance(leaf, Tensor):
        form = _odd_form(leaf)
        if form is not None:
            raise DataError(
                f"{where} is a {form} tensor",
                hint="give dense tensors with values (to_dense, dequantize)",
            )
        found = (leaf.detach() if leaf.requires_grad else leaf).cpu()
        return found.clone() if found.is_inference() else found
    if isinstance(leaf, np.ndarray):
        return _from_array(leaf, where)
    value = leaf.item() if isinstance(leaf, np.generic) else leaf
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise DataError(
        f"{where} is a {type(leaf).__name__}, which is no tensor",
        hint="convert it with torch.as_tensor, or give `prepare`, a function that makes the "
        "model's inputs of an item of the data",
    )


def _from_array(array: np.ndarray[Any, Any], where: str) -> Tensor:
    """An array as a tensor of its own; numpy's default float64 as torch's default float32."""
    kept = array.astype(np.float32) if array.dtype == np.float64 else np.array(array)
    try:
        return torch.from_numpy(kept)
    except TypeError as error:
        raise DataError(
            f"{where} is an array of {array.dtype}, which torch cannot hold",
            hint="give arrays of numbers",
        ) from error


def _same(value: object, constant: Constant) -> bool:
    return type(value) is type(constant) and value == constant


def _show(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


def _name(path: pytree.KeyPath, parameters: Parameters) -> str:
    """A leaf's name: the parameter's, then the keys that lead to it."""
    which, first, *rest = path
    by_place = isinstance(which, pytree.SequenceKey) and which.idx == 0
    name = parameters.name_of(first.idx) if by_place else str(first.key)  # type: ignore[attr-defined]
    return ".".join([name, *map(key_name, rest)])
