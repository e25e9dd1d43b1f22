"""A first job file, and the Python file beside it that it names: what `autoquant init` writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from autoquant.core.backends import BY_TORCH, TORCH
from autoquant.job.backend import backend_from_text

Batches = Literal["tuple", "dict"]


@dataclass(frozen=True, slots=True)
class Starter:
    """What a user says of a first job; None is left for the Python file.

    Attributes:
        name: Of the job and of both files.
        model: Entry point of the model.
        calibration: Entry point of calibration batches.
        evaluation: Entry point of evaluation batches with targets.
        heldout: Entry point of batches that the search never sees; optional.
        metric: the name of a shipped one (`accuracy`, `agreement`), or an entry point.
        target: Key of the targets where batches are dicts.
        backend: On what the model will run.
        max_drop: How far the metric may fall.
    """

    name: str
    model: str | None = None
    calibration: str | None = None
    evaluation: str | None = None
    heldout: str | None = None
    metric: str = "accuracy"
    target: str | None = None
    backend: str = "torch"
    max_drop: float = 0.01

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left for the Python file."""
        return None not in (self.model, self.calibration, self.evaluation)

    @property
    def is_checked(self) -> bool:
        """Whether `check` knows the plans of this backend; else a dry run is the first look."""
        return backend_from_text(self.backend).get("name", TORCH) in BY_TORCH

    def first_look(self, job: object) -> str:
        """The command that looks at a job file before it is searched."""
        return f"autoquant check {job}" if self.is_checked else f"autoquant search {job} --dry-run"


def job_text(starter: Starter) -> str:
    """The job file: few keys, each with a word on what it is."""
    beside = f"{starter.name}.py"
    target = f"\n  target: {starter.target} # the key of a batch that holds the targets"
    heldout = f"\n  heldout: {starter.heldout} # the frontier is scored once more on these"
    job = f"{starter.name}.yaml"
    check = f"# autoquant check {job}                # is the model fit for it?\n"
    return f"""\
{check if starter.is_checked else ""}\
# autoquant search {job} --dry-run     # what would be searched, and what it costs
# autoquant search {job}
#
# Paths are relative to this file. docs/job-file.md has every key.
name: {starter.name}
model: {starter.model or f"{beside}:model"}
data:
  calibration: {starter.calibration or f"{beside}:calibration"} # 100 to 500 samples
  evaluation: {starter.evaluation or f"{beside}:evaluation"} # candidates are compared on these\
{heldout if starter.heldout else ""}{target if starter.target else ""}
  metric: {starter.metric}
backend: {starter.backend}
space: server_cpu
constraints:
  accuracy_drop: {starter.max_drop:g}
"""


def entry_text(starter: Starter, batches: Batches) -> str:
    """The Python file: a function for each thing that the user did not name."""
    parts = ['"""What the job loads. Replace what raises NotImplementedError by your own."""\n']
    if starter.calibration is None or starter.evaluation is None:
        parts.append("from collections.abc import Iterator\n")
    if starter.calibration is None or starter.evaluation is None:
        parts.append("import torch")
    if starter.model is None:
        parts.append("from torch import nn\n")
        parts.append(_MODEL)
    if starter.calibration is None or starter.evaluation is None:
        parts.append(_LOADERS[batches].replace("TARGET", starter.target or "label"))
    if starter.calibration is None:
        parts.append(_CALIBRATION)
    if starter.evaluation is None:
        parts.append(_EVALUATION)
    return "\n".join(parts)


_MODEL = '''
def model() -> nn.Module:
    """The trained model in float32, in eval mode."""
    raise NotImplementedError("build your model here: net.load_state_dict(torch.load(...))")
'''

_LOADERS: dict[Batches, str] = {
    "tuple": '''
def batches(first: int, count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of (inputs, targets); a DataLoader is as good."""
    raise NotImplementedError("yield (images, labels), `count` samples from number `first` on")
''',
    "dict": '''
def batches(first: int, count: int) -> Iterator[dict[str, torch.Tensor]]:
    """Batches as the model takes them by keyword, with the targets as "TARGET"."""
    raise NotImplementedError(
        'yield {"input_ids": ..., "attention_mask": ..., "TARGET": ...}, `count` samples from '
        "number `first` on"
    )
''',
}

_CALIBRATION = '''
def calibration() -> Iterator:
    """Samples from which ranges are found; targets in them are not looked at."""
    return batches(0, 256)
'''

_EVALUATION = '''
def evaluation() -> Iterator:
    """Samples on which candidates are compared, others than those of the calibration."""
    return batches(256, 1000)
'''
