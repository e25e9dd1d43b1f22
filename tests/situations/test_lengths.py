"""A search of a text model: dicts of several lengths, and a metric over the data set."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autoquant as aq
from autoquant.errors import BackendError
from autoquant.job.backend import backend_from_text

SPACE = {"schemes": ["int8", "fp32"]}


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(60, 16)
        self.wide = nn.Linear(16, 32)
        self.narrow = nn.Linear(32, 16)
        self.head = nn.Linear(16, 4)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, scale: float | None = None
    ) -> dict[str, Any]:
        hidden = self.embedding(input_ids)
        hidden = hidden + self.narrow(torch.relu(self.wide(hidden)))
        weight = attention_mask[..., None].float()
        pooled = (hidden * weight).sum(1) / weight.sum(1)
        logits = self.head(pooled)
        return {"task": "text", "logits": logits, "hidden": hidden, "scale": scale}


class MacroF1:
    def __init__(self) -> None:
        self.counts = torch.zeros(3, 4)

    def update(self, outputs: dict[str, Tensor], targets: Tensor) -> None:
        best = outputs["logits"].argmax(1)
        for name in range(4):
            hits = (best == name) & (targets == name)
            self.counts[:, name] += torch.stack(
                [hits.sum(), (best == name).sum(), (targets == name).sum()]
            )

    def compute(self) -> Tensor:
        right, found, given = self.counts
        return (2 * right / (found + given).clamp_min(1)).mean()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Text().eval()


def batches(model: nn.Module, seed: int, lengths: tuple[int, ...]) -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(seed)
    found = []
    for length in lengths:
        ids = torch.randint(0, 60, (16, length), generator=draw)
        mask = torch.ones_like(ids)
        mask[3, length // 2 :] = 0
        with torch.no_grad():
            labels = model(ids, mask)["logits"].argmax(1)
        found.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return found


def search(model: nn.Module, backend: str, output: Path) -> aq.SearchResult:
    return aq.search(
        model,
        calibration=batches(model, 1, (5, 9, 14, 7, 11, 6, 8)),
        evaluation=batches(model, 2, (6, 12, 5, 9)),
        target="labels",
        metric=MacroF1(),
        backend=backend_from_text(backend) | {"pairs": 3},
        space=SPACE,
        capture="auto",
        outputs={"logits": 1.0},
        objectives=("output_error", "size"),
        trials=0,
        max_drop=None,
        output=output,
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onednn", "openvino", "onnxruntime"])
def test_a_text_model_with_batches_of_several_lengths_is_searched(
    model: nn.Module, backend: str, tmp_path: Path
) -> None:
    if backend != "onednn":
        pytest.importorskip(backend)
    result = search(model, backend, tmp_path)
    whole = next(item for item in result.candidates if item.origin == "seed:uniform-fp32")
    assert whole.value("accuracy") == 1.0
    assert whole.value("sqnr_db") > 100
    smallest = next(item for item in result.candidates if item.origin == "seed:uniform-int8")
    assert smallest.failure is None
    assert 15 < smallest.value("sqnr_db") < 80
    assert smallest.measurements["accuracy_drop"].stderr is not None
    assert {"sqnr_db.logits", "sqnr_db.hidden", "sqnr_db.all"} <= set(smallest.measurements)
    assert smallest.value("sqnr_db") == smallest.value("sqnr_db.logits")
    built = aq.load_result(tmp_path).frontier[0].quantize(model)
    unseen = batches(model, 9, (13,))[0]
    inputs = {name: unseen[name] for name in ("attention_mask", "input_ids")}
    with torch.no_grad():
        found, expected = built(**inputs)["logits"], model(**inputs)["logits"]
    assert float((found - expected).norm() / expected.norm()) < 0.2


@pytest.mark.skipif(importlib.util.find_spec("ai_edge_litert") is None, reason="needs litert")
def test_a_target_that_builds_for_one_shape_refuses_several_lengths_by_name(
    model: nn.Module, tmp_path: Path
) -> None:
    with pytest.raises(BackendError, match="of input 'input_ids' the axes 0 and 1 change"):
        search(model, "litert", tmp_path)
