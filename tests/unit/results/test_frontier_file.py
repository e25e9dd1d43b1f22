from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from autoquant.errors import StorageError
from autoquant.results.findings import Findings
from autoquant.results.frontier_file import FrontierFile, read_frontier, write_frontier

DOCS = Path(__file__).parents[3] / "docs" / "result-folder.md"


@pytest.fixture
def path(tmp_path: Path, findings: Findings) -> Path:
    written = tmp_path / "frontier.json"
    write_frontier(written, findings.frontier)
    return written


def test_the_file_has_the_documented_keys_and_no_others(path: Path) -> None:
    document = json.loads(path.read_text())
    assert set(document) == {
        *("format", "axes", "objectives", "baseline", "members"),
        *("hypervolume", "reference", "stopped"),
    }
    for member in document["members"]:
        assert set(member) == {"number", "digest", "origin", "plan", "values"}
        for value in member["values"].values():
            assert set(value) == {"value", "stderr", "kind", "clock", "busy"}
    assert document["members"][0]["plan"]["stem.conv"] == "int8"
    assert document["baseline"]["accuracy"]["kind"] == "measured"


def test_the_example_in_the_docs_follows_the_schema() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    assert FrontierFile.model_validate_json(example).members[0].number == 12


def test_the_docs_describe_every_key() -> None:
    schema = FrontierFile.model_json_schema()
    models = [schema, *schema["$defs"].values()]
    keys = {key for model in models for key in model.get("properties", {})}
    assert {key for key in keys if f"| `{key}` |" not in DOCS.read_text()} == set()


def test_members_come_back_whole_with_the_history(path: Path, findings: Findings) -> None:
    found = read_frontier(path, findings.candidates)
    assert found.members == findings.frontier.members
    assert found.axes == findings.frontier.axes


def test_without_the_history_members_keep_plan_and_values(path: Path, findings: Findings) -> None:
    found = read_frontier(path)
    assert [item.plan for item in found] == [item.plan for item in findings.frontier]
    assert found[0].value("speedup") == findings.frontier[0].value("speedup")
    assert found.hypervolume == findings.frontier.hypervolume


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hypervolume": "much"}, "hypervolume: Input should be a valid number"),
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
        ({"members": [{"number": 1}]}, r"members\.0\.digest: Field required"),
        ({"format": 2}, "format: Input should be 1"),
    ],
    ids=["type", "unknown", "missing", "version"],
)
def test_a_file_that_breaks_the_schema_is_refused_by_key(
    path: Path, change: dict[str, object], message: str
) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StorageError, match=message):
        read_frontier(path)
