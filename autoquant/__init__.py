"""Mixed-precision quantization search for PyTorch models.

The public names are imported when they are first used, so that `autoquant --help` is quick.

>>> import autoquant as aq
>>> aq.Scheme("int16").activation.bits
16
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from autoquant.distribution import warn_of_stranger

if TYPE_CHECKING:
    from autoquant import metrics
    from autoquant.analysis.structure.splitting import split_shared
    from autoquant.api.badcases import find_bad_cases
    from autoquant.api.calibrate import compare_observers
    from autoquant.api.check import check
    from autoquant.api.compare import compare
    from autoquant.api.confirmation import confirm
    from autoquant.api.diagnose import diagnose
    from autoquant.api.examine import sensitivity
    from autoquant.api.export import export
    from autoquant.api.finetune import finetune
    from autoquant.api.finetune_result import FinetuneResult
    from autoquant.api.load import load_result
    from autoquant.api.plan_support import plan_support
    from autoquant.api.python import search
    from autoquant.api.result import ResultCandidate, SearchResult
    from autoquant.api.tune import tune
    from autoquant.core.layers import LayerComparison
    from autoquant.core.plan import Plan, load_plan
    from autoquant.core.precision import Precision, Scheme
    from autoquant.core.raising import raise_most_sensitive
    from autoquant.core.structure import CheckReport
    from autoquant.errors import AutoquantError
    from autoquant.model.arguments import Arguments
    from autoquant.torch_ao.backend_config import backend_config

__version__ = "0.1.0"
__all__ = [
    "Arguments",
    "AutoquantError",
    "CheckReport",
    "FinetuneResult",
    "LayerComparison",
    "Plan",
    "Precision",
    "ResultCandidate",
    "Scheme",
    "SearchResult",
    "backend_config",
    "check",
    "compare",
    "compare_observers",
    "confirm",
    "diagnose",
    "export",
    "find_bad_cases",
    "finetune",
    "load_plan",
    "load_result",
    "metrics",
    "plan_support",
    "raise_most_sensitive",
    "search",
    "sensitivity",
    "split_shared",
    "tune",
]

warn_of_stranger()

_HOMES = {
    "Arguments": "autoquant.model.arguments",
    "AutoquantError": "autoquant.errors",
    "CheckReport": "autoquant.core.structure",
    "FinetuneResult": "autoquant.api.finetune_result",
    "LayerComparison": "autoquant.core.layers",
    "Plan": "autoquant.core.plan",
    "Precision": "autoquant.core.precision",
    "ResultCandidate": "autoquant.api.result",
    "Scheme": "autoquant.core.precision",
    "SearchResult": "autoquant.api.result",
    "backend_config": "autoquant.torch_ao.backend_config",
    "check": "autoquant.api.check",
    "compare": "autoquant.api.compare",
    "confirm": "autoquant.api.confirmation",
    "compare_observers": "autoquant.api.calibrate",
    "diagnose": "autoquant.api.diagnose",
    "export": "autoquant.api.export",
    "find_bad_cases": "autoquant.api.badcases",
    "finetune": "autoquant.api.finetune",
    "load_plan": "autoquant.core.plan",
    "load_result": "autoquant.api.load",
    "plan_support": "autoquant.api.plan_support",
    "raise_most_sensitive": "autoquant.core.raising",
    "search": "autoquant.api.python",
    "sensitivity": "autoquant.api.examine",
    "split_shared": "autoquant.analysis.structure.splitting",
    "tune": "autoquant.api.tune",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home (PEP 562)."""
    if name == "metrics":
        return importlib.import_module("autoquant.metrics")
    if name not in _HOMES:
        raise AttributeError(f"module 'autoquant' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
