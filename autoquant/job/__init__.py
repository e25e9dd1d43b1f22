"""The job as frozen values, and YAML -> job with all mistakes at once."""

from autoquant.job.backend import BackendSettings, backend_from_text
from autoquant.job.finetuning import Finetuning, TrainingSettings
from autoquant.job.load import dump_job, find_space_rules, load_job, shipped_spaces
from autoquant.job.mistakes import explain_mistakes
from autoquant.job.schema import (
    Budget,
    Calibration,
    Constraints,
    DataSource,
    Effort,
    Execution,
    Job,
    ModelSource,
    RunSettings,
    SearchSettings,
    SensitivitySettings,
    Setup,
    TargetNode,
    Tracking,
)
from autoquant.job.section import Entry
from autoquant.job.space import Rule, SpaceRules

__all__ = [
    "BackendSettings",
    "Budget",
    "Calibration",
    "Constraints",
    "DataSource",
    "Effort",
    "Entry",
    "Execution",
    "Finetuning",
    "Job",
    "ModelSource",
    "Rule",
    "RunSettings",
    "SearchSettings",
    "SensitivitySettings",
    "Setup",
    "SpaceRules",
    "TargetNode",
    "Tracking",
    "TrainingSettings",
    "backend_from_text",
    "dump_job",
    "explain_mistakes",
    "find_space_rules",
    "load_job",
    "shipped_spaces",
]
