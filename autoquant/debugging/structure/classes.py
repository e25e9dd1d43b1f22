"""Does every class of the model occur several times in the calibration data?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from autoquant.core.findings.concerns import Concern, Topic, note
from autoquant.core.glance import few
from autoquant.model.data.batches import Batch

_NAMED = 10


def count_classes(batches: Sequence[Batch], outputs: Sequence[tuple[int, ...]]) -> Tensor | None:
    """In how many samples each class occurs.

    Targets are classes where they are integers, one for each sample (or for each of its pixels),
    and an output has an axis that holds them: (samples, classes, ...), or (samples, 1) for two.

    Args:
        batches: Calibration data.
        outputs: Shapes of what the model gives for its first samples.

    Returns:
        Shape (classes,); None where targets are no classes.
    """
    first = batches[0].targets
    if not _is_integer(first) or len(first) != len(batches[0]):
        return None
    count = max((_class_count(shape, first) for shape in outputs), default=0)
    if not count:
        return None
    counts = torch.zeros(count, dtype=torch.int64)
    for batch in batches:
        if not _is_integer(batch.targets):
            return None
        for target in batch.targets:
            named = target[target >= 0].unique().long()  # negative ones are left out of a loss
            if len(named) and int(named[-1]) >= count:
                return None
            counts[named] += 1
    return counts


def find_scarce_classes(counts: Tensor) -> Iterator[Concern]:
    """Name the classes with no calibration sample, or one."""
    for wanted, word in ((0, "no sample"), (1, "one sample only")):
        scarce = (counts == wanted).nonzero().flatten().tolist()
        if scarce:
            yield note(
                Topic.SETTINGS,
                [f"class {name}" for name in scarce],
                f"{len(scarce)} of {len(counts)} classes have {word} in the calibration data: "
                f"{few(scarce, _NAMED)}",
                "ranges come from what calibration sees: what only these excite is clipped",
                "give several samples of every class; `autoquant calibrate` says whether more pay",
            )


def describe_classes(batches: Sequence[Batch], counts: Tensor | None) -> str:
    """What the targets of the calibration data tell, in a line."""
    if counts is not None:
        fewest = int(counts.min())
        return f"calibration data: {len(counts)} classes, samples of the rarest: {fewest}"
    if batches[0].targets is None:
        return "calibration data: no targets, so that classes are not looked for"
    return ""


def _is_integer(targets: object) -> bool:
    return (
        isinstance(targets, Tensor)
        and targets.ndim > 0
        and not (targets.is_floating_point() or targets.is_complex())
    )


def _class_count(shape: tuple[int, ...], targets: Tensor) -> int:
    """How many classes an output tells apart; 0: its shape is not that of classes."""
    is_one = len(shape) > 1 and shape[0] <= len(targets) and shape[2:] == targets.shape[1:]
    return max(shape[1], 2) if is_one else 0
