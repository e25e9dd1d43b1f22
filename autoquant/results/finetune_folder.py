"""The folder of a fine-tuning: its checkpoint, and what it found."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoquant.core.os_errors import storage_errors
from autoquant.core.plan import Plan
from autoquant.core.statistics import CalibrationStatistics
from autoquant.errors import StorageError
from autoquant.results.forms import STATISTICS
from autoquant.results.storage import write_bytes, write_json, write_text

CHECKPOINT = "checkpoint.pt"
FINDINGS = "finetune.json"
PLAN = "plan.json"
QUANTIZED = "quantized.pt"
WEIGHTS = "weights.pt"


class FinetuneFolder:
    """Files of one fine-tuning.

    Args:
        path: The folder; made when the first file is written.
        resume: Whether to go on with what it holds.

    Raises:
        StorageError: It holds a fine-tuning and `resume` is off, or none and it is on.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        with storage_errors(path, "read"):
            holds = (path / CHECKPOINT).exists()
        if holds and not resume:
            raise StorageError(
                f"{path} already holds a fine-tuning",
                hint="--resume continues it; or choose another output",
            )
        if resume and not holds:
            raise StorageError(
                f"{path} holds no fine-tuning to resume", hint="start one without --resume"
            )
        with storage_errors(path, "write"):
            path.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoint_path(self) -> Path:
        """Where the training stands."""
        return self.path / CHECKPOINT

    def read_checkpoint(self) -> bytes | None:
        """Give the checkpoint's bytes, None where there is none."""
        if not self.checkpoint_path.exists():
            return None
        with storage_errors(self.checkpoint_path, "read"):
            return self.checkpoint_path.read_bytes()

    def write_checkpoint(self, content: bytes) -> None:
        """Replace the checkpoint in one step: a crash leaves the old one or the new one."""
        write_bytes(self.checkpoint_path, content)

    def write_findings(
        self,
        document: Mapping[str, Any],
        plan: Plan,
        statistics: CalibrationStatistics,
        weights: Mapping[str, Tensor],
    ) -> None:
        """Keep what was found, and what it takes to build the trained plan again."""
        buffer = io.BytesIO()
        torch.save(dict(weights), buffer)
        write_bytes(self.path / WEIGHTS, buffer.getvalue())
        STATISTICS.save(self.path, statistics)
        write_text(self.path / PLAN, plan.file_text())
        write_json(self.path / FINDINGS, document)
