"""Recompute every figure of quality of a run's leaderboard from its predictions, without emobench, as CSV on stdout."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    cohen_kappa_score,
    f1_score,
    log_loss,
    recall_score,
    roc_auc_score,
)

BOARD = ["corpus", "features", "protocol", "entry"]


def interval(part):
    answers = part.assign(right=part.y_true == part.y_pred).groupby(["repeat", "speaker", "y_true"]).right
    shape = (part.repeat.nunique(), n := part.speaker.nunique(), -1)
    right, asked = (found.unstack(fill_value=0).to_numpy().reshape(shape) for found in (answers.sum(), answers.count()))

    def uar(rows, axis):
        return (right[:, rows].sum(axis=-2) / asked[:, rows].sum(axis=-2)).mean(axis=(0, -1))

    level = 2 * stats.norm.cdf(stats.t.ppf(0.975, n - 1) * np.sqrt(n / (n - 1))) - 1
    return stats.bootstrap([np.arange(n)], uar, confidence_level=level, rng=0, vectorized=True).confidence_interval


def figures(part, classes):
    def mean(score, by="repeat"):
        return part.groupby(by)[[*part]].apply(score).mean()

    def uar(p, labels=classes):
        return recall_score(p.y_true, p.y_pred, labels=labels, average="macro")

    row = dict(zip(["uar_low", "uar_high"], interval(part), strict=True)) | {"uar": mean(uar)}
    row["seed_sd"] = part.groupby("repeat")[[*part]].apply(uar).std()
    row["war"] = mean(lambda p: accuracy_score(p.y_true, p.y_pred))
    row["macro_f1"] = mean(lambda p: f1_score(p.y_true, p.y_pred, labels=classes, average="macro"))
    row["kappa"] = mean(lambda p: cohen_kappa_score(p.y_true, p.y_pred, labels=classes))
    by_speaker = part.groupby(["speaker", "repeat"])[[*part]].apply(lambda p: uar(p, p.y_true.unique()))
    row["worst_speaker_uar"] = by_speaker.groupby("speaker").mean().min()
    proba = [f"p_{label}" for label in classes]
    if part[proba].notna().all(axis=None):
        row["log_loss"] = mean(lambda p: log_loss(p.y_true, p[proba], labels=classes))
        row["brier"] = mean(lambda p: brier_score_loss(p.y_true, p[proba], labels=classes, scale_by_half=False))
        row["auroc"] = mean(lambda p: roc_auc_score(p.y_true, p[proba], multi_class="ovr"), ["repeat", "fold"])
        top, answer = part[proba].max(axis=1), part[proba].idxmax(axis=1)
        excess = top - (answer == "p_" + part.y_true)
        bins = excess.groupby([part.repeat, pd.cut(top, np.linspace(0, 1, 16))], observed=True)
        row["ece"] = bins.sum().abs().groupby("repeat").sum().mean() / part.utterance.nunique()
    return pd.Series(row)


if __name__ == "__main__":
    corpora = json.loads(Path(sys.argv[1], "run.json").read_text())["corpora"]
    boards = pd.read_parquet(Path(sys.argv[1], "predictions.parquet")).groupby(BOARD)
    rows = {key: figures(part, corpora[key[0]]["classes"]) for key, part in boards}
    print(pd.DataFrame(rows).T.rename_axis(BOARD).to_csv())
