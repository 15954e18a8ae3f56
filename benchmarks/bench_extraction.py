"""Extraction of 960 recordings beside plain librosa, with one process and with two.

    pytest benchmarks/bench_extraction.py --benchmark-enable --benchmark-only

Both sides read the same WAV files, RAVDESS' five emotions where it is on this machine and else the synthetic corpus, in
the same one-thread worker processes, in batches of the same size. Workers are started and have extracted some clips
before anything is timed, on both sides: librosa takes seconds to import. Ours hashes every recording besides, and ends
when everything is in the store and on the disk. Rounds alternate, `EMOBENCH_BENCH_ROUNDS` of them; the table at the end
has the best of each side.

`voice` has no counterpart in librosa and stands beside its plain 40 MFCC; it may take three times as long.
"""

import os
import sys
import tempfile
import time
from contextlib import ExitStack

import pytest

from emobench.audio import AudioPolicy
from emobench.corpora import get_corpus
from emobench.corpora.location import locate
from emobench.execution.workers import Pool, count_workers
from emobench.features import FEATURES
from emobench.features.store import CLIPS_A_TASK, FeatureStore
from emobench.registry import resolve
from emobench.reporter import Reporter
from emobench.running.datasets import hash_clips, make_synthetic

ROUNDS = int(os.environ.get("EMOBENCH_BENCH_ROUNDS", "5"))
EMOTIONS = ("calm", "happy", "sad", "angry", "fearful")
WORKERS = [1, 2]


def plain(name, paths):
    """Do what one would write by hand for a feature set; for `voice`, what it is measured by."""
    import librosa
    import numpy as np

    vectors = []
    for path in paths:
        signal, sr = librosa.load(path)
        mfcc = librosa.feature.mfcc(y=signal, sr=sr, n_mfcc=40)
        if name in {"mfcc40", "voice"}:
            vectors.append(mfcc.mean(axis=1))
        else:
            deltas = [librosa.feature.delta(mfcc, order=order) for order in (1, 2)]
            vectors.append(np.concatenate([mfcc.mean(axis=1), *(one.std(axis=1) for one in (mfcc, *deltas))]))
    return vectors


@pytest.fixture(scope="module")
def clips():
    root = locate("ravdess")
    name = "ravdess" if root else "synthetic"
    root = root or make_synthetic(n_jobs=count_workers(-1), reporter=Reporter())
    scan = resolve(get_corpus(name).scan)(root)
    paths = [root / utterance.path for utterance in scan.utterances if utterance.emotion in EMOTIONS]
    hashes, faults = hash_clips(paths)
    assert not faults
    print(f"\n{len(paths)} clips of {name}", file=sys.stderr)
    return list(zip(hashes, paths, strict=True))


@pytest.fixture(scope="module")
def pools(clips):
    """Two sets of workers of each size, one that has imported librosa and one that has not."""
    with ExitStack() as stack:
        found = {(n, side): stack.enter_context(Pool(n)) for n in WORKERS for side in ("librosa", "emobench")}
        some = clips[: 2 * CLIPS_A_TASK * max(WORKERS)]
        for (_, side), pool in found.items():
            run_plain(pool, "mfcc40_stats", some) if side == "librosa" else run_ours(pool, "mfcc40_stats", some)
        yield found


def run_plain(pool, name, clips):
    paths = [path for _, path in clips]
    tasks = [(name, paths[start : start + CLIPS_A_TASK]) for start in range(0, len(paths), CLIPS_A_TASK)]
    assert sum(len(vectors) for _, vectors in pool.run(plain, tasks)) == len(clips)


def run_ours(pool, name, clips):
    specs = [FEATURES[one] for one in name.split(" + ")]
    with tempfile.TemporaryDirectory() as folder:
        for found in FeatureStore(folder).extract(specs, clips, policy=AudioPolicy(), pool=lambda: pool):
            assert found.is_found.all()


@pytest.fixture(scope="module")
def figures():
    rows = {}
    yield rows
    print(
        "\n\nfeatures      processes   librosa (s)   emobench (s)   ratio   ratio to one process of librosa",
        file=sys.stderr,
    )
    for (name, n_workers), (plain_s, ours_s) in rows.items():
        one_s = rows.get((name, 1), (plain_s, ours_s))[0]
        ratios = f"{plain_s / ours_s:7.2f} {one_s / ours_s:33.2f}"
        print(f"{name:12} {n_workers:10} {plain_s:13.2f} {ours_s:14.2f} {ratios}", file=sys.stderr)


@pytest.mark.parametrize("n_workers", WORKERS)
@pytest.mark.parametrize("name", ["mfcc40", "mfcc40_stats", "voice"])
def test_extract(benchmark, clips, pools, figures, name, n_workers):
    benchmark.group = f"extract on {n_workers} processes"
    plain_s = []

    def run_librosa():  # before each round, so that both meet the same state of the machine
        started_s = time.perf_counter()
        run_plain(pools[n_workers, "librosa"], name, clips)
        plain_s.append(time.perf_counter() - started_s)

    benchmark.pedantic(
        lambda: run_ours(pools[n_workers, "emobench"], name, clips), setup=run_librosa, rounds=ROUNDS, iterations=1
    )
    if benchmark.stats:  # none where benchmarks are only tried
        figures[name, n_workers] = min(plain_s), benchmark.stats.stats.min
        benchmark.extra_info["librosa_s"] = plain_s


@pytest.mark.benchmark(group="extract on 2 processes")
def test_extract_both_in_one_pass(benchmark, clips, pools):
    benchmark.pedantic(run_ours, (pools[2, "emobench"], "mfcc40 + mfcc40_stats", clips), rounds=ROUNDS)


@pytest.mark.benchmark(group="warm store: hash the files, load both feature sets")
def test_warm_store(benchmark, clips, pools, tmp_path):
    store, specs = FeatureStore(tmp_path), [FEATURES["mfcc40"], FEATURES["mfcc40_stats"]]
    store.extract(specs, clips, policy=AudioPolicy(), pool=lambda: pools[2, "emobench"])
    paths = [path for _, path in clips]

    def load():
        again = list(zip(hash_clips(paths)[0], paths, strict=True))
        store.extract(specs, again, policy=AudioPolicy(), pool=lambda: pytest.fail("nothing must be computed"))

    benchmark.pedantic(load, rounds=ROUNDS)
