"""Measure one model's latency again and again, and count how often two runs differ by less than they print.

    python benchmarks/latency_repeatability.py BUNDLE... [--runs 8] [--rounds 10]

Every pair of runs is compared, figure by figure, with the noise floor of the one (*own*), and with the larger one of
the two (*pair*), which is what `emobench compare` asks.
"""

import argparse
import itertools
from pathlib import Path

import pandas as pd

from emobench.config.schema import LatencyConfig
from emobench.prediction import latency

KEYS = ["entry", "stage", "batch"]

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
parser.add_argument("--runs", type=int, default=8)
parser.add_argument("--rounds", type=int, default=10)
arguments = parser.parse_args()

subjects = latency.distinct([latency.read_subject(bundle) for bundle in arguments.bundles])
settings = LatencyConfig(rounds=arguments.rounds)
runs = []
for number in range(arguments.runs):
    runs.append(latency.measure(subjects, settings).table.set_index(KEYS))
    print(f"run {number + 1}: {runs[-1]['is_noisy'].sum()} of {len(runs[-1])} figures are noisy", flush=True)

rows = []
for first, second in itertools.combinations(runs, 2):
    for q in latency.QUANTILES:
        difference = (first[f"p{q}_ms"] - second[f"p{q}_ms"]).abs().dropna()
        noises = pd.concat([run[f"noise_p{q}_ms"].loc[difference.index] for run in (first, second)], axis=1)
        own, pair = noises.gt(difference, axis=0).mean(axis=1), noises.max(axis=1).gt(difference)
        rows.append(pd.DataFrame({"figure": f"p{q}", "own": own, "pair": pair, "n": 1}).reset_index())
pairs = pd.concat(rows)
for by in (["figure"], ["figure", "stage", "batch"]):
    print(pairs.groupby(by).agg({"own": "mean", "pair": "mean", "n": "sum"}).round(3).to_string())
