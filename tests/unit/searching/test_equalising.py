"""Equalisation as a choice of a search: what it mends, what carries it, and how to go without."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization.quantize_fx import prepare_fx
from torch.nn import functional as F

import autoquant as aq
from autoquant.core.measurement import Candidate
from autoquant.core.plan import load_plan
from autoquant.errors import JobError, ModelError, PlanError
from autoquant.job.backend import backend_from_text
from autoquant.searching.pair import equalisation_of
from autoquant.searching.result import SearchResult

INT8 = {"schemes": ["int8", "fp32"]}


class Stream(nn.Module):
    """A stem and blocks around a stream of which some channels are far larger than others."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 12, 3)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(12, 16, 1), nn.ReLU(), nn.Conv2d(16, 12, 3, padding=1))
            for _ in range(2)
        )
        self.head = nn.Linear(12, 6)
        with torch.no_grad():
            for writer in (self.stem, self.blocks[0][2], self.blocks[1][2]):
                writer.weight[:2] *= scale
                writer.bias[:2] *= scale
            for reader in (self.blocks[0][0], self.blocks[1][0], self.head):
                reader.weight[:, :2] /= scale

    def forward(self, images: Tensor) -> Tensor:
        """Give logits."""
        x = self.stem(images)
        for block in self.blocks:
            x = x + block(x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def run(
    model: nn.Module, output: Path | None = None, *, backend: str = "onednn", **settings: Any
) -> SearchResult:
    """Search the seeds of a network with random weights: its own answers are the labels."""
    torch.manual_seed(1)
    images = torch.randn(96, 3, 12, 12)
    with torch.no_grad():
        labels = model.eval()(images).argmax(1)
    settings = {"objectives": ("output_error", "size"), **settings}
    return aq.search(
        model,
        calibration=images[:48].split(16),
        evaluation=list(zip(images.split(16), labels.split(16), strict=True)),
        space=INT8,
        max_drop=None,
        effort="quick",
        output=output,
        backend=backend_from_text(backend) | {"pairs": 3},
        **settings,
    )


def all_int8(result: SearchResult) -> Candidate:
    """The candidate that runs most in int8."""
    return max(result.candidates, key=lambda item: item.plan.counts().get("int8", 0))


def sqnr(result: SearchResult) -> float:
    return all_int8(result).value("sqnr_db")


@pytest.fixture(scope="module")
def mended(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    return run(Stream(256.0), tmp_path_factory.mktemp("mended") / "search")


@pytest.mark.slow
def test_all_int8_of_a_stream_with_outliers_is_mended(mended: SearchResult) -> None:
    plain = run(Stream())
    assert sqnr(run(Stream(256.0), equalise="never")) < sqnr(plain) - 6
    assert sqnr(mended) > sqnr(plain) - 1


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_other_engines_run_the_rescaled_model(backend: str) -> None:
    pytest.importorskip(backend)
    given, mended = (run(Stream(256.0), backend=backend, equalise=how) for how in ("never", "auto"))
    assert sqnr(mended) > sqnr(given) + 6


@pytest.mark.slow
def test_never_leaves_the_model_as_it_is() -> None:
    result = run(Stream(256.0), equalise="never")
    assert not result.context.build.equalisation
    assert result.findings.facts.settings["equalised"] is False


@pytest.mark.slow
def test_a_resumed_search_keeps_its_rescaling(mended: SearchResult) -> None:
    again = run(Stream(256.0), mended.folder, resume=True)
    assert again.context.build.equalisation == mended.context.build.equalisation
    assert sqnr(again) == sqnr(mended)


def test_a_loaded_result_builds_the_rescaled_plan(mended: SearchResult) -> None:
    loaded = aq.load_result(mended.folder)
    images = torch.randn(8, 3, 12, 12)
    number = all_int8(mended).number
    model = Stream(256.0).eval()
    built, again = (
        next(item for item in result.candidates if item.number == number).quantize(model)
        for result in (mended, loaded)
    )
    with torch.no_grad():
        expected, found, same = model(images), built(images), again(images)
    assert torch.equal(found, same)
    assert (found - expected).norm() < 0.1 * expected.norm()


def test_an_exported_file_holds_the_rescaled_model(mended: SearchResult, tmp_path: Path) -> None:
    member = min(mended.frontier, key=lambda item: item.value("size_bytes"))
    model, images = Stream(256.0).eval(), torch.randn(8, 3, 12, 12)
    loaded = torch.jit.load(str(aq.export(member, model, tmp_path / "model")))
    with torch.no_grad():
        expected, found = model(images), loaded(images)
    assert (found - expected).norm() < 0.1 * expected.norm()


def test_float_model_is_the_same_class_and_function(mended: SearchResult) -> None:
    model, images = Stream(256.0).eval(), torch.randn(8, 3, 12, 12)
    found = mended.frontier[0].float_model(model)
    assert type(found) is Stream
    assert not torch.equal(found.stem.weight, model.stem.weight)
    with torch.no_grad():
        assert F.mse_loss(found(images), model(images)) < 1e-9


@pytest.mark.slow
def test_a_qconfig_mapping_is_that_of_the_float_model(mended: SearchResult) -> None:
    member = next(item for item in mended.candidates if item.number == all_int8(mended).number)
    model = Stream(256.0).eval()
    with pytest.warns(UserWarning, match="float_model"):
        member.qconfig_mapping(model)
    mapping = member.qconfig_mapping(member.float_model(model))
    assert mapping.to_dict()["module_name"]


def test_another_checkpoint_is_refused(mended: SearchResult) -> None:
    other = Stream(256.0).eval()
    with torch.no_grad():
        other.head.bias += 1.0
    with pytest.raises(ModelError, match="another checkpoint"):
        mended.frontier[0].quantize(other)


def test_always_refuses_a_model_of_which_nothing_can_be_rescaled() -> None:
    with pytest.raises(ModelError, match="no channels"):
        run(nn.Sequential(nn.Flatten(), nn.Linear(432, 6)), equalise="always")


def test_an_unknown_wish_is_refused() -> None:
    with pytest.raises(JobError, match="sometimes"):
        run(Stream(), equalise="sometimes")


def test_scales_are_not_put_on_the_model_as_given(mended: SearchResult) -> None:
    found = all_int8(mended).number
    member = next(item for item in mended.candidates if item.number == found)
    model = Stream(256.0).eval()
    images = mended.context.example
    mapping = member.qconfig_mapping(member.float_model(model))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = prepare_fx(Stream(256.0).eval(), mapping, images)
        rescaled = prepare_fx(member.float_model(model), mapping, images)
    with pytest.raises(ModelError, match="rescaled channels"):
        member.fix_scales(given, model)
    member.fix_scales(rescaled, model)


@pytest.mark.parametrize("form", ["{folder}", "{folder}:{number}", "{folder}/plans/{number}.json"])
def test_a_plan_of_the_search_brings_its_rescaling_along(mended: SearchResult, form: str) -> None:
    text = form.format(folder=mended.folder, number=mended.frontier[0].number)
    assert equalisation_of(text) == mended.context.build.equalisation


def test_a_plan_that_left_its_folder_is_refused(mended: SearchResult, tmp_path: Path) -> None:
    plan = mended.folder / "plans" / f"{mended.frontier[0].number}.json"
    shutil.copy(plan, tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == mended.frontier[0].plan
    with pytest.raises(PlanError, match="rescaled channels"):
        equalisation_of(str(tmp_path / "plan.json"))


def test_a_comparison_is_of_the_rescaled_plan(mended: SearchResult) -> None:
    images = torch.randn(16, 3, 12, 12)
    text = f"{mended.folder}:{all_int8(mended).number}"
    layers = [aq.compare(Stream(256.0).eval(), plan, images) for plan in (text, "int8")]
    with_rescaling, without = (min(row.error.sqnr_db for row in item.rows) for item in layers)
    assert with_rescaling > without + 6


def test_a_comparison_rescales_where_it_is_told_to() -> None:
    images = torch.randn(16, 3, 12, 12)
    found = [
        aq.compare(Stream(256.0).eval(), "int8", images, equalise=how) for how in ("auto", "always")
    ]
    given, other = (min(row.error.sqnr_db for row in item.rows) for item in found)
    assert other > given + 6


@pytest.mark.slow
def test_a_rescaled_plan_can_be_trained_further(mended: SearchResult, tmp_path: Path) -> None:
    images = torch.randn(48, 3, 12, 12)
    model = Stream(256.0).eval()
    with torch.no_grad():
        labels = model(images).argmax(1)
    found = aq.finetune(
        model,
        f"{mended.folder}:{all_int8(mended).number}",
        (images, labels),
        F.cross_entropy,
        float_steps=20,
        share=0.5,
        calibration=images.split(16),
        evaluation=(images, labels),
        backend="onednn",
        output=tmp_path,
        learning_rates=[1e-5],
    )
    with torch.no_grad():
        expected, trained = model(images), found.model(images)
    assert (trained - expected).norm() < 0.1 * expected.norm()
