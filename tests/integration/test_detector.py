"""A search of a detector: boxes and scores, judged by mean average precision over the data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autoquant as aq
from autoquant.core.precision import Scheme
from autoquant.job.backend import backend_from_text
from tests.networks import images

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
STRIDE = 4
KEPT = 6


class Detector(nn.Module):
    """One class, one box a cell; decoding and suppression are part of the model."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.down = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.neck = nn.Conv2d(width, width, 3, padding=1)
        self.boxes = nn.Conv2d(width, 4, 1)
        self.scores = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = F.relu(self.down(F.relu(self.bn(self.stem(x)))))
        hidden = hidden + F.relu(self.neck(hidden))
        boxes = decoded(self.boxes(hidden))
        scores = torch.sigmoid(self.scores(hidden)).flatten(1)
        return {"boxes": boxes, "scores": suppressed(boxes, scores)}


def decoded(offsets: Tensor) -> Tensor:
    """Corners in pixels, shape (batch, cells, 4), of offsets by cell."""
    height, width = offsets.shape[-2:]
    rows = torch.arange(height, device=offsets.device).repeat_interleave(width)
    columns = torch.arange(width, device=offsets.device).repeat(height)
    centres = (torch.stack([columns, rows], -1) + 0.5) * STRIDE
    values = offsets.flatten(2).transpose(1, 2)
    middle = centres + values[..., :2] * STRIDE
    half = F.softplus(values[..., 2:]) * STRIDE
    return torch.cat([middle - half, middle + half], -1)


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of every two boxes."""
    low = torch.maximum(first[..., :, None, :2], second[..., None, :, :2])
    high = torch.minimum(first[..., :, None, 2:], second[..., None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (first, second)]
    return shared / (areas[0][..., :, None] + areas[1][..., None, :] - shared)


def suppressed(boxes: Tensor, scores: Tensor) -> Tensor:
    """Scores, zero where a better box overlaps by more than a half (one step, as in YOLACT)."""
    better = scores[:, None, :] > scores[:, :, None]
    hidden = ((overlaps(boxes, boxes) > 0.5) & better).any(-1)
    return torch.where(hidden, torch.zeros_like(scores), scores)


class MeanAveragePrecision:
    """Average precision at an overlap of a half, over the data set."""

    def __init__(self) -> None:
        self.found: list[tuple[float, bool]] = []
        self.wanted = 0

    def update(self, outputs: dict[str, Tensor], targets: Tensor) -> None:
        """Match the best boxes of each image to those that are wanted, best first."""
        scores, best = outputs["scores"].topk(KEPT)
        boxes = outputs["boxes"].gather(1, best[..., None].expand(-1, -1, 4))
        for image, matches in zip(scores.tolist(), overlaps(boxes, targets).numpy(), strict=True):
            self.wanted += matches.shape[1]
            free = np.ones(matches.shape[1])
            for score, match in zip(image, matches, strict=True):
                place = (match * free).argmax()
                hit = bool(match[place] * free[place] > 0.5)
                free[place] *= not hit
                self.found.append((score, hit))

    def compute(self) -> float:
        """Give the mean over hits of the precision down to each."""
        hits, total = 0, 0.0
        for rank, (_, hit) in enumerate(sorted(self.found, reverse=True), 1):
            hits += hit
            total += hits / rank if hit else 0.0
        return total / self.wanted


def detector() -> nn.Module:
    torch.manual_seed(0)
    model = Detector()
    for layer in (model.boxes, model.scores):
        layer.weight.data.mul_(4)
    return model.eval()


def samples(seed: int, count: int = 48) -> list[tuple[Tensor, Tensor]]:
    """Images, and the boxes that the float model finds best."""
    found = []
    for inputs in images(count, seed, size=32).split(16):
        with torch.no_grad():
            outputs = detector()(inputs)
        best = outputs["scores"].topk(KEPT).indices
        wanted = outputs["boxes"].gather(1, best[..., None].expand(-1, -1, 4))
        found.append((inputs, wanted))
    return found


@pytest.mark.parametrize("backend", ["onednn", "openvino", "onnxruntime"])
def test_a_detector_is_searched_end_to_end(backend: str, tmp_path: Path) -> None:
    if backend != "onednn":
        pytest.importorskip(backend)
    model = detector()
    result = aq.search(
        model,
        calibration=samples(1),
        evaluation=samples(2),
        heldout=samples(3),
        metric=MeanAveragePrecision(),
        backend=backend_from_text(backend) | {"pairs": 3},
        space={
            "schemes": ["fp32"],
            "rules": [{"kind": "conv2d", "schemes": ["int8", "fp32"]}],
        },
        objectives=("output_error", "size"),
        trials=3,
        max_drop=None,
        output=tmp_path,
    )
    by_origin = {item.origin: item for item in result.candidates}
    whole, small = by_origin["seed:uniform-fp32"], by_origin["seed:uniform-int8"]
    assert whole.value("accuracy") == pytest.approx(1.0)
    assert whole.value("sqnr_db") > 90
    assert small.failure is None
    assert 0.3 < small.value("accuracy") < 1.0
    assert small.measurements["accuracy_drop"].stderr is not None
    judged = {name: small.value(f"sqnr_db.{name}") for name in ("boxes", "scores")}
    assert small.value("sqnr_db") == min(judged.values())
    assert judged["boxes"] > judged["scores"] > 0
    convolutions = {"stem", "down", "neck", "boxes", "scores"}
    schemes = dict(small.plan.assignment)
    assert {site for site, scheme in schemes.items() if scheme is Scheme.INT8} >= convolutions
    assert all(
        small.executed[site].scheme is Scheme.FP32
        for site in schemes
        if site.startswith(":") and schemes[site] is Scheme.FP32
    )
    assert "heldout_accuracy" in result.frontier[0].measurements
    unseen = images(5, seed=9, size=32)
    with torch.no_grad():
        found, expected = (
            aq.load_result(tmp_path).frontier[0].quantize(model)(unseen),
            model(unseen),
        )
    assert found.keys() == expected.keys()
    assert float((found["boxes"] - expected["boxes"]).norm() / expected["boxes"].norm()) < 0.1
