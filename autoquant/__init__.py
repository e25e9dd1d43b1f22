"""Mixed-precision quantization search for PyTorch models.

>>> import autoquant as aq
>>> sorted(aq.metrics.__all__)
['accuracy', 'mse', 'top5']
"""

from autoquant import metrics
from autoquant.api.export import export_torchscript
from autoquant.api.load import load_result
from autoquant.api.python import search
from autoquant.api.result import ResultCandidate, SearchResult
from autoquant.core.plan import Plan, load_plan
from autoquant.core.precision import Precision, Scheme
from autoquant.errors import AutoquantError
from autoquant.model.torch_ao.backend_config import backend_config

__version__ = "0.1.0"
__all__ = [
    "AutoquantError",
    "Plan",
    "Precision",
    "ResultCandidate",
    "Scheme",
    "SearchResult",
    "backend_config",
    "export_torchscript",
    "load_plan",
    "load_result",
    "metrics",
    "search",
]
