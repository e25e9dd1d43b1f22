"""Mappings of names that many values share: they keep one pointer for each name."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterator, Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Any, TypeVar

Value = TypeVar("Value", bound=Hashable)

_KNOWN = 2**17
_name_of = itemgetter(0)


class Pairs(Mapping[str, Value]):
    """A mapping as sorted pairs; lookups take O(log n).

    A search keeps a plan and what ran of it for each of its candidates. Pairs made by `pairs_of`
    are shared, so that a thousand sites take 8 kB instead of the 130 kB of a dict of its own.

    Args:
        pairs: Sorted by name, without duplicates.
    """

    __slots__ = ("_pairs",)

    def __init__(self, pairs: tuple[tuple[str, Value], ...]) -> None:
        self._pairs = pairs

    def __getitem__(self, name: str) -> Value:
        place = bisect_left(self._pairs, name, key=_name_of)
        if place < len(self._pairs) and self._pairs[place][0] == name:
            return self._pairs[place][1]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(map(_name_of, self._pairs))

    def __len__(self) -> int:
        return len(self._pairs)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Pairs):
            return self._pairs == other._pairs
        return Mapping.__eq__(self, other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Pairs({self._pairs!r})"


def pairs_of(mapping: Mapping[str, Value]) -> tuple[tuple[str, Value], ...]:
    """Give a mapping's items sorted by name, equal ones of different mappings as one object."""
    return tuple(_pair(name, mapping[name]) for name in sorted(mapping))


def shared(mapping: Mapping[str, Value]) -> Mapping[str, Value]:
    """Give a mapping that shares its items with others.

    >>> first, second = shared({"b": "int8", "a": "fp32"}), shared({"a": "fp32"})
    >>> dict(first), first["a"] is second["a"]
    ({'a': 'fp32', 'b': 'int8'}, True)
    """
    return mapping if isinstance(mapping, Pairs) else Pairs(pairs_of(mapping))


@lru_cache(maxsize=_KNOWN)
def _pair(name: str, value: Any) -> tuple[str, Any]:
    return name, value
