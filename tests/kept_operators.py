"""torch goes through its composite operators once, not once for each namespace and decomposition.

It cannot know whether a library has added some since; here it looks again when there is a new
namespace. This took a third of `ExportedProgram.run_decompositions`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


def once_for_namespaces(materialize: Callable[[], None]) -> Callable[[], None]:
    """`_materialize_cpp_cia_ops`, where operators' namespaces are more than they were."""
    known = 0

    def materialize_new() -> None:
        nonlocal known
        if len(torch.ops._dir) > known:
            materialize()
            known = len(torch.ops._dir)

    return materialize_new
