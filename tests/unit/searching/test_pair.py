"""What a user names is found, built, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoquant import metrics
from autoquant.backends.protocol import Executable
from autoquant.core.measurement import Kind
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.progress import Silent
from autoquant.errors import PlanError
from autoquant.job import Job
from autoquant.model.building import build_subject
from autoquant.searching.pair import build_pair, find_plan, prepare_untimed
from autoquant.searching.preparing.preparation import Preparation
from tests.networks import MixedNet, images, seeded


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Preparation:
    return prepared_on("torch", tmp_path_factory.mktemp("pair"))


def prepared_on(backend: str, folder: Path) -> Preparation:
    job = Job.model_validate(
        {
            "name": "pair",
            "space": {"schemes": ["int8", "fp32"]},
            "backend": {"name": backend},
            "output": str(folder),
        }
    )
    model = seeded(MixedNet)
    batch = images(8)
    subject = build_subject(
        model,
        calibration=[batch],
        evaluation=(batch, model(batch).argmax(1)),
        heldout=None,
        metric=metrics.accuracy,
    )
    return prepare_untimed(job, subject, Silent())


@pytest.mark.parametrize(
    ("text", "scheme", "kind"),
    [("int8", Scheme.INT8, Kind.MEASURED), ("int16", Scheme.INT16, Kind.EMULATED)],
)
def test_a_schemes_name_means_all_ops(
    prepared: Preparation, text: str, scheme: Scheme, kind: Kind
) -> None:
    pair = build_pair(prepared, find_plan(text, prepared, Silent()), Silent())
    assert pair.plan.counts()[scheme.value] > len(prepared.captured.sites) / 2
    assert pair.executable.kind is kind


def test_a_saved_plan_is_read(prepared: Preparation, tmp_path: Path) -> None:
    plan = find_plan("int8", prepared, Silent())
    plan.save(tmp_path / "plan.json")
    assert find_plan(str(tmp_path / "plan.json"), prepared, Silent()) == plan


def test_a_plan_of_another_model_is_refused(prepared: Preparation, tmp_path: Path) -> None:
    Plan.of({"strange": Scheme.INT8}).save(tmp_path / "plan.json")
    with pytest.raises(PlanError, match="lacks the site"):
        find_plan(str(tmp_path / "plan.json"), prepared, Silent())


def test_what_is_nothing_is_refused_with_what_there_is(prepared: Preparation) -> None:
    with pytest.raises(PlanError, match="no such scheme, file or result folder") as caught:
        find_plan("int7", prepared, Silent())
    assert "int8" in caught.value.hint


def test_a_plan_that_was_tried_for_its_scheme_is_not_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, built = prepared_on("onnxruntime", tmp_path), []
    build = prepared.backend.build

    def counted(plan: Plan) -> Executable:
        built.append(plan)
        return build(plan)

    monkeypatch.setattr(prepared.backend, "build", counted)
    pair = build_pair(prepared, "int8", Silent())
    assert built == [pair.plan]
