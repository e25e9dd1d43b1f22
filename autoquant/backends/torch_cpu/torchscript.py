"""TorchScript: one file that plain torch runs, with its plan inside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoquant.backends.exported_file import writing
from autoquant.backends.torch_cpu.engines import using_engine
from autoquant.backends.torch_cpu.lowered import LoweredModel
from autoquant.backends.torch_cpu.script import UnscriptableError, storable_script
from autoquant.core.quiet import no_warnings
from autoquant.errors import BackendError

METADATA = "autoquant.json"
"""Name of the extra file in the archive: the plan, its digest and its measurements."""


def write_torchscript(
    quantized: nn.Module,
    example: tuple[Tensor, ...],
    path: str | Path,
    engine: str,
    metadata: Mapping[str, Any],
    name: str,
) -> Path:
    """Write a converted model as a TorchScript file that carries metadata as `autoquant.json`.

    Raises:
        BackendError: The converted model cannot be traced.
        StorageError: The file cannot be written.
    """
    path = Path(path)
    with using_engine(engine), no_warnings(), torch.no_grad():
        try:
            traced = torch.jit.trace(quantized, example, check_trace=False)
            frozen = torch.jit.freeze(traced.eval())
        except RuntimeError as error:
            raise BackendError(
                f"{name} cannot be traced: {error}",
                hint="use candidate.quantize(model) and torch.save of its state dict",
            ) from error
        with writing(path):
            torch.jit.save(frozen, str(path), _extra_files={METADATA: json.dumps(metadata)})
    return path


def write_lowered(
    module: nn.Module, path: str | Path, metadata: Mapping[str, Any], inputs: Sequence[str]
) -> Path:
    """Write a lowered model as a TorchScript file.

    It takes the tensors of the model's inputs, and returns what the model does, as far as
    TorchScript has types for that. What holds weights that no file can is written unfrozen, and
    packs them when it is loaded.

    Raises:
        BackendError: TorchScript has no words for one of its ops.
        StorageError: The file cannot be written.
    """
    path = Path(path)
    if not isinstance(module, LoweredModel):
        raise TypeError(f"a {type(module).__name__} is no lowered model")
    with using_engine(module.engine), no_warnings():
        try:
            scripted = storable_script(module.graph, inputs, module.nest_names)
        except UnscriptableError as error:
            raise BackendError(
                f"the model cannot be written as TorchScript: {error}",
                hint="use candidate.quantize(model), which pickles",
            ) from error
        with writing(path):
            torch.jit.save(scripted, str(path), _extra_files={METADATA: json.dumps(metadata)})
    return path
