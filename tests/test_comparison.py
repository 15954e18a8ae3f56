"""Two runs compared: what is refused, what each status means, and what reaches a person, a program and GitHub."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import emobench
from emobench.cli.main import main
from emobench.comparison.verdicts import (
    BETTER,
    FAILED,
    IDENTICAL,
    INCONCLUSIVE,
    MISSING,
    NEW,
    NO_WORSE,
    WORSE,
    NotComparableError,
    Tolerance,
    compare,
    decide,
    decide_measurement,
    unpaired_difference,
)
from emobench.errors import ConfigError, DataError
from emobench.files import write_json
from emobench.results.run import RUN_SCHEMA, Results
from emobench.results.tables import LEADERBOARD, PREDICTIONS, in_markdown, write_csv, write_table
from emobench.statistics.counts import count_entries, score
from emobench.statistics.differences import Difference
from emobench.statistics.intervals import interval

CLASSES = ("angry", "happy", "sad")
BOARD = {"corpus": "tiny", "features": "mfcc40", "protocol": "group-kfold"}
SETTINGS = {"deadline": None, "max_examples": 8}


def predictions_of(entry, *, accuracy=0.6, seed=0, n_speakers=12, n_clips=6, repeats=1, n_folds=3, **board):
    """Return an entry's predictions: each right with a probability that is the same for all."""
    rng = np.random.default_rng(seed)
    rows = []
    for repeat in range(repeats):
        for speaker in range(n_speakers):
            for emotion in CLASSES:
                for clip in range(n_clips):
                    others = [label for label in CLASSES if label != emotion]
                    answer = emotion if rng.random() < accuracy else others[rng.integers(len(others))]
                    proba = {f"p_{label}": 0.6 if label == answer else 0.2 for label in CLASSES}
                    where = {**BOARD, **board, "run": "r", "entry": entry, "repeat": repeat, "fold": speaker % n_folds}
                    who = {"utterance": f"s{speaker:02d}/{emotion}-{clip}.wav", "speaker": f"s{speaker:02d}"}
                    rows.append({**where, **who, "y_true": emotion, "y_pred": answer, **proba})
    columns = [*PREDICTIONS, *(f"p_{label}" for label in CLASSES)]
    return pd.DataFrame(rows).reindex(columns=columns)


def results_of(*parts, name="r", latency=None):
    """Return the results of a run that made these predictions, with nothing on the disk."""
    predictions = pd.concat(parts, ignore_index=True)
    rows = []
    for key, part in predictions.groupby([*BOARD, "entry"], sort=False):
        of_entry = count_entries(part, CLASSES)[key[-1]]
        found = interval(of_entry, n_resamples=199)
        figures = {"uar": round(score(of_entry), 6), "uar_low": found.low, "uar_high": found.high}
        sizes = {"n_utterances": part["utterance"].nunique(), "n_speakers": part["speaker"].nunique(), "n_failed": 0}
        timing = {"latency_p50_ms": latency, "fit_s": 1.0}
        fixed = {"model": key[-1], "folds": "f0", "feature_spec": "mfcc40 v1"}
        rows.append({**dict(zip([*BOARD, "entry"], key, strict=True)), **figures, **sizes, **timing, **fixed})
    board = pd.DataFrame(rows).reindex(columns=list(LEADERBOARD))
    made = Results(Path(name), board, record_of(predictions, name))
    made.__dict__.update(predictions=predictions, scores=None)
    return made


def record_of(predictions, name):
    boards = predictions[["corpus", "protocol"]].drop_duplicates().itertuples(index=False)
    return {
        "schema_version": 1,
        "run": name,
        "config": {"seed": 0, "repeats": 1, "audio": {"mono": "mean"}},
        "corpora": {corpus: {"fingerprint": "c0", "classes": list(CLASSES)} for corpus in set(predictions["corpus"])},
        "features": {
            features: {
                "specification": {"name": features, "version": 1, "sr": 22050, "params": {"n_mfcc": 40}},
                "key": "k0",
            }
            for features in set(predictions["features"])
        },
        "entries": {entry: {"model": entry, "params": {"C": 1}} for entry in predictions["entry"].unique()},
        "metrics": {"uar": 1, "war": 1},
        "leakage_certificates": [
            {"corpus": corpus, "protocol": protocol, "waives": [], "folds_fingerprint": "f0"}
            for corpus, protocol in boards
        ],
        "environment": {"cpu": "Z80", "python": "3.11", "versions": {"numpy": "2.0"}},
    }


def changed(run, *path, to):
    """Return results whose run.json has another value at a path."""
    record = copy.deepcopy(dict(run.run))
    *parents, last = path
    place = record
    for name in parents:
        place = place[name]
    place[last] = to
    other = Results(run.path, run.leaderboard, record)
    other.__dict__.update(predictions=run.predictions, scores=None)
    return other


def alone(run):
    """Return the leaderboard of a run as if nothing else were known."""
    other = Results(run.path, run.leaderboard)
    other.__dict__.update(predictions=None, scores=None)
    return other


def worsened(part, n_flips, *, seed=0):
    """Return predictions of which some right answers are made wrong."""
    part = part.copy()
    right = np.flatnonzero(part["y_true"] == part["y_pred"])
    for row in np.random.default_rng(seed).choice(right, n_flips, replace=False):
        wrong = next(label for label in CLASSES if label != part["y_true"].iloc[row])
        part.iloc[row, part.columns.get_loc("y_pred")] = wrong
    return part


def statuses(found):
    return {(verdict.entry, verdict.metric): verdict.status for verdict in found.verdicts}


def only(found):
    (verdict,) = found.verdicts
    return verdict


@pytest.fixture(scope="module")
def svm():
    return predictions_of("svm")


@pytest.fixture(scope="module")
def base(svm):
    return results_of(svm)


# --- statuses ---------------------------------------------------------------------------------------------------------


def test_a_run_is_identical_to_itself(base):
    found = compare(base, base, fail={"uar": 0.0, "log_loss": 0.0, "recall_sad": 0.0, "fit_s": "0%"})
    assert {verdict.status for verdict in found.verdicts} == {IDENTICAL}
    assert found.exit_code == 0
    assert [(v.difference, v.low, v.high, v.p_value) for v in found.verdicts[:3]] == [(0, 0, 0, 1)] * 3


def test_taking_right_answers_away_is_worse_and_giving_them_back_is_better(base, svm):
    poorer = results_of(worsened(svm, 30))
    drop = only(compare(base, poorer))
    assert drop.status == WORSE
    assert drop.difference == pytest.approx(-30 / 216)
    assert drop.high < 0
    assert compare(base, poorer).exit_code == 10
    gain = only(compare(poorer, base))
    assert gain.status == BETTER
    assert (gain.difference, gain.low, gain.high) == pytest.approx((-drop.difference, -drop.high, -drop.low), abs=1e-9)
    assert compare(poorer, base).exit_code == 0


def test_a_sure_drop_within_the_tolerance_is_no_worse(base, svm):
    poorer = results_of(worsened(svm, 12))
    assert only(compare(base, poorer, fail={"uar": 0.02})).status == WORSE
    within = compare(base, poorer, fail={"uar": 0.15})
    assert only(within).status == NO_WORSE
    assert within.exit_code == 0


def test_what_chance_can_explain_is_inconclusive_and_says_how_many_speakers_would_decide(base):
    other = results_of(predictions_of("svm", seed=2))
    found = compare(base, other)
    assert only(found).status == INCONCLUSIVE
    assert "speakers instead of 12 would decide it" in only(found).reason
    assert found.exit_code == 0
    assert compare(base, other, fail_inconclusive=True).exit_code == 11


def test_answers_that_differ_but_count_the_same_are_no_worse(svm):
    mirrored = svm.copy()
    rows = mirrored[(mirrored["speaker"] == "s00") & (mirrored["y_true"] == "sad")]
    assert rows["y_pred"].nunique() > 1
    mirrored.loc[rows.index, "y_pred"] = rows["y_pred"].to_numpy()[::-1]
    verdict = only(compare(results_of(svm), results_of(mirrored), fail={"uar": 0.0}))
    assert (verdict.status, verdict.difference) == (NO_WORSE, 0)


def test_less_is_better_for_losses(base, svm):
    columns = [f"p_{label}" for label in CLASSES]
    surer = svm.copy()
    is_right = (svm["y_pred"] == svm["y_true"]).to_numpy()[:, None]
    surer[columns] = np.where(is_right & (svm[columns] > 0.5), 0.9, np.where(is_right, 0.05, svm[columns]))
    found = compare(base, results_of(surer), fail={"log_loss": 0.01, "uar": 0.01})
    assert statuses(found) == {("svm", "log_loss"): BETTER, ("svm", "uar"): IDENTICAL}
    assert compare(results_of(surer), base, fail={"log_loss": 0.01}).exit_code == 10


def test_new_missing_and_failed_entries_are_said(svm):
    mlp, cnn = predictions_of("mlp", seed=1), predictions_of("cnn", seed=2)
    before, after = results_of(svm, mlp), results_of(svm, cnn)
    found = compare(before, after)
    assert statuses(found) == {("svm", "uar"): IDENTICAL, ("mlp", ""): MISSING, ("cnn", ""): NEW}
    assert found.exit_code == 10
    assert compare(before, after, allow_missing=True).exit_code == 0
    broken = copy.deepcopy(before)
    broken.leaderboard.loc[broken.leaderboard["entry"] == "mlp", ["n_failed", "uar"]] = [1, math.nan]
    assert statuses(compare(before, broken))["mlp", ""] == FAILED
    assert compare(before, broken, allow_missing=True).exit_code == 10
    assert statuses(compare(broken, before))["mlp", ""] == NEW
    assert statuses(compare(broken, broken))["mlp", ""] == INCONCLUSIVE


def test_a_board_that_only_the_baseline_has_is_missing(svm):
    other = predictions_of("svm", protocol="loso")
    found = compare(results_of(svm, other), results_of(svm))
    assert [verdict.status for verdict in found.verdicts] == [IDENTICAL, MISSING]
    assert any("only the baseline has tiny · mfcc40 · loso" in note for note in found.notes)
    reverse = compare(results_of(svm), results_of(svm, other))
    assert [verdict.status for verdict in reverse.verdicts] == [IDENTICAL]
    assert any("only the candidate has" in note for note in reverse.notes)


def test_holm_corrects_for_all_verdicts(svm):
    before = [predictions_of(f"m{i}", seed=i) for i in range(8)]
    after = [part.copy() for part in before]
    after[0] = worsened(before[0], 12)
    for i in range(1, 8):
        after[i] = predictions_of(f"m{i}", seed=100 + i)
    one = only(compare(results_of(before[0]), results_of(after[0])))
    many = next(v for v in compare(results_of(*before), results_of(*after)).verdicts if v.entry == "m0")
    assert many.p_value == pytest.approx(min(1, 8 * one.p_value))


def test_identical_entries_do_not_count_in_holms_correction(svm):
    same = [predictions_of(f"m{i}", seed=i) for i in range(8)]
    poorer = worsened(svm, 12)
    alone_p = only(compare(results_of(svm), results_of(poorer))).p_value
    found = compare(results_of(svm, *same), results_of(poorer, *same))
    assert found.verdicts[0].p_value == alone_p


def test_repeats_that_only_one_has_are_left_out(svm):
    three = predictions_of("svm", repeats=3)
    found = compare(results_of(svm), results_of(three))
    assert only(found).status == IDENTICAL  # the first repeat is the same


@given(seed=st.integers(0, 1000), n_flips=st.integers(0, 40))
@settings(**SETTINGS)
def test_better_and_worse_mirror_each_other(seed, n_flips):
    first = predictions_of("svm", seed=seed, n_speakers=7, n_clips=3)
    n_right = int((first["y_true"] == first["y_pred"]).sum())
    second = worsened(first, min(n_flips, n_right), seed=seed)
    forward, back = compare(results_of(first), results_of(second)), compare(results_of(second), results_of(first))
    assert (only(forward).status == WORSE) == (only(back).status == BETTER)
    assert only(forward).p_value == only(back).p_value
    assert only(forward).difference == -only(back).difference


@given(seed=st.integers(0, 1000))
@settings(**SETTINGS)
def test_the_order_of_rows_says_nothing(seed):
    first, second = (predictions_of("svm", seed=s, n_speakers=7, n_clips=3) for s in (1, 2))
    shuffled = second.sample(frac=1, random_state=seed)
    expected = compare(results_of(first), results_of(second)).verdicts
    assert compare(results_of(first), results_of(shuffled)).verdicts == expected


# --- the rule ---------------------------------------------------------------------------------------------------------


@given(
    value=st.floats(-0.5, 0.5),
    below=st.floats(0, 0.3),
    above=st.floats(0, 0.3),
    p_value=st.floats(0, 1),
    tolerance=st.floats(0, 0.3),
)
def test_decide_follows_its_definition(value, below, above, p_value, tolerance):
    found = Difference(value, value - below, value + above, p_value)
    status, reason = decide(found, tolerance, n_speakers=24)
    if status == WORSE:
        assert value < -tolerance
        assert found.high < 0
        assert p_value <= 0.05
    if found.low >= -tolerance:
        assert status in (NO_WORSE, BETTER)
    assert bool(reason) == (status == INCONCLUSIVE)
    mirrored = Difference(-value, -found.high, -found.low, p_value)
    assert (status == WORSE) == (decide(mirrored, tolerance)[0] == BETTER)
    assert decide(mirrored, tolerance, is_greater_better=False, n_speakers=24) == (status, reason)


def test_decide_says_the_speakers_that_its_own_rule_would_need():
    found = Difference(-0.03, -0.06, 0.005, 0.2)
    status, reason = decide(found, 0.02, n_speakers=24)
    assert status == INCONCLUSIVE
    assert f"about {math.ceil(24 * (0.035 / 0.03) ** 2)} speakers instead of 24" in reason
    close = Difference(-0.0199, -0.06, 0.02, 0.4)
    assert "hardly any number of speakers" in decide(close, 0.02, n_speakers=24)[1]


def test_decide_tells_when_holm_alone_prevents_a_verdict():
    status, reason = decide(Difference(-0.05, -0.09, -0.01, 0.11), 0.02, n_speakers=24)
    assert status == INCONCLUSIVE
    assert "p = 0.11" in reason


@pytest.mark.parametrize(
    "given, value, reference, expected",
    [("0.02", 0.02, 9, 0.02), (0.5, 0.5, 9, 0.5), ("25%", 0.25, 8, 2.0), (" 0 ", 0.0, 1, 0.0)],
)
def test_tolerance_is_absolute_or_a_share_of_the_baseline(given, value, reference, expected):
    found = Tolerance.parse(given)
    assert (found.value, found.of(reference)) == (value, expected)


@pytest.mark.parametrize("given", ["-0.1", "nan", "inf", "", "%", "two", "1e999"])
def test_tolerance_refuses_what_is_no_tolerance(given):
    with pytest.raises(ConfigError, match=r"0\.02 or 25%"):
        Tolerance.parse(given)


def test_an_unknown_metric_is_refused_with_the_nearest(base):
    with pytest.raises(ConfigError, match="Did you mean 'uar'"):
        compare(base, base, fail={"ura": 0.1})
    with pytest.raises(ConfigError, match="Did you mean 'latency_p50_ms'"):
        compare(base, base, fail={"latency_p50": "10%"})


def test_the_recall_of_a_class_is_compared_where_the_corpus_declares_it(base):
    both = changed(base, "corpora", "other", to={"fingerprint": "c2", "classes": ["bored"]})
    assert statuses(compare(both, both, fail={"uar": 0.02, "recall_bored": 0.1})) == {("svm", "uar"): IDENTICAL}
    with pytest.raises(ConfigError, match="Did you mean 'recall_sad'"):
        compare(base, base, fail={"recall_sat": 0.1})


# --- times and sizes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "before, after, noise, status",
    [
        (1.0, 1.2, math.nan, NO_WORSE),
        (1.0, 1.3, math.nan, WORSE),
        (1.3, 1.0, math.nan, BETTER),
        (1.2, 1.0, math.nan, NO_WORSE),
        (1.0, 1.3, 0.1, WORSE),
        (1.0, 1.3, 0.4, INCONCLUSIVE),
        (1.0, 1.0, 0.4, IDENTICAL),
        (math.nan, 1.0, math.nan, INCONCLUSIVE),
    ],
)
def test_decide_measurement(before, after, noise, status):
    assert decide_measurement(before, after, Tolerance(0.25, True), noise=noise)[0] == status


def test_times_are_compared_on_one_processor_only(svm):
    before, after = results_of(svm, latency=1.0), results_of(svm, latency=2.0)
    fail = {"latency_p50_ms": "25%"}
    assert compare(before, after, fail=fail).exit_code == 10
    other = changed(after, "environment", "cpu", to="6502")
    verdict = only(compare(before, other, fail=fail))
    assert verdict.status == INCONCLUSIVE
    assert "Z80 and 6502" in verdict.reason
    assert only(compare(alone(before), alone(after), fail=fail)).status == INCONCLUSIVE


def test_latency_within_the_noise_floor_is_inconclusive(svm, tmp_path):
    before, after = results_of(svm, latency=1.0), results_of(svm, latency=1.5)
    noisy = Results(tmp_path, after.leaderboard, after.run)
    noisy.__dict__.update(predictions=after.predictions)
    rows = [("svm", "total", 1, 1.5, 0.7), ("svm", "total", 64, 9.0, 0.1), ("mlp", "total", 1, 1.5, 0.1)]
    table = pd.DataFrame(rows, columns=["entry", "stage", "batch", "p50_ms", "noise_p50_ms"])
    table.to_csv(tmp_path / "latency.csv", index=False)
    verdict = only(compare(before, noisy, fail={"latency_p50_ms": "25%"}))
    assert verdict.status == INCONCLUSIVE
    assert "noise of 0.7" in verdict.reason


# --- X35: what cannot be compared -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path, value, named",
    [
        (
            ("corpora", "tiny", "fingerprint"),
            "c1",
            "fingerprint of the corpus: c0 in the baseline, c1 in the candidate",
        ),
        (("corpora", "tiny", "classes"), ["angry", "happy"], "classes"),
        (("leakage_certificates", 0, "folds_fingerprint"), "f1", "fingerprint of the folds"),
        (("leakage_certificates", 0, "waives"), ["speaker"], "shared by training and test: nothing in the baseline"),
        (("features", "mfcc40", "specification", "version"), 2, "mfcc40 v2"),
        (("features", "mfcc40", "specification", "params"), {"n_mfcc": 20}, "n_mfcc=20"),
        (("metrics", "uar"), 2, "version of uar"),
        (("config", "audio", "mono"), "first", "channels"),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_x35_another_question_is_refused(base, path, value, named):
    with pytest.raises(NotComparableError, match=named) as caught:
        compare(base, changed(base, *path, to=value))
    assert caught.value.exit_code == 11


def test_x35_all_differences_are_listed_at_once(base):
    other = changed(changed(base, "corpora", "tiny", "fingerprint", to="c1"), "metrics", "uar", to=2)
    with pytest.raises(NotComparableError) as caught:
        compare(base, other)
    assert "corpus" in str(caught.value)
    assert "version of uar" in str(caught.value)


def test_x35_nothing_in_common_is_refused(base):
    with pytest.raises(NotComparableError, match="tiny · mfcc40 · loso"):
        compare(base, results_of(predictions_of("svm", protocol="loso")))


def test_x35_leaderboards_alone_are_refused_by_what_they_show(base):
    other = alone(copy.deepcopy(base))
    other.leaderboard["folds"] = "f1"
    with pytest.raises(NotComparableError, match="fingerprint of the folds: f0"):
        compare(base, other)


def test_x35_predictions_of_other_utterances_are_refused(base, svm):
    relabelled = svm.assign(y_true=svm["y_true"].replace("sad", "angry"))
    other = copy.deepcopy(base)
    other.__dict__["predictions"] = relabelled
    with pytest.raises(NotComparableError, match="differ in utterances, speakers or true labels"):
        compare(base, other)


def test_versions_of_libraries_and_parameters_are_said_and_compared(base):
    other = changed(base, "environment", "versions", to={"numpy": "3.0", "librosa": "1"})
    other = changed(other, "features", "mfcc40", "key", to="k1")
    other = changed(other, "entries", "svm", "params", "C", to=10)
    other = changed(other, "config", "seed", to=7)
    found = compare(base, other)
    assert only(found).status == IDENTICAL
    notes = " ".join(found.notes)
    for said in ("numpy 2.0 → 3.0", "librosa none → 1", "params.C 1 → 10", "seed 0 → 7"):
        assert said in notes


def test_a_record_that_lacks_something_is_a_data_error(base):
    with pytest.raises(DataError, match="run.json must record"):
        compare(base, changed(base, "corpora", to={}))


# --- X36: what has no spread ------------------------------------------------------------------------------------------


def test_x36_one_fold_is_inconclusive_and_said():
    before, after = (predictions_of("svm", seed=seed, n_folds=1) for seed in (0, 1))
    assert only(compare(results_of(before), results_of(before))).status == IDENTICAL
    found = compare(results_of(before), results_of(after), fail_inconclusive=True)
    assert "one fold" in only(found).reason
    assert found.exit_code == 11


def test_x36_too_few_speakers_are_inconclusive_and_said():
    before, after = (predictions_of("svm", seed=seed, n_speakers=3) for seed in (0, 1))
    verdict = only(compare(results_of(before), results_of(after)))
    assert verdict.status == INCONCLUSIVE
    assert "at least 6 speakers" in verdict.reason


def test_x36_a_metric_that_is_nan_is_inconclusive_and_said(svm):
    columns = [f"p_{label}" for label in CLASSES]
    without = svm.assign(**dict.fromkeys(columns, math.nan))
    fail = {"log_loss": 0.1}
    verdict = only(compare(results_of(svm), results_of(without), fail=fail))
    assert verdict.status == INCONCLUSIVE
    assert "no probabilities" in verdict.reason
    unchanged = only(compare(results_of(without), results_of(without), fail=fail))
    assert (unchanged.status, unchanged.reason) == (IDENTICAL, verdict.reason)


# --- leaderboards alone -----------------------------------------------------------------------------------------------


@given(
    scores=st.lists(st.tuples(st.floats(0.2, 0.8), st.floats(0.01, 0.1), st.floats(0.01, 0.1)), min_size=2, max_size=2)
)
def test_unpaired_difference_holds_the_difference_and_mirrors(scores):
    before, after = [(value, value - below, value + above) for value, below, above in scores]
    found, mirrored = unpaired_difference(before, after), unpaired_difference(after, before)
    assert found.low <= found.value <= found.high
    assert (mirrored.value, mirrored.low, mirrored.high) == pytest.approx((-found.value, -found.high, -found.low))
    assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0) or found.p_value == pytest.approx(0.05, abs=1e-6)


def test_unpaired_difference_of_equal_halves_is_that_of_independent_scores():
    found = unpaired_difference((0.5, 0.46, 0.54), (0.4, 0.37, 0.43))
    assert (found.low, found.high) == pytest.approx((-0.15, -0.05))


def test_leaderboards_alone_tell_less_than_predictions_and_say_so(base, svm):
    poorer = results_of(worsened(svm, 12))
    assert only(compare(base, poorer)).status == WORSE
    found = compare(alone(base), alone(poorer))
    assert only(found).status == INCONCLUSIVE
    assert "no predictions in the baseline or the candidate" in " ".join(found.notes)
    assert "could not be checked" in " ".join(found.notes)
    much = results_of(worsened(svm, 90))
    assert only(compare(alone(base), alone(much))).status == WORSE


def test_equal_leaderboards_are_identical_and_say_that_predictions_were_not_compared(base):
    verdict = only(compare(alone(base), alone(base)))
    assert (verdict.status, verdict.reason) == (IDENTICAL, "equal figures; predictions were not compared")


def test_a_score_without_interval_is_inconclusive(base):
    other = alone(copy.deepcopy(base))
    other.leaderboard["uar_low"] = math.nan
    other.leaderboard["uar"] -= 0.3
    verdict = only(compare(alone(base), other))
    assert verdict.status == INCONCLUSIVE
    assert "no interval" in verdict.reason


def test_an_entry_that_stands_twice_is_refused(base):
    double = Results(base.path, pd.concat([base.leaderboard, base.leaderboard]))
    with pytest.raises(DataError, match="'svm' stands twice"):
        compare(base, double)


# --- for people and programs ------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path, svm):
    """Folders of a baseline, an equal candidate and a poorer one, as a run leaves them."""
    mlp = predictions_of("mlp", seed=3)
    made = {"base": (svm, mlp), "same": (svm, mlp), "poorer": (worsened(svm, 30), mlp)}
    for name, parts in made.items():
        run = results_of(*parts, name=name)
        write_json(tmp_path / name / "run.json", run.run)
        write_csv(tmp_path / name / "leaderboard.csv", run.leaderboard)
        write_table(tmp_path / name / "predictions", run.predictions, PREDICTIONS)
    return tmp_path


@pytest.fixture
def command(capsys, monkeypatch):
    """Run `emobench compare`; return exit code, stdout and stderr."""
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main(["compare", *map(str, arguments)])
        return caught.value.code, *capsys.readouterr()

    return run


def test_compare_reads_folders_and_csvs_from_python(folders):
    assert emobench.compare(folders / "base", folders / "same").exit_code == 0
    assert emobench.compare(folders / "base", emobench.load_results(folders / "poorer")).exit_code == 10
    frame = emobench.compare(folders / "base", folders / "poorer" / "leaderboard.csv").to_frame()
    assert list(frame["entry"]) == ["svm", "mlp"]
    assert set(frame["status"]) <= {INCONCLUSIVE, WORSE, IDENTICAL}


def test_command_exits_with_0_10_and_11(folders, command):
    code, out, err = command(folders / "base", folders / "same")
    assert (code, err) == (0, "")
    assert out.startswith("No regression: 2 identical\n")
    code, out, _ = command(folders / "base", folders / "poorer")
    assert code == 10
    assert out.startswith("Regression: 1 worse, 1 identical\n")
    assert "-0.139" in out
    path = folders / "same" / "run.json"
    record = json.loads(path.read_text())
    record["corpora"]["tiny"]["fingerprint"] = "c9"
    path.write_text(json.dumps(record))
    code, out, err = command(folders / "base", folders / "same")
    assert (code, out) == (11, "")
    assert "c9 in the candidate" in err
    code, out, _ = command(folders / "base", folders / "same", "--json")
    assert json.loads(out)["exit_code"] == code == 11


def test_command_prints_json_without_nan(folders, command):
    code, out, _ = command(folders / "base", folders / "poorer", "--json", "--fail", "uar:0.02", "--fail", "fit_s:25%")
    found = json.loads(out, parse_constant=pytest.fail)
    assert found["exit_code"] == code == 10
    assert [row["status"] for row in found["verdicts"]] == [WORSE, IDENTICAL, IDENTICAL, IDENTICAL]
    assert found["verdicts"][1]["low"] is None


def test_command_prints_markdown(folders, command):
    _, out, _ = command(folders / "base", folders / "poorer", "--markdown")
    first, _, heading, rule, row, *_ = out.splitlines()
    assert first == "**Regression: 1 worse, 1 identical.** poorer against base."
    assert heading.count("|") == rule.count("|") == row.count("|")
    assert row.startswith("| **worse** | svm | uar |")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--fail", "uar"], "METRIC:TOLERANCE"),
        (["--fail", "uar:x"], "0.02 or 25%"),
        (["--fail", "ura:0.1"], "Did you mean 'uar'?"),
        (["--fail", "uar:0.1", "--fail", "uar:0.2"], "'uar' twice"),
        (["--json", "--markdown"], "together"),
    ],
    ids=["no tolerance", "no number", "unknown", "twice", "both"],
)
def test_command_refuses_wrong_options(folders, command, arguments, message):
    code, _, err = command(folders / "base", folders / "same", *arguments)
    assert code == 2
    assert message in err


def test_x34_a_newer_schema_is_refused(folders, command):
    path = folders / "same" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": RUN_SCHEMA + 1}))
    code, _, err = command(folders / "base", folders / "same")
    assert code == 2
    assert "a newer emobench wrote it" in err


def test_damaged_predictions_are_a_data_error(folders, command):
    (folders / "same" / "predictions.parquet").write_bytes(b"PAR1")
    code, _, err = command(folders / "base", folders / "same")
    assert code == 3
    assert "predictions.parquet must be readable" in err


def test_github_gets_annotations_and_a_summary(folders, command, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folders / "summary.md"))
    code, out, err = command(folders / "base", folders / "poorer", "--json")
    assert code == 10
    json.loads(out)
    annotations = [line for line in err.splitlines() if line.startswith("::")]
    assert len(annotations) == 1
    assert annotations[0].startswith("::error title=emobench%3A worse::tiny · mfcc40 · group-kfold · svm · uar: ")
    assert "95 %25 interval" in annotations[0]
    assert (folders / "summary.md").read_text().startswith("**Regression: 1 worse")
    command(folders / "base", folders / "same")
    assert (folders / "summary.md").read_text().count("against") == 2


def test_github_is_told_in_one_line_what_cannot_be_compared(folders, command, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    path = folders / "same" / "leaderboard.csv"
    path.write_text(path.read_text().replace("group-kfold", "loso"))
    code, _, err = command(folders / "base", folders / "same")
    assert code == 11
    (line,) = [line for line in err.splitlines() if line.startswith("::error")]
    assert "%0A" in line


def test_names_cannot_break_a_table(svm):
    wicked = svm.assign(entry="a|b<script>\n::error::")
    markdown = compare(results_of(wicked), results_of(wicked)).to_markdown()
    assert "a\\|b&lt;script> ::error::" in markdown


@pytest.mark.parametrize(
    "name, shown",
    [
        ("a`[x](javascript:1)", r"a\`\[x\](javascript:1)"),
        ("![x](http://x)", r"!\[x\](http://x)"),
        ("@name", "@\u200bname"),
        ("a\rb\x1b[31m", r"a\rb\x1b\[31m"),
        ("*a* ~b~ _c_", r"\*a\* \~b\~ \_c\_"),
        ("mfcc40_stats", "mfcc40_stats"),
    ],
    ids=["link", "image", "mention", "control", "emphasis", "plain"],
)
def test_names_are_shown_as_text_in_markdown(name, shown):
    """N43."""
    assert in_markdown(name) == shown


# --- real runs --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_runs_are_compared_by_the_folder_that_holds_them(tiny_corpus, tmp_path):
    config = {
        "corpora": [{"name": "manifest", "path": str(tiny_corpus / "manifest.csv")}],
        "models": ["svm", "dummy"],
        "protocols": [{"name": "group-kfold", "n_splits": 2}],
    }
    emobench.run(config, output=tmp_path / "a", n_jobs=1)
    emobench.run({**config, "models": [{"name": "dummy", "id": "svm"}]}, output=tmp_path / "b", n_jobs=1)
    assert {verdict.status for verdict in compare(tmp_path / "a", tmp_path / "a").verdicts} == {IDENTICAL}
    found = compare(tmp_path / "a", tmp_path / "b")
    assert statuses(found) == {("svm", "uar"): INCONCLUSIVE, ("dummy", ""): MISSING}
    assert "at least 6 speakers" in found.verdicts[0].reason  # the tiny corpus has four
    assert any("model svm → dummy" in note for note in found.notes)
