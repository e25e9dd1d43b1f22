"""A search of a model that torch.fx cannot trace, from Python, by both captures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import autoquant as aq
from autoquant.core.precision import Scheme
from autoquant.errors import ModelError, PlanError
from tests.networks import images, seeded
from tests.untraceable import TokenNet, tokens

pytestmark = pytest.mark.filterwarnings("ignore")


def similarity(outputs: Tensor, targets: Tensor) -> Tensor:
    return torch.cosine_similarity(outputs, targets, dim=-1)


def search(folder: Path, capture: str, **settings: object) -> aq.SearchResult:
    model = seeded(TokenNet)
    with torch.no_grad():
        evaluation = [((tokens(8, seed),), model(tokens(8, seed))) for seed in (3, 4)]
    return aq.search(
        model,
        calibration=[tokens(8, seed) for seed in range(2)],
        evaluation=evaluation,
        metric=similarity,
        capture=capture,
        output=folder,
        space={
            "schemes": ["fp32"],
            "rules": [{"kind": "linear", "schemes": ["int8", "int8_dynamic", "bf16", "fp32"]}],
        },
        **{
            "backend": {"engine": "fbgemm", "pairs": 3},
            "objectives": ("output_error", "latency"),
            "trials": 4,
            "max_drop": 0.1,
            **settings,
        },
    )


@pytest.mark.parametrize(
    ("capture", "engine", "methods", "refusal"),
    [
        ("export", "fbgemm", {"exact", "gradient"}, "torch.fx cannot trace"),
        ("modules", "x86", {"engine"}, "captured by model.capture: modules"),
    ],
    ids=["export", "modules"],
)
def test_a_search_finds_plans_and_each_builds_again(
    tmp_path: Path, capture: str, engine: str, methods: set[str], refusal: str
) -> None:
    result = search(
        tmp_path / capture, capture, backend={"engine": engine, "pairs": 3}, batch_size=4, trials=6
    )
    assert result.context.build.capture == capture
    assert result.sensitivity is not None
    assert {row.method.value for row in result.sensitivity.rows} == methods
    assert all(item.failure is None for item in result.candidates)
    loaded = aq.load_result(result.folder)
    model, inputs = seeded(TokenNet), tokens(8, 3)
    best = next(item for item in loaded.candidates if item.plan["grow"] is Scheme.INT8)
    with torch.no_grad():
        found, expected = best.quantize(model)(inputs), model(inputs)
    assert float(similarity(found, expected).mean()) > 0.9
    assert best.module_qconfigs()["grow"] is not None
    assert str(best.executed["grow"]) == "int8 native"
    with pytest.raises((ModelError, PlanError), match=refusal):
        best.qconfig_mapping(model)


class Viewing(nn.Module):
    """Views what a layer gives as its memory lies, after a branch that export cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.last = nn.Linear(4 * 12 * 12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        if x.sum() > 0:
            x = self.second(x)
        return self.last(x.view(len(x), -1))


def test_what_a_lowered_layer_gives_lies_in_memory_as_the_models_python_expects() -> None:
    result = aq.search(
        seeded(Viewing),
        calibration=images(8),
        evaluation=images(8, seed=1),
        metric="cosine",
        backend={"engine": "x86", "pairs": 3},
        effort="quick",
        max_drop=None,
    )
    uniform = next(item for item in result.candidates if item.plan["second"] is Scheme.INT8)
    assert uniform.failure is None
