"""V of a method's own draws in worlds of known truth, against the change that a look makes; by default PRIMO's.

Command:  OMP_NUM_THREADS=1 python benchmarks/changes.py [WORLD …] [--method cepa] [--seeds 0 1]
          [--options '{"present": "published"}']

The worlds are those of `tests/recovery/worlds.py`: 3,000 training rows, 500 for validation, 1,000 for testing, width
32, 30 epochs. A line a world and seed: V of the right predictions, the change of the model's predictions when what is
hidden is revealed, V, V without the factors that validation rows give (`change_scale`), the ratio of V to the change
in the worst quarter of V, and the error of predictions with everything (total variation, or mean absolute difference).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

import amodal

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from recovery.worlds import WORLDS, distance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("worlds", nargs="*", default=list(WORLDS))
    parser.add_argument("--method", default="primo")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--options", type=json.loads, default={})
    given = parser.parse_args()
    print(f"{'world':<12} {'seed':>4} {'right':>8} {'change':>8} {'V':>8} {'unscaled':>8} {'worst':>6} {'error':>8}")
    for name in given.worlds:
        world = WORLDS[name]
        train, valid, test = (world.cohort(n, seed) for n, seed in ((3000, 10), (500, 20), (1000, 30)))
        withheld, right = world.withheld(test), world.ideal(test).mean()
        batch = test.batch(np.arange(len(test)))
        truth = world.right({key: value.numpy() for key, value in batch.values.items()})
        for seed in given.seeds:
            model = amodal.fit(given.method, train, valid, epochs=30, width=32, seed=seed, options=given.options)
            asked = {"completions": "own", "plausible": False, "vary": []}
            found = amodal.impact(model, withheld, **asked).variability
            change = distance(model.predict(withheld), model.predict(test), world.task.kind)
            error = distance(model.predict(test), truth, world.task.kind).mean()
            model.experiment["result"].pop("change_scale")
            unscaled = amodal.impact(model, withheld, **asked).variability.mean()
            quarter = np.searchsorted(np.quantile(found, [0.25, 0.5, 0.75]), found)
            ratios = [found[quarter == i].mean() / change[quarter == i].mean() for i in range(4)]
            worst = max(ratios, key=lambda ratio: abs(np.log(ratio)))
            numbers = f"{right:8.3f} {change.mean():8.3f} {found.mean():8.3f} {unscaled:8.3f} {worst:6.2f} {error:8.3f}"
            print(f"{name:<12} {seed:>4} {numbers}", flush=True)


if __name__ == "__main__":
    main()
