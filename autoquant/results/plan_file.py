"""`plans/<number>.json`: a plan as `load_plan` reads it."""

from __future__ import annotations

import json

from autoquant.core.plan import EQUALISED, PLAN_FORMAT, Plan


def plan_file_text(plan: Plan, equalised: str = "") -> str:
    """Give the text that `Plan.save` writes; `equalised`: digest of the rescaled model."""
    document = {"format": PLAN_FORMAT, "digest": plan.digest, "plan": plan.to_json()}
    if equalised:
        document[EQUALISED] = equalised
    return json.dumps(document, indent=2) + "\n"
