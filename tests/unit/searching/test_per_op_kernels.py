"""`engine: per-op`: kernels are chosen once, kept with the result, and built again from it."""

from __future__ import annotations

import pytest

import autoquant as aq
from autoquant.backends.torch_cpu.engines import engines_here
from autoquant.backends.torch_cpu.options import kernels_in
from autoquant.core.progress import Silent
from autoquant.job import load_job
from autoquant.model.building import build_subject
from autoquant.results import files
from autoquant.searching.preparing.preparation import prepare
from tests.networks import MixedNet, images, seeded

pytestmark = pytest.mark.skipif(
    not {"fbgemm", "onednn"} <= set(engines_here()), reason="torch lacks fbgemm or onednn"
)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> aq.SearchResult:
    model, batch = seeded(MixedNet), images(16)
    return aq.search(
        model,
        calibration=[batch],
        evaluation=(batch, model(batch).argmax(1)),
        backend={"engine": "per-op", "pairs": 3},
        space={"schemes": ["int8", "fp32"]},
        max_drop=None,
        trials=2,
        output=tmp_path_factory.mktemp("per-op") / "out",
        sensitivity={"method": "gradient"},
    )


@pytest.mark.slow
def test_every_weighted_op_has_a_kernel_of_one_of_two_engines(result: aq.SearchResult) -> None:
    chosen = kernels_in(result.context.build)
    assert chosen.counts().keys() <= {"fbgemm", "onednn"}
    weighted = {site.name for site in result.findings.sites if site.kind.is_weighted}
    assert {site for site, _, _ in chosen.choices} <= weighted
    assert len(chosen.choices) >= len(weighted) / 2


def test_the_result_builds_with_the_kernels_that_were_measured(result: aq.SearchResult) -> None:
    assert aq.load_result(result.folder).context.build == result.context.build
    member = next(c for c in result.candidates if "int8" in c.plan.counts())
    model, batch = seeded(MixedNet), images(16)
    agreed = member.quantize(model)(batch).argmax(1) == model(batch).argmax(1)
    assert float(agreed.float().mean()) == pytest.approx(member.value("accuracy"))


def test_a_resumed_search_keeps_its_kernels(result: aq.SearchResult) -> None:
    job = load_job(result.folder / files.JOB, ["backend.engine=per-op"])
    model, batch = seeded(MixedNet), images(16)
    subject = build_subject(
        model,
        calibration=[batch],
        evaluation=(batch, model(batch).argmax(1)),
        heldout=None,
        metric=aq.metrics.accuracy,
    )
    again = prepare(job, subject, Silent(), result.folder)
    assert kernels_in(again.settings.build) == kernels_in(result.context.build)
    assert kernels_in(again.settings.build).choices
