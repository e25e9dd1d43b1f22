"""What is drawn anew in one place of a notebook, by the display that every notebook has."""

from __future__ import annotations

import contextvars
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType

_REFRESH_S = 0.5
_WIDTH = 110
_FORM = '<pre style="white-space:pre;overflow-x:auto;line-height:normal">{code}</pre>'


@contextmanager
def drawn_in_notebook(draw: Callable[[], RenderableType]) -> Iterator[None]:
    """Show what `draw` gives below the cell, anew twice a second; it is gone at the end.

    Without widgets: IPython's DisplayHandle (`display_id`).
    """
    from IPython.display import DisplayHandle

    handle = DisplayHandle()
    handle.display(_rendered(draw()), raw=True)
    ended = threading.Event()

    def refresh() -> None:
        while not ended.wait(_REFRESH_S):
            handle.update(_rendered(draw()), raw=True)

    context = contextvars.copy_context()  # which says to which cell the display belongs
    thread = threading.Thread(target=context.run, args=(refresh,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        handle.update({"text/html": ""}, raw=True)


def _rendered(shown: RenderableType) -> dict[str, str]:
    """By media type."""
    console = Console(file=io.StringIO(), record=True, width=_WIDTH, force_jupyter=False)
    console.print(shown)
    return {
        "text/plain": console.export_text(clear=False),
        "text/html": console.export_html(inline_styles=True, code_format=_FORM),
    }
