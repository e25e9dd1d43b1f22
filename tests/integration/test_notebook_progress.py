"""In a notebook progress is drawn anew in one place, which needs no widgets."""

from __future__ import annotations

import re
from typing import Any

import nbformat
from nbclient import NotebookClient

from tests.unit.test_docs import ROOT

CELL = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from autoquant.results.terminal import to_stderr
progress = to_stderr()
with progress.stage("outer", 3) as advance:
    advance(2)
    with progress.stage("within", None):
        time.sleep(3.0)
    advance(1)
    time.sleep(3.0)
progress.note("a line that stays")
"""


class Listening(NotebookClient):
    """Keeps what was drawn anew."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.drawn: list[str] = []

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        """Take a message of the kernel."""
        if msg["msg_type"] in ("display_data", "update_display_data"):
            self.drawn.append(msg["content"]["data"].get("text/html", ""))
        return super().process_message(msg, cell, cell_index)


def test_a_stage_is_drawn_anew_and_leaves_a_line() -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    client = Listening(notebook, timeout=120)
    client.execute()
    moving = [text for text in client.drawn if "2/3" in text]
    assert any("within" in text for text in moving)
    assert any("outer" in text and "3/3" in text for text in client.drawn)
    shown = [item for item in notebook.cells[0].outputs if "data" in item]
    assert shown[0]["data"]["text/html"] == ""
    said = "\n".join(str(item.get("text", item.get("data"))) for item in notebook.cells[0].outputs)
    assert re.search(r"outer: \d+ s", said)
    assert "a line that stays" in said
