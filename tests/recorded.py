"""A recorded run without the run: the content of ``run.json`` and its tables, from invented answers."""

import numpy as np
import pandas as pd

from emobench.files import write_json
from emobench.results.tables import PREDICTIONS, SCORES, write_csv, write_table

CLASSES = ("angry", "happy", "sad")


def record(
    *,
    right=None,
    n_speakers=12,
    n_clips=2,
    repeats=1,
    protocols=("group-kfold",),
    classes=CLASSES,
    run="fake-00000000",
    corpus="tiny",
    with_proba=("mlp",),
    metrics=("uar", "war", "macro_f1", "log_loss", "brier", "ece", "auroc"),
    seed=0,
):
    """Return scores, predictions and ``run.json``; `right` gives each entry its share of right answers."""
    right = {"svm": 0.7, "mlp": 0.5} if right is None else right
    rng = np.random.default_rng(seed)
    where = {"run": run, "corpus": corpus, "features": "mfcc40"}
    utterances = [
        {
            "utterance": f"{corpus}/{speaker:02d}/{label}-{clip}",
            "speaker": f"{speaker:02d}",
            "sex": ("male", "female")[speaker % 2],
            "statement": str(1 + clip % 2),
            "intensity": ("normal", "strong")[clip % 2],
            "repetition": "1",
            "y_true": label,
            "fold": speaker // 2 % 2,
        }
        for speaker in range(n_speakers)
        for label in classes
        for clip in range(n_clips)
    ]
    scores, predictions = [], []
    for protocol in protocols:
        for entry, share in right.items():
            for repeat in range(repeats):
                job = {**where, "entry": entry, "protocol": protocol, "repeat": repeat}
                for row in utterances:
                    proba = rng.dirichlet(np.ones(len(classes)))
                    others = [label for label in classes if label != row["y_true"]]
                    answer = row["y_true"] if rng.random() < share else others[int(rng.integers(len(others)))]
                    known = entry in with_proba
                    columns = {f"p_{label}": p if known else np.nan for label, p in zip(classes, proba, strict=True)}
                    predictions.append({**job, **row, "y_pred": answer, **columns})
                for fold in range(2):
                    scores.append({**job, "fold": fold, **_score(waives="speaker" * protocol.startswith("random"))})
    record = {
        "schema_version": 1,
        "run": run,
        "config": {
            "repeats": repeats,
            "seed": 0,
            "metrics": list(metrics),
            "audio": {"mono": "mean"},
            "protocols": [{"name": protocol, "id": None} for protocol in protocols],
        },
        "corpora": {
            corpus: {
                **{"asked_for": corpus, "fingerprint": "f", "classes": list(classes), "n_missing": 0},
                **{"n_utterances": len(utterances), "n_speakers": n_speakers, "n_excluded": 0, "identical_audio": []},
            }
        },
        "features": {
            "mfcc40": {
                "specification": {"name": "mfcc40", "version": 1, "sr": 22050, "params": {"n_mfcc": 40}},
                "key": "mfcc40-0",
            }
        },
        "entries": {
            entry: {"model": entry, "model_version": 1, "params": {"C": 1.0}, "tuned": False} for entry in right
        },
        "metrics": {"uar": 1},
        "jobs": {"total": len(scores), "finished": len(scores), "failed": 0},
        "leakage_certificates": [
            {
                **{"corpus": corpus, "protocol": protocol, "folds_fingerprint": "0" * 16},
                "waives": ["speaker"] if protocol.startswith("random") else [],
                **{"n_utterances": len(utterances), "n_tested": len(utterances)},
                "folds": [
                    {"fold": fold, "shared_speakers": 0, "shared_audio": 0, "shared_utterances": 0} for fold in range(2)
                ],
            }
            for protocol in protocols
        ],
        "environment": {"python": "3.11", "cpu": "a processor", "versions": {"numpy": "2"}},
    }
    predictions = pd.DataFrame(predictions)
    return pd.DataFrame(scores), predictions[[*PREDICTIONS, *(f"p_{label}" for label in classes)]], record


def fail(scores, predictions, entry, error="ValueError: no"):
    """Return the tables as they are when the last fold of an entry fails."""
    job = (scores["entry"] == entry) & (scores["fold"] == 1)
    lost = (predictions["entry"] == entry) & (predictions["fold"] == 1)
    scores = scores.assign(
        fit_s=scores["fit_s"].mask(job), value=scores["value"].mask(job), error=scores["error"].mask(job, error)
    )
    return scores, predictions[~lost].reset_index(drop=True)


def write(folder, scores, predictions, run):
    """Write the primary files of a run."""
    write_table(folder / "scores", scores, SCORES)
    write_table(folder / "predictions", predictions, PREDICTIONS)
    write_csv(folder / "excluded.csv", pd.DataFrame(columns=["corpus", "path", "reason"]))
    write_json(folder / "run.json", run)
    return folder


def _score(**changes):
    return {
        "converged": None,
        **{"metric": "uar", "value": 0.5, "n_test": 36, "fit_s": 0.25, "predict_s": 0.01, "error": "", "n_trials": 0},
        **{"tuning_s": np.nan, "inner_score": np.nan},
        **changes,
    }
