"""Every mistake of docs/errors.md, through the public surface: what the user reads, and when."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoquant.cli import main
from tests.integration.bad_inputs.case import Case, Scene, appears, data, model
from tests.integration.bad_inputs.stage import Stage, write_job
from tests.integration.bad_inputs.table import CASES, SCENES, render_tables

pytestmark = pytest.mark.filterwarnings("ignore")

DOCS = Path(__file__).parents[2] / "docs" / "errors.md"


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job and its finished search, some of whose candidates failed."""
    folder = tmp_path_factory.mktemp("finished")
    steps = data(calibration="steps", evaluation="steps")
    assert main(["search", str(write_job(folder, {**model("ratio_model"), **steps}))]) == 0
    return folder


@pytest.fixture
def stage(tmp_path: Path, origin: Path, capsys: pytest.CaptureFixture[str]) -> Stage:
    return Stage(tmp_path, origin, capsys)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_mistake_in_a_job_is_named_with_its_mend_before_the_work(
    case: Case, stage: Stage
) -> None:
    text = stage.command("search", write_job(stage.folder, case.job), *case.arguments)
    assert appears(case.message, text), text
    assert appears(case.mend, text), text
    assert case.before not in text
    assert not (stage.folder / "out" / "frontier.json").exists()


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_a_mistake_elsewhere_is_named_with_its_mend(scene: Scene, stage: Stage) -> None:
    text = scene.play(stage)
    assert appears(scene.message, text), text
    assert appears(scene.mend, text), text
    assert scene.before not in text


def test_every_mistake_has_a_name_of_its_own() -> None:
    names = [item.name for item in (*CASES, *SCENES)]
    assert len(set(names)) == len(names)


def test_the_tables_for_users_hold_these_mistakes_and_no_others() -> None:
    text = DOCS.read_text()
    assert text[text.index("\n## ") + 1 :].strip() == render_tables()
