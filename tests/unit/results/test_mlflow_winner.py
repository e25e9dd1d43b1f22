"""The winner as MLflow's users take it: loaded, asked for predictions, registered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from torch import nn

from autoquant.backends.torch_cpu.target import recipe
from autoquant.core.build import BuildSettings
from autoquant.results.mlflow.store import TrackingSettings, open_recorder
from autoquant.results.recorders import Winner
from tests.unit.results.synthetic import FACTS, make_findings


@pytest.mark.slow  # mlflow's import and a new store: 10 s
def test_the_winner_loads_predicts_and_can_be_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval()
    example = torch.randn(2, 4)
    path = tmp_path / "1.ts"
    torch.jit.save(torch.jit.trace(net, example), str(path))
    settings = BuildSettings(options={"engine": "onednn"})
    winner = Winner((path,), lambda place: recipe(settings, place, 1), (example.numpy(),))
    findings = make_findings()
    few = replace(findings, candidates=findings.candidates[:2])
    recorder = open_recorder(TrackingSettings(uri, "digits"), FACTS, "", {})
    assert recorder.finish(few, winner=winner) == ()
    client = MlflowClient(uri)
    model = client.get_run(recorder.run_id).data.tags["model"]
    path.unlink()
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    engine = torch.backends.quantized.engine
    monkeypatch.setattr(torch.backends.quantized, "engine", engine)  # the recipe sets it
    mlflow.set_tracking_uri(uri)
    try:
        loaded = mlflow.pyfunc.load_model(model)
        with torch.no_grad():
            expected = net(example).numpy()
        assert np.array_equal(loaded.predict(example.numpy()), expected)
        assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, -1)
        assert mlflow.register_model(model, "gearbox").version == 1
    finally:
        mlflow.set_tracking_uri(None)
