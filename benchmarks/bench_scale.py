"""How time and memory grow with the size of what people have: here the number of speakers.

    python benchmarks/bench_scale.py [--speakers 24 1000 20000]

Four entries with probabilities answer one clip of each speaker, in two folds. Everything that follows from a run's
tables is derived with all metrics, in a fresh process on one thread. An exponent is that of the growth since the size
above, of CPU time and of memory beyond that of a process with its imports: 1 is linear.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path

N_ENTRIES, N_FOLDS = 4, 2
CLASSES = ("angry", "calm", "fearful", "happy", "sad")
TESTS = Path(__file__).parents[1] / "tests"

DERIVE = """
import json, resource, sys, time
import numpy as np, pandas as pd, scipy.stats, sklearn.preprocessing, matplotlib.figure, jinja2
sys.path[:0] = sys.argv[2:]
import bench_scale
from emobench.reports import derivation

tables = bench_scale.tables(int(sys.argv[1]))
before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
wall_s, cpu_s = time.perf_counter(), time.process_time()
files = derivation.derive(*tables)
peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
print(json.dumps({
    "wall_s": time.perf_counter() - wall_s,
    "cpu_s": time.process_time() - cpu_s,
    "peak_mb": peak_mb,
    "growth_mb": peak_mb - before_mb,
    "page_kb": len(files["report.html"]) / 1000,
}))
"""


def tables(n_speakers):
    """Return scores, predictions and ``run.json`` of entries that know something of each speaker's one clip."""
    import numpy as np
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


def measure(n_speakers):
    """Derive everything in a process of its own; return what it took."""
    folders = [str(Path(__file__).parent), str(TESTS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DERIVE, str(n_speakers), *folders]
    return json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def exponent(before, after, name, sizes):
    """Return the power of the size that a figure grew with."""
    return math.log(after[name] / before[name]) / math.log(sizes[1] / sizes[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speakers", type=int, nargs="+", default=[24, 1000, 20_000])
    sizes = parser.parse_args().speakers
    print(f"{'speakers':>8} {'wall':>8} {'CPU':>8} {'memory':>8} {'page':>8}  exponents of CPU and memory")
    before = None
    for place, size in enumerate(sizes):
        found = measure(size)
        line = f"{size:8d} {found['wall_s']:6.1f} s {found['cpu_s']:6.1f} s"
        line += f" {found['peak_mb']:5.0f} MB {found['page_kb']:5.0f} kB"
        if before:
            step = (sizes[place - 1], size)
            line += "".join(f"  {exponent(before, found, name, step):.2f}" for name in ("cpu_s", "growth_mb"))
        print(line, flush=True)
        before = found


if __name__ == "__main__":
    main()
