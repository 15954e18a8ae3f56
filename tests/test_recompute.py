"""Every figure of quality of a leaderboard follows from `predictions.parquet`, by a script that knows no emobench."""

import ast
import io
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import write_corpus

from emobench.metrics import METRICS, MetricSpec
from emobench.results.run import load_results
from emobench.running.runner import run

SCRIPT = Path(__file__).with_name("recompute.py")
BOARD = ["corpus", "features", "protocol", "entry"]
EXACT = ["uar", "war", "macro_f1", "worst_speaker_uar", "seed_sd", "log_loss", "brier", "ece", "auroc", "kappa"]
BOUNDS = ["uar_low", "uar_high"]


def kappa(tables):
    """Cohen's kappa, a metric of one's own."""
    n = tables.sum(axis=(-2, -1))
    expected = (tables.sum(axis=-1) * tables.sum(axis=-2)).sum(axis=-1) / n**2
    return (tables.trace(axis1=-2, axis2=-1) / n - expected) / (1 - expected)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run with wrong answers, two repeats, and models with and without probabilities."""
    folder = tmp_path_factory.mktemp("recomputed")
    (corpus := folder / "corpus").mkdir()
    write_corpus(corpus, n_speakers=8)
    lines = (corpus / "manifest.csv").read_text().splitlines()
    mistaken = [line.replace(",angry,", ",sad,") if number % 5 == 0 else line for number, line in enumerate(lines)]
    (corpus / "manifest.csv").write_text("\n".join(mistaken) + "\n")
    config = {
        "corpora": [{"name": "manifest", "path": str(corpus / "manifest.csv")}],
        "models": ["svm", {"name": "xgboost", "params": {"n_estimators": 5, "subsample": 0.5}}],
        "protocols": [{"name": "group-kfold", "n_splits": 2}, {"name": "random-kfold", "n_splits": 2}],
        "metrics": ["uar", "war", "macro_f1", "log_loss", "brier", "ece", "auroc", "kappa"],
        "repeats": 2,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOBENCH_STORE", str(folder / "store"))
        patch.setitem(METRICS, "kappa", MetricSpec("kappa", "Cohen's kappa", kappa))
        return run(config, output=folder / "results", n_jobs=1).folder


@pytest.fixture(scope="module")
def both(finished):
    """The leaderboard, and what the script says."""
    said = subprocess.run([sys.executable, SCRIPT, finished], capture_output=True, text=True, check=True).stdout
    recomputed = pd.read_csv(io.StringIO(said)).set_index(BOARD)
    written = load_results(finished).leaderboard.set_index(BOARD)
    return written.loc[recomputed.index], recomputed


def test_script_knows_no_emobench_and_is_short():
    tree = ast.parse(SCRIPT.read_text())
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert names <= {"json", "sys", "pathlib", "numpy", "pandas", "scipy", "sklearn.metrics"}


@pytest.mark.parametrize("figure", EXACT)
def test_figure_of_quality_is_recomputed_from_the_predictions(both, figure):
    written, recomputed = (frame[figure].astype(float) for frame in both)
    assert written.to_numpy() == pytest.approx(recomputed.to_numpy(), abs=1e-6, nan_ok=True)
    is_svm = written.index.get_level_values("entry") == "svm"
    assert written[~is_svm].notna().all()
    assert written[is_svm].isna().all() == (figure in {"log_loss", "brier", "ece", "auroc"})


@pytest.mark.parametrize("bound", BOUNDS)
def test_bound_of_an_interval_is_recomputed_but_for_the_luck_of_the_draw(both, bound):
    """Two draws of 9999 resamples differ in a bound by 1 % of the interval's width (one standard deviation)."""
    written, recomputed = both
    width = (recomputed["uar_high"] - recomputed["uar_low"]).astype(float)
    assert (width > 0.05).all()
    assert ((written[bound] - recomputed[bound]).abs() < 0.04 * width).all()


def test_scores_of_folds_say_why_a_metric_does_not_apply(finished):
    found = load_results(finished)
    scores = found.scores.set_index(BOARD).sort_index()
    of_svm = scores[(scores.index.get_level_values("entry") == "svm") & scores["metric"].isin(["log_loss", "auroc"])]
    assert (of_svm["error"] == "the model gives no probabilities").all()
    assert of_svm["value"].isna().all()
    of_folds = scores[scores["metric"] == "auroc"].groupby(BOARD)["value"].mean().dropna()
    assert len(of_folds) == 2
    of_run = found.leaderboard.set_index(BOARD).loc[of_folds.index, "auroc"]
    assert of_run.to_numpy() == pytest.approx(of_folds.to_numpy(), abs=1e-6)
