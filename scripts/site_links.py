"""Links that leave docs/ for a file of the repository: on the site they are the file's name."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)\s]+)\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace such links (a hook of mkdocs)."""
    folder = PurePosixPath(page.file.src_uri).parent

    def shown(found: re.Match[str]) -> str:
        depth = found[2].count("../")
        leaves = depth > len(folder.parts)
        return f"{found[1]} (`{found[2].replace('../', '')}`)" if leaves else found[0]

    return LINK.sub(shown, markdown)
