"""GrowthBook's sequential test over counts of two arms: `gbstats_sequential.py COUNTS.npz`.

The file holds the failures by stream and look of a base arm (`base`) and a new one (`new`), and the trials of each arm
at each look (`trials`). Printed are, for each stream, the first looks, counted from 0, at which the interval of the
difference lies above zero and below it; null where there is none. An experiment ends with whichever comes first.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from gbstats.frequentist.tests import SequentialConfig, SequentialTwoSidedTTest
from gbstats.models.statistics import ProportionStatistic

counts = np.load(sys.argv[1])
config = SequentialConfig(difference_type="absolute")
worse: list[int | None] = []
better: list[int | None] = []
for base, new in zip(counts["base"].tolist(), counts["new"].tolist(), strict=True):
    below, above = None, None
    for look, trials in enumerate(counts["trials"].tolist()):
        arms = (ProportionStatistic(n=trials, sum=failures) for failures in (base[look], new[look]))
        low, high = SequentialTwoSidedTTest(*arms, config).compute_result().ci
        above, below = (look if low > 0 else None), (look if high < 0 else None)
        if low > 0 or high < 0:
            break
    worse.append(above)
    better.append(below)
print(json.dumps({"worse": worse, "better": better}))
