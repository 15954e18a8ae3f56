"""Time and memory to load a feature table from the store, from a thousand clips to a million.

    pytest benchmarks/bench_store.py --benchmark-enable --benchmark-only

A table of 40 numbers a clip is made in shards as extraction and merging leave them, then loaded in a fresh process as a
warm run does. Memory is the peak of that process, less what it holds before it loads; the table's own size is that of
its numbers.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emobench.features import FEATURES, feature_identity, feature_key
from emobench.features.shards import HASH, MAX_ROWS, Shard, concatenate
from emobench.features.store import FeatureStore

SPEC = FEATURES["mfcc40"]
SIZES = [10**3, 10**4, 10**5, 10**6]
ROUNDS = 3

LOAD = """
import json, resource, sys, time
from pathlib import Path
import numpy as np, psutil, pyarrow.parquet
from emobench.audio import AudioPolicy
from emobench.features import FEATURES, feature_key
from emobench.features.shards import to_texts
from emobench.features.store import FeatureStore

feature_key(FEATURES["mfcc40"])  # asks for the versions of libraries, which imports them
clips = [(clip, None) for clip in to_texts(np.load(sys.argv[2]))]
before_bytes = psutil.Process().memory_info().rss
started_s = time.perf_counter()
[found] = FeatureStore(sys.argv[1]).extract([FEATURES["mfcc40"]], clips, policy=AudioPolicy(), pool=None)
load_s = time.perf_counter() - started_s
assert found.is_found.all()
peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_bytes
print(json.dumps({"load_s": load_s, "peak_bytes": peak_bytes, "table_bytes": found.X.nbytes}))
"""


def make_table(folder, n_clips):
    """Write the shards of a table; return where the clips that a corpus asks for stand, in the corpus's order."""
    rng = np.random.default_rng(0)
    store = FeatureStore(folder / "store")
    clips = np.frombuffer(rng.bytes(32 * n_clips), HASH)
    for start in range(0, n_clips, MAX_ROWS):
        part = clips[start : start + MAX_ROWS]
        shard = Shard(
            clips=part,
            audio=part,
            duration_s=np.full(len(part), 3.5),
            is_silent=np.zeros(len(part), bool),
            remarks=np.full(len(part), "", object),
            X=rng.standard_normal((len(part), SPEC.n_features), np.float32),
        )
        store._write_shard(feature_key(SPEC), concatenate([shard]), feature_identity(SPEC))
    np.save(folder / "clips.npy", rng.permutation(clips))
    return folder


@pytest.fixture(scope="module")
def figures():
    rows = {}
    yield rows
    print("\n\n   clips   load (s)   clips/s     peak (MB)   table (MB)   peak/table", file=sys.stderr)
    for n_clips, row in sorted(rows.items()):
        peak, table = row["peak_bytes"], row["table_bytes"]
        print(
            f"{n_clips:8}   {row['load_s']:8.3f}   {n_clips / row['load_s']:9.0f}   {peak / 1e6:7.1f}   "
            f"{table / 1e6:10.1f}   {peak / table:10.2f}",
            file=sys.stderr,
        )


@pytest.mark.benchmark(group="load a table from the store")
@pytest.mark.parametrize("n_clips", SIZES)
def test_load(benchmark, figures, n_clips, tmp_path):
    folder = make_table(tmp_path, n_clips)
    command = [sys.executable, "-c", LOAD, str(folder / "store"), str(folder / "clips.npy")]
    loads = []

    def load():
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        loads.append(json.loads(subprocess.check_output(command, text=True, env=environment)))

    benchmark.pedantic(load, rounds=ROUNDS)  # whole processes, imports included; the table below has the load alone
    figures[n_clips] = min(loads, key=lambda one: one["load_s"])
    figures[n_clips]["peak_bytes"] = max(one["peak_bytes"] for one in loads)
    benchmark.extra_info |= figures[n_clips]
