"""Values as JSON holds them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

Value = TypeVar("Value")


def json_of(value: Any) -> Any:
    """Give a value as JSON holds it: by its own `to_json`, or a dataclass by its fields.

    >>> json_of({Enum("Unit", "MS").MS: (1, None)})
    {1: [1, None]}
    """
    if hasattr(value, "to_json"):
        return value.to_json()
    if is_dataclass(value):
        return fields_json(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {json_of(key): json_of(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [json_of(item) for item in value]
    return value


def fields_json(value: Any, but: Collection[str] = ()) -> dict[str, Any]:
    """Give the fields of a dataclass as JSON values, but for those that are named."""
    names = (item.name for item in fields(value) if item.name not in but)
    return {name: json_of(getattr(value, name)) for name in names}


def value_of(kind: type[Value], found: Any) -> Value:
    """Make a value of what `json_of` gave of it: by its own `from_json`, or by its fields.

    Keys that name no field are passed over; fields without a key have their defaults.

    Raises:
        ValueError, TypeError, AttributeError: What was found is no such value.

    >>> value_of(tuple[float, int | None], [1, None])
    (1.0, None)
    """
    made: Value = _reader(kind)(found)  # type: ignore[arg-type]  # types are hashable
    return made


def from_fields(kind: Callable[..., Value], found: Mapping[str, Any]) -> Value:
    """Make a dataclass of its fields, whatever `from_json` it has."""
    readers = _readers(kind)
    return kind(**{name: readers[name](item) for name, item in found.items() if name in readers})


@cache
def _readers(kind: Hashable) -> Mapping[str, Callable[[Any], Any]]:
    return {name: _reader(hint) for name, hint in get_type_hints(kind).items()}


@cache
def _reader(kind: Hashable) -> Callable[[Any], Any]:
    """What makes a value of a type; of types that JSON does not hold it is given as it is."""
    if hasattr(kind, "from_json"):
        read: Callable[[Any], Any] = kind.from_json
        return read
    if is_dataclass(kind):
        return lambda found: from_fields(kind, found)
    if kind in (bool, int, float, str):
        return lambda found: _plain(kind, found)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind
    parts = [_reader(part) for part in get_args(kind) if part not in (NoneType, ...)]
    if get_origin(kind) is tuple:
        if ... in get_args(kind):
            return lambda found: tuple(map(parts[0], found))
        return lambda found: tuple(part(item) for part, item in zip(parts, found, strict=True))
    if get_origin(kind) in (Mapping, dict):
        return lambda found: {parts[0](key): parts[1](item) for key, item in found.items()}
    if NoneType in get_args(kind) and len(parts) == 1:
        return lambda found: None if found is None else parts[0](found)
    return lambda found: found


def _plain(kind: Callable[[Any], Any], found: Any) -> Any:
    if not isinstance(found, (int, float) if kind is float else kind):  # type: ignore[arg-type]
        raise TypeError(f"{found!r} is no {kind.__name__}")
    return kind(found)
