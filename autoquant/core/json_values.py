"""Values as JSON holds them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any


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
