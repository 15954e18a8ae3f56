"""A metric of one's own is one row, and goes the whole way; a wrong one has no values, and takes nothing else down."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from recorded import CLASSES, record, write
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from emobench.cli.main import main
from emobench.comparison.verdicts import compare
from emobench.config.yaml import validate_config
from emobench.errors import ConfigError, UnknownNameError
from emobench.reports import derivation
from emobench.results.run import load_results
from emobench.results.tables import LEADERBOARD
from emobench.statistics.counts import count_rows, score_resamples
from emobench.statistics.description import describe
from emobench.statistics.intervals import interval, resamples

KEYS = ["entry", "slice", "value"]
ROWS = """
import numpy as np
from emobench.metrics import MetricSpec

def kappa(tables):
    n = tables.sum(axis=(-2, -1))
    expected = (tables.sum(axis=-1) * tables.sum(axis=-2)).sum(axis=-1) / n**2
    return (tables.trace(axis1=-2, axis2=-1) / n - expected) / (1 - expected)

def doubts(y_true, proba):
    return 1 - proba[np.arange(len(y_true)), y_true]

def mean(sums, n):
    return sums[..., 0] / n

def micro_auroc(y_true, proba):
    from sklearn.metrics import roc_auc_score
    return roc_auc_score(np.eye(proba.shape[1])[y_true].ravel(), proba.ravel())

def broken(*given):
    raise ZeroDivisionError("no such luck")

def fickle(tables):
    if len(tables) > 1:
        raise ValueError("one at a time")
    return np.full(tables.shape[:-2], 0.5)

KAPPA = MetricSpec("kappa", "Cohen's kappa", "own_metrics:kappa", range=(-1, 1))
DOUBT = MetricSpec("doubt", "Mean doubt", mean, of="losses", losses=doubts, is_greater_better=False)
MICRO = MetricSpec("micro_auroc", "Micro-averaged AUROC", micro_auroc, of="predictions")
BROKEN = MetricSpec("broken", "Raises", broken)
SHAPELESS = MetricSpec("shapeless", "Of one table only", lambda tables: float(tables.sum()))
LOST = MetricSpec("lost", "Not there", "own_metrics:lost")
FICKLE = MetricSpec("fickle", "Scores all speakers, but no resamples", fickle)
"""
RIGHT, WRONG = ["kappa", "doubt", "micro_auroc"], ["broken", "shapeless", "lost"]
ENTRY_POINTS = "[emobench.metrics]\n" + "".join(
    f"{name} = own_metrics:{row}\n"
    for name, row in zip(
        [*RIGHT, *WRONG, "fickle"], ["KAPPA", "DOUBT", "MICRO", "BROKEN", "SHAPELESS", "LOST", "FICKLE"], strict=True
    )
)


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory):
    """A module and its entry points on the path, as pip would install them."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "own_metrics.py").write_text(ROWS)
    (folder / "own_metrics-1.0.dist-info").mkdir()
    (folder / "own_metrics-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: own-metrics\n")
    (folder / "own_metrics-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


def recorded(metrics, **changes):
    return record(repeats=2, n_clips=4, metrics=metrics, **changes)


def tables(files):
    return {
        name: pd.read_csv(io.BytesIO(content), dtype={"value": str} if name == "slices.csv" else None)
        for name, content in files.items()
        if name.endswith(".csv")
    }


@pytest.fixture(scope="module")
def run():
    return recorded(("war", *RIGHT, *WRONG))


@pytest.fixture(scope="module")
def files(run):
    return derivation.derive(*run)


@pytest.fixture(scope="module")
def found(files):
    return tables(files)


def by_repeat(part, score):
    return part.groupby("repeat")[[*part]].apply(score).mean()


def kappa_of(part):
    return cohen_kappa_score(part["y_true"], part["y_pred"], labels=list(CLASSES))


def test_leaderboard_appends_score_and_interval_of_each_in_the_configs_order(run, found):
    board = found["leaderboard.csv"]
    appended = [f"{name}{end}" for name in (*RIGHT, *WRONG) for end in ("", "_low", "_high")]
    assert list(board.columns) == [*LEADERBOARD, *appended]
    for row in board.to_dict("records"):
        part = run[1][run[1]["entry"] == row["entry"]]
        assert row["kappa"] == pytest.approx(by_repeat(part, kappa_of), abs=1e-6)
        assert row["kappa_low"] < row["kappa"] < row["kappa_high"]


def test_metrics_that_were_not_asked_for_are_empty(found):
    board = found["leaderboard.csv"]
    assert board[["macro_f1", "log_loss", "brier", "ece", "auroc"]].isna().all(axis=None)
    assert board[["uar", "uar_low", "war", "worst_speaker_uar", "rank"]].notna().all(axis=None)
    asked = {"uar", "war", *RIGHT, *WRONG, *(f"recall_{label}" for label in CLASSES)}
    assert set(found["intervals.csv"]["metric"]) == asked


def test_losses_and_predictions_are_scored_as_by_hand(run, found):
    part = run[1][run[1]["entry"] == "mlp"]
    proba, y_true = part[[f"p_{label}" for label in CLASSES]].to_numpy(), part["y_true"].map(CLASSES.index).to_numpy()
    rows = found["intervals.csv"].set_index(["entry", "metric"])
    assert rows.loc[("mlp", "doubt"), "value"] == pytest.approx(
        1 - proba[np.arange(len(part)), y_true].mean(), abs=1e-6
    )
    assert rows.loc[("mlp", "doubt"), "low"] < rows.loc[("mlp", "doubt"), "value"]
    of_folds = [
        roc_auc_score(np.eye(3)[y_true[rows]].ravel(), proba[rows].ravel())
        for rows in part.reset_index().groupby(["repeat", "fold"]).indices.values()
    ]
    assert rows.loc[("mlp", "micro_auroc"), "value"] == pytest.approx(np.mean(of_folds), abs=1e-6)
    assert np.isnan(rows.loc[("mlp", "micro_auroc"), "low"])
    assert "names none of its own" in rows.loc[("mlp", "micro_auroc"), "reason"]
    assert rows.loc[("svm", "doubt"), "reason"] == "the model gives no probabilities"


def test_interval_is_of_the_same_resamples_as_that_of_uar(run):
    counts = count_rows(run[1][run[1]["entry"] == "svm"], CLASSES)
    weights = next(resamples(12, 50, 0))
    part = run[1][run[1]["entry"] == "svm"]
    speakers = dict(iter(part.groupby("speaker")))
    drawn = [
        pd.concat([speakers[name] for name, n in zip(counts.speakers, row, strict=True) for _ in range(n)])
        for row in weights
    ]
    expected = [by_repeat(rows, kappa_of) for rows in drawn]
    assert score_resamples(counts, "kappa", weights) == pytest.approx(expected)
    bounds = interval(counts, "kappa", n_resamples=50)
    assert min(expected) <= bounds.low < bounds.high <= max(expected)


def test_slices_have_it_with_its_interval(run, found):
    sliced = found["slices.csv"]
    sliced = sliced[sliced["statistic"] == "uar"].set_index(KEYS)
    rows = run[1][run[1]["entry"] == "svm"]
    for kind, value in (("sex", "male"), ("intensity", "strong")):
        part = rows[rows[kind] == value]
        row = sliced.loc[("svm", kind, value)]
        assert row["kappa"] == pytest.approx(by_repeat(part, kappa_of), abs=1e-6)
        assert row["kappa_low"] < row["kappa"] < row["kappa_high"]
    part = rows[rows["speaker"] == "03"]
    assert sliced.loc[("svm", "speaker", "03"), "kappa"] == pytest.approx(by_repeat(part, kappa_of), abs=1e-6)


def test_people_read_it_on_page_and_leaderboard(files, found):
    best = found["leaderboard.csv"].iloc[0]
    shown = f"{best['kappa']:.3f} ({best['kappa_low']:.3f}–{best['kappa_high']:.3f})"
    for name in ("report.html", "leaderboard.md"):
        text = files[name].decode()
        assert "kappa" in text
        assert shown in text


def test_wrong_rows_have_no_values_but_a_reason_and_change_nothing_else(found):
    alone = tables(derivation.derive(*recorded(("war", *RIGHT))))
    for name in ("leaderboard.csv", "slices.csv"):
        pd.testing.assert_frame_equal(found[name][list(alone[name].columns)], alone[name])
        wrong = [column for column in found[name] if column not in alone[name]]
        assert {column.split("_")[0] for column in wrong} == set(WRONG)
        assert found[name][wrong].isna().all(axis=None)
    rows = found["intervals.csv"]
    is_wrong = rows["metric"].isin(WRONG)
    pd.testing.assert_frame_equal(rows[~is_wrong].reset_index(drop=True), alone["intervals.csv"])
    assert rows.loc[is_wrong, ["value", "low", "high"]].isna().all(axis=None)
    reasons = rows[is_wrong].groupby("metric")["reason"].agg("unique")
    assert list(reasons["broken"]) == ["broken failed: ZeroDivisionError: no such luck"]
    assert list(reasons["lost"]) == [
        "lost failed: PluginError: 'own_metrics:lost' cannot be loaded: AttributeError: module 'own_metrics' has no "
        "attribute 'lost'. Install what it needs, or correct its row."
    ]
    assert reasons["shapeless"][0].startswith("shapeless returned an array of shape () instead of (1, 2)")


def test_row_that_fails_on_resamples_alone_has_a_value_and_no_interval_or_test(run):
    part, classes = run[1], {"tiny": CLASSES}
    found = describe(part, classes, metrics=["uar", "fickle"], rank_by="fickle", n_resamples=50, n_permutations=50)
    rows = found.intervals[found.intervals["metric"] == "fickle"]
    assert (rows["value"] == 0.5).all()
    assert rows["low"].isna().all()
    assert set(rows["reason"]) == {"fickle failed: ValueError: one at a time"}
    assert found.pairs["p_value"].isna().all()


def test_config_knows_it_and_names_the_nearest():
    config = {"corpora": ["synthetic"], "models": ["svm"], "metrics": ["uar", "kappa"]}
    validate_config(config)
    with pytest.raises(ConfigError, match="Unknown metric 'kapa'. Did you mean 'kappa'"):
        validate_config({**config, "metrics": ["uar", "kapa"]})


# --- compare --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two runs: the second one answers worse."""
    made = []
    for name, right in (("base", 0.9), ("poorer", 0.5)):
        scores, predictions, content = recorded(("war", *RIGHT, *WRONG), right={"svm": right, "mlp": 0.5})
        made.append(write(tmp_path_factory.mktemp(name), scores, predictions, content))
        derivation.write_derived(made[-1], content)
    return made


def test_compare_decides_on_it(folders):
    found = (
        compare(*folders, fail={"kappa": 0.02, "doubt": 0.02, "broken": 0.1}).to_frame().set_index(["entry", "metric"])
    )
    row = found.loc[("svm", "kappa")]
    assert row["status"] == "worse"
    kappas = [by_repeat(p[p["entry"] == "svm"], kappa_of) for p in (load_results(f).predictions for f in folders)]
    assert (row["baseline"], row["candidate"]) == pytest.approx(kappas)
    assert row["low"] < row["difference"] < row["high"] < 0
    assert row["p_value"] < 0.05
    assert found.loc[("svm", "broken"), "status"] == "inconclusive"
    assert found.loc[("svm", "broken"), "reason"] == "broken failed: ZeroDivisionError: no such luck"


def test_compare_decides_on_it_from_leaderboards_alone(folders):
    [row, *_] = compare(*(folder / "leaderboard.csv" for folder in folders), fail={"kappa": 0.02}).verdicts
    assert (row.entry, row.metric, row.status) == ("svm", "kappa", "worse")
    assert row.baseline == load_results(folders[0]).leaderboard.set_index("entry").loc["svm", "kappa"]


def test_command_fails_a_build_for_it(folders, capsys):
    with pytest.raises(SystemExit) as left:
        main(["compare", *map(str, folders), "--fail", "kappa:0.02", "--json"])
    assert left.value.code == 10
    assert json.loads(capsys.readouterr().out)["verdicts"][0]["metric"] == "kappa"


def test_compare_of_an_unknown_metric_names_the_nearest_and_all(folders):
    with pytest.raises(UnknownNameError) as refused:
        compare(*folders, fail={"kapa": 0.02})
    message = str(refused.value)
    assert message.startswith("Unknown metric 'kapa'. Did you mean 'kappa'? Known metrics: ")
    for name in ("auroc", "kappa", "latency_p50_ms", "recall_sad", "uar"):
        assert name in message
