"""One item of the user's data -> the arguments of forward, and the targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from autoquant.errors import DataError
from autoquant.model.data.arguments import Arguments, Parameters, find_arguments
from autoquant.model.data.columns import as_array
from autoquant.model.data.data_set import CACHE_BYTES

Prepare = Callable[[Any], Any]
"""Makes of an item of the data what `find_reading` understands."""

_USUAL_TARGETS = frozenset({"label", "labels", "target", "targets", "y"})


@dataclass(frozen=True, slots=True, eq=False)
class DataForm:
    """What the user says of the form of the data.

    Attributes:
        target: The key of the targets, where a batch is a mapping.
        prepare: Applied to every batch before anything else looks at it.
        dynamic: By input, the axes whose size may change; the first of them counts samples.
        cache_bytes: Batches of a data set are kept up to this size, else read again for each use.
    """

    target: str | None = None
    prepare: Prepare | None = None
    dynamic: Mapping[str, Sequence[int]] = field(default_factory=dict)
    cache_bytes: int = CACHE_BYTES

    @classmethod
    def of_call(
        cls,
        target: str | None,
        prepare: Prepare | None,
        dynamic: Mapping[str, Sequence[int]] | None,
        cache_mb: int,
    ) -> DataForm:
        """What the arguments of a call from Python, or the keys of a job, say."""
        return cls(target, prepare, dynamic or {}, cache_mb << 20)


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """One item, understood."""

    arguments: Arguments
    targets: Any = None


def find_reading(
    item: object,
    parameters: Parameters,
    where: str,
    *,
    target: str | None = None,
    needs_targets: bool = False,
    given: Sequence[str] | None = None,
    runs: Callable[[Arguments], bool] = lambda arguments: True,
) -> Reading:
    """Tell the inputs of one item from its targets, by what forward takes.

    An item is inputs, `(inputs, targets)`, or a mapping or a dataclass of forward's parameters,
    with the targets under `target`; where that is not named, under the one key that is no
    parameter of forward. A pair whose first half cannot be all inputs of forward is inputs alone.
    Labels do not become a mask because forward has an optional one: of two readings those count
    that the model can run. What can still be read in two ways, and is not settled by the other
    data, is refused.

    Args:
        item: What the data give.
        parameters: Of the model's forward.
        where: What to call the item in errors.
        target: The key of the targets.
        needs_targets: Whether there must be some.
        given: Names of the inputs of the other data, where some were read already.
        runs: Whether the model can be called so; asked where there are two readings.

    Raises:
        DataError: Forward cannot be called with any reading, or the item can be read in two ways.
    """
    fitting, refused = [], []
    record = _record(item)
    if record and (target is not None or not record.keys().isdisjoint(parameters.names)):
        item = record
    if target is None and isinstance(item, Mapping):
        target = _target_of(item, parameters, needs_targets)
    for inputs, targets in _candidates(item, parameters, where, target):
        try:
            arguments = find_arguments(inputs, parameters, where)
        except DataError as error:
            refused.append(error)
            continue
        fitting.append(Reading(arguments, _as_tensors(targets)))
    if given is not None and len(fitting) > 1:
        same = [item for item in fitting if _names(item.arguments, parameters) == tuple(given)]
        fitting = same or fitting
    if not fitting:
        raise refused[0]
    with_targets = [item for item in fitting if item.targets is not None]
    if with_targets and _holds_inputs(item):
        return with_targets[0]
    if len(fitting) > 1:
        fitting = [item for item in fitting if runs(item.arguments)] or fitting[:1]
        if len(fitting) > 1:
            raise _read_twice(fitting[-1], parameters, where)
    if needs_targets and fitting[0].targets is None:
        raise _lacks_targets(item, fitting[0], parameters, where, target)
    if given is None and _is_more_than_a_pair(item, fitting[0]) and not runs(fitting[0].arguments):
        raise _holds_more(item, parameters, where, runs)
    return fitting[0]


def _record(item: object) -> dict[str, Any] | None:
    """The fields of a dataclass of the user's."""
    if not is_dataclass(item) or isinstance(item, (type, Arguments)):
        return None
    return {field.name: getattr(item, field.name) for field in fields(item)}


def _target_of(item: Mapping[Any, Any], parameters: Parameters, needs_targets: bool) -> str | None:
    """The one key that forward does not know; without a need for targets, one with a usual name.

    Where nothing needs targets, any other name may be a misspelt input.
    """
    unknown = [key for key in item if key not in parameters.names]
    if parameters.any_name or len(unknown) != 1 or len(item) == 1:
        return None
    named = needs_targets or unknown[0] in _USUAL_TARGETS
    return unknown[0] if named and isinstance(unknown[0], str) else None


def _candidates(
    item: object, parameters: Parameters, where: str, target: str | None
) -> list[tuple[object, Any]]:
    """How an item may be taken apart, the likeliest first."""
    if isinstance(item, Mapping) and target is not None:
        rest = {key: value for key, value in item.items() if key != target}
        return [(rest, item.get(target))]
    if not isinstance(item, (tuple, list)):
        if isinstance(item, (str, bytes)):
            raise _no_batch(item, where)
        return [(item, None)]
    if not item:
        raise _no_batch(item, where)
    if len(item) == 1:
        return [(item[0], None)]
    inputs = item[0] if len(item) == 2 else type(item)(item[:-1])
    found: list[tuple[object, Any]] = [(inputs, item[-1])]
    fits = parameters.any_place is not None or len(item) <= len(parameters.places)
    if fits and not isinstance(item[0], (Mapping, Arguments)):
        found.append((item, None))
    return found


def _holds_inputs(item: Any) -> bool:
    """Whether the first part of an item is a container of its own: what `(inputs, targets)` has."""
    return isinstance(item, (tuple, list)) and isinstance(item[0], (tuple, list))


def _is_more_than_a_pair(item: object, reading: Reading) -> bool:
    """Whether all parts of an item but the last became one argument, a list."""
    first = reading.arguments.args[:1]
    several = isinstance(item, (tuple, list)) and len(item) > 2
    return several and len(reading.arguments.args) == 1 and isinstance(first[0], (tuple, list))


def _names(arguments: Arguments, parameters: Parameters) -> tuple[str, ...]:
    return (*map(parameters.name_of, range(len(arguments.args))), *arguments.kwargs)


def _as_tensors(targets: Any) -> Any:
    """Numbers among targets as tensors, numpy's default float64 as float32."""
    return pytree.tree_map_only(np.ndarray, _as_tensor, as_array(targets))


def _as_tensor(array: np.ndarray[Any, Any]) -> Any:
    kept = array.astype(np.float32) if array.dtype == np.float64 else np.array(array)
    return torch.from_numpy(kept) if kept.dtype.kind in "biuf" else array


def _read_twice(reading: Reading, parameters: Parameters, where: str) -> DataError:
    first, *rest = _names(reading.arguments, parameters)
    return DataError(
        f"{where}: its last part may be the targets, or the input {rest[-1]!r} of model.forward: "
        "the model runs with both",
        hint=f"give (({first},), targets); or (({', '.join((first, *rest))}), targets), with None "
        "for targets that are not there",
    )


def _holds_more(
    item: Any, parameters: Parameters, where: str, runs: Callable[[Arguments], bool]
) -> DataError:
    """An item of inputs, targets and more, such as where a sample comes from."""
    kinds = ", ".join(_kind(part) for part in item)
    alone = runs(Arguments((item[0],)))
    return DataError(
        f"{where} has {len(item)} parts ({kinds}), and model.forward takes "
        f"{parameters.name_of(0)!r} alone: it does not run on a list of all but the last"
        + (", but on the first part" if alone else ""),
        hint="say by `prepare` which are inputs and targets, where these are the first two "
        "prepare=lambda batch: (batch[0], batch[1])",
    )


def _kind(part: object) -> str:
    if isinstance(part, (Tensor, np.ndarray)):
        return f"{str(part.dtype).removeprefix('torch.')} of shape {tuple(part.shape)}"
    return type(part).__name__


_UNLABELLED = (
    "without labels, metric='agreement' (the class that float finds) or 'cosine' (any outputs) "
    "compares with the float model"
)


def _lacks_targets(
    item: object, reading: Reading, parameters: Parameters, where: str, target: str | None
) -> DataError:
    if target is not None and isinstance(item, Mapping):
        return DataError(
            f"{where} has no targets {target!r}; it holds {', '.join(map(str, item))}",
            hint="name the targets by `target`",
        )
    if isinstance(item, Mapping):
        return DataError(
            f"{where} has no targets",
            hint="say by `target` under which key they are, or give (inputs, targets); "
            + _UNLABELLED,
        )
    if isinstance(item, (tuple, list)) and len(item) > 1:
        names = ", ".join(_names(reading.arguments, parameters))
        return DataError(
            f"{where} has no targets: model.forward takes {names}, so that its {len(item)} parts "
            "are all inputs",
            hint=f"give (({names}), targets), for the metric",
        )
    return DataError(
        f"{where} has no targets",
        hint="give (inputs, targets), for the metric; " + _UNLABELLED,
    )


def _no_batch(item: object, where: str) -> DataError:
    kind = type(item).__name__
    return DataError(
        f"{where}: got {kind}" + (" of 0 items" if isinstance(item, (tuple, list)) else ""),
        hint="a batch is inputs or (inputs, targets), in tensors; several inputs go in a tuple or "
        "a dict; `prepare` makes batches of anything else",
    )


def is_whole(data: object, parameters: Parameters) -> bool:
    """Whether data hold all samples at once: a tensor, a pair of tensors, a mapping of tensors.

    A longer tuple of tensors does where forward takes so many inputs; else it holds batches. None
    in the place of targets is no batch.
    """
    if isinstance(data, tuple) and len(data) == 2 and data[1] is None:
        return _is_columns(data[0])
    if _is_columns(data) and not isinstance(data, (tuple, list)):
        return True
    if not isinstance(data, tuple) or len(data) < 2 or not _is_column(data[-1]):
        return False
    fits = len(data) == 2 or 2 <= len(parameters.places) >= len(data) - 1
    return fits and all(map(_is_columns, data))


def _is_column(value: object) -> bool:
    return isinstance(value, (Tensor, np.ndarray))


def _is_columns(value: object) -> bool:
    """A tensor, or a mapping or sequence of tensors."""
    if isinstance(value, Mapping):
        return bool(value) and all(map(_is_column, value.values()))
    if isinstance(value, (tuple, list)):
        return len(value) > 0 and all(map(_is_column, value))
    return _is_column(value)
