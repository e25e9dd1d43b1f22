"""Reaching an MLflow store: quickly, quietly, or with an error that names the mend."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from autoquant.core.secrets import is_masked, masked, masked_line
from autoquant.errors import TrackingError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_SQLITE = "sqlite:///"
_SQL_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_HTTP = ("http", "https")
_CONNECT_SECONDS = 3.0
_MAKING_SECONDS = 60.0
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""Defaults of the environment: MLflow's own wait for minutes, and its telemetry needs network."""

_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Opens the UI on runs and metrics rather than on traces of language models."""

_START = "start the store, check tracking.uri, or turn tracking off with tracking.enabled: false"


def resolve_uri(uri: str) -> str:
    """Check the form of a store's URI, and make the path of an SQLite file absolute."""
    scheme = _scheme_of(uri)
    if is_masked(uri):
        raise TrackingError(
            f"tracking.uri: {uri} has lost its password: result folders keep none",
            hint="give the job file, or --set tracking.uri=... with the password",
        )
    if scheme == "sqlite":
        path = uri.removeprefix(_SQLITE)
        if path == uri or not path or path == ":memory:":
            raise TrackingError(
                f"tracking.uri: {masked(uri)} names no file",
                hint="write sqlite:///mlflow.db, or sqlite:////absolute/path/mlflow.db",
            )
        return _SQLITE + str(Path(path).absolute())
    if scheme in _SQL_PORTS or scheme in _HTTP or scheme == "databricks":
        return uri
    if scheme in ("", "file"):
        raise TrackingError(
            f"tracking.uri: {masked(uri)} is a folder, and MLflow 3 no longer writes to folders",
            hint="write sqlite:///mlflow.db for a file, or http://host:5000 for a server",
        )
    raise TrackingError(
        f"tracking.uri: {masked(uri)} has the unknown scheme {scheme!r}",
        hint="known: sqlite, http, https, postgresql, mysql, mssql, databricks",
    )


def connect(uri: str) -> MlflowClient:
    """Reach a store and prove it with one request; an SQLite file is made if needed.

    Takes about 5 s the first time in a process (the import of mlflow) and 2.5 s more for a new
    SQLite file; an unreachable server is given up after seconds.
    """
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    _be_quiet()
    _probe(uri)
    try:
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    except ImportError as error:
        raise TrackingError(
            f"tracking.uri: {masked(uri)} needs a driver that is not installed: {error}",
            hint="install the driver, or use an SQLite store",
        ) from error
    except store_errors() as error:
        raise TrackingError(
            f"cannot use the MLflow store {masked(uri)}: {masked_line(_root_of(error))}",
            hint=_mend(uri),
        ) from error
    return client


def open_experiment(uri: str, name: str) -> tuple[MlflowClient, str]:
    """Reach a store, and find an experiment in it by name, or make it; gives its id too.

    Raises:
        TrackingError: The store cannot be used, or the experiment was deleted.
    """
    with _one_at_a_time(uri):
        client = connect(uri)
        return client, _find_experiment(client, uri, name)


@contextmanager
def refusals(uri: str) -> Iterator[None]:
    """Turn what a store refuses into an error that names the mend."""
    try:
        yield
    except store_errors() as error:
        raise TrackingError(
            f"the MLflow store {masked(uri)} refuses: {masked_line(error)}",
            hint="make the store and its artifact folder writable, or set another tracking.uri",
        ) from error


@contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """Within, no other process of autoquant makes the tables or the experiment of an SQLite file.

    Two that make them at once fail in MLflow.
    """
    if not uri.startswith(_SQLITE):
        yield
        return
    path = Path(uri.removeprefix(_SQLITE).partition("?")[0])
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    lock = FileLock(Path(tempfile.gettempdir()) / f"autoquant-{os.getuid()}-{digest}.lock")
    try:
        lock.acquire(timeout=_MAKING_SECONDS)
    except (OSError, Timeout):
        yield  # whatever is wrong with that place, the store itself says it
        return
    try:
        yield
    finally:
        lock.release()


def _find_experiment(client: MlflowClient, uri: str, name: str) -> str:
    """Find an experiment by name, or make it; gives its id.

    The artifacts of an SQLite store go to `mlartifacts` beside its file.
    """
    try:
        found = client.get_experiment_by_name(name)
        if found is None:
            made = client.create_experiment(name, _artifacts(uri), tags=_EXPERIMENT_TAGS)
            return str(made)
    except store_errors() as error:
        raise TrackingError(
            f"cannot make the MLflow experiment {name!r}: {masked_line(error)}", hint=_mend(uri)
        ) from error
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"the MLflow experiment {name!r} was deleted",
            hint="restore it in the MLflow UI, or set another tracking.experiment",
        )
    return str(found.experiment_id)


def store_errors() -> tuple[type[Exception], ...]:
    """Give what a failing store raises; errors of `requests` are `OSError`s."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, OSError)


def _root_of(error: BaseException) -> BaseException:
    """What an error came from: a refused connection behind MLflow's page of text on it."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def _scheme_of(uri: str) -> str:
    """The kind of store, without its driver."""
    try:
        return urlsplit(uri).scheme.partition("+")[0]
    except ValueError as error:
        raise TrackingError(f"tracking.uri: {masked(uri)} is no address: {error}") from error


def _artifacts(uri: str) -> str | None:
    if not uri.startswith(_SQLITE):
        return None
    return (Path(uri.removeprefix(_SQLITE)).parent / "mlartifacts").as_uri()


def _probe(uri: str) -> None:
    """Give up on an SQL server that does not listen, before MLflow's minutes of retries."""
    parts = urlsplit(uri)
    port = _SQL_PORTS.get(parts.scheme.partition("+")[0])
    if port is None or parts.hostname is None:
        return
    try:
        socket.create_connection((parts.hostname, parts.port or port), _CONNECT_SECONDS).close()
    except OSError as error:
        raise TrackingError(
            f"cannot reach the MLflow store {masked(uri)}: {error}", hint=_START
        ) from error


def _mend(uri: str) -> str:
    if uri.startswith(_SQLITE):
        return "move that file away or make it writable, or set another tracking.uri"
    return _START


def _be_quiet() -> None:
    """Keep MLflow's and Alembic's messages off the user's terminal; what fails is raised too."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
