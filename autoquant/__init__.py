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
    from autoquant.core.findings.layers import LayerComparison
    from autoquant.core.findings.structure import CheckReport
    from autoquant.core.plan import Plan, load_plan
    from autoquant.core.precision import Precision, Scheme
    from autoquant.core.raised_plans import raise_most_sensitive
    from autoquant.debugging.badcases import find_bad_cases
    from autoquant.debugging.calibrate import compare_observers
    from autoquant.debugging.check import check
    from autoquant.debugging.compare import compare
    from autoquant.debugging.diagnose import diagnose
    from autoquant.debugging.sensitivity import sensitivity
    from autoquant.debugging.structure.splitting import split_shared
    from autoquant.errors import AutoquantError
    from autoquant.finetuning.finetune import finetune
    from autoquant.finetuning.result import FinetuneResult
    from autoquant.model.data.arguments import Arguments
    from autoquant.model.graph.custom_module import CustomModule
    from autoquant.searching.candidate import ResultCandidate
    from autoquant.searching.export import export
    from autoquant.searching.load import load_result
    from autoquant.searching.other_backend import confirm
    from autoquant.searching.plan_support import plan_support
    from autoquant.searching.python import search
    from autoquant.searching.result import SearchResult
    from autoquant.torch_ao.backend_config import backend_config
    from autoquant.tuning.tune import tune

__version__ = "0.1.0"
__all__ = [
    "Arguments",
    "AutoquantError",
    "CheckReport",
    "CustomModule",
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
    "Arguments": "autoquant.model.data.arguments",
    "AutoquantError": "autoquant.errors",
    "CheckReport": "autoquant.core.findings.structure",
    "CustomModule": "autoquant.model.graph.custom_module",
    "FinetuneResult": "autoquant.finetuning.result",
    "LayerComparison": "autoquant.core.findings.layers",
    "Plan": "autoquant.core.plan",
    "Precision": "autoquant.core.precision",
    "ResultCandidate": "autoquant.searching.candidate",
    "Scheme": "autoquant.core.precision",
    "SearchResult": "autoquant.searching.result",
    "backend_config": "autoquant.torch_ao.backend_config",
    "check": "autoquant.debugging.check",
    "compare": "autoquant.debugging.compare",
    "confirm": "autoquant.searching.other_backend",
    "compare_observers": "autoquant.debugging.calibrate",
    "diagnose": "autoquant.debugging.diagnose",
    "export": "autoquant.searching.export",
    "find_bad_cases": "autoquant.debugging.badcases",
    "finetune": "autoquant.finetuning.finetune",
    "load_plan": "autoquant.core.plan",
    "load_result": "autoquant.searching.load",
    "plan_support": "autoquant.searching.plan_support",
    "raise_most_sensitive": "autoquant.core.raised_plans",
    "search": "autoquant.searching.python",
    "sensitivity": "autoquant.debugging.sensitivity",
    "split_shared": "autoquant.debugging.structure.splitting",
    "tune": "autoquant.tuning.tune",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home (PEP 562)."""
    if name == "metrics":
        return importlib.import_module("autoquant.metrics")
    if name not in _HOMES:
        raise AttributeError(f"module 'autoquant' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
