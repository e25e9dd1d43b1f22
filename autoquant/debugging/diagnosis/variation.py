"""How much the range of each op's input varies from sample to sample."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoquant.core.findings.diagnosis import Variation
from autoquant.core.findings.range_audit import RangeAudit
from autoquant.debugging.diagnosis.suspects import own_ratio


def find_variations(audits: Sequence[RangeAudit], top: int) -> tuple[Variation, ...]:
    """The inputs of ops whose range varies most, widest first."""
    found = [
        Variation(site, item.tensor, ratio, math.log2(max(ratio, 1.0)))
        for item in audits
        for ratio in [own_ratio(item, item.over_samples)]
        for site in item.readers[:1]
    ]
    return tuple(sorted(found, key=lambda item: -item.ratio)[:top])
