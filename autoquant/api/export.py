"""Export: one file that plain torch runs, with its plan inside."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from torch import nn

from autoquant.api.result import ResultCandidate
from autoquant.backends.torch_cpu.engines import using_engine
from autoquant.errors import BackendError, StorageError

METADATA = "autoquant.json"
"""Name of the extra file in the archive: the plan, its digest and its measurements."""


def export_torchscript(
    candidate: ResultCandidate, model: nn.Module, path: str | Path, engine: str
) -> Path:
    """Write a candidate as a TorchScript file that `torch.jit.load` runs without autoquant.

    The file carries the plan and its measurements as `autoquant.json`
    (`torch.jit.load(path, _extra_files={"autoquant.json": ""})`).

    Args:
        candidate: From a search result.
        model: The float model that was searched.
        path: The file to write.
        engine: The engine of the search.

    Raises:
        BackendError: The converted model cannot be traced.
        StorageError: The file cannot be written.
    """
    path = Path(path)
    quantized = candidate.quantize(model)
    metadata = json.dumps(candidate.candidate.to_json() | {"engine": engine})
    with using_engine(engine), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            traced = torch.jit.trace(quantized, candidate.example, check_trace=False)
            frozen = torch.jit.freeze(traced.eval())
        except RuntimeError as error:
            raise BackendError(
                f"candidate {candidate.number} cannot be traced: {error}",
                hint="use candidate.quantize(model) and torch.save of its state dict",
            ) from error
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.jit.save(frozen, str(path), _extra_files={METADATA: metadata})
        except (OSError, RuntimeError) as error:
            raise StorageError(
                f"{path} cannot be written: {error}", hint="give a writable path"
            ) from error
    return path
