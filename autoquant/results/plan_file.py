"""`plans/<number>.json`: a plan as `load_plan` reads it."""

from __future__ import annotations

import json

from autoquant.core.plan import PLAN_FORMAT, Plan


def plan_file_text(plan: Plan) -> str:
    """Give the text that `Plan.save` writes."""
    document = {"format": PLAN_FORMAT, "digest": plan.digest, "plan": plan.to_json()}
    return json.dumps(document, indent=2) + "\n"
