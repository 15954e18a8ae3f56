#!/usr/bin/env python3
"""Kill a run at random moments, continue it each time, and compare it with one that was left in peace.

usage: kill_and_continue.py CONFIG [--kills 20] [--n-jobs 2] [--seed 0] [--keep DIR]

SIGKILL goes to the coordinating process alone (its workers must notice) or to the whole process group, in turn. The
leaderboard, the trials and the predictions must be the same bytes in the end, timing columns aside. Exit code 0 if so.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

START_UP_S = 6.0


def start(config, output, n_jobs):
    command = [sys.executable, "-m", "emobench", "run", str(config), "--output", str(output), "--n-jobs", str(n_jobs)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def finish(config, output, n_jobs):
    """Run to the end; return the seconds it took."""
    clock = time.monotonic()
    code = start(config, output, n_jobs).wait()
    if code:
        raise SystemExit(f"the run ended with exit code {code}")
    return time.monotonic() - clock


def untimed(output, name):
    """Return a table of the one run in a folder without the columns that hold times."""
    (path,) = Path(output).glob(f"*/{name}")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return table.drop(columns=[c for c in table.columns if c.endswith(("_s", "_ms"))]).to_csv(index=False)


def compare(calm, killed):
    """Print whether every table of two runs is the same; return whether all are."""
    same = True
    for name in ("leaderboard.csv", "trials.csv", "predictions.csv", "folds.csv"):
        if list(calm.glob(f"*/{name}")):
            equal = untimed(calm, name) == untimed(killed, name)
            same &= equal
            print(f"{name}: {'same bytes' if equal else 'DIFFERENT'}", flush=True)
    return same


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--n-jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for both runs; else a temporary one")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    folder = Path(arguments.keep or tempfile.mkdtemp(prefix="kill-"))
    shutil.rmtree(folder, ignore_errors=True)
    calm, killed = folder / "calm", folder / "killed"

    os.environ["EMOBENCH_STORE"] = str(folder / "store-calm")
    whole_s = finish(arguments.config, calm, arguments.n_jobs)
    print(f"undisturbed: {whole_s:.1f} s", flush=True)
    os.environ["EMOBENCH_STORE"] = str(folder / "store-killed")
    n_kills, same = 0, True
    while n_kills < arguments.kills:
        process = start(arguments.config, killed, arguments.n_jobs)
        try:  # a start-up, and then a share of the work, so that the kills fall all over the run
            process.wait(timeout=rng.uniform(0.5, START_UP_S) + rng.uniform(0, 2) * whole_s / arguments.kills)
        except subprocess.TimeoutExpired:
            n_kills += 1
            if n_kills % 2:
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            print(f"kill {n_kills:2d}: {len(list(killed.glob('*/jobs/*.json')))} jobs are finished", flush=True)
        else:  # it got through: compare, and begin again with the kills that are left
            same &= compare(calm, killed)
            shutil.rmtree(killed)
            shutil.rmtree(folder / "store-killed")
    finish(arguments.config, killed, arguments.n_jobs)
    same &= compare(calm, killed)
    print(f"killed {n_kills} times")
    if not arguments.keep:
        shutil.rmtree(folder)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
