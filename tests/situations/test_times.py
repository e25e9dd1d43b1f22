"""Times that may mislead: of a busy machine, of another configuration, of a plan never timed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import autoquant as aq
from autoquant.core.frontier import find_frontier
from autoquant.core.measurement import Candidate
from autoquant.core.objectives import Objective
from autoquant.core.precision import Scheme
from autoquant.core.progress import Standing
from autoquant.results.frame import candidates_frame
from autoquant.results.frontier_file import frontier_file
from autoquant.results.summary import NO_FASTER
from autoquant.results.terminal import standing_text
from autoquant.searching.candidate import ResultCandidate
from autoquant.searching.other_backend import Confirmation
from autoquant.searching.result import FrontierMembers, SearchResult
from tests.unit.results.synthetic import BASELINE, make_candidate, make_findings

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("whole_slices")]


def busy_or_quiet(*, busy: bool) -> Candidate:
    quiet = make_candidate(3, {"conv": Scheme.INT8, "fc": Scheme.FP32})
    speedup = replace(quiet.measurements["speedup"], busy=busy)
    return replace(quiet, measurements={**quiet.measurements, "speedup": speedup})


def confirmed(item: Candidate) -> str:
    found = Confirmation("onednn", "fp32", "accuracy", BASELINE, (item,), (item,))
    table = found.table()
    return " ".join([*table.rows[1], *table.notes])


def in_json(item: Candidate) -> str:
    axes = (Objective.OUTPUT_ERROR, Objective.LATENCY)
    file = frontier_file(find_frontier([item], BASELINE, axes))
    (member,) = json.loads(file.model_dump_json())["members"]
    return "busy" if member["values"]["speedup"]["busy"] else ""


SHOWN: dict[str, Callable[[Candidate], str]] = {
    "repr": lambda item: repr(ResultCandidate(item, None)),  # type: ignore[arg-type]
    "in a notebook": lambda item: ResultCandidate(item, None)._repr_html_(),  # type: ignore[arg-type]
    "frontier in a notebook": lambda item: FrontierMembers(
        [ResultCandidate(item, None)]  # type: ignore[arg-type]
    )._repr_html_(),
    "confirm": confirmed,
    "json": in_json,
    "frame": lambda item: "busy" if candidates_frame([item])["busy"].tolist()[0] else "",
    "while it runs": lambda item: standing_text(Standing((("fastest", item),), 1, None)),
}


@pytest.mark.parametrize("show", SHOWN.values(), ids=SHOWN.keys())
def test_a_speedup_of_a_busy_machine_says_so(show: Callable[[Candidate], str]) -> None:
    assert "busy" in show(busy_or_quiet(busy=True))
    assert "busy" not in show(busy_or_quiet(busy=False))


@pytest.mark.parametrize(("factor", "is_said"), [(0.72, True), (1.6, False)])
def test_the_best_plan_is_no_silent_choice_where_float_is_as_fast(
    factor: float, is_said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    item = make_candidate(0, {"conv": Scheme.INT8}, speedup=factor)
    axes = (Objective.OUTPUT_ERROR, Objective.LATENCY)
    found = replace(make_findings(), frontier=find_frontier([item], BASELINE, axes))
    result = SearchResult(found, None, Path())  # type: ignore[arg-type]
    assert result.best().number == 0
    assert (NO_FASTER in caplog.text) is is_said


def test_an_openvino_file_carries_the_configuration_that_was_timed(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    rows = torch.randn(32, 8)
    with torch.no_grad():
        labels = model(rows).argmax(1)
    result = aq.search(
        model,
        calibration=rows,
        evaluation=(rows, labels),
        backend={"name": "openvino", "threads": 2, "batch_size": 4, "pairs": 3},
        space={"schemes": ["int8", "fp32"]},
        trials=1,
        max_drop=None,
        output=tmp_path / "out",
    )
    path = aq.export(result.frontier[0], model, tmp_path / "best.xml")
    read = openvino.Core().read_model(path)
    inside = json.loads(read.get_rt_info(["autoquant"]).astype(str))
    assert (inside["threads"], inside["batch_size"]) == (2, 4)
    built = result.frontier[0].quantize(model)
    timed = next(item for item in built.modules() if hasattr(item, "compiled")).compiled
    recipe = result.frontier[0].recipe(path)
    assert recipe is not None
    assert '["openvino"]' in recipe
    from_file = openvino.Core().compile_model(read, "CPU", inside["openvino"])
    for name in (
        "INFERENCE_NUM_THREADS",
        "NUM_STREAMS",
        "ENABLE_CPU_PINNING",
        "INFERENCE_PRECISION_HINT",
    ):
        assert name in inside["openvino"]
        if name != "INFERENCE_NUM_THREADS":  # `quantize` takes torch's
            assert from_file.get_property(name) == timed.get_property(name)
    assert from_file.get_property("INFERENCE_NUM_THREADS") == 2
