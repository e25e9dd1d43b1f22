from __future__ import annotations

import importlib.util

import pytest

from autoquant.errors import ExecutionError
from autoquant.job import Execution
from autoquant.searching.measuring.workers import ray_connection

ANSWERS = {
    "version": (
        "Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.9.1\n"
        "This process was started with:\n    Ray: 2.60.0\n",
        "has another version: Version mismatch: The cluster was started with: Ray: 2.9.0",
        "install the cluster's versions",
    ),
    "token": (
        "Unauthenticated: the provided authentication token is invalid",
        "refuses the token: Unauthenticated",
        "RAY_AUTH_TOKEN",
    ),
    "else": ("no route to host\nat line 3", "cannot be reached: no route to host", "ray start"),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_what_a_cluster_refuses_is_named_with_its_mend(
    answer: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said, message, mend = answer

    def refuse(**arguments: object) -> None:  # noqa: ARG001
        raise RuntimeError(said)

    monkeypatch.setattr(ray_connection.ray, "init", refuse)
    with pytest.raises(ExecutionError) as caught:
        ray_connection.probe(Execution(address="auto"))
    assert message in caught.value.message
    assert mend in caught.value.hint


def test_an_address_of_the_client_needs_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExecutionError, match=r"ray://\*\*\*@host:10001 needs Ray's client"):
        ray_connection.probe(Execution(address="ray://token@host:10001"))
