"""What a run leaves: finished jobs, the tidy tables, everything derived from them, and the saved models."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emobench import metrics, models
from emobench.bundles.manifest import describe
from emobench.bundles.storage import Bundle, read_bundle, write_bundle
from emobench.corpora import get_corpus
from emobench.errors import BundleError
from emobench.files import storage_errors, write_bytes, write_json
from emobench.registry import active_files, plain
from emobench.reports import derivation
from emobench.reports.derivation import STRESS
from emobench.reports.stress import ANSWERS
from emobench.results.environment import environment, versions
from emobench.results.run import RUN_SCHEMA, read_run
from emobench.results.tables import (
    FOLDS,
    NOTES,
    PERMUTED,
    PREDICTIONS,
    SCORES,
    TRIALS,
    read_leaderboard,
    write_csv,
    write_table,
)
from emobench.running import robustness
from emobench.running.datasets import Dataset, write_excluded
from emobench.running.evaluation import Fitted, FoldResult, Job
from emobench.running.experiment import Experiment, list_entries, plugin_rows, portable

if TYPE_CHECKING:
    import pandas as pd

# What a bundle says of how good it is, of the columns of the leaderboard.
BUNDLE_SCORES = ("protocol", "waives", "uar", "uar_low", "uar_high", "war", "macro_f1", "worst_speaker_uar")


def write_tables(
    experiment: Experiment,
    folder: Path,
    jobs: Sequence[Job],
    finished: Mapping[str, FoldResult],
    pool: Callable[[], Any],
    *,
    is_changed: bool = True,
) -> pd.DataFrame:
    """Write the tidy tables, everything derived from them and ``run.json``; return the leaderboard.

    Where no job is new (`is_changed` is false), the run that is recorded is this one and its files are whole, what is
    there is left alone.
    """
    import pandas as pd

    run_json = _run_json(experiment, jobs, finished)
    if is_changed or not _is_recorded(folder, run_json):
        done = [job for job in jobs if job.key in finished]
        scores = pd.DataFrame(_score_rows(experiment, done, finished), columns=list(SCORES))
        write_table(folder / "scores", scores, SCORES)
        write_table(folder / "predictions", _predictions(experiment, done, finished), PREDICTIONS)
        _write_stress(experiment, folder, done, finished, pool)
        write_csv(folder / "folds.csv", pd.DataFrame(_fold_rows(experiment), columns=list(FOLDS)))
        if experiment.config.tuning:
            trials = pd.DataFrame(_trial_rows(experiment, done, finished), columns=list(TRIALS))
            write_csv(folder / "trials.csv", trials)
        if experiment.config.importance:
            permuted = pd.DataFrame(_permuted_rows(experiment, done, finished), columns=list(PERMUTED))
            write_csv(folder / "permuted.csv", permuted)
        write_excluded(folder / "excluded.csv", {dataset.name: dataset.not_used for dataset in experiment.datasets})
        noted = [(dataset.name, *note) for dataset in experiment.datasets for note in dataset.notes]
        write_csv(folder / "notes.csv", pd.DataFrame(noted, columns=list(NOTES)))
        write_logs(folder, done, finished)
        derivation.write_derived(folder, run_json)
        write_json(folder / "run.json", run_json)  # last: what it stands beside is complete
    return read_leaderboard(folder / "leaderboard.csv")


def _write_stress(
    experiment: Experiment,
    folder: Path,
    jobs: Sequence[Job],
    finished: Mapping[str, FoldResult],
    pool: Callable[[], Any],
) -> None:
    """Write the answers to stressed recordings, or remove those of a config that does not ask any more."""
    if experiment.changes:
        write_table(folder / STRESS, robustness.answers_of(experiment, jobs, finished, pool), ANSWERS)
        return
    for name in (f"{STRESS}.parquet", "stress.csv"):
        with storage_errors(folder):
            (folder / name).unlink(missing_ok=True)


def write_derived(folder: Path) -> pd.DataFrame:
    """Write what follows from a run's tables and its latencies again, where it changed; return the leaderboard."""
    derivation.write_derived(folder, read_run(folder))
    return read_leaderboard(folder / "leaderboard.csv")


def _is_recorded(folder: Path, run_json: Mapping[str, Any]) -> bool:
    """Return whether a run's folder holds all its files, whole and written for just this run."""
    try:
        recorded = json.loads((folder / "run.json").read_bytes())
    except (OSError, ValueError):
        return False
    return recorded == run_json and derivation.is_current(folder)


def write_logs(folder: Path, jobs: Sequence[Job], finished: Mapping[str, FoldResult]) -> None:
    """Write what each failed job printed and where it failed to ``logs/``; remove the logs of earlier failures."""
    logs = {}
    for job in jobs:
        if is_failed(finished, job):
            name = f"{job.corpus}+{job.features}+{job.protocol}+{job.entry}+repeat{job.repeat}+fold{job.fold}.txt"
            logs[folder / "logs" / name] = f"{job.title}\n{finished[job.key].error}\n\n{finished[job.key].log}"
    for path, text in logs.items():
        write_bytes(path, text.encode(errors="backslashreplace"))
    for path in set((folder / "logs").glob("*.txt")) - logs.keys():
        with storage_errors(path):
            path.unlink()


def _score_rows(
    experiment: Experiment, jobs: Sequence[Job], finished: Mapping[str, FoldResult]
) -> Iterator[dict[str, Any]]:
    run = experiment.name
    for job in jobs:
        result, dataset = finished[job.key], experiment.dataset(job.corpus)
        tuning = result.tuning
        for metric in experiment.config.metrics:
            value, reason = float("nan"), result.error
            if not result.error:
                proba = None if result.proba is None else np.array(result.proba)
                y_true, y_pred = dataset.y[job.test], np.array(result.y_pred)
                value, reason = metrics.score(metric, y_true, y_pred, len(dataset.classes), proba)
            yield {
                **_where(run, job),
                "waives": "+".join(job.waives),
                "metric": metric,
                "value": value,
                "n_test": len(job.test),
                "fit_s": result.fit_s,
                "predict_s": result.predict_s,
                "error": reason,
                "n_trials": len(tuning["trials"]) if tuning else 0,
                "tuning_s": tuning["tuning_s"] if tuning else float("nan"),
                "inner_score": tuning["inner_score"] if tuning else float("nan"),
                "converged": result.converged,
            }


def _predictions(experiment: Experiment, jobs: Sequence[Job], finished: Mapping[str, FoldResult]) -> pd.DataFrame:
    """Return the table of predictions, made of columns: a mapping a row takes eight times its memory."""
    import pandas as pd

    classes = sorted({label for dataset in experiment.datasets for label in dataset.classes})
    about = {dataset.name: _about_utterances(dataset) for dataset in experiment.datasets}
    parts = []
    for job in jobs:
        result, dataset = finished[job.key], experiment.dataset(job.corpus)
        if result.error:
            continue
        part = about[job.corpus].iloc[job.test].reset_index(drop=True)
        part = part.assign(y_pred=dataset.encoder.inverse_transform(np.array(result.y_pred)).astype(object))
        proba = pd.DataFrame(math.nan, index=part.index, columns=[f"p_{label}" for label in classes])
        if result.proba is not None:
            proba[[f"p_{label}" for label in dataset.classes]] = np.array(result.proba)
        where = pd.DataFrame(_where(experiment.name, job), index=part.index)
        parts.append(pd.concat([where, part, proba], axis=1))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(PREDICTIONS))


def _about_utterances(dataset: Dataset) -> pd.DataFrame:
    """Return what predictions say of each utterance besides the answer."""
    import pandas as pd

    columns = {
        "utterance": "id",
        **{name: name for name in ("speaker", "sex", "statement", "intensity", "repetition")},
        "y_true": "emotion",
    }
    return pd.DataFrame(
        {name: [getattr(utterance, source) for utterance in dataset.utterances] for name, source in columns.items()}
    )


def _trial_rows(
    experiment: Experiment, jobs: Sequence[Job], finished: Mapping[str, FoldResult]
) -> Iterator[dict[str, Any]]:
    run = experiment.name
    for job in jobs:
        for trial in (finished[job.key].tuning or {}).get("trials", ()):
            yield {
                **_where(run, job),
                **{name: trial[name] for name in ("trial", "state", "value", "n_folds", "error")},
                "params": json.dumps(trial["params"], sort_keys=True),
                "duration_s": trial["seconds"],
            }


def _permuted_rows(
    experiment: Experiment, jobs: Sequence[Job], finished: Mapping[str, FoldResult]
) -> Iterator[dict[str, Any]]:
    """Yield, for each job and block, how many answers were right, by speaker and emotion."""
    for job in jobs:
        result, dataset = finished[job.key], experiment.dataset(job.corpus)
        if not job.n_permutations or result.error or result.importance is None:
            continue
        people = [(dataset.utterances[row].speaker, dataset.utterances[row].emotion) for row in job.test]
        is_right = np.array(result.y_pred) == dataset.y[job.test]
        columns = experiment.features[job.features].columns()
        for block, n_right in result.importance["n_right"].items():
            shuffled = np.array(n_right) / job.n_permutations
            for speaker, emotion in sorted(set(people)):
                rows = [place for place, person in enumerate(people) if person == (speaker, emotion)]
                where = _where("", job)
                yield {
                    **{name: where[name] for name in ("corpus", "features", "protocol", "entry", "repeat")},
                    "block": block,
                    "n_features": len(columns[block]),
                    "speaker": speaker,
                    "y_true": emotion,
                    "n": len(rows),
                    "n_right": int(is_right[rows].sum()),
                    "n_right_shuffled": float(shuffled[rows].sum()),
                }


def _where(run: str, job: Job) -> dict[str, Any]:
    return {
        "run": run,
        "corpus": job.corpus,
        "features": job.features,
        "entry": job.entry,
        "protocol": job.protocol,
        "repeat": job.repeat,
        "fold": job.fold,
    }


def _fold_rows(experiment: Experiment) -> Iterator[dict[str, Any]]:
    for (corpus, protocol), folds in experiment.folds.items():
        ids = experiment.dataset(corpus).labels.ids
        for repeat in range(experiment.config.repeats):
            for fold in folds:
                for row in fold.test:
                    yield {
                        "corpus": corpus,
                        "protocol": protocol,
                        "utterance": ids[row],
                        "repeat": repeat,
                        "fold": fold.index,
                    }


def _run_json(experiment: Experiment, jobs: Sequence[Job], finished: Mapping[str, FoldResult]) -> dict[str, Any]:
    return {
        "schema_version": RUN_SCHEMA,
        "run": experiment.name,
        "config": portable(experiment.config),
        "corpora": {
            dataset.name: {
                "asked_for": corpus.label,
                "fingerprint": dataset.fingerprint,
                "classes": list(dataset.classes),
                "n_utterances": len(dataset.utterances),
                "n_speakers": dataset.n_speakers,
                "n_excluded": len(dataset.not_used),
                "n_missing": dataset.n_missing,
                "identical_audio": [list(pair) for pair in experiment.duplicates[dataset.name]],
                **_labels(dataset),
                **_of_random_splits(dataset),
            }
            for corpus, dataset in zip(experiment.config.corpora, experiment.datasets, strict=True)
        },
        "features": {
            name: {"specification": spec.specification(), "key": experiment.feature_keys[name]}
            for name, spec in experiment.features.items()
        },
        "entries": {entry.name: entry.describe() for entry in list_entries(experiment.config)},
        "metrics": {name: metrics.get_metric(name).version for name in experiment.config.metrics},
        "jobs": {
            "total": len(jobs),
            "finished": sum(job.key in finished and not finished[job.key].error for job in jobs),
            "failed": sum(is_failed(finished, job) for job in jobs),
        },
        **({"stress": robustness.settings_of(experiment)} if experiment.changes else {}),
        **_plugins(experiment),
        "leakage_certificates": list(experiment.certificates),
        "environment": environment(),
    }


def _labels(dataset: Dataset) -> dict[str, Any]:
    """Return what the config made of a corpus's labels, where it made anything."""
    renamed = {"before": dict(dataset.labels_before), "after": dict(dataset.labels_after)}
    return {
        **({"labels": renamed} if dataset.labels_before else {}),
        **({"left_out": dataset.left_out} if dataset.left_out else {}),
    }


def _of_random_splits(dataset: Dataset) -> dict[str, str]:
    text = get_corpus(dataset.source).random_split
    return {"random_split": text} if text else {}


def _plugins(experiment: Experiment) -> dict[str, Any]:
    """Return the plug-in files that a run's rows come from: name, hash and rows."""
    used, files = plugin_rows(experiment.config), _file_names()
    described = [
        {"file": files[hash], "hash": hash, "rows": [row for row, its in used.items() if its == hash]}
        for hash in dict.fromkeys(used.values())
    ]
    return {"plugins": described} if described else {}


def _file_names() -> dict[str, str]:
    return {file.hash: Path(file.name).name for file in active_files()}


def is_failed(finished: Mapping[str, FoldResult], job: Job) -> bool:
    return job.key in finished and bool(finished[job.key].error)


def bundle_path(folder: Path, experiment: Experiment, job: Job) -> Path:
    """Return where an entry's bundle is: ``models/<entry>``, named with corpus and features where there are several."""
    is_only_table = len(experiment.datasets) * len(experiment.features) == 1
    return folder / "models" / (job.entry if is_only_table else f"{job.entry}@{job.corpus}+{job.features}")


def has_bundle(folder: Path, experiment: Experiment, job: Job) -> bool:
    """Return whether the bundle of a job is there, whole, and made by this very job."""
    path = bundle_path(folder, experiment, job)
    if not path.exists():
        return False
    try:
        return read_bundle(path).manifest.identity == job.key
    except BundleError:
        return False


def saved_bundles(folder: Path, experiment: Experiment) -> list[Path]:
    """Return the bundles of a run's entries that are there."""
    return [bundle_path(folder, experiment, job) for job in experiment.fits() if has_bundle(folder, experiment, job)]


def save_bundle(experiment: Experiment, folder: Path, job: Job, fitted: Fitted, board: pd.DataFrame) -> None:
    """Save a model that was fitted on everything, with what the run found out about it.

    Raises
    ------
    BundleError
        If it cannot be said in JSON, or something else than a bundle is in its place.
    """
    dataset, spec = experiment.dataset(job.corpus), experiment.features[job.features]
    rows = board[(board["corpus"] == job.corpus) & (board["features"] == job.features) & (board["entry"] == job.entry)]
    manifest = describe(
        identity=job.key,
        entry=job.entry,
        model=job.model,
        model_version=models.get_model(job.model).version,
        params=plain(fitted.params),
        classes=dataset.classes,
        features=spec.specification(),
        sr=spec.sr,
        n_features=spec.n_features,
        has_probabilities=fitted.parity["max_difference"] is not None,
        trained_on={
            "corpus": dataset.name,
            "fingerprint": dataset.fingerprint,
            "licence": dataset.licence,
            "is_generated": bool(dataset.generator),
            "n_utterances": len(dataset.utterances),
            "n_speakers": dataset.n_speakers,
            "mono": experiment.config.audio.mono,
            "run": experiment.name,
            **({"plugin": _file_names()[spec.plugin]} if spec.plugin else {}),
        },
        audio_ids=dataset.audio,
        scores=[{name: _score_of(row[name]) for name in BUNDLE_SCORES} for _, row in rows.iterrows()],
        parity=fitted.parity,
        versions=versions(),
    )
    write_bundle(bundle_path(folder, experiment, job), Bundle.of(manifest, fitted.onnx))


def _score_of(value: Any) -> Any:
    """Return a cell of the leaderboard as JSON has it: None for what is not there."""
    return value if isinstance(value, str) else None if value is None or np.isnan(value) else float(value)
