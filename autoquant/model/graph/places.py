"""Where in a model's own code something stands: for messages about ops that others refuse."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable
from pathlib import Path

import torch
from torch.fx import Node

from autoquant.errors import first_line

_FOREIGN = (str(Path(torch.__file__).parent), str(Path(__file__).parents[2]), "<")
"""Files that are no user's: torch's, ours, and what was never written to one."""

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in [^\n]*\n\s*(?P<text>[^\n]*)')


def said_of(error: Exception | None) -> str:
    """What torch.export said of a failure, and the last line of the model's own code it reached."""
    frames = [
        frame
        for frame in traceback.extract_tb(None if error is None else error.__traceback__)
        if not frame.filename.startswith(_FOREIGN)
    ]
    at = f" at {frames[-1].filename}:{frames[-1].lineno} ({frames[-1].line})" if frames else ""
    return first_line(error) + at


def places(nodes: Iterable[Node], said: str) -> str:
    """Lines of the model's own code that called the ops that an engine's refusal names.

    Args:
        nodes: Of an exported program, which holds its lines.
        said: The refusal. It names nodes, or ops as torch prints them (`aten._fft_r2c.default`).

    Returns:
        ` at net.py:12 (x = torch.fft.rfft2(x))`, of two lines at most; empty where none is known.
    """
    words = set(re.findall(r"[\w.]+", said))
    calls = [node for node in nodes if node.op == "call_function"]
    named = [node for node in calls if node.name in words]
    named = named or [node for node in calls if str(node.target) in words]
    lines = list(dict.fromkeys(filter(None, map(_line, named))))
    more = f" and {len(lines) - 2} more" if len(lines) > 2 else ""
    return f" at {', '.join(lines[:2])}{more}" if lines else ""


def _line(node: Node) -> str:
    found = _FRAME.finditer(node.meta.get("stack_trace") or "")
    own = [frame for frame in found if not frame["file"].startswith(_FOREIGN)]
    return f"{own[-1]['file']}:{own[-1]['line']} ({own[-1]['text']})" if own else ""
