"""What a public function is called with, held against its own signature."""

from __future__ import annotations

import inspect
import operator
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from enum import Enum
from functools import cache, wraps
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from autoquant.errors import JobError

Taken = ParamSpec("Taken")
Given = TypeVar("Given")

_WORDS: Mapping[object, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    Path: "a path",
    types.NoneType: "None",
    Collection: "a list",
    Mapping: "a mapping",
    Callable: "a function",
}
_SHOWN = 60
_LONGEST = 4096
"""Characters of a text: no path, name or key is longer."""
_MOST = 1 << 63
"""Whole numbers of a database and of a tensor are smaller."""

Count = Annotated[int, 0]
Positive = Annotated[int, 1]
"""Whole numbers, and the least of them."""

_UNSEEN: tuple[object, ...] = (Any, object)


def checked(function: Callable[Taken, Given]) -> Callable[Taken, Given]:
    """Have a function refuse, by name, arguments that are of no kind that it says it takes.

    All of them in one error. Modules are left to the function: what is wrong with a model has many
    mends.

    >>> @checked
    ... def scale(factor: float, names: tuple[str, ...] = ()) -> float:
    ...     return factor
    >>> scale("2", names="abc")
    Traceback (most recent call last):
    autoquant.errors.JobError: autoquant.scale: 2 mistakes
      - factor: '2' is not a number
      - names: 'abc' is not a list (each text)
    """
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: Taken.args, **kwargs: Taken.kwargs) -> Given:
        hints = hints_of(function)
        given = signature.bind(*args, **kwargs).arguments
        known = {name: value for name, value in given.items() if name in hints}
        wrong = [
            f"{name}: {show(value)} is not {_words(hints[name])}"
            for name, value in known.items()
            if not fits(value, hints[name])
        ]
        if not wrong:
            wrong = [line for name, value in known.items() for line in _improper(name, value)]
        if wrong:
            raise JobError.of(f"autoquant.{function.__name__}", wrong)
        return function(*args, **kwargs)

    return call


def show(value: object) -> str:
    """Say what a value is in a few words, whatever it is.

    >>> show([1] * 100)
    '[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,...'
    """
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  # whatever a stranger's class raises
        text = ""
    if not text or "\n" in text or text.startswith("<"):
        return f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _improper(name: str, value: object) -> Iterator[str]:
    if isinstance(value, str) and len(value) > _LONGEST:
        yield f"{name}: {show(value)} is {len(value)} characters long"
    yield from find_unwritable(value, name)


def find_unwritable(value: object, key: str = "") -> Iterator[str]:
    """Find what no file, database or page can hold: NUL, half characters, huge numbers."""
    if isinstance(value, int) and not -_MOST <= value < _MOST:
        yield f"{key}: {show(value)} takes more than 64 bits"
    elif isinstance(value, (str, Path)):
        text = str(value)
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            yield f"{key}: {show(text)} holds a character that cannot be written"
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from find_unwritable(name, f"{key}.{name!r}" if key else repr(name))
            yield from find_unwritable(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from find_unwritable(inner, f"{key}.{index}")


@cache
def hints_of(function: Callable[..., object]) -> Mapping[str, object]:
    """What a function says it takes, by argument; what cannot be looked up is left out."""
    known: dict[str, object] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        stand_in = type(name, (), {"__annotations__": {name: parameter.annotation}})
        try:
            known |= get_type_hints(stand_in, function.__globals__, include_extras=True)
        except NameError:  # imported for type checkers alone
            continue
    return known


def fits(value: object, hint: object) -> bool:
    """Whether a value is of the kind that an annotation names."""
    origin = get_origin(hint)
    if hint in _UNSEEN or isinstance(hint, (TypeVar, str)):
        return True
    if origin in (Union, types.UnionType):
        parts = _named(hint) or get_args(hint)
        return any(fits(value, part) for part in parts)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _is_member(value, hint)
    if origin is Annotated:
        kind, least = get_args(hint)
        return fits(value, kind) and operator.index(value) >= least  # type: ignore[arg-type]
    if origin is not None:
        return _fits_generic(value, origin, get_args(hint))
    if hint is int:
        return not isinstance(value, bool) and _is_whole(value)
    if hint is float:
        return isinstance(value, Real) and not isinstance(value, bool)
    return not isinstance(hint, type) or _is_module(hint) or isinstance(value, hint)


def _fits_generic(value: object, origin: object, parts: tuple[object, ...]) -> bool:
    if origin is Callable:
        return callable(value) or hasattr(value, "compute")
    if origin is Mapping or origin is dict:
        return isinstance(value, Mapping)
    if origin is tuple and not isinstance(value, (tuple, list)):
        return False
    if not isinstance(value, Collection) or isinstance(value, (str, bytes, Mapping)):
        return False
    try:
        return all(fits(item, parts[0]) for item in value) if parts else True
    except Exception:  # noqa: BLE001  # whatever a stranger's class raises
        return False


def _named(hint: object) -> tuple[object, ...]:
    """The kinds of a union whose texts are names of an enum's members; none: of another union."""
    parts = get_args(hint)
    has_names = any(isinstance(part, type) and issubclass(part, Enum) for part in parts)
    return tuple(part for part in parts if part is not str) if has_names else ()


def _is_member(value: object, kind: type[Enum]) -> bool:
    try:
        kind(value)
    except (ValueError, TypeError):
        return False
    return True


def _is_whole(value: object) -> bool:
    try:
        operator.index(value)  # type: ignore[arg-type]
    except (TypeError, RuntimeError):
        return False
    return True


def _is_module(hint: type) -> bool:
    return any(kind.__module__ == "torch.nn.modules.module" for kind in hint.__mro__)


def _words(hint: object) -> str:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        parts = _named(hint) or get_args(hint)
        *first, last = dict.fromkeys(_words(part) for part in parts)
        return f"{', '.join(first)} or {last}" if first else last
    if origin is Annotated:
        kind, least = get_args(hint)
        return f"{_words(kind)} from {least} on"
    if origin is Mapping or origin is dict or origin is Callable:
        return _WORDS[Mapping if origin is dict else origin]
    if origin is not None:
        parts = get_args(hint)
        return f"a list (each {_words(parts[0])})" if parts else "a list"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return f"one of {', '.join(str(member.value) for member in hint)}"
    return _WORDS.get(hint) or f"a {getattr(hint, '__name__', hint)}"
