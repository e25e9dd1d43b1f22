"""TorchScript: one file that plain torch runs, with its plan inside."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoquant.backends.exported_file import writing
from autoquant.backends.torch_cpu.engines import using_engine
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
    """Write a converted model as a TorchScript file.

    Args:
        quantized: The converted model.
        example: A few input samples.
        path: The file to write.
        engine: That it was converted for.
        metadata: JSON values that the file carries as `autoquant.json`.
        name: What to call it in errors.

    Raises:
        BackendError: The converted model cannot be traced.
        StorageError: The file cannot be written.
    """
    path = Path(path)
    with using_engine(engine), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
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
