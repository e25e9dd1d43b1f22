"""The tables of docs/errors.md; `python -m tests.integration.bad_inputs.table` prints them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.integration.bad_inputs import (
    candidates,
    datasets,
    debugging,
    disks,
    finetuning,
    folders,
    jobs,
    models,
    results,
    services,
    spaces,
)
from tests.integration.bad_inputs.case import Case, Scene

HEAD = "| What is given | What you read | Mend |"
RULE = "| --- | --- | --- |"

TABLES: Mapping[str, Sequence[Case | Scene]] = {
    "The command line": jobs.COMMANDS,
    "The job file": [*jobs.FILES, *jobs.KEYS],
    "Entry points": jobs.ENTRY_POINTS,
    "The search space": spaces.SPACES,
    "Ranges": spaces.RANGES,
    "The model": [*models.LOADING, *models.RUNNING, *models.TRACING],
    "Data": datasets.DATA,
    "The metric": datasets.METRICS,
    "MLflow and Ray": [*services.MLFLOW, *services.RAY],
    "The output folder": [*folders.OUTPUTS, *disks.DISKS],
    "Resuming": folders.RESUMES,
    "Candidates": candidates.CANDIDATES,
    "Plans among the seeds": debugging.SEEDS,
    "Sensitivity": debugging.RANKINGS,
    "Tuning": debugging.TUNING,
    "Fine-tuning": finetuning.FINETUNING,
    "Results": [*results.RESULTS, *results.EXPORTS, *results.PLANS],
}
"""By heading of docs/errors.md, in its order."""

CASES = [item for table in TABLES.values() for item in table if isinstance(item, Case)]
SCENES = [item for table in TABLES.values() for item in table if isinstance(item, Scene)]


def render_tables() -> str:
    """All tables with their headings."""
    return "\n\n".join(
        "\n".join([f"## {heading}", "", HEAD, RULE, *map(_row, table)])
        for heading, table in TABLES.items()
    )


def _row(item: Case | Scene) -> str:
    cells = (item.given, _as_code(item.message), item.mend)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _as_code(text: str) -> str:
    """A message as Markdown code, with more backticks around it than in it."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


if __name__ == "__main__":
    print(render_tables())
