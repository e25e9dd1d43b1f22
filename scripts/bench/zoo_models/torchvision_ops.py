"""torchvision's compiled operators, in Python: its wheel's do not load beside every torch."""

from __future__ import annotations

import torch
from torch import Tensor

_LIBRARIES: list[torch.library.Library] = []


def define_torchvision_ops() -> None:
    """Make `import torchvision` work; definitions of models need no more. Once a process."""
    if _LIBRARIES:
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", nms, "CompositeExplicitAutograd")
    _LIBRARIES.append(library)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that no better one overlaps, the best first.

    Args:
        boxes: Shape (n, 4): left, top, right, bottom.
        scores: Shape (n,).
        iou_threshold: Boxes that overlap by more than this share are one.
    """
    left = scores.argsort(descending=True)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        low = torch.maximum(boxes[best, :2], boxes[left, :2])
        high = torch.minimum(boxes[best, 2:], boxes[left, 2:])
        inner = (high - low).clamp(min=0).prod(1)
        left = left[inner / (areas[best] + areas[left] - inner) <= iou_threshold]
    return torch.stack(kept) if kept else torch.zeros(0, dtype=torch.int64)
