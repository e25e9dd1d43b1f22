"""MLflow stores and Ray clusters that cannot be used."""

from __future__ import annotations

from typing import Any

from mlflow.tracking import MlflowClient

from tests.integration.bad_inputs.case import Case, Scene
from tests.integration.bad_inputs.stage import Stage, write_job

START_STORE = (
    "start the store, check tracking.uri, or turn tracking off with tracking.enabled: false"
)


def tracking(uri: str) -> dict[str, Any]:
    return {"tracking": {"enabled": True, "uri": uri}}


def track_in_a_file_of_text(stage: Stage) -> str:
    database = stage.write("mlflow.db", "no database, but text\n" * 100)
    return stage.command("search", write_job(stage.folder, tracking(f"sqlite:///{database}")))


def track_in_a_deleted_experiment(stage: Stage) -> str:
    uri = f"sqlite:///{stage.folder / 'mlflow.db'}"
    client = MlflowClient(uri)
    client.delete_experiment(client.create_experiment("job"))
    return stage.command("search", write_job(stage.folder, tracking(uri)))


MLFLOW = [
    Case(
        "mlflow-unreachable",
        "`tracking: {uri: http://127.0.0.1:9}`, where no server runs",
        "cannot use the MLflow store http://127.0.0.1:9: [Errno 111] Connection refused",
        START_STORE,
        tracking("http://127.0.0.1:9"),
    ),
    Case(
        "database-unreachable",
        "`tracking: {uri: postgresql://me:secret@127.0.0.1:9/mlflow}`, where no server runs",
        "cannot reach the MLflow store postgresql://me:***@127.0.0.1:9/mlflow: [Errno 111] "
        "Connection refused",
        START_STORE,
        tracking("postgresql://me:secret@127.0.0.1:9/mlflow"),
    ),
    Case(
        "mlflow-folder",
        "`tracking: {uri: file:///tmp/mlruns}`, MLflow's old file store",
        "tracking.uri: file:///tmp/mlruns is a folder, and MLflow 3 no longer writes to folders",
        "write sqlite:///mlflow.db for a file, or http://host:5000 for a server",
        tracking("file:///tmp/mlruns"),
    ),
    Case(
        "mlflow-in-memory",
        "`tracking: {uri: sqlite://}`",
        "tracking.uri: sqlite:// names no file",
        "write sqlite:///mlflow.db, or sqlite:////absolute/path/mlflow.db",
        tracking("sqlite://"),
    ),
    Case(
        "mlflow-scheme",
        "`tracking: {uri: mongodb://host/db}`",
        "tracking.uri: mongodb://host/db has the unknown scheme 'mongodb'",
        "known: sqlite, http, https, postgresql, mysql, mssql, databricks",
        tracking("mongodb://host/db"),
    ),
    Scene(
        "mlflow-file",
        "a `tracking.uri` whose file is no database",
        "cannot use the MLflow store sqlite:////.../mlflow.db: file is not a database",
        "move that file away or make it writable, or set another tracking.uri",
        track_in_a_file_of_text,
    ),
    Scene(
        "mlflow-deleted",
        "an MLflow experiment that was deleted",
        "the MLflow experiment 'job' was deleted",
        "restore it in the MLflow UI, or set another tracking.experiment",
        track_in_a_deleted_experiment,
    ),
]

RAY = [
    Case(
        "ray-unreachable",
        "`execution: {kind: ray, address: 127.0.0.1:9}`, where no cluster runs",
        "execution.address: Ray 127.0.0.1:9 cannot be reached: [Errno 111] Connection refused",
        "start it with `ray start --head`, correct the address, or leave it out",
        {"execution": {"kind": "ray", "address": "127.0.0.1:9"}},
    ),
    Case(
        "ray-too-small",
        "`execution: {gpus_per_worker: 1000}`",
        "execution: 1 workers need 1 CPUs and 1000 GPUs; Ray has ... and ...",
        "ask for fewer workers, or fewer cpus_per_worker or gpus_per_worker",
        {"execution": {"kind": "ray", "workers": 1, "gpus_per_worker": 1000}},
    ),
]
