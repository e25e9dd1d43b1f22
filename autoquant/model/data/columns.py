"""Numbers that people give beside tensors and arrays: lists of them, pandas' series and frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor


def as_columns(data: Any) -> Any:
    """All samples at once with arrays in place of what `as_array` knows; other data as they are.

    >>> as_columns((np.zeros((2, 3)), [0, 1]))[1]
    array([0, 1])
    """
    if isinstance(data, tuple) and len(data) == 2:
        return _inputs(data[0]), as_array(data[1])
    return data if isinstance(data, (tuple, list)) else _inputs(data)


def as_array(value: Any) -> Any:
    """Numbers as an array: of lists in lists, and of what gives one itself (numpy's `__array__`).

    >>> as_array([[1, 2], [3, 4]]).shape
    (2, 2)
    >>> as_array(["cat", "dog"])
    ['cat', 'dog']
    """
    if isinstance(value, (Tensor, np.ndarray)):
        return value
    if not _holds_numbers(value) and not hasattr(value, "__array__"):
        return value
    try:
        found = np.asarray(value)
    except ValueError:  # rows of different lengths
        return value
    return found if found.ndim and found.dtype.kind in "biuf" else value


def _inputs(value: Any) -> Any:
    if isinstance(value, Mapping):
        found = {key: as_array(item) for key, item in value.items()}
        return value if all(found[key] is item for key, item in value.items()) else found
    return tuple(map(as_array, value)) if type(value) is tuple else as_array(value)


def _holds_numbers(value: Any) -> bool:
    """Whether the first of a list, or of the lists in it, is a number."""
    first = value
    while isinstance(first, list) and first:
        first = first[0]
    return first is not value and isinstance(first, (bool, int, float, np.number))
