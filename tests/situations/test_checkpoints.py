"""A result meets another checkpoint of its model."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import autoquant as aq
from autoquant.backends.torch_cpu.engines import saturates
from autoquant.cli import main
from autoquant.model.weights_digest import weights_digest
from autoquant.searching.result import SearchResult
from tests.networks import LinearNet, seeded

pytestmark = pytest.mark.filterwarnings("ignore")


def rows(seed: int, count: int = 64) -> Tensor:
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))


def other_checkpoint() -> nn.Module:
    torch.manual_seed(1)
    return LinearNet().eval()


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    inputs = rows(2)
    with torch.no_grad():
        targets = seeded(LinearNet)(inputs).argmax(1)
    return aq.search(
        seeded(LinearNet),
        calibration=rows(1),
        evaluation=(inputs, targets),
        backend={"engine": "fbgemm", "pairs": 3},
        max_drop=None,
        trials=2,
        space={"schemes": ["int8", "fp32"]},
        objectives=("output_error", "size"),
        sensitivity={"samples": 16},
        output=tmp_path_factory.mktemp("checkpoints") / "out",
    )


def test_the_searched_weights_are_taken(result: SearchResult) -> None:
    model = seeded(LinearNet)
    model.load_state_dict(seeded(LinearNet).state_dict())
    result.frontier[0].quantize(model)


def test_another_checkpoint_is_refused_and_the_mend_works(result: SearchResult) -> None:
    best = result.frontier[0]
    with pytest.raises(aq.AutoquantError, match="not those that were searched") as caught:
        best.quantize(other_checkpoint())
    assert "other_weights=True" in str(caught.value)
    allowed = best.quantize(other_checkpoint(), other_weights=True)
    with torch.no_grad():
        assert not torch.equal(allowed(rows(3)), best.quantize(seeded(LinearNet))(rows(3)))


def test_one_changed_weight_is_another_checkpoint(result: SearchResult) -> None:
    model = seeded(LinearNet)
    with torch.no_grad():
        model.second.bias[0] += 1e-3
    with pytest.raises(aq.AutoquantError, match="not those that were searched"):
        result.frontier[0].quantize(model)


def test_export_refuses_another_checkpoint(result: SearchResult, tmp_path: Path) -> None:
    best, path = result.frontier[0], tmp_path / "best.ts"
    with pytest.raises(aq.AutoquantError, match="not those that were searched"):
        aq.export(best, other_checkpoint(), path)
    assert not path.exists()
    assert aq.export(best, other_checkpoint(), path, other_weights=True).exists()


@pytest.mark.parametrize("reduced", [True, False])
def test_a_file_says_how_many_bits_its_kernels_take_and_can_be_made_for_any_cpu(
    result: SearchResult, tmp_path: Path, reduced: bool
) -> None:
    (int8,) = [item for item in result.candidates if "int8" in item.origin]
    path = aq.export(int8, seeded(LinearNet), tmp_path / "file", reduce_range=reduced)
    files = {"autoquant.json": ""}
    run = torch.jit.load(path, _extra_files=files)
    assert json.loads(files["autoquant.json"])["reduce_range"] is (reduced or saturates("fbgemm"))
    with torch.no_grad():
        apart = run(rows(2)) - seeded(LinearNet)(rows(2))
    assert apart.norm() < 0.05 * seeded(LinearNet)(rows(2)).norm()


def test_a_search_that_took_all_bits_warns_where_they_overflow(result: SearchResult) -> None:
    context = replace(result.context, build=result.context.build.with_weight_bits(8))
    (int8,) = [
        item for item in replace(result, context=context).candidates if "int8" in item.origin
    ]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        int8.quantize(seeded(LinearNet))
    assert any("overflow on this CPU" in str(item.message) for item in seen) is saturates("fbgemm")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        int8.quantize(seeded(LinearNet), reduce_range=True)
    assert not any("overflow" in str(item.message) for item in seen)


def test_a_result_of_an_older_version_knows_no_weights_and_takes_any(
    result: SearchResult,
) -> None:
    old = replace(result, context=replace(result.context, weights=""))
    old.frontier[0].quantize(other_checkpoint())


def test_the_digest_is_of_values_and_names_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    same = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).train()
    same.load_state_dict(model.state_dict())
    same[1].num_batches_tracked += 5
    assert weights_digest(same) == weights_digest(model)
    same[1].running_mean += 1.0
    assert weights_digest(same) != weights_digest(model)


def test_the_command_refuses_too_and_takes_it_on_request(tmp_path: Path) -> None:
    module, checkpoint = tmp_path / "subject.py", tmp_path / "checkpoint"
    checkpoint.write_text("0")
    module.write_text(
        "import torch\n"
        "def model():\n"
        f"    torch.manual_seed(int(open({str(checkpoint)!r}).read()))\n"
        "    return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), "
        "torch.nn.Linear(8, 4)).eval()\n"
        "def inputs():\n"
        "    return torch.randn(32, 8, generator=torch.Generator().manual_seed(1))\n"
        "def labelled():\n"
        "    return inputs(), torch.zeros(32, dtype=torch.long)\n"
    )
    job = tmp_path / "job.yaml"
    job.write_text(
        f"""
name: checkpoints
model: {{entry: "{module}:model"}}
data:
  calibration: "{module}:inputs"
  evaluation: "{module}:labelled"
  metric: autoquant.metrics:accuracy
backend: {{engine: fbgemm}}
space: {{schemes: [int8, fp32]}}
objectives: [output_error, size]
budget: {{trials: 2}}
tracking: {{enabled: false}}
execution: {{kind: local}}
output: {tmp_path / "out"}
"""
    )
    assert main(["search", str(job)]) == 0
    checkpoint.write_text("1")
    target = tmp_path / "best.ts"
    assert main(["export", str(tmp_path / "out"), "-o", str(target)]) == 2
    assert not target.exists()
    assert main(["export", str(tmp_path / "out"), "-o", str(target), "--other-weights"]) == 0
    assert target.exists()
