"""How MLflow's UI opens an experiment: the columns of its runs, and what their charts compare.

MLflow keeps what its users share as a view in a tag of the experiment, and a link names that tag
(MLflow 3, `useSharedExperimentViewState`). What a run lacks is left out, so one view serves all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoquant.core.objectives import Objective
from autoquant.core.quantities import (
    ACCURACY_DROP,
    BOPS,
    FLOAT_SPEEDUP,
    LATENCY,
    SIZE,
    SPEEDUP,
    SQNR,
)
from autoquant.results import files

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run

VIEW_TAG = "mlflow.sharedViewState.autoquant"
_OUR_VIEW = "viewStateShareKey=autoquant"
_TRAINING = "workflowType=machine_learning"
"""Without it MLflow may open an experiment on traces of language models; there are none."""

_CHARTS = "compareRunsMode=CHART"
_OURS, _REST, _SYSTEM = "Speed and accuracy", "Model metrics", "System metrics"
"""Sections of charts: the last two are MLflow's own names for what it adds itself."""

_COLUMNS = (
    "tags.`frontier`",
    *(
        f"metrics.`{name}`"
        for name in (
            SPEEDUP.name,
            FLOAT_SPEEDUP.name,
            ACCURACY_DROP.name,
            f"heldout_{ACCURACY_DROP.name}",
            SQNR.name,
            LATENCY.name,
            SIZE.name,
            f"chosen.{SPEEDUP.name}",
            f"chosen.{ACCURACY_DROP.name}",
        )
    ),
)


def view_state(objectives: str) -> str:
    """Give the tag's value: all candidates, the cheapest first; drawn, quality against cost.

    Sorted, MLflow lists candidates beside searches; in its own order it folds them away.

    Args:
        objectives: Of the last search, comma-separated: cost is what it minimizes.
    """
    costs = {Objective.LATENCY: SPEEDUP, Objective.BOPS: BOPS}
    cost = next((found for goal, found in costs.items() if goal.value in objectives), SIZE)
    return json.dumps(
        {
            "orderByKey": f"metrics.`{cost.name}`",
            "orderByAsc": not cost.higher_is_better,
            "selectedColumns": _COLUMNS,
            "columnOrder": _COLUMNS,
            "runsHiddenMode": "SHOW_ALL",
            "isAccordionReordered": True,
            "compareRunCharts": [_scatter(cost.name, item.name) for item in (ACCURACY_DROP, SQNR)],
            "compareRunSections": [
                {"uuid": name, "name": name, "display": name == _OURS, "columns": 2}
                for name in (_OURS, _REST, _SYSTEM)
            ],
        },
        separators=(",", ":"),
    )


@dataclass(frozen=True, slots=True)
class Pages:
    """Where a UI shows an experiment.

    Attributes:
        runs: Its runs as a list.
        charts: Its runs drawn, quality against cost; None where no search was kept in it.
        report: The report of its last search; None likewise.
    """

    runs: str
    charts: str | None = None
    report: str | None = None


def pages_of(url: str, experiment: Experiment, last: Run | None) -> Pages:
    """Give the pages of an experiment."""
    place = f"{url}/#/experiments/{experiment.experiment_id}/runs"
    if last is None or VIEW_TAG not in experiment.tags:
        return Pages(f"{place}?{_TRAINING}")
    view = f"{place}?{_TRAINING}&{_OUR_VIEW}"
    report = f"{place}/{last.info.run_id}/artifacts/{files.REPORT}"
    return Pages(view, f"{view}&{_CHARTS}", report)


def _scatter(x: str, y: str) -> dict[str, Any]:
    return {
        "type": "SCATTER",
        "uuid": f"autoquant-{x}-{y}",
        "isGenerated": False,
        "metricSectionId": _OURS,
        "runsCountToCompare": 100,
        "xaxis": {"key": x, "type": "METRIC"},
        "yaxis": {"key": y, "type": "METRIC"},
    }
