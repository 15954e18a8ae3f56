"""How fast saved models answer, measured so that two people on one machine get the same figure.

Every figure comes from *rounds*. In a round each bundle in turn is started as a fresh process with one thread on one
core (`probe`): the time to its first answer is the cold start, then blocks of calls are timed for each stage
and batch size. A round's p50 is the median of its calls, and the figure is the median over rounds: a process that had
bad luck (with the layout of its memory, or a neighbour on the machine) is one voice among many. So with p95 and p99;
where fewer than 20 or 100 calls were timed in all there are none. Recordings are answered one by one, so that batches
are measured of features only.

Rounds are repeated measurements of one thing, so any half of them against the other half is an A/A test. The *noise
floor* of a figure is one and a half times the difference that 95 % of such tests stay below. Halves have half the
rounds of a run, so that their difference spreads √2 times as wide as that of two runs; both margins are for what
changes more slowly than a run lasts. `benchmarks/latency_repeatability.py` shows that two runs differ by less.

Bundles answer through ONNX Runtime. What the fitted model's own `predict` takes for one row, as users of scikit-learn,
XGBoost or Keras call it, is measured where it was fitted and stands beside: `native_p50_ms`, the median of calls in one
process, without a noise floor.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emobench.audio.decoding import read_audio
from emobench.bundles.storage import read_bundle
from emobench.config.schema import LatencyConfig
from emobench.execution.workers import ONE_THREAD
from emobench.files import digest, storage_errors, write_bytes, write_json
from emobench.registry import active_files
from emobench.reporter import Reporter
from emobench.reports.timing import COLD_START, STAGES, with_noise
from emobench.results.environment import cpu, environment, versions
from emobench.results.tables import csv_bytes, write_csv

if TYPE_CHECKING:
    import pandas as pd

LATENCY = {
    "corpus": "string",
    "features": "string",
    "entry": "string",
    "stage": "string",
    "batch": "int64",
    "p50_ms": "float64",
    "p95_ms": "float64",
    "p99_ms": "float64",
    "noise_p50_ms": "float64",
    "throughput_per_s": "float64",
    "n_calls": "int64",
    "model_bytes": "int64",
    "peak_memory_bytes": "int64",
    "is_noisy": "bool",
    "cpu": "string",
    "noise_p95_ms": "float64",
    "noise_p99_ms": "float64",
    "native_p50_ms": "float64",
}
NATIVE_STAGE = ("features_to_label", 1)
QUANTILES = (50, 95, 99)
VERSION = 2  # raised when the same bundle on the same machine would give other figures

NOISY = 0.15  # share of a p50 above which its noise floor hides what one looks for
DRIFT = 0.02  # share of a figure below which no floor is printed: machines are not steadier than this from day to day
CONFIDENCE = 95
MARGIN = 1.5
N_SPLITS = 500
TIMEOUT_S = 600.0

CLIP_S = 3.5
CLIP_HZ = 48_000

CSV, JSON = "latency.csv", "latency.json"
NATIVE = ".native.json"  # until `latency.json` says it

# Measured on two cores in 2026, for estimates only.
_START_S = 0.8


@dataclass(frozen=True)
class Subject:
    """A bundle that is measured.

    Attributes
    ----------
    path : Path
        Of the bundle.
    corpus, features, entry : str
        What it is called in the table.
    n_bytes : int
        Its size on disk.
    checksum : str
        Of its content.
    native_ms : float
        What the fitted model's own `predict` takes for one row; NaN where that was not measured.
    """

    path: Path
    corpus: str
    features: str
    entry: str
    n_bytes: int
    checksum: str
    native_ms: float = math.nan

    @property
    def title(self) -> str:
        return _title(self.corpus, self.features, self.entry)


@dataclass(frozen=True)
class Measurement:
    """What came out.

    Attributes
    ----------
    table : DataFrame
        The columns of `LATENCY`; a row for each bundle, stage and batch size.
    benchmarks : list of dict
        The same as pytest-benchmark writes it.
    failures : dict of Subject to str
        Why a bundle has no rows.
    """

    table: pd.DataFrame
    benchmarks: list[dict[str, Any]]
    failures: dict[Subject, str] = field(default_factory=dict)


def read_subject(path: Path) -> Subject:
    """Check a bundle and return what it is called.

    Raises
    ------
    BundleError
        If it cannot be trusted.
    """
    bundle = read_bundle(path)
    manifest = bundle.manifest
    return Subject(
        path=path,
        corpus=str(manifest.trained_on.get("corpus", "")),
        features=str(manifest.features.get("name", "")),
        entry=manifest.entry,
        n_bytes=sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size,
        checksum=bundle.checksum,
        native_ms=read_native(path.parent.parent).get(manifest.identity, math.nan),
    )


def measure(
    subjects: Sequence[Subject],
    settings: LatencyConfig,
    *,
    clip: Path | None = None,
    reporter: Reporter | None = None,
    probe: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None,
) -> Measurement:
    """Measure bundles in interleaved rounds.

    Parameters
    ----------
    subjects : sequence of Subject
    settings : LatencyConfig
    clip : path, optional
        The recording that is answered; by default a synthetic one as long as those of RAVDESS.
    probe : callable, optional
        Stands for `start_probe` in tests.

    Returns
    -------
    Measurement
        A bundle that gives no answer is among its `failures`.

    Raises
    ------
    AudioError
        If the clip cannot be used.
    """
    reporter, probe = reporter or Reporter(), probe or start_probe
    if clip is not None:
        read_audio(clip)
    rounds: dict[Subject, list[dict[str, Any]]] = {subject: [] for subject in subjects}
    failures: dict[Subject, str] = {}
    with tempfile.TemporaryDirectory(prefix="emobench-latency-") as folder:
        clip = clip or write_clip(Path(folder) / "clip.wav")
        about = {"clip": str(clip), "block_s": settings.block_s, "core": _core()}
        # A first start reads the libraries, the same for all, into the system's cache, and is left out.
        turns: list[tuple[Subject, list[int]]] = [(subject, []) for subject in subjects[:1]]
        turns += [(subject, settings.batches) for _ in range(settings.rounds) for subject in subjects]
        with reporter.track("latency", len(turns)) as advance:
            for number, (subject, batches) in enumerate(turns, start=1):
                if subject not in failures:
                    answer = probe({**about, "bundle": str(subject.path.resolve()), "batches": batches})
                    if "error" in answer:
                        failures[subject] = answer["error"]
                    elif batches:
                        rounds[subject].append(answer)
                advance(number, subject.entry)
    rows, benchmarks = [], []
    for subject in subjects:
        if subject not in failures:
            for series in _series(rounds[subject]):
                rows.append(row := _row(subject, series))
                benchmarks.append(_benchmark(subject, series, row))
    return Measurement(to_frame(rows), benchmarks, failures)


def distinct(subjects: Sequence[Subject]) -> list[Subject]:
    """Return bundles whose names differ: those that have one in common are called by their paths."""
    subjects = list(dict.fromkeys(subjects))
    names = Counter(subject.title for subject in subjects)
    return [replace(item, entry=str(item.path)) if names[item.title] > 1 else item for item in subjects]


def to_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows as a table with the columns and types of `LATENCY`."""
    import pandas as pd

    types = {"string": str, "int64": "int64", "float64": float, "bool": bool}
    frame = pd.DataFrame(list(rows), columns=list(LATENCY))
    return frame.astype({name: types[kind] for name, kind in LATENCY.items()})


def start_probe(task: Mapping[str, Any]) -> dict[str, Any]:
    """Run `probe` in a fresh process; return what it says, with the nanoseconds to its first answer.

    What went wrong there is the ``error`` of the answer.
    """
    command = [sys.executable, "-P", "-m", "emobench.prediction.probe"]
    task = {**task, "plugins": [(file.name, file.text) for file in active_files()]}
    environment = {**os.environ, **ONE_THREAD, "PYTHONWARNINGS": "ignore"}
    started_ns = time.perf_counter_ns()
    try:
        done = subprocess.run(
            command, env=environment, input=json.dumps(task), capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return {"error": f"it must answer within {TIMEOUT_S:g} s. It did not. Try it with `emobench predict`."}
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        said = (done.stderr.strip() or "nothing").splitlines()[-1]
        end = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        return {"error": f"its process must answer. It ended with {end} and said: {said}. Try `emobench predict`."}
    if "error" not in answer:
        answer["cold_ns"] = answer.pop("answered_ns") - started_ns  # one clock for all processes of a machine
    return answer


def noise_floor(values: np.ndarray) -> float:
    """Return what two measurements of the same thing may differ by, from A/A tests between halves of the rounds.

    Parameters
    ----------
    values : array of shape (n_rounds,)
        One figure a round, in the order they were taken. The halves in this order are tested as well, so that a drift
        counts in full.
    """
    half = len(values) // 2
    order = np.tile(np.arange(len(values)), (N_SPLITS, 1))
    split = values[np.random.default_rng(0).permuted(order, axis=1)]
    differences = np.abs(np.median(split[:, :half], axis=1) - np.median(split[:, half:], axis=1))
    drift = abs(np.median(values[:half]) - np.median(values[half:]))
    return float(max(MARGIN * np.percentile(differences, CONFIDENCE), MARGIN * drift, DRIFT * np.median(values)))


def write_clip(path: Path) -> Path:
    """Write the clip that everything is measured with: a voice-like tone of RAVDESS's length and rate, mono, 16 bit."""
    import soundfile

    time_s = np.arange(round(CLIP_S * CLIP_HZ)) / CLIP_HZ
    pitch_hz = 150 + 20 * np.sin(2 * np.pi * 0.7 * time_s)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / CLIP_HZ
    voice = sum(np.sin(k * phase) / k for k in range(1, 30)) * np.abs(np.sin(2 * np.pi * 2 * time_s))
    signal = voice + 0.01 * np.random.default_rng(0).standard_normal(len(time_s))
    soundfile.write(path, 0.5 * signal / np.abs(signal).max(), CLIP_HZ, subtype="PCM_16")
    return path


# --- from rounds to figures -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Series:
    """All rounds of one stage and batch size: nanoseconds of each call, one array a round."""

    stage: str
    batch: int
    rounds: tuple[np.ndarray, ...]
    peak_memory_bytes: int

    def quantile_ms(self, q: int) -> np.ndarray:
        """Return a quantile of each round's calls."""
        return np.array([np.percentile(durations_ns, q) for durations_ns in self.rounds]) / 1e6


def _series(rounds: Sequence[Mapping[str, Any]]) -> list[_Series]:
    """Return the cold starts of a bundle, then each of its stages and batch sizes."""
    cold = tuple(np.array([answer["cold_ns"]]) for answer in rounds)
    found = [_Series(COLD_START, 1, cold, _most(rounds))]
    for blocks in zip(*(answer["blocks"] for answer in rounds), strict=True):
        durations = tuple(np.array(block["durations_ns"]) for block in blocks)
        found.append(_Series(blocks[0]["stage"], blocks[0]["batch"], durations, _most(blocks)))
    return found


def _title(corpus: str, features: str, entry: str) -> str:
    return " · ".join(part for part in (corpus, features, entry) if part)


def _most(parts: Sequence[Mapping[str, Any]]) -> int:
    return max(part["peak_memory_bytes"] or 0 for part in parts)


def _row(subject: Subject, series: _Series) -> dict[str, Any]:
    per_round = {q: series.quantile_ms(q) for q in QUANTILES}
    figures = {q: float(np.median(values)) for q, values in per_round.items()}
    noise = {q: noise_floor(values) for q, values in per_round.items()}
    n_calls = sum(map(len, series.rounds))
    for q in QUANTILES[1:]:  # a p99 of fewer than 100 calls is none, nor has one start a round a tail
        if series.stage == COLD_START or n_calls < 100 / (100 - q):
            figures[q] = noise[q] = math.nan
    mean_ms = float(np.median([durations_ns.mean() for durations_ns in series.rounds])) / 1e6
    return {
        "corpus": subject.corpus,
        "features": subject.features,
        "entry": subject.entry,
        "stage": series.stage,
        "batch": series.batch,
        **{f"p{q}_ms": round(value, 6) for q, value in figures.items()},
        **{f"noise_p{q}_ms": round(value, 6) for q, value in noise.items()},
        "throughput_per_s": round(series.batch / mean_ms * 1000, 3),
        "n_calls": n_calls,
        "model_bytes": subject.n_bytes,
        "peak_memory_bytes": series.peak_memory_bytes,
        "is_noisy": noise[50] > NOISY * figures[50],
        "cpu": cpu(),
        "native_p50_ms": round(subject.native_ms, 6) if (series.stage, series.batch) == NATIVE_STAGE else math.nan,
    }


def remarks(table: pd.DataFrame) -> list[str]:
    """Return what the person should know: which figures the machine was too noisy for."""
    noisy = table[table["is_noisy"]]
    if noisy.empty:
        return []
    worst = noisy.loc[(noisy["noise_p50_ms"] / noisy["p50_ms"]).idxmax()]
    load = f" The load average is {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores." if os.name == "posix" else ""
    return [
        f"the machine is too noisy to tell {len(noisy)} of {len(table)} latencies: {worst['entry']}, "
        f"{STAGES[worst['stage']]}, batch {worst['batch']} is {worst['p50_ms']:.3g} ± {worst['noise_p50_ms']:.2g} ms."
        f"{load} Close other programs, or measure more rounds"
    ]


def _core() -> int | None:
    """Return the core to measure on, the same one always; None where a process cannot be tied to one."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def to_columns(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """Return a table for people: a heading, and a line for each row with the noise floor behind each figure."""
    heading = (
        "entry",
        "stage",
        "batch",
        "p50 (ms)",
        "p95 (ms)",
        "p99 (ms)",
        "own predict (ms)",
        "clips/s",
        "model (kB)",
        "memory (MB)",
        "",
    )
    lines: list[tuple[str, ...]] = [heading]
    for row in table.to_dict("records"):
        quantiles = [with_noise(row[f"p{q}_ms"], row[f"noise_p{q}_ms"]) for q in QUANTILES]
        sizes = f"{row['model_bytes'] / 1e3:.0f}", f"{row['peak_memory_bytes'] / 1e6:.0f}"
        about = row["entry"], STAGES[row["stage"]], str(row["batch"])
        native = "" if math.isnan(row["native_p50_ms"]) else f"{row['native_p50_ms']:.3g}"
        lines.append((*about, *quantiles, native, f"{row['throughput_per_s']:.4g}", *sizes, "noisy" * row["is_noisy"]))
    return lines


# --- in the folder of a run -----------------------------------------------------------------------------------------


def measure_run(
    folder: Path,
    paths: Sequence[Path],
    settings: LatencyConfig,
    *,
    reporter: Reporter | None = None,
    probe: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None,
) -> tuple[bool, list[str]]:
    """Measure the bundles of a run, and write ``latency.csv`` and ``latency.json``.

    A bundle that was measured before with the same settings, processor and libraries is not measured again.

    Returns
    -------
    is_new : bool
        Whether the files were written anew.
    remarks : list of str
        Noisy figures, and bundles that gave no answer.
    """
    known = read_known(folder)
    subjects = {_identity(subject, settings): subject for subject in map(read_subject, paths)}
    todo = {identity: subject for identity, subject in subjects.items() if identity not in known}
    measured = Measurement(to_frame([]), [])
    if todo:
        measured = measure(list(todo.values()), settings, reporter=reporter, probe=probe)
    fresh: dict[str, list[dict[str, Any]]] = {identity: [] for identity in todo}
    identities = {subject.title: identity for identity, subject in todo.items()}
    for benchmark in measured.benchmarks:
        row = benchmark["extra_info"]
        identity = identities[_title(row["corpus"], row["features"], row["entry"])]
        fresh[identity].append({**benchmark, "extra_info": {**row, "identity": identity}})
    benchmarks = [benchmark for identity in subjects for benchmark in known.get(identity) or fresh[identity]]
    table = to_frame([benchmark["extra_info"] for benchmark in benchmarks])
    is_new = bool(todo or known.keys() - subjects or not (folder / CSV).is_file())
    if is_new:
        write_csv(folder / CSV, table)
        write_json(folder / JSON, to_pytest_benchmark(benchmarks))  # last: what it stands beside is complete
    said = [f"{subject.title}: its latency could not be measured: {why}" for subject, why in measured.failures.items()]
    return is_new, [*said, *remarks(table)]


def count_missing(folder: Path, paths: Sequence[Path], settings: LatencyConfig) -> int:
    """Return how many bundles `measure_run` would measure."""
    known = read_known(folder)
    return sum(_identity(read_subject(path), settings) not in known for path in paths)


def restore(folder: Path) -> None:
    """Write ``latency.csv`` again where it is not what ``latency.json`` says; remove it where that says nothing."""
    path = folder / CSV
    if not path.is_file():
        return
    known = read_known(folder)
    content = csv_bytes(to_frame([item["extra_info"] for group in known.values() for item in group]))
    with storage_errors(path):
        if not known:
            path.unlink()
        elif path.read_bytes() != content:
            write_bytes(path, content)


def read_known(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return what ``latency.json`` holds of each bundle, by what it depends on; nothing where it is damaged."""
    known: dict[str, list[dict[str, Any]]] = {}
    try:
        for benchmark in json.loads((folder / JSON).read_bytes())["benchmarks"]:
            known.setdefault(benchmark["extra_info"]["identity"], []).append(benchmark)
        to_frame([benchmark["extra_info"] for group in known.values() for benchmark in group])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return known


def write_native(folder: Path, native_ms: Mapping[str, float]) -> None:
    """Keep what models' own `predict` takes, by the keys of the jobs that fitted them, beside what is kept already."""
    if native_ms:
        write_json(folder / NATIVE, dict(sorted({**read_native(folder), **native_ms}.items())))


def read_native(folder: Path) -> dict[str, float]:
    """Return what `write_native` kept in the folder of a run; nothing where it is damaged."""
    try:
        content = json.loads((folder / NATIVE).read_bytes())
        return {key: float(value) for key, value in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def estimate_s(settings: LatencyConfig, n_bundles: int) -> float:
    """Return roughly how long it takes to measure bundles."""
    return n_bundles * settings.rounds * (_START_S + settings.block_s * (1 + len(settings.batches)))


def _identity(subject: Subject, settings: LatencyConfig) -> str:
    """Return the hash of what the figures of a bundle depend on."""
    about = {
        "version": VERSION,
        "bundle": [subject.corpus, subject.features, subject.entry, subject.checksum],
        "settings": settings.model_dump(),
        "machine": [cpu(), os.cpu_count(), platform.python_version(), versions()],
    }
    return digest(about)[:32]


# --- as pytest-benchmark has it -------------------------------------------------------------------------------------


def to_pytest_benchmark(benchmarks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what ``pytest-benchmark compare`` reads: the machine, the commit, and the statistics of each row."""
    about = environment()
    machine = {
        "node": platform.node(),
        "processor": platform.processor(),
        "machine": platform.machine(),
        "python_implementation": platform.python_implementation(),
        "python_version": platform.python_version(),
        "release": platform.release(),
        "system": platform.system(),
        "cpu": {"brand_raw": about["cpu"], "count": about["n_cores"]},
    }
    commit = about["git_commit"]
    return {
        "machine_info": machine,
        "commit_info": {"id": commit.rstrip("+") or "unversioned", "dirty": commit.endswith("+")},
        "benchmarks": list(benchmarks),
        "datetime": datetime.now(UTC).isoformat(),
        "version": "5.0.0",
    }


def _benchmark(subject: Subject, series: _Series, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as pytest-benchmark has it: a round's time is the median of its calls."""
    name = f"{series.stage}[{subject.title} · {series.batch}]"
    figures = {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
    per_round = round(row["n_calls"] / len(series.rounds))
    return {
        "group": f"{STAGES[series.stage]}, batch {series.batch}",
        "name": name,
        "fullname": f"emobench latency::{name}",
        "params": None,
        "param": None,
        "extra_info": figures,
        "options": {"disable_gc": True, "timer": "perf_counter_ns", "warmup": True},
        "stats": {**statistics_of(series.quantile_ms(50) / 1000), "iterations": per_round},
    }


def statistics_of(data: np.ndarray) -> dict[str, Any]:
    """Return the statistics that pytest-benchmark keeps of seconds, quartiles as it defines them."""
    n, ranked = len(data), np.sort(data)
    q1, q3 = (np.mean([np.median(part[: n // 2]), np.median(part[: -(-n // 2)])]) for part in (ranked, ranked[::-1]))
    median = np.median(data)
    mean, stddev, iqr = data.mean(), data.std(ddof=1), q3 - q1
    inside = data[(data >= q1 - 1.5 * iqr) & (data <= q3 + 1.5 * iqr)]
    n_far, n_out = int((np.abs(data - mean) > stddev).sum()), n - len(inside)
    numbers = {
        **{"min": data.min(), "max": data.max(), "mean": mean, "stddev": stddev},
        **{"median": median, "iqr": iqr, "q1": q1, "q3": q3},
        **{"ld15iqr": inside.min(), "hd15iqr": inside.max(), "total": data.sum(), "ops": 1 / mean},
    }
    return {
        **{name: float(value) for name, value in numbers.items()},
        **{"rounds": n, "iqr_outliers": n_out, "stddev_outliers": n_far, "outliers": f"{n_far};{n_out}"},
        "data": data.tolist(),
    }
