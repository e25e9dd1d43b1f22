"""A mixed plan through everything, and its QConfigMapping through torch alone."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
import torch
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
from torch.fx import GraphModule, Node

import autoquant as aq
from autoquant.core.measurement import Candidate
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.errors import PlanError
from autoquant.model.graph.built_graph import FLOAT_NODE
from tests.networks import MixedNet, images, seeded

pytestmark = pytest.mark.filterwarnings("ignore")
CALIBRATION = images(128, seed=1)
EVALUATION = images(96, seed=2)


def targets_of(inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return seeded(MixedNet)(inputs).argmax(1)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> aq.SearchResult:
    folder = tmp_path_factory.mktemp("search")
    return aq.search(
        seeded(MixedNet),
        calibration=CALIBRATION,
        evaluation=(EVALUATION, targets_of(EVALUATION)),
        heldout=(images(64, seed=3), targets_of(images(64, seed=3))),
        backend={"engine": "fbgemm", "pairs": 3},
        max_drop=None,
        trials=14,
        space={"schemes": ["int8", "int16", "fp16", "fp32"]},
        objectives=("output_error", "bops"),
        sensitivity={"samples": 16},
        output=folder / "out",
        tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
        name="mixed",
    )


@pytest.fixture(scope="module")
def mixed(result: aq.SearchResult) -> aq.ResultCandidate:
    """The candidate with the most schemes."""
    return max(result.candidates, key=lambda item: (len(item.plan.counts()), -item.number))


def test_a_mixed_plan_is_measured_and_labelled(mixed: aq.ResultCandidate) -> None:
    assert {"int8", "int16", "fp16"} <= mixed.plan.counts().keys()
    assert mixed.failure is None
    assert mixed.measurements["sqnr_db"].kind.value == "emulated"
    assert mixed.measurements["bops_ratio"].kind.value == "estimated"
    assert "speedup" not in mixed.measurements
    for site, scheme in mixed.plan.assignment:
        support = "native" if scheme in (aq.Scheme.INT8, aq.Scheme.FP32) else None
        text = str(mixed.executed[site])
        # averages may run in float between int8 ops
        runs = (scheme.value, "fp32") if ":mean:" in site else (scheme.value,)
        assert text.startswith(runs), (site, text)
        assert support is None or text.endswith(support), (site, text)


def test_quantize_gives_the_outputs_that_were_scored(
    result: aq.SearchResult, mixed: aq.ResultCandidate
) -> None:
    quantized = mixed.quantize(seeded(MixedNet))
    with torch.no_grad():
        found = aq.metrics.accuracy(quantized(EVALUATION), targets_of(EVALUATION)).mean()
    assert float(found) == pytest.approx(mixed.value("accuracy"))
    assert result.baseline["accuracy"].value == 1.0


def test_what_was_quantized_stays_as_it_is_while_the_model_is_trained_on(
    result: aq.SearchResult,
) -> None:
    model = seeded(MixedNet)
    floats = [item for item in result.candidates if set(item.plan.counts()) == {"fp32"}]
    for candidate in (*floats, result.best(max_drop=None)):
        quantized = candidate.quantize(model)
        with torch.no_grad():
            before = quantized(EVALUATION).clone()
            weights = {name: item.clone() for name, item in model.named_parameters()}
            for item in model.parameters():
                item.mul_(1.5)
            assert torch.equal(quantized(EVALUATION), before)
            for name, item in model.named_parameters():
                item.copy_(weights[name])


def test_a_model_in_training_mode_is_left_so_and_gives_the_same(mixed: aq.ResultCandidate) -> None:
    training = seeded(MixedNet)
    training.b1.bn1.train()
    with torch.no_grad():
        found = mixed.quantize(training)(EVALUATION)
        expected = mixed.quantize(seeded(MixedNet))(EVALUATION)
    assert torch.equal(found, expected)
    assert training.b1.bn1.training
    assert not training.training


def test_the_mapping_reaches_the_reported_accuracy_with_torch_alone(
    mixed: aq.ResultCandidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapping = mixed.qconfig_mapping()
    assert isinstance(mapping, torch.ao.quantization.QConfigMapping)
    monkeypatch.setattr(torch.backends.quantized, "engine", "fbgemm")
    prepared = prepare_fx(
        copy.deepcopy(seeded(MixedNet)),
        mapping,
        (CALIBRATION[:2],),
        backend_config=aq.backend_config(),
    )
    with torch.no_grad():
        for batch in CALIBRATION.split(64):
            prepared(batch)
        converted = convert_fx(prepared, backend_config=aq.backend_config())
        found = aq.metrics.accuracy(converted(EVALUATION), targets_of(EVALUATION)).mean()
    # torch leaves int16 activations unrounded after convert; that moves no label here
    assert float(found) == pytest.approx(mixed.value("accuracy"), abs=1.5 / len(EVALUATION))


class Grids(torch.fx.Interpreter):
    """Notes the scale and zero point of every integer tensor that a graph computes."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.found: dict[str, tuple[float, int]] = {}

    def run_node(self, n: Node) -> object:
        value = super().run_node(n)
        # of several kernels for one op of the model, those before the last hold nothing of it
        origin = n.meta.get(FLOAT_NODE)
        is_inner = origin and any(user.meta.get(FLOAT_NODE) == origin for user in n.users)
        if isinstance(value, torch.Tensor) and value.is_quantized and not is_inner:
            self.found[n.name] = (value.q_scale(), value.q_zero_point())
        return value


def grids_of(graph: GraphModule) -> dict[str, tuple[float, int]]:
    run = Grids(graph)
    with torch.no_grad():
        run.run(EVALUATION)
    return run.found


def test_an_all_int8_mapping_gives_the_grids_of_the_plan_with_torch_alone(
    result: aq.SearchResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    (int8,) = [item for item in result.candidates if item.plan.counts().keys() == {"int8"}]
    monkeypatch.setattr(torch.backends.quantized, "engine", "fbgemm")
    model = int8.float_model(seeded(MixedNet))
    prepared = prepare_fx(copy.deepcopy(model), int8.qconfig_mapping(model), (CALIBRATION[:2],))
    with torch.no_grad():
        for batch in CALIBRATION.split(64):
            prepared(batch)
    theirs = grids_of(convert_fx(prepared))
    ours = grids_of(int8.quantize(seeded(MixedNet)).graph)
    del theirs["head"]  # a plan hands out what its last op computes, unrounded
    # torch has one observer for all inputs of a concatenation; a plan has a grid for each tensor
    joined = {"add_relu", "pool", "pool_1", "cat", "adaptive_avg_pool2d", "flatten"}
    assert joined <= theirs.keys()
    # an average may be on a finer grid; torch's takes that of what it averages
    for (name, (scale, zero)), (expected, at) in zip(theirs.items(), ours.values(), strict=True):
        if name not in joined and not name.startswith("mean"):
            assert (scale, zero) == (pytest.approx(expected, rel=1e-6), at), name


def test_everything_loads_again_without_pickles(result: aq.SearchResult) -> None:
    again = aq.load_result(result.folder)
    assert [item.plan for item in again.frontier] == [item.plan for item in result.frontier]
    assert again.hypervolume == result.hypervolume
    assert len(again.to_dataframe()) == len(result.candidates)
    with torch.no_grad():
        ours = result.frontier[0].quantize(seeded(MixedNet))(EVALUATION)
        theirs = again.frontier[0].quantize(seeded(MixedNet))(EVALUATION)
    assert torch.equal(ours, theirs)


def test_frontier_json_holds_what_the_issue_of_the_format_says(result: aq.SearchResult) -> None:
    document = json.loads((result.folder / "frontier.json").read_text())
    assert {"baseline", "members", "hypervolume", "reference"} <= document.keys()
    member = document["members"][0]
    assert {"number", "digest", "origin", "plan", "values"} <= member.keys()
    assert {"value", "stderr", "kind"} <= member["values"]["accuracy"].keys()
    assert "heldout_accuracy" in member["values"]


def test_mlflow_holds_a_run_for_the_search_and_one_for_each_candidate(
    result: aq.SearchResult,
) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{result.folder.parent / 'mlflow.db'}")
    (experiment,) = [item for item in client.search_experiments() if item.name == "mixed"]
    runs = client.search_runs([experiment.experiment_id], max_results=200)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 1
    assert len(children) == len(result.candidates)
    sqnr = sorted(run.data.metrics["sqnr_db"] for run in children)
    assert sqnr == pytest.approx(sorted(item.value("sqnr_db") for item in result.candidates))


def test_the_exported_file_runs_in_a_process_without_autoquant(
    result: aq.SearchResult, tmp_path: Path
) -> None:
    candidate = result.frontier[0]
    path = aq.export(candidate, seeded(MixedNet), tmp_path / "model.ts")
    torch.save((EVALUATION, targets_of(EVALUATION)), tmp_path / "data.pt")
    code = (
        "import sys, json, torch\n"
        "torch.backends.quantized.engine = 'fbgemm'\n"
        f"files = {{'autoquant.json': ''}}\n"
        f"model = torch.jit.load({str(path)!r}, _extra_files=files)\n"
        f"x, y = torch.load({str(tmp_path / 'data.pt')!r})\n"
        "assert 'autoquant' not in sys.modules\n"
        "accuracy = float((model(x).argmax(1) == y).float().mean())\n"
        "print(json.dumps([accuracy, json.loads(files['autoquant.json'])['digest']]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    accuracy, digest = json.loads(done.stdout)
    assert accuracy == pytest.approx(candidate.value("accuracy"))
    assert digest == candidate.digest


def test_a_bf16_plan_warns_that_a_mapping_cannot_carry_it(result: aq.SearchResult) -> None:
    candidate = result.candidates[0]
    sites = dict.fromkeys(candidate.plan.schemes, aq.Scheme.BF16)
    cast = aq.ResultCandidate(Candidate(0, aq.Plan.of(sites), "test"), result.context)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            UserWarning, match="stay in fp32: bf16 is a cast, which no QConfig carries"
        ):
            cast.qconfig_mapping()


def test_the_best_of_those_that_a_mapping_carries(result: aq.SearchResult) -> None:
    found = result.findings.frontier
    whole = tuple(
        item for item in found if result.candidate(item.number).mapping_coverage().is_complete
    )
    assert whole
    first = whole[0]
    in_bf16 = Plan.of({**first.plan.schemes, next(iter(first.plan.schemes)): Scheme.BF16})
    part = replace(first, number=1 + max(item.number for item in found), plan=in_bf16)

    def of(*members: Candidate) -> aq.SearchResult:
        return replace(
            result, findings=replace(result.findings, frontier=replace(found, members=members))
        )

    assert of(part, *whole).best(mappable=True).number == of(*whole).best().number
    assert of(part).best().number == part.number
    with pytest.raises(PlanError, match=f"#{part.number}: .* of .* sites"):
        of(part).best(mappable=True)
