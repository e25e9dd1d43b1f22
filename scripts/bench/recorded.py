"""True values of plans, measured once and kept in a file, so that searches replay in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from autoquant.core.evaluation import Phase, Task
from autoquant.core.json_values import value_of
from autoquant.core.measurement import Candidate, Measurement
from autoquant.core.plan import Plan
from autoquant.searching.measuring.evaluator import PlanEvaluator

_PHASES = (Phase.QUALITY, Phase.LATENCY)
_KEPT = ("sqnr_db", "accuracy_drop", "speedup", "size_bytes")


class Recorded:
    """Measures a plan when it is first asked for, and remembers.

    Args:
        path: Where values are kept, as JSON by digest; read if it exists.
        evaluator: Measures; None: only what is kept can be asked for.
    """

    def __init__(self, path: Path, evaluator: PlanEvaluator | None) -> None:
        self._path = path
        self._evaluator = evaluator
        self._known: dict[str, dict[str, Any]] = (
            json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        )
        self.measured = 0

    def candidate(self, number: int, plan: Plan, origin: str) -> Candidate:
        """Give a plan's true values as a candidate."""
        if plan.digest not in self._known:
            self._known[plan.digest] = self._measure(plan)
        values = self._known[plan.digest]
        found = value_of(dict[str, Measurement], values)
        return Candidate(number, plan, origin, found)

    def save(self) -> None:
        """Write what was measured since it was read."""
        if self.measured:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lines = [f"{json.dumps(key)}: {json.dumps(self._known[key])}" for key in self._known]
            self._path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")

    def _measure(self, plan: Plan) -> dict[str, Any]:
        if self._evaluator is None:
            raise SystemExit(f"{self._path} lacks plan {plan.digest}; record again")
        found: dict[str, Measurement] = {}
        for phase in _PHASES:
            outcome = self._evaluator.run(phase, Task(0, plan))
            if outcome.failure is not None:
                raise SystemExit(f"plan {plan.digest} failed: {outcome.failure.reason}")
            found |= outcome.measurements
        self.measured += 1
        if self.measured % 50 == 0:
            self.save()
            print(f"  {self.measured} plans measured", flush=True)
        return {name: found[name].to_json() for name in _KEPT}
