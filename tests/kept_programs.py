"""What torch exported of a model is kept for the tests that export its like again.

Most of the time of the tests would go into exporting the same few networks. A model, its inputs and
what of their sizes is free are told apart by all that they hold, values of tensors included; the
program that is handed out has the tensors of the model that it is asked for.
"""

from __future__ import annotations

import copy
import hashlib
import io
import operator
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from autoquant.model.data.calling import Calling
from autoquant.model.graph import export_capture
from autoquant.model.graph.size_guards import SizeGuards
from autoquant.model.graph.writes import Writes

Export = Callable[
    [nn.Module, Calling, Sequence[Tensor], Sequence[Sequence[int]]],
    tuple[ExportedProgram, Writes, SizeGuards],
]


def keep_programs() -> None:
    """Export what is alike once in this process, from now on."""
    export_capture.export_program = keeping(export_capture.export_program)


def keeping(export: Export) -> Export:
    """`export_program`, which exports what it has not seen yet."""
    kept: dict[str, tuple[ExportedProgram, Writes, SizeGuards]] = {}

    def export_or_take(
        model: nn.Module,
        calling: Calling,
        example: Sequence[Tensor],
        dynamic: Sequence[Sequence[int]],
    ) -> tuple[ExportedProgram, Writes, SizeGuards]:
        key = _key(model, (calling, tuple(example), [list(axes) for axes in dynamic]))
        if key is None:
            return export(model, calling, example, dynamic)
        if key not in kept:
            kept[key] = export(model, calling, example, dynamic)
        program, writes, guards = kept[key]
        return _over(program, model), writes, guards

    return export_or_take


def _key(model: nn.Module, inputs: object) -> str | None:
    """A digest of all that an export depends on; None where it cannot be told."""
    if any(isinstance(part, (GraphModule, torch.jit.ScriptModule)) for part in model.modules()):
        return None
    written = io.BytesIO()
    try:
        _Pickler(written).dump((model, inputs, torch.export.export, torch.get_default_dtype()))
    except Exception:  # noqa: BLE001  what cannot be pickled raises whatever it likes
        return None
    return hashlib.sha256(written.getvalue()).hexdigest()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Writes tensors by what they are: torch writes addresses beside their values."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._tensors: list[Tensor] = []
        self._storages: dict[int, int] = {}

    def persistent_id(self, obj: Any) -> Any:
        """Tensors are told apart by place too: one that stands twice is not two equal ones.

        Texts are told apart by their characters alone: pickle would tell whether Python made them
        one object.
        """
        if type(obj) is str:
            return obj.encode()
        if not isinstance(obj, Tensor):
            return None
        if not any(item is obj for item in self._tensors):
            self._tensors.append(obj)
        place = next(place for place, item in enumerate(self._tensors) if item is obj)
        storage = obj.untyped_storage().data_ptr()
        plain = obj.detach().cpu().resolve_conj().resolve_neg().contiguous()
        return (
            type(obj).__qualname__,
            place,
            self._storages.setdefault(storage, len(self._storages)),
            obj.storage_offset(),
            tuple(obj.shape),
            obj.stride(),
            str(obj.dtype),
            obj.requires_grad,
            hashlib.sha256(plain.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest(),
        )


def _over(program: ExportedProgram, model: nn.Module) -> ExportedProgram:
    """The program with the tensors that stand in a model at the paths of its own."""
    found = copy.copy(program)
    found._state_dict = {name: _at(model, name, item) for name, item in program.state_dict.items()}
    found._constants = {name: _at(model, name, item) for name, item in program.constants.items()}
    return found


def _at(model: nn.Module, path: str, known: Any) -> Any:
    try:
        return operator.attrgetter(path)(model)
    except AttributeError:
        return known
