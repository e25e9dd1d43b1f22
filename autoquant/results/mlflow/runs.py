"""Runs of a search in an MLflow store: finding them again, and writing to them in batches."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoquant.results.mlflow import entities

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

_PAGE = 1000
_PARAMETERS_IN_A_BATCH = 100


@dataclass(slots=True)
class Child:
    """A candidate's run, and what it last logged.

    Attributes:
        run_id: Of the run.
        content: Digest of the candidate as logged; empty before that.
        is_member: Whether it is tagged as a member of the frontier.
        has_failed: Whether it is tagged with a failure.
    """

    run_id: str
    content: str = ""
    is_member: bool = False
    has_failed: bool = False


def find_parent(client: MlflowClient, experiment: str, search_id: str) -> str | None:
    """Give the id of a search's parent run, None where there is none."""
    found = client.search_runs(
        [experiment], f"tags.`{entities.SEARCH_TAG}` = '{search_id}'", max_results=1
    )
    return str(found[0].info.run_id) if found else None


def find_last_search(client: MlflowClient, experiment: str) -> Run | None:
    """Give the parent run of the search that was begun last, None where there is none."""
    found = client.search_runs(
        [experiment],
        f"tags.`{entities.SEARCH_TAG}` != ''",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    return found[0] if found else None


def find_children(client: MlflowClient, experiment: str, parent: str) -> dict[int, Child]:
    """Give the child runs of a search by the number of their candidate."""
    children = {}
    for run in _all_runs(client, experiment, f"tags.`{entities.PARENT_TAG}` = '{parent}'"):
        tags = run.data.tags
        if entities.NUMBER_TAG in tags:
            children[int(tags[entities.NUMBER_TAG])] = Child(
                str(run.info.run_id),
                tags.get(entities.CONTENT_TAG, ""),
                is_member=tags.get(entities.FRONTIER_TAG) == "true",
                has_failed=entities.FAILURE_TAG in tags,
            )
    return children


def log_batch(
    client: MlflowClient,
    run_id: str,
    *,
    metrics: Mapping[str, float] | None = None,
    parameters: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Log everything in as few requests as MLflow's limit of 100 parameters allows."""
    from mlflow.entities import Metric, Param, RunTag

    now = int(time.time() * 1000)
    items = [Param(name, value) for name, value in (parameters or {}).items()]
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, now, 0) for name, value in (metrics or {}).items()],
        params=items[:_PARAMETERS_IN_A_BATCH],
        tags=[RunTag(name, value) for name, value in (tags or {}).items()],
    )
    for start in range(_PARAMETERS_IN_A_BATCH, len(items), _PARAMETERS_IN_A_BATCH):
        client.log_batch(run_id, params=items[start : start + _PARAMETERS_IN_A_BATCH])


def _all_runs(client: MlflowClient, experiment: str, query: str) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_runs([experiment], query, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
