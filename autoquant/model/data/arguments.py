"""Inputs as the user gives them -> the arguments of the model's forward."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from autoquant.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class Arguments:
    """What a model's forward is called with, said in so many words.

    Attributes:
        args: By place.
        kwargs: By name.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a model's forward can be called with.

    Attributes:
        places: Names of what can be given by place, in order.
        names: Names of all parameters, in order.
        required: Names of those without a default.
        any_place: The name of `*inputs`, None where it takes no such.
        any_name: Whether it takes `**kwargs`.
    """

    places: tuple[str, ...]
    names: tuple[str, ...]
    required: tuple[str, ...]
    any_place: str | None = None
    any_name: bool = False

    @classmethod
    def of(cls, model: nn.Module) -> Parameters:
        """Read the signature of `model.forward`; one that hides it takes anything."""
        try:
            found = inspect.signature(model.forward).parameters.values()
        except (TypeError, ValueError):
            return cls((), (), (), any_place="inputs", any_name=True)
        many = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        single = [item for item in found if item.kind not in many]
        return cls(
            places=tuple(i.name for i in single if i.kind is not inspect.Parameter.KEYWORD_ONLY),
            names=tuple(item.name for item in single),
            required=tuple(i.name for i in single if i.default is inspect.Parameter.empty),
            any_place=next((item.name for item in found if item.kind is many[0]), None),
            any_name=any(item.kind is many[1] for item in found),
        )

    def name_of(self, place: int) -> str:
        """Name of what is given at a place."""
        if place < len(self.places):
            return self.places[place]
        return f"{self.any_place}.{place - len(self.places)}"


def find_arguments(inputs: object, parameters: Parameters, where: str) -> Arguments:
    """Read the inputs of one batch as arguments of forward.

    A tensor is the first argument; a tuple or a list holds the arguments by place; a mapping whose
    keys are parameters of forward holds them by name. Where forward has one parameter, a mapping
    or a longer tuple that cannot be read so is that one argument. Anything else is one argument.

    Args:
        inputs: What the data give.
        parameters: Of the model's forward.
        where: What to call the batch in errors.
    """
    given = _arguments(inputs, parameters, where)
    if len(given.args) > len(parameters.places) and parameters.any_place is None:
        raise DataError(
            f"{where} has {len(given.args)} inputs, but model.forward takes "
            f"{_count(parameters.places)}",
            hint="give (inputs, targets), several inputs in a tuple of their own: "
            "((x, mask), targets); a dict names them",
        )
    known = {*parameters.places[: len(given.args)], *given.kwargs}
    missing = [name for name in parameters.required if name not in known]
    if missing:
        raise DataError(
            f"{where} does not give {missing[0]!r}, which model.forward requires; it gives "
            f"{_count([*map(parameters.name_of, range(len(given.args))), *given.kwargs])}",
            hint="give several inputs in a tuple, in the order of forward, or in a dict by name; "
            "beside targets: ((x, mask), targets)",
        )
    order = [name for name in parameters.names if name in given.kwargs]
    order += [name for name in given.kwargs if name not in order]
    return Arguments(given.args, {name: given.kwargs[name] for name in order})


def _arguments(inputs: object, parameters: Parameters, where: str) -> Arguments:
    if isinstance(inputs, Arguments):
        return inputs
    if isinstance(inputs, Mapping):
        return _from_mapping(inputs, parameters, where)
    if isinstance(inputs, (tuple, list)):
        one = len(parameters.places) == 1 and parameters.any_place is None
        return Arguments((inputs,)) if one and len(inputs) > 1 else Arguments(tuple(inputs))
    return Arguments((inputs,))


def _from_mapping(inputs: Mapping[Any, Any], parameters: Parameters, where: str) -> Arguments:
    unknown = [key for key in inputs if key not in parameters.names]
    if not unknown or (parameters.any_name and all(isinstance(key, str) for key in unknown)):
        return Arguments((), inputs)
    if len(parameters.names) == 1 and len(unknown) == len(inputs):
        return Arguments((_plain(inputs),))
    listed = ", ".join(map(repr, unknown))
    few = len(unknown) == 1
    raise DataError(
        f"{where} has {'an input' if few else 'inputs'} {listed}, which "
        f"{'is no parameter' if few else 'are no parameters'} of model.forward: it takes "
        f"{_count(parameters.names)}",
        hint=f"rename or drop {'it' if few else 'them'}, in the data or by `prepare`; targets "
        f"among {'the inputs' if few else 'them'} are named by `target`",
    )


def _plain(inputs: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """A mapping that is no dict, such as a tokenizer's, as one."""
    return inputs if isinstance(inputs, dict) else dict(inputs)


def _count(names: list[str] | tuple[str, ...]) -> str:
    return f"{len(names)}: {', '.join(names)}" if names else "none"
