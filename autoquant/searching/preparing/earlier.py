"""What decides that a value of an earlier search is this one's too."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.fx import GraphModule

import autoquant
from autoquant.core.backends import find_rows
from autoquant.job import SearchSettings
from autoquant.model.calibration.calibrate import digest_of
from autoquant.model.graph.captured import Capture
from autoquant.results.environment import version_of
from autoquant.results.kept import Kept, cache_folder
from autoquant.searching.measuring.evaluator import MeasurementSettings

_PACKAGES = ("torch", "numpy")


def open_kept(
    job: SearchSettings,
    machine: Mapping[str, Any],
    note: Callable[[str], None],
    taken: str = "",
) -> Kept:
    """This user's cache folder, of which values count that were found here by this very code.

    Args:
        job: Says whether there is one; what other packages' backends depend on is not known.
        machine: Where times are taken, as `describe_machine` gives it.
        note: Told what is taken.
        taken: What a search that is resumed had taken before.
    """
    versions = versions_of(job.backend.name)
    context = (
        _own_code(),
        *((name, version_of(name)) for name in _PACKAGES),
        *(versions or ()),
        *(machine["host"], machine["cpu"]),
    )
    folder = cache_folder() if job.cache and versions is not None else None
    return Kept(folder, context, [taken] if taken else [], note)


def versions_of(backend: str) -> tuple[tuple[str, str | None], ...] | None:
    """Versions of the packages that a backend brings; None of one that is another package's."""
    row = find_rows()[backend]
    if not row.module.startswith(f"{autoquant.__name__}."):
        return None
    return tuple((name, version_of(name)) for name in row.packages)


def structure_of(captured: Capture) -> tuple[object, ...] | None:
    """What a model computes but for the values of its weights; None where no graph says it."""
    if captured.how != "export":
        return None
    code = [item.code for item in captured.graph.modules() if isinstance(item, GraphModule)]
    weights = [(name, item.shape) for name, item in captured.graph.state_dict().items()]
    return code, weights, captured.sites


def function_of(captured: Capture) -> tuple[object, ...] | None:
    """What a model computes; None where no graph says it."""
    structure = structure_of(captured)
    return structure and (*structure, digest_of(captured.graph.state_dict().values(), ()))


def timing_of(settings: MeasurementSettings, inputs: Sequence[Tensor]) -> tuple[object, ...]:
    """How plans are timed."""
    shapes = [(item.shape, item.dtype) for item in inputs]
    return shapes, settings.latency_threads, settings.latency_pairs


def _own_code() -> str:
    """Digest of autoquant's own modules: a version is one only when it is released."""
    digest = hashlib.sha256()
    for path in sorted(Path(autoquant.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
