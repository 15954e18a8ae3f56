"""How time and memory grow with the size of what people have: clips, speakers, entries.

    python benchmarks/bench_scale.py [--clips 1000 10000 100000] [--speakers 24 1000 20000] [--entries 10 100 1500]
                                     [--sent 960 10000] [--folder DIR]

Each size is measured in fresh processes, by processor time, which other work on the machine changes little. An exponent
is the slope of a straight line through the logarithms of sizes and figures: 1 is linear, and a fixed cost makes it
smaller.

- Clips: short noises (`noise_corpus.py`) are hashed and extracted, then logistic regression and XGBoost are compared on
  two folds with a final fit. Times are of the command and of its two workers; memory is the peak of each.
- Speakers: four entries with probabilities answer one clip of each; what follows from a run is derived
  with all metrics.
- Entries: `plan` of a config of so many support vector machines.
- Sent: what the command and the scheduler of a Dask cluster write to the network for a comparison of five
  models on six folds.

Clips go to `--folder`, by default a temporary one; 100,000 take a gigabyte of disk and ten minutes of two cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

N_ENTRIES, N_FOLDS = 4, 2
CLASSES = ("angry", "calm", "fearful", "happy", "sad")
HERE = Path(__file__).parent
TESTS = HERE.parent / "tests"
SECONDS = 0.3  # of a clip

MEASURE = """
import json, os, resource, sys, time
sys.path[:0] = json.loads(os.environ["FOLDERS"])
import bench_scale

def usage(who):
    found = resource.getrusage(who)
    return found.ru_utime + found.ru_stime, found.ru_maxrss / 1000

if __name__ == "__main__":  # workers import this file too
    prepared = getattr(bench_scale, "before_" + sys.argv[1])(*sys.argv[2:])
    before = [usage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    more = getattr(bench_scale, sys.argv[1])(prepared)
    after = [usage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps({
        "cpu_s": after[0][0] - before[0][0],
        "workers_s": after[1][0] - before[1][0],
        "peak_mb": after[0][1],
        "growth_mb": after[0][1] - before[0][1],
        "worker_mb": after[1][1],
        **more,
    }))
"""


# --- what is measured, in a process of its own ------------------------------------------------------------------------


def before_speakers(size):
    import jinja2  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.preprocessing  # noqa: F401

    return tables(int(size))


def speakers(prepared):
    from emobench.reports import derivation

    return {"page_kb": len(derivation.derive(*prepared)["report.html"]) / 1000}


def before_entries(size):
    from emobench.running import planning

    rows = [f"- {{name: svm, id: s{number}, params: {{C: {number + 1}}}}}" for number in range(int(size))]
    path = Path(os.environ["SCALE"]) / f"entries{size}.yaml"
    path.write_text("corpora: [synthetic]\nprotocols: [{name: group-kfold, n_splits: 6}]\nmodels:\n" + "\n".join(rows))
    few = path.with_name("few.yaml")
    few.write_text("corpora: [synthetic]\nmodels: [svm]\n")
    planning.plan(few, output=path.parent)  # what is imported on the way
    return path


def entries(path):
    from emobench.running import planning

    return {"n_jobs": len(planning.plan(path, output=path.parent).jobs)}


def clips_config(size, models, **changes):
    import noise_corpus

    folder = Path(os.environ["SCALE"]) / "clips" / str(size)
    if not (folder / "manifest.csv").exists():
        noise_corpus.make(folder, int(size), seconds=SECONDS)
    return {
        "corpora": [{"name": "manifest", "path": str(folder / "manifest.csv"), "id": f"noise{size}"}],
        "models": models,
        "protocols": [{"name": "group-kfold", "n_splits": 2}],
        **changes,
    }


def before_features(size):
    return clips_config(size, ["dummy"])


def features(config):
    from emobench.running import runner

    return {"n_computed": runner.extract(config, n_jobs=2)[0].n_computed}


def before_comparison(size):
    return clips_config(size, ["logistic", {"name": "xgboost", "params": {"n_estimators": 20}}])


def comparison(config):
    from emobench.running import runner

    outcome = runner.run(config, n_jobs=2, output=Path(os.environ["SCALE"]) / "results")
    assert not outcome.n_failed
    return {"uar": float(outcome.leaderboard["uar"].max())}


def before_sent(size):
    from distributed.comm.tcp import TCP

    from emobench.running import runner

    rows = [{"name": "logistic", "id": f"l{number}", "params": {"C": 10.0 ** -(number + 2)}} for number in range(5)]
    config = clips_config(size, rows, protocols=[{"name": "group-kfold", "n_splits": 6}])
    runner.extract(config, n_jobs=2)
    write, sent = TCP.write, []

    async def counted(self, *arguments, **options):
        sent.append(await write(self, *arguments, **options))
        return sent[-1]

    TCP.write = counted
    return config, sent


def sent(prepared):
    from emobench.running import runner

    config, sizes = prepared
    outcome = runner.run(config, dask="local:2", output=Path(os.environ["SCALE"]) / "sent")
    assert not outcome.n_failed
    n_clips = outcome.leaderboard["n_utterances"].iloc[0]
    return {"sent_mb": sum(sizes) / 1e6, "table_mb": 160 * n_clips / 1e6, "n_jobs": outcome.n_computed}


def tables(n_speakers):
    """Return scores, predictions and ``run.json`` of entries that know something of each speaker's one clip."""
    import pandas as pd
    from recorded import record

    entries = {f"e{number}": 0.5 for number in range(N_ENTRIES)}
    scores, few, run = record(right=entries, classes=CLASSES, n_speakers=2)
    rng, k = np.random.default_rng(0), len(CLASSES)
    y_true = np.append(np.arange(k).repeat(4), rng.integers(0, k, n_speakers - 4 * k))
    parts = []
    for number, entry in enumerate(entries):
        proba = np.exp(rng.normal(size=(n_speakers, k)) + (0.5 + 0.1 * number) * np.eye(k)[y_true])
        proba /= proba.sum(axis=1, keepdims=True)
        part = {name: few[name].iloc[0] for name in ("run", "corpus", "features", "protocol", "repeat")}
        part |= {"entry": entry, "fold": np.arange(n_speakers) % N_FOLDS}
        part |= {name: [f"{name[0]}{i:06d}" for i in range(n_speakers)] for name in ("utterance", "speaker")}
        part |= {"sex": np.arange(n_speakers) % 2, "statement": "", "intensity": "", "repetition": ""}
        part |= {"y_true": np.array(CLASSES)[y_true], "y_pred": np.array(CLASSES)[proba.argmax(axis=1)]}
        parts.append(pd.DataFrame(part | {f"p_{label}": proba[:, code] for code, label in enumerate(CLASSES)}))
    predictions = pd.concat(parts, ignore_index=True)
    predictions["sex"] = np.where(predictions["sex"], "male", "female")
    run["corpora"]["tiny"] |= {"n_speakers": n_speakers, "n_utterances": n_speakers}
    return scores, predictions, run


# --- the tables -------------------------------------------------------------------------------------------------------

# What is measured → the figures of a row: their headings, and how they are written.
SHOWN = {
    "features": {
        "cpu_s": ("command", "{:.1f} s"),
        "workers_s": ("workers", "{:.1f} s"),
        "peak_mb": ("memory", "{:.0f} MB"),
        "worker_mb": ("a worker", "{:.0f} MB"),
    },
    "comparison": {
        "cpu_s": ("command", "{:.1f} s"),
        "workers_s": ("workers", "{:.1f} s"),
        "peak_mb": ("memory", "{:.0f} MB"),
        "worker_mb": ("a worker", "{:.0f} MB"),
    },
    "speakers": {
        "cpu_s": ("time", "{:.1f} s"),
        "peak_mb": ("memory", "{:.0f} MB"),
        "page_kb": ("page", "{:.0f} kB"),
    },
    "entries": {"cpu_s": ("time", "{:.2f} s"), "peak_mb": ("memory", "{:.0f} MB")},
    "sent": {"sent_mb": ("sent", "{:.2f} MB"), "table_mb": ("table", "{:.2f} MB")},
}


def measure(what, size, folder):
    """Measure one thing at one size in a process of its own."""
    environment = {
        **os.environ,
        **{"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        **{"FOLDERS": json.dumps([str(HERE), str(TESTS)]), "SCALE": str(folder)},
        "EMOBENCH_STORE": str(folder / "stores" / str(size)),  # the smaller corpora are parts of the larger
    }
    script = folder / "measure.py"
    script.write_text(MEASURE)
    done = subprocess.run(
        [sys.executable, str(script), what, str(size)], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def exponent(sizes, figures):
    """Return the power of the size that a figure grows with: the slope through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(figures, 1e-9)), 1)[0])


def show(what, sizes, folder):
    """Measure one thing at several sizes and print a table with an exponent for each figure."""
    shown, found = SHOWN[what], []
    print(f"{what:>12}" + "".join(f"{heading:>12}" for heading, _ in shown.values()))
    for size in sizes:
        found.append(measure(what, size, folder))
        cells = [form.format(found[-1][name]) for name, (_, form) in shown.items()]
        print(f"{size:12,d}" + "".join(f"{cell:>12}" for cell in cells), flush=True)
    if len(sizes) > 1:
        powers = [exponent(sizes, [row[name] for row in found]) for name in shown]
        print(f"{'exponent':>12}" + "".join(f"{power:12.2f}" for power in powers), flush=True)
    print()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"clips": [1000, 10_000, 100_000], "speakers": [24, 1000, 20_000], "entries": [10, 100, 1500]}
    for name, default in {**sizes, "sent": [960, 10_000]}.items():
        parser.add_argument(f"--{name}", type=int, nargs="*", default=default)
    parser.add_argument("--folder", type=Path, help="for clips, features and results; kept")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="emobench-scale-") as scratch:
        folder = (given.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        asked = {"features": given.clips, "comparison": given.clips}
        asked |= {name: getattr(given, name) for name in ("speakers", "entries", "sent")}
        for what, its_sizes in asked.items():
            if its_sizes:
                show(what, its_sizes, folder)


if __name__ == "__main__":
    main()
