"""Values that a forward's Python reads and that are settled before any input is seen."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from autoquant.model.data.calling import Calling
from autoquant.model.data.trees import tensors_of
from autoquant.model.graph.other_forward import with_forward
from autoquant.model.graph.writes import storage_of

_READS = frozenset(
    {"__bool__", "__complex__", "__float__", "__index__", "__int__", "item", "tolist"}
)
"""Methods of a tensor that hand a value to Python."""

_MOST_CHECKS = 64
"""Each costs a forward; what a forward checks after so many is not settled."""


@dataclass(frozen=True, slots=True)
class _Read:
    """A value that Python read.

    Attributes:
        value: What it was on the example.
        settled: Whether any input leads to it: it comes from parameters and buffers alone, or
            forward raises where it is another.
    """

    value: Any
    settled: bool


def with_settled_values(
    model: nn.Module, calling: Calling, example: Sequence[Tensor]
) -> nn.Module | None:
    """The same module with a forward that is given the settled values that it reads.

    torch.export knows no values: it gives up where Python makes a number of a tensor. A number
    that comes from parameters and buffers alone (`float(self.scale)`, `if self.initialized`) is
    known all the same, and so is the outcome of a check, `if isnan(x).any(): raise`, in every
    forward that returns.

    Returns:
        None where forward reads no such value, or is given all of them.
    """
    try:
        reads = _reads_of(model, calling, example)
    except Exception:  # noqa: BLE001  the model's own mistake: what torch.export said of it stands
        return None
    if not any(item.settled for item in reads):
        return None
    return _within(model, partial(_Given, reads))


def _within(model: nn.Module, mode: Callable[[], TorchFunctionMode]) -> nn.Module:
    """The same module with a forward that runs within a mode, which sees what it reads."""
    plain = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with mode():
            return plain(*args, **kwargs)

    return with_forward(model, forward)


def _reads_of(model: nn.Module, calling: Calling, example: Sequence[Tensor]) -> list[_Read]:
    """What one forward reads, in order."""

    def call(mode: TorchFunctionMode) -> None:
        with torch.no_grad():
            calling.call(_within(model, lambda: mode), inputs)

    inputs = [item.clone() for item in example]
    with _Dependent(inputs) as dependent:
        call(noted := _Noted(dependent))
    reads = noted.reads
    asked = [
        place
        for place, read in enumerate(reads)
        if isinstance(read.value, bool) and not read.settled
    ]
    for place in asked[:_MOST_CHECKS]:
        inputs = [item.clone() for item in example]
        value = reads[place].value
        before = [replace(item, settled=True) for item in reads[:place]]
        otherwise = _Given([*before, _Read(not value, settled=True)])
        try:
            call(otherwise)
        except Exception as error:  # noqa: BLE001  whatever the model's own check raises
            if _is_raised_in(error.__traceback__, otherwise.readers):
                reads[place] = _Read(value, settled=True)
    return reads


def _is_raised_in(trace: TracebackType | None, frames: Sequence[FrameType]) -> bool:
    """Whether one of some frames raised, by a statement of its own."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or trace.tb_frame not in frames:
        return False
    return dis.opname[trace.tb_frame.f_code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"


class _Dependent(TorchDispatchMode):
    """Knows which tensors depend on the inputs, or are made of nothing: of sizes, perhaps."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept: list[Any] = [inputs]  # so that no storage is another tensor's later
        self._storages = set(map(storage_of, inputs))

    def knows(self, tensor: Tensor) -> bool:
        return storage_of(tensor) in self._storages

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = tensors_of((args, kwargs))
        if not given or any(map(self.knows, given)):
            written = given if func._schema.is_mutable else []
            self._storages.update(map(storage_of, [*tensors_of(result), *written]))
        self._kept.append(result)
        return result


class _Noted(TorchFunctionMode):
    """Notes what is read."""

    def __init__(self, dependent: _Dependent) -> None:
        super().__init__()
        self.reads: list[_Read] = []
        self._dependent = dependent

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.__name__ in _READS:
            settled = not self._dependent.knows(args[0])
            self.reads.append(_Read(result, settled))
        return result


class _Given(TorchFunctionMode):
    """Gives settled values where they are read.

    Attributes:
        readers: The frames that were running at the last of them.
    """

    def __init__(self, reads: Sequence[_Read]) -> None:
        super().__init__()
        self.readers: list[FrameType] = []
        self._left = list(reads)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in _READS and self._left:
            read = self._left.pop(0)
            if not self._left:
                self.readers = _frames()
            if read.settled:
                return read.value
        return func(*args, **(kwargs or {}))


def _frames() -> list[FrameType]:
    frame: FrameType | None = sys._getframe(2)
    found = []
    while frame is not None:
        found.append(frame)
        frame = frame.f_back
    return found
