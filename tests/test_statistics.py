"""Intervals, differences and groups against naive loops and SciPy, and simulations of how often they are right."""

import itertools
import math
import time
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from emobench import metrics
from emobench.errors import ConfigError, DataError, UnknownNameError
from emobench.statistics import description, differences, intervals
from emobench.statistics.counts import Counts, count, score, score_resamples
from emobench.statistics.description import describe
from emobench.statistics.differences import PAIRS, Difference, describe_pairs, difference, holm, pairs, rank_groups
from emobench.statistics.intervals import Interval, interval, resamples

CLASSES = ("angry", "calm", "fearful", "happy", "sad")
K = len(CLASSES)
METRICS = ("uar", "war", "macro_f1")
NEEDY = ("log_loss", "brier", "ece", "auroc")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """As where a run is described: many are slower at this size."""
    with threadpool_limits(1):
        yield


def corpus(n_speakers=8, n_clips=30, *, n_repeats=1, skill=0.5, seed=0):
    """Return rows (y_true, y_pred, speakers, repeats) of an unbalanced corpus; every speaker has every class."""
    rng = np.random.default_rng(seed)
    y_true = np.concatenate([np.append(np.arange(K), rng.integers(0, K, n_clips - K)) for _ in range(n_speakers)])
    speakers = np.repeat([f"s{i:02d}" for i in range(n_speakers)], n_clips)
    known = np.repeat(np.clip(skill + rng.normal(0, 0.2, n_speakers), 0, 1), n_clips)
    y_pred = [
        np.where(rng.random(len(y_true)) < known, y_true, rng.integers(0, K, len(y_true))) for _ in range(n_repeats)
    ]
    repeats = np.repeat(np.arange(n_repeats), len(y_true))
    return np.tile(y_true, n_repeats), np.concatenate(y_pred), np.tile(speakers, n_repeats), repeats


def answers(n_speakers=8, n_clips=30, *, n_repeats=1, n_folds=4, skill=1.0, seed=0):
    """Return rows (y_true, proba, speakers, repeats, folds): speakers in folds, each with voices of their own."""
    y_true, _, speakers, repeats = corpus(n_speakers, n_clips, n_repeats=n_repeats, seed=seed)
    rng = np.random.default_rng(seed + 50)
    _, speaker = np.unique(speakers, return_inverse=True)
    leaning = rng.normal(size=(len(y_true), K)) + rng.normal(0, 0.7, (n_speakers, K))[speaker]
    proba = np.exp(leaning + skill * np.eye(K)[y_true])
    proba = (proba / proba.sum(axis=1, keepdims=True)).round(2)  # so that some are equal
    return y_true, proba, speakers, repeats, speaker % n_folds


def counted_answers(rows):
    y_true, proba, speakers, repeats, folds = rows
    return count(y_true, proba.argmax(axis=1), speakers, K, repeats=repeats, classes=CLASSES, proba=proba, folds=folds)


def naive_of_probabilities(rows, metric, weights):
    """Score the rows of every speaker, each as often as its weight says; AUROC by folds, each by its share drawn."""
    y_true, proba, speakers, repeats, folds = rows
    names = np.unique(speakers)

    def scored(rows):
        drawn = np.repeat(rows, np.asarray(weights)[np.searchsorted(names, speakers[rows])])
        if not len(drawn):
            return math.nan, 0.0
        share = len(drawn) / len(rows)
        if metric == "auroc":
            is_defined = len(set(y_true[drawn])) == K
            areas = [roc_auc_score(y_true[drawn] == k, proba[drawn, k]) for k in range(K * is_defined)]
            return np.mean(areas) if is_defined else math.nan, share
        return metrics.score(metric, y_true[drawn], proba[drawn].argmax(axis=1), K, proba[drawn])[0], share

    by_repeat = []
    for repeat in np.unique(repeats):
        inside = repeats == repeat
        parts = [np.flatnonzero(inside)]
        if metric == "auroc":
            parts = [np.flatnonzero(inside & (folds == fold)) for fold in np.unique(folds)]
        found = np.array([scored(rows) for rows in parts])
        found = found[~np.isnan(found[:, 0])]
        by_repeat.append(np.average(found[:, 0], weights=found[:, 1]) if len(found) else math.nan)
    return np.mean(by_repeat)


def counted(rows):
    y_true, y_pred, speakers, repeats = rows
    return count(y_true, y_pred, speakers, K, repeats=repeats)


def naive(rows, metric, weights):
    """Score the rows of every speaker, each as often as its weight says, repeat by repeat."""
    y_true, y_pred, speakers, repeats = rows
    names = np.unique(speakers)
    per_repeat = []
    for repeat in np.unique(repeats):
        drawn = np.concatenate(
            [
                np.tile(np.flatnonzero((speakers == name) & (repeats == repeat)), int(weight))
                for name, weight in zip(names, weights, strict=True)
            ]
        )
        per_repeat.append(metrics.score(metric, y_true[drawn], y_pred[drawn], K)[0])
    return np.mean(per_repeat)


def simulated(hits, n_clips):
    """Return `Counts` of one simulated entry from its right answers by speaker and class."""
    n_speakers = len(hits)
    tables = np.zeros((1, n_speakers, K, K), dtype=int)
    each = np.arange(K)
    tables[0][:, each, each] = hits
    tables[0][:, each, (each + 1) % K] = n_clips - hits
    return Counts(tuple(f"{i:03d}" for i in range(n_speakers)), tables)


def drawn(*given):
    return np.concatenate(list(resamples(*given)))


def logistic(z):
    return 1 / (1 + np.exp(-z))


# --- sufficient statistics -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_score_of_a_resample_is_the_metric_of_its_pooled_rows(metric):
    rows = corpus(n_repeats=3)
    weights = np.random.default_rng(1).multinomial(8, np.full(8, 1 / 8), 40)
    expected = [naive(rows, metric, row) for row in weights]
    assert score_resamples(counted(rows), metric, weights) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_score_is_the_mean_over_repeats_of_the_metric(metric):
    rows = corpus(n_repeats=2)
    y_true, y_pred, _, repeats = rows
    expected = np.mean([metrics.score(metric, y_true[repeats == r], y_pred[repeats == r], K)[0] for r in (0, 1)])
    assert score(counted(rows), metric) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("metric", ["uar", "macro_f1"])
def test_score_of_a_resample_without_a_class_is_nan_as_the_metric_is(metric):
    """Also where the class that nobody speaks is predicted, which leaves its F1 a zero."""
    rows = (
        np.array([0, 1, 2, 3, 4, 0, 0, 0, 0, 0]),
        np.array([0, 1, 2, 3, 4, 0, 1, 2, 3, 4]),
        np.array(list("aaaaabbbbb")),
        np.zeros(10, int),
    )
    weights = np.array([[1, 1], [0, 2], [2, 0]])
    found = score_resamples(counted(rows), metric, weights)
    assert found == pytest.approx([naive(rows, metric, row) for row in weights], nan_ok=True)
    assert np.isnan(found).tolist() == [False, True, False]


@pytest.mark.parametrize("metric", NEEDY)
@pytest.mark.parametrize("n_folds", [1, 4, 8], ids=["speakers-shared", "two-speakers-a-fold", "one-speaker-a-fold"])
def test_score_of_a_resample_is_the_metric_of_probabilities_of_its_rows(metric, n_folds):
    rows = answers(n_repeats=2, n_folds=n_folds)
    weights = np.random.default_rng(1).multinomial(8, np.full(8, 1 / 8), 6)
    expected = [naive_of_probabilities(rows, metric, row) for row in weights]
    assert score_resamples(counted_answers(rows), metric, weights) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", NEEDY)
def test_score_of_probabilities_is_the_mean_over_repeats_and_of_auroc_over_folds(metric):
    y_true, proba, _, repeats, folds = rows = answers(n_speakers=6, n_repeats=3, n_folds=4)  # folds of 2 and 1
    parts = itertools.product(range(3), range(4) if metric == "auroc" else [slice(None)])
    kept = [(repeats == r) & (True if isinstance(f, slice) else folds == f) for r, f in parts]
    values = [metrics.score(metric, y_true[part], None, K, proba[part])[0] for part in kept]
    assert score(counted_answers(rows), metric) == pytest.approx(np.mean(values), abs=1e-12)


def test_folds_that_share_speakers_are_scored_apart():
    """Under a random split each fold's model ranks its own test clips, of all speakers."""
    y_true, proba, speakers, repeats, _ = answers()
    folds = np.arange(len(y_true)) % 3
    rows = (y_true, proba, speakers, repeats, folds)
    weights = np.random.default_rng(1).multinomial(8, np.full(8, 1 / 8), 10)
    expected = [naive_of_probabilities(rows, "auroc", row) for row in weights]
    assert score_resamples(counted_answers(rows), "auroc", weights) == pytest.approx(expected, abs=1e-12)


def test_recall_of_a_class_is_that_of_the_metric():
    rows = corpus(n_repeats=2)
    counts = count(*rows[:3], K, repeats=rows[3], classes=CLASSES)
    by_repeat = [metrics.recalls(metrics.confusion(rows[0][rows[3] == r], rows[1][rows[3] == r], K)) for r in (0, 1)]
    assert [score(counts, f"recall_{label}") for label in CLASSES] == pytest.approx(np.mean(by_repeat, axis=0))
    assert score(counts) == pytest.approx(np.mean(by_repeat))


def test_every_registered_metric_has_an_interval():
    counts = counted_answers(answers())
    for name in metrics.METRICS:
        found = interval(counts, name, n_resamples=199)
        assert found.low < score(counts, name) < found.high, name


def test_counts_do_not_depend_on_the_order_of_rows():
    rows = corpus(n_repeats=2)
    order = np.random.default_rng(3).permutation(len(rows[0]))
    ids = np.array([f"c/{i}" for i in range(len(order))])
    first = count(*rows[:3], K, repeats=rows[3], utterances=ids)
    again = count(*(part[order] for part in rows[:3]), K, repeats=rows[3][order], utterances=ids[order])
    assert (first.tables == again.tables).all()
    assert (first.speakers, first.utterances) == (again.speakers, again.utterances)
    assert first.n_utterances == 240


def test_count_refuses_a_label_that_is_not_declared():
    with pytest.raises(DataError, match="codes of the 5 declared classes. Got 0 to 5"):
        count(np.array([0, 5]), np.array([0, 1]), ["a", "a"], K)
    with pytest.raises(DataError, match="must have predictions"):
        count(np.array([], int), np.array([], int), [], K)


# --- intervals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["uar", "macro_f1"])
def test_interval_is_that_of_scipy_over_speakers_at_the_expanded_level(metric):
    """SciPy draws its own resamples and scores them row by row: equal but for the luck of the draw."""
    rows = corpus(n_speakers=12, seed=5)

    def of_speakers(drawn):
        return naive(rows, metric, np.bincount(drawn.astype(int), minlength=12))

    level = 2 * stats.norm.cdf(stats.t.ppf(0.975, 11) * math.sqrt(12 / 11)) - 1
    expected = stats.bootstrap(
        (np.arange(12),), of_speakers, vectorized=False, n_resamples=1500, confidence_level=level, method="BCa", rng=1
    ).confidence_interval
    found = interval(counted(rows), metric, n_resamples=20000, seed=2)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.01)
    assert found.high - found.low > 0.1  # the tolerance is small beside it
    assert found.low < score(counted(rows), metric) < found.high


def test_interval_is_exactly_scipys_bca_of_the_same_resamples():
    rows = corpus(n_speakers=8, seed=6)
    weights = drawn(8, 300, 4)
    distribution = np.array([naive(rows, "uar", row) for row in weights])
    level = 2 * stats.norm.cdf(stats.t.ppf(0.95, 7) * math.sqrt(8 / 7)) - 1
    expected = stats.bootstrap(
        (np.arange(8),),
        lambda drawn: naive(rows, "uar", np.bincount(drawn.astype(int), minlength=8)),
        vectorized=False,
        n_resamples=0,
        bootstrap_result=SimpleNamespace(bootstrap_distribution=distribution),
        confidence_level=level,
        method="BCa",
    ).confidence_interval
    found = interval(counted(rows), confidence=0.9, n_resamples=300, seed=4)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_interval_follows_from_the_seed():
    counts = counted(corpus())
    first = interval(counts, n_resamples=999, seed=7)
    assert interval(counts, n_resamples=999, seed=7) == first
    assert interval(counts, n_resamples=999, seed=8) != first


def test_interval_of_a_constant_answer_is_its_value():
    y_true, _, speakers, repeats = corpus(n_speakers=24)
    counts = count(y_true, np.zeros_like(y_true), speakers, K, repeats=repeats)
    assert interval(counts) == Interval(0.2, 0.2)
    perfect = count(y_true, y_true, speakers, K)
    assert {interval(perfect, metric) for metric in METRICS} == {Interval(1.0, 1.0)}


@pytest.mark.parametrize("n_speakers", [1, 5])
def test_interval_of_too_few_speakers_is_nan_with_a_reason(n_speakers):
    found = interval(counted(corpus(n_speakers=n_speakers)))
    assert np.isnan([found.low, found.high]).all()
    assert found.reason == f"an interval at 95% takes at least 6 speakers, there are {n_speakers}"
    assert math.isnan(interval(counted(corpus(n_speakers=1)), confidence=0.5 - 1e-9).low)


def test_interval_of_six_speakers_exists():
    found = interval(counted(corpus(n_speakers=6)))
    assert found.reason == ""
    assert 0 <= found.low < found.high <= 1


def test_interval_without_a_class_is_nan_as_the_score():
    y_true, y_pred, speakers, _ = corpus()
    heard = y_true != 4
    found = interval(count(y_true[heard], y_pred[heard], speakers[heard], K))
    assert math.isnan(found.low)
    assert found.reason == "no test utterance of 1 of the 5 declared classes"
    assert not math.isnan(interval(count(y_true[heard], y_pred[heard], speakers[heard], K), "war").low)


@pytest.mark.parametrize(("n_having", "is_defined"), [(1, False), (3, False), (4, True), (12, True)])
def test_interval_with_a_class_that_few_speakers_have(n_having, is_defined):
    y_true, y_pred, speakers, _ = corpus(n_speakers=24)
    kept = (y_true != 4) | np.isin(speakers, [f"s{i:02d}" for i in range(n_having)])
    counts = count(y_true[kept], y_pred[kept], speakers[kept], K)
    found = interval(counts, n_resamples=1999)
    assert (not math.isnan(found.low)) is is_defined
    assert found.reason == (
        "" if is_defined else f"an interval takes at least 4 speakers of each class, one class has {n_having}"
    )
    assert not math.isnan(interval(counts, "war", n_resamples=1999).low)


def test_interval_of_an_unknown_metric_names_those_there_are():
    with pytest.raises(UnknownNameError, match="Unknown metric 'kappa'. Known metrics: auroc, .*, uar, war"):
        interval(counted(corpus()), "kappa")
    with pytest.raises(UnknownNameError, match="Unknown metric 'recall_bored'"):
        interval(counted_answers(answers()), "recall_bored")


@pytest.mark.parametrize("metric", NEEDY)
def test_interval_of_a_model_without_probabilities_is_nan_with_a_reason(metric):
    counts = counted(corpus())
    assert math.isnan(score(counts, metric))
    found = interval(counts, metric)
    assert math.isnan(found.low)
    assert found.reason == "the model gives no probabilities"


@pytest.mark.parametrize("metric", NEEDY)
def test_interval_of_certain_probabilities_is_their_value(metric):
    y_true, _, speakers, repeats, folds = answers()
    counts = counted_answers((y_true, np.eye(K)[y_true], speakers, repeats, folds))
    best = 1.0 if metric == "auroc" else 0.0
    found = interval(counts, metric)
    assert (score(counts, metric), found.low, found.high) == pytest.approx((best, best, best), abs=1e-12)


@pytest.mark.parametrize("metric", NEEDY)
def test_interval_of_one_speaker_is_nan_with_a_reason(metric):
    counts = counted_answers(answers(n_speakers=1, n_folds=1))
    assert not math.isnan(score(counts, metric))
    assert interval(counts, metric).reason == "an interval at 95% takes at least 6 speakers, there are 1"


def test_auroc_is_undefined_where_a_fold_lacks_a_class():
    """Never the mean of the folds that have it: another entry's would be of other speakers."""
    y_true, proba, speakers, repeats, folds = answers()
    kept = ~((folds == 2) & (y_true == 4))
    counts = counted_answers(tuple(part[kept] for part in (y_true, proba, speakers, repeats, folds)))
    assert math.isnan(score(counts, "auroc"))
    assert interval(counts, "auroc").reason == f"fold 2 has no test utterance of {counts.classes[4]}"
    assert not math.isnan(interval(counts, "log_loss").low)
    assert not math.isnan(interval(counts, "recall_sad").low)


def test_interval_of_the_recall_of_a_class_needs_speakers_of_that_class_alone():
    y_true, y_pred, speakers, _ = corpus(n_speakers=24)
    kept = (y_true != 4) | np.isin(speakers, ["s00", "s01", "s02"])
    counts = count(y_true[kept], y_pred[kept], speakers[kept], K, classes=CLASSES)
    assert "4 speakers of each class, one class has 3" in interval(counts, "recall_sad", n_resamples=999).reason
    kept &= (y_true != 1) | np.isin(speakers, ["s00", "s01", "s02", "s03", "s04"])
    counts = count(y_true[kept], y_pred[kept], speakers[kept], K, classes=CLASSES)
    assert np.isnan(score_resamples(counts, "recall_calm", drawn(24, 999, 0))).any()
    assert interval(counts, "recall_calm", n_resamples=999).reason == ""
    heard = y_true != 4
    counts = count(y_true[heard], y_pred[heard], speakers[heard], K, classes=CLASSES)
    assert interval(counts, "recall_sad").reason == "no test utterance of sad"


def test_interval_of_ece_and_auroc_is_of_resamples_centred_on_them():
    """Their resamples are biased: uncentred, the interval of a calibrated model's ECE would lie below its ECE."""
    rng = np.random.default_rng(0)
    proba = rng.dirichlet(np.ones(K), 960)
    y_true = (proba.cumsum(axis=1) > rng.random((960, 1))).argmax(axis=1)
    speakers = np.repeat(np.arange(24), 40)
    counts = count(y_true, proba.argmax(axis=1), speakers, K, proba=proba, folds=speakers % 6)
    found = score_resamples(counts, "ece", drawn(24, 1999, 0))
    assert np.mean(found > score(counts, "ece")) > 0.8
    for metric in ("ece", "auroc"):
        found = interval(counts, metric)
        assert 0 <= found.low < score(counts, metric) < found.high <= 1


def test_interval_over_clips_would_be_half_as_wide():
    """Why the unit is the speaker: the same predictions, each clip taken for an independent person."""
    rng = np.random.default_rng(0)
    chances = np.repeat(logistic(rng.normal(0, 1.2, 24)), 40)
    y_true, speakers = np.tile(np.arange(K), 24 * 8), np.repeat(np.arange(24).astype(str), 40)
    y_pred = np.where(rng.random(960) < chances, y_true, (y_true + 1) % K)
    by_speaker = interval(count(y_true, y_pred, speakers, K), n_resamples=1999)
    by_clip = interval(count(y_true, y_pred, np.arange(960).astype(str), K), n_resamples=1999)
    ratio = (by_clip.high - by_clip.low) / (by_speaker.high - by_speaker.low)
    assert 0.3 < ratio < 0.6


# --- differences -----------------------------------------------------------------------------------------------------


def two_entries(n_speakers=8, n_clips=30, gap=0.1, n_repeats=1, seed=0):
    """Return the rows of two entries on the same utterances."""
    y_true, pred_a, speakers, repeats = corpus(n_speakers, n_clips, n_repeats=n_repeats, seed=seed)
    rng = np.random.default_rng(seed + 100)
    pred_b = np.where(rng.random(len(y_true)) < gap, rng.integers(0, K, len(y_true)), pred_a)
    return (y_true, pred_a, speakers, repeats), (y_true, pred_b, speakers, repeats)


@pytest.mark.parametrize("metric", METRICS)
def test_difference_p_value_equals_all_swaps_row_by_row(metric):
    rows_a, rows_b = two_entries(n_speakers=6, n_repeats=2, gap=0.3)
    y_true, pred_a, speakers, repeats = rows_a
    names, whole = np.unique(speakers), np.ones(6)
    gaps = []
    for swap in itertools.product([False, True], repeat=6):
        swapped = np.isin(speakers, names[list(swap)])
        first = np.where(swapped, rows_b[1], pred_a)
        second = np.where(swapped, pred_a, rows_b[1])
        gaps.append(
            naive((y_true, first, speakers, repeats), metric, whole)
            - naive((y_true, second, speakers, repeats), metric, whole)
        )
    found = difference(counted(rows_a), counted(rows_b), metric)
    assert found.value == pytest.approx(gaps[0], abs=1e-12)
    assert found.p_value == pytest.approx(np.mean(np.abs(gaps) >= abs(gaps[0]) - 1e-9), abs=1e-12)


@pytest.mark.parametrize("metric", ["log_loss", "brier", "ece"])
def test_difference_of_probabilities_has_the_p_value_of_all_swaps(metric):
    y_true, proba_a, speakers, repeats, folds = answers(n_speakers=6, skill=1.2)
    proba_b = answers(n_speakers=6, skill=0.8, seed=3)[1]
    names, gaps = np.unique(speakers), []
    for swap in itertools.product([False, True], repeat=6):
        swapped = np.isin(speakers, names[list(swap)])[:, None]
        sides = np.where(swapped, proba_b, proba_a), np.where(swapped, proba_a, proba_b)
        gaps.append(np.subtract(*(metrics.score(metric, y_true, None, K, side)[0] for side in sides)))
    a, b = (counted_answers((y_true, proba, speakers, repeats, folds)) for proba in (proba_a, proba_b))
    found = difference(a, b, metric)
    assert found.value == pytest.approx(gaps[0], abs=1e-12)
    assert found.p_value == pytest.approx(np.mean(np.abs(gaps) >= abs(gaps[0]) - 1e-9), abs=1e-12)


def test_difference_of_auroc_has_an_interval_and_no_p_value():
    (y_true, good, *rest), bad = answers(n_speakers=12, skill=1.5), answers(n_speakers=12, skill=0.5)[1]
    a, b = (counted_answers((y_true, proba, *rest)) for proba in (good, bad))
    found = difference(a, b, "auroc")
    assert found.value == pytest.approx(score(a, "auroc") - score(b, "auroc"))
    assert 0 < found.low < found.value < found.high
    assert math.isnan(found.p_value)
    assert "no swap test" in found.reason
    assert difference(a, a, "auroc") == Difference(0.0, 0.0, 0.0, 1.0)


def test_difference_to_a_model_without_probabilities_is_nan_with_a_reason():
    rows = answers()
    a, b = counted_answers(rows), count(rows[0], rows[1].argmax(axis=1), rows[2], K)
    for one, other in ((a, b), (b, a)):
        found = difference(one, other, "log_loss")
        assert np.isnan([found.value, found.low, found.high, found.p_value]).all()
        assert found.reason == "the model gives no probabilities"


def test_difference_p_value_by_drawing_is_near_the_exact_one_and_never_zero():
    a, b = (counted(rows) for rows in two_entries(n_speakers=12, gap=0.12))
    exact = difference(a, b, n_permutations=2**11, n_resamples=99)
    drawn = difference(a, b, n_permutations=2**11 - 1, n_resamples=99)
    assert 0.001 < exact.p_value < 0.5
    assert drawn.p_value == pytest.approx(exact.p_value, abs=0.03)
    far = difference(counted(corpus(24, skill=1.0)), perfect_but_for(24, 0.0), n_permutations=199, n_resamples=99)
    assert far.p_value == pytest.approx(1 / 200)


def perfect_but_for(n_speakers, skill):
    """Return the counts of an entry on `corpus` that is right with another probability."""
    y_true, _, speakers, repeats = corpus(n_speakers, skill=1.0)
    rng = np.random.default_rng(9)
    return counted((y_true, np.where(rng.random(len(y_true)) < skill, y_true, (y_true + 1) % K), speakers, repeats))


def test_difference_interval_is_of_the_paired_resamples():
    rows_a, rows_b = two_entries(n_speakers=10)
    a, b = counted(rows_a), counted(rows_b)
    weights = drawn(10, 500, 3)
    gaps = np.array([naive(rows_a, "uar", row) - naive(rows_b, "uar", row) for row in weights])
    found = difference(a, b, n_resamples=500, seed=3)
    assert gaps.min() <= found.low < np.median(gaps) < found.high <= gaps.max()
    alone = [interval(counts, n_resamples=500, seed=3) for counts in (a, b)]
    assert found.high - found.low < min(one.high - one.low for one in alone)  # what pairing is for


@pytest.mark.parametrize("n_speakers", [1, 24])
def test_difference_of_equal_predictions_is_nothing_for_certain(n_speakers):
    counts = counted(corpus(n_speakers))
    assert difference(counts, counted(corpus(n_speakers))) == Difference(0.0, 0.0, 0.0, 1.0)


def test_difference_of_equal_scores_of_other_predictions_is_not_certain():
    """As good as each other on these speakers, each on others of them."""
    hits = np.random.default_rng(0).binomial(8, 0.6, (12, K))
    found = difference(simulated(hits, 8), simulated(hits[::-1], 8))
    assert (found.value, found.p_value) == (0, 1)
    assert found.low < -0.01 < 0.01 < found.high


def test_difference_of_few_speakers_has_a_p_value_and_no_interval():
    a, b = (counted(rows) for rows in two_entries(n_speakers=4, gap=0.5))
    found = difference(a, b)
    assert found.p_value >= 2 / 2**4
    assert math.isnan(found.low)
    assert "at least 6 speakers" in found.reason


def test_difference_without_a_class_is_nan_with_a_reason():
    (y_true, pred_a, speakers, _), (_, pred_b, _, _) = two_entries()
    kept = y_true != 2
    a, b = (count(y_true[kept], pred[kept], speakers[kept], K) for pred in (pred_a, pred_b))
    found = difference(a, b)
    assert np.isnan([found.value, found.low, found.high, found.p_value]).all()
    assert found.reason == "no test utterance of 1 of the 5 declared classes"


def test_difference_turns_its_sign_with_the_order():
    a, b = (counted(rows) for rows in two_entries(n_speakers=24, n_repeats=3))
    one, other = difference(a, b), difference(b, a)
    assert one.value > 0
    assert other.value == -one.value
    assert other.p_value == one.p_value
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low), abs=1e-3)


def test_difference_does_not_depend_on_speakers_names():
    rows_a, rows_b = two_entries(n_speakers=10)
    other = {name: f"x{i * 7 % 10}" for i, name in enumerate(np.unique(rows_a[2]))}
    renamed = [
        (y_true, y_pred, np.array([other[s] for s in speakers]), repeats)
        for y_true, y_pred, speakers, repeats in (rows_a, rows_b)
    ]
    first, again = difference(*map(counted, (rows_a, rows_b))), difference(*map(counted, renamed))
    assert (first.value, first.p_value) == (again.value, again.p_value)
    assert (first.low, first.high) == pytest.approx((again.low, again.high), abs=0.004)  # other resamples


def test_difference_refuses_other_utterances():
    y_true, y_pred, speakers, _ = corpus()
    ids = [f"c/{i}" for i in range(len(y_true))]
    a = count(y_true, y_pred, speakers, K, utterances=ids)
    others = {
        "1 speakers are in one": count(y_true[:-30], y_pred[:-30], speakers[:-30], K),
        "their true labels differ": count((y_true + 1) % K, y_pred, speakers, K),
        "repeats, speakers and classes are": counted(corpus(n_repeats=2)),
        "fingerprints": count(y_true, y_pred, speakers, K, utterances=[f"d/{i}" for i in range(len(y_true))]),
    }
    for match, b in others.items():
        with pytest.raises(ConfigError, match=match):
            difference(a, b)


# --- many speakers ---------------------------------------------------------------------------------------------------


def test_resamples_do_not_depend_on_the_size_of_blocks(monkeypatch):
    rows = answers(n_speakers=20, skill=1.2)
    a, b = counted_answers(rows), counted_answers((rows[0], answers(n_speakers=20, seed=3)[1], *rows[2:]))

    def bounds():
        found = [interval(a, metric, n_resamples=199) for metric in metrics.METRICS]
        return [bound for one in [*found, difference(a, b, n_permutations=199)] for bound in (one.low, one.high)]

    whole, p_value = bounds(), difference(a, b, n_permutations=199).p_value
    monkeypatch.setattr(intervals, "BLOCK", 60)
    assert bounds() == pytest.approx(whole, abs=1e-12)
    assert difference(a, b, n_permutations=199).p_value == p_value


@pytest.mark.parametrize("draw", [intervals.resamples, intervals.by_draw], ids=lambda draw: draw.__name__)
def test_resamples_are_draws_with_replacement(draw):
    weights = np.concatenate(list(draw(30, 20_000, np.random.default_rng(0) if draw is intervals.by_draw else 0)))
    assert (weights.sum(axis=1) == 30).all()
    found = np.bincount(weights.ravel(), minlength=8)[:8] / weights.size
    assert found == pytest.approx(stats.binom.pmf(range(8), 30, 1 / 30), abs=0.003)
    assert np.corrcoef(weights[:, :2].T)[0, 1] == pytest.approx(-1 / 29, abs=0.03)


@pytest.mark.parametrize("n_folds", [1, 3])
def test_auroc_of_more_speakers_than_pairs_can_be_counted_of_is_the_same(n_folds):
    """Where speakers are few, pairs are counted once; else sums run through the utterances."""
    rows = answers(n_speakers=30, n_clips=6, n_folds=n_folds)
    weights = np.random.default_rng(1).multinomial(30, np.full(30, 1 / 30), 5)
    expected = [naive_of_probabilities(rows, "auroc", row) for row in weights]
    assert score_resamples(counted_answers(rows), "auroc", weights) == pytest.approx(expected, abs=1e-12)


def test_interval_of_many_speakers_leaves_groups_of_them_out(monkeypatch):
    counts = simulated(np.random.default_rng(0).binomial(8, 0.9, (90, K)), 8)
    one_by_one = interval(counts)
    monkeypatch.setattr(intervals, "MAX_LEFT_OUT", 30)
    in_threes = interval(counts)
    width = one_by_one.high - one_by_one.low
    assert in_threes != one_by_one
    assert (in_threes.low, in_threes.high) == pytest.approx((one_by_one.low, one_by_one.high), abs=0.03 * width)


def test_interval_of_many_speakers_is_students():
    """Every speaker has equal numbers of each class, so that UAR is the mean of theirs."""
    rng = np.random.default_rng(0)
    hits = rng.binomial(8, logistic(rng.normal(0, 1, (3000, 1)) + rng.normal(0, 0.5, (3000, K))))
    expected = stats.ttest_1samp(hits.mean(axis=1) / 8, 0).confidence_interval(0.95)
    found = interval(simulated(hits, 8))
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.02 * (expected.high - expected.low))


def test_memory_does_not_grow_with_the_square_of_speakers():
    """N33: 20,000 speakers took 24 GB; a matrix of them and themselves is 3.2 GB."""
    n = 20_000
    rng = np.random.default_rng(0)
    y_true, proba = np.append(np.arange(K), rng.integers(0, K, n - K)), rng.dirichlet(np.ones(K), n)
    speakers = [f"{i:05d}" for i in range(n)]
    entries = [
        count(y_true, part.argmax(axis=1), speakers, K, proba=part, folds=np.arange(n) % 6, classes=CLASSES)
        for part in (proba, rng.dirichlet(np.ones(K), n))
    ]
    tracemalloc.start()
    try:
        found = [interval(entries[0], metric, n_resamples=50) for metric in ("uar", "ece", "auroc")]
        found.append(difference(*entries, n_resamples=50, n_permutations=50))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 150e6
    assert all(one.low < one.high for one in found)


def test_cost_grows_with_speakers_and_entries():
    sizes = {"n_classes": 5}
    seconds, n_bytes = description.cost(20_000, 20_000, n_entries=4, **sizes)
    assert 10 < seconds < 60
    assert 1e8 < n_bytes < 1e9
    assert description.cost(24, 960, n_entries=9, **sizes)[0] < 3
    assert description.cost(40_000, 40_000, n_entries=4, **sizes) == pytest.approx((2 * seconds, 2 * n_bytes), rel=0.05)


# --- many entries ----------------------------------------------------------------------------------------------------


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.02, np.nan, 0.03]) == pytest.approx([0.04, np.nan, 0.04], nan_ok=True)
    assert holm([]).tolist() == []


def told_apart(n, *couples):
    matrix = np.ones((n, n))
    for a, b in couples:
        matrix[a, b] = matrix[b, a] = 0.01
    return matrix


@pytest.mark.parametrize(
    ("matrix", "groups"),
    [
        pytest.param(told_apart(3), [1, 1, 1], id="nothing-known"),
        pytest.param(told_apart(3, (0, 1), (0, 2), (1, 2)), [1, 2, 3], id="all-apart"),
        pytest.param(told_apart(3, (0, 2)), [1, 1, 2], id="not-transitive"),
        pytest.param(told_apart(4, (0, 1), (0, 3)), [1, 2, 1, 2], id="a-surer-difference-ranks-higher"),
        pytest.param(np.full((2, 2), np.nan), [1, 1], id="undefined"),
        pytest.param(np.zeros((1, 1)), [1], id="one"),
        pytest.param(np.zeros((0, 0)), [], id="none"),
    ],
)
def test_rank_groups(matrix, groups):
    assert rank_groups(matrix) == groups


def test_pairs_are_all_differences_adjusted_together():
    rows = two_entries(n_speakers=12, gap=0.4)
    third = counted(two_entries(n_speakers=12, gap=0.1)[1])
    entries = {"a": counted(rows[0]), "b": third, "c": counted(rows[1])}
    frame = pairs(entries, n_resamples=499)
    assert list(zip(frame["entry_a"], frame["entry_b"], strict=True)) == [("a", "b"), ("a", "c"), ("b", "c")]
    found = difference(entries["a"], entries["c"], n_resamples=499)
    assert tuple(frame.loc[1, ["difference", "low", "high", "p_value"]]) == (
        found.value,
        found.low,
        found.high,
        found.p_value,
    )
    assert frame["p_holm"].to_numpy() == pytest.approx(holm(frame["p_value"]))
    assert frame[["n_speakers", "n_utterances"]].to_numpy().tolist() == [[12, 360]] * 3


def test_pairs_of_many_entries_can_still_be_significant():
    """9999 permutations and 780 pairs would leave every adjusted p-value above 0.05."""
    y_true, _, speakers, repeats = corpus(n_speakers=24, n_clips=10)
    entries = {f"e{i:02d}": counted((y_true, y_true if i else (y_true + 1) % K, speakers, repeats)) for i in range(40)}
    frame = pairs(entries, n_resamples=50, n_permutations=99)
    assert (frame["p_holm"][frame["entry_a"] == "e00"] <= 0.05).all()
    assert (frame["p_holm"][frame["entry_a"] != "e00"] == 1).all()


@pytest.fixture(scope="module")
def many():
    """Sixty entries, best first: twenty equal ones, then twenty worse ones, then twenty that are worse still."""
    y_true, _, speakers, repeats = corpus(n_speakers=24, n_clips=10)
    answers = [np.where(np.arange(len(y_true)) % 10 < 3 * level, (y_true + 1) % K, y_true) for level in range(3)]
    return {f"e{i:02d}": counted((y_true, answers[i // 20], speakers, repeats)) for i in range(60)}


def test_pairs_of_many_entries_are_with_the_best_of_each_group(many):
    frame = pairs(many, n_resamples=50, n_permutations=99)
    firsts = {"e00": 59, "e20": 39, "e40": 19}
    assert frame.groupby("entry_a", sort=False).size().to_dict() == firsts
    for first, part in frame.groupby("entry_a"):
        assert part["p_holm"].to_numpy() == pytest.approx(holm(part["p_value"]))
        assert ((part["p_holm"] <= 0.05) == (part["entry_b"] >= f"e{int(first[1:]) + 20}")).all()


def test_groups_of_many_entries_need_no_other_pairs(many, monkeypatch):
    few = pairs(many, n_resamples=50, n_permutations=99)
    monkeypatch.setattr(differences, "MAX_ALL_PAIRS", 60)
    every = pairs(many, n_resamples=50, n_permutations=99)
    groups = [rank_groups(description._matrix(frame, list(many))) for frame in (few, every)]
    assert groups[0] == groups[1] == [1] * 20 + [2] * 20 + [3] * 20


def test_number_of_pairs_grows_no_faster_than_that_of_entries(many, monkeypatch):
    monkeypatch.setattr(differences, "MAX_LEADERS", 2)
    assert len(pairs(many, n_resamples=50, n_permutations=99)) == 59 + 39


@pytest.mark.parametrize(("n_entries", "is_told"), [(2, False), (40, False), (41, True)])
def test_pairs_that_are_left_out_are_told(n_entries, is_told):
    assert bool(describe_pairs(n_entries)) == is_told
    assert is_told == (f"{n_entries} entries are more than 40" in describe_pairs(n_entries))


def tidy(n_entries=3, *, n_repeats=2, n_speakers=24, n_clips=40, corpus_name="synthetic", step=0.15, is_sure=False):
    """Return a run's table of predictions; with probabilities of every entry if `is_sure`."""
    frames = []
    for i in range(n_entries):
        y_true, y_pred, speakers, repeats = corpus(n_speakers, n_clips, n_repeats=n_repeats, skill=0.2 + step * i)
        labels = np.array(CLASSES)
        frames.append(
            pd.DataFrame(
                {
                    "run": "r",
                    "corpus": corpus_name,
                    "features": "mfcc40",
                    "entry": f"e{i}",
                    "protocol": "group-kfold",
                    "repeat": repeats,
                    "fold": 0,
                    "utterance": [f"{corpus_name}/{j % (len(y_true) // n_repeats)}" for j in range(len(y_true))],
                    "speaker": speakers,
                    "y_true": labels[y_true],
                    "y_pred": labels[y_pred],
                    **(
                        {f"p_{label}": 0.6 * (y_pred == k) + 0.08 for k, label in enumerate(CLASSES)} if is_sure else {}
                    ),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def test_describe_gives_every_board_its_intervals_groups_and_pairs():
    frame = pd.concat([tidy(), tidy(2, corpus_name="other", n_speakers=4)], ignore_index=True)
    found = describe(frame, {"synthetic": CLASSES, "other": CLASSES}, n_resamples=999)
    assert list(found.intervals.columns) == list(description.INTERVALS)
    assert list(found.pairs.columns) == list(PAIRS)
    assert list(found.groups.columns) == list(description.GROUPS)
    assert found.intervals.groupby("corpus", sort=False).size().to_dict() == {"synthetic": 3 * 12, "other": 2 * 12}
    assert found.pairs.groupby("corpus", sort=False).size().to_dict() == {"synthetic": 3, "other": 1}
    assert found.groups["rank_group"].tolist() == [1, 2, 3, 1, 1]  # four speakers tell nothing apart
    assert found.groups["entry"].tolist() == ["e2", "e1", "e0", "e1", "e0"]
    first = found.intervals.iloc[0]
    assert (first["entry"], first["metric"], first["n_speakers"], first["n_utterances"]) == ("e2", "uar", 24, 960)
    assert first["low"] < first["value"] < first["high"]
    assert found.intervals.query("corpus == 'other'")["low"].isna().all()


def test_describe_scores_every_metric_and_the_recall_of_every_class():
    frame = pd.concat([tidy(2, is_sure=True), tidy(1, corpus_name="other").assign(entry="e0")], ignore_index=True)
    frame = frame[(frame["corpus"] == "synthetic") | (frame["y_true"] != "sad") & (frame["y_pred"] != "sad")]
    found = describe(frame, {"synthetic": CLASSES, "other": CLASSES[:4]}, n_resamples=199).intervals
    recalls = [f"recall_{label}" for label in CLASSES]
    by_board = found.groupby(["corpus", "entry"], sort=False)["metric"].agg(list)
    assert by_board["synthetic", "e0"] == [*metrics.METRICS, *recalls]
    assert by_board["other", "e0"] == [*metrics.METRICS, *recalls[:4]]
    is_needy = found["metric"].isin(NEEDY) & (found["corpus"] == "other")
    assert (found.loc[is_needy, "reason"] == "the model gives no probabilities").all()
    assert found.loc[is_needy, ["value", "low", "high", "seed_sd"]].isna().all(axis=None)
    assert (found.loc[~is_needy, "reason"] == "").all()
    assert found.loc[~is_needy, ["value", "low", "high", "seed_sd"]].notna().all(axis=None)


def test_describe_gives_the_spread_over_seeds_beside_the_interval():
    found = describe(tidy(1, n_repeats=3), {"synthetic": CLASSES}, n_resamples=199, metrics=["uar"]).intervals.iloc[0]
    y_true, y_pred, _, repeats = corpus(24, 40, n_repeats=3, skill=0.2)
    by_repeat = [metrics.score("uar", y_true[repeats == r], y_pred[repeats == r], K)[0] for r in range(3)]
    assert found["seed_sd"] == pytest.approx(np.std(by_repeat, ddof=1))
    alone = describe(tidy(1, n_repeats=1), {"synthetic": CLASSES}, n_resamples=199, metrics=["uar"]).intervals
    assert alone["seed_sd"].isna().all()


@pytest.mark.parametrize("rank_by, best", [("uar", "e1"), ("log_loss", "e1"), ("recall_sad", "e1")])
def test_describe_ranks_by_what_is_better(rank_by, best):
    found = describe(tidy(2, is_sure=True), {"synthetic": CLASSES}, n_resamples=99, metrics=["uar"], rank_by=rank_by)
    assert found.groups["entry"].iloc[0] == best


def test_describe_does_not_depend_on_the_order_of_rows():
    frame = tidy()
    found, again = (describe(part, {"synthetic": CLASSES}, n_resamples=199) for part in (frame, frame.sample(frac=1)))
    for name in ("intervals", "groups", "pairs"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(again, name))


def test_describe_leaves_out_an_entry_with_a_failed_fold():
    frame = tidy()
    lost = (frame["entry"] == "e2") & (frame["speaker"] == "s03") & (frame["repeat"] == 1)
    found = describe(frame[~lost], {"synthetic": CLASSES}, n_resamples=199)
    assert found.groups["entry"].tolist() == ["e1", "e0"]
    assert set(found.intervals["entry"]) == {"e0", "e1"}
    assert len(found.pairs) == 1


def test_describe_of_one_entry_and_of_none():
    found = describe(tidy(1), {"synthetic": CLASSES}, n_resamples=199)
    assert found.groups["rank_group"].tolist() == [1]
    assert found.pairs.empty
    nothing = describe(tidy(1).head(0), {})
    assert nothing.intervals.empty
    assert list(nothing.pairs.columns) == list(PAIRS)


def test_describe_refuses_a_label_that_is_not_declared():
    with pytest.raises(DataError, match="declared classes"):
        describe(tidy(1), {"synthetic": CLASSES[:4]})


def test_describe_costs_less_than_five_seconds_for_ten_entries():
    frame = tidy(10, n_repeats=1, step=0.02, is_sure=True).assign(
        fold=lambda frame: frame["speaker"].str[1:].astype(int) % 6
    )
    start = time.process_time()
    found = describe(frame, {"synthetic": CLASSES})
    assert time.process_time() - start < 5
    assert (len(found.intervals), len(found.pairs)) == (120, 45)


# --- simulations: how often they are right ---------------------------------------------------------------------------


def chances(rng, shape, centre, between, within):
    """Draw the recalls of speakers, shape (…, n_speakers, K): a speaker is easy or hard, and so is each class of it."""
    *_, n_speakers, n_classes = shape
    easy = between * rng.standard_normal((*shape[:-2], n_speakers, 1))
    return logistic(centre + easy + within * rng.standard_normal((*shape[:-2], n_speakers, n_classes)))


def coverage(n_simulations, *, n_speakers=24, centre=0.0, between=1.0, within=0.5, unbalanced=False):
    """Return how often the interval has the UAR of a large population in it."""
    rng = np.random.default_rng(11)
    truth = chances(rng, (300_000, K), centre, between, within).mean()
    shape = (n_simulations, n_speakers, K)
    n_clips = 1 + rng.poisson(rng.gamma(2, 4, shape)) if unbalanced else np.full(shape, 8)
    hits = rng.binomial(n_clips, chances(rng, shape, centre, between, within))
    found = [interval(simulated(hits[i], n_clips[i]), n_resamples=999, seed=i % 10) for i in range(n_simulations)]
    return np.mean([one.low <= truth <= one.high for one in found])


def test_interval_covers_the_truth_at_24_speakers():
    assert 0.92 <= coverage(600) <= 0.98
    assert 0.92 <= coverage(300, n_speakers=10) <= 0.98


def coverage_of_probabilities(metric, n_simulations, *, n_speakers=24, temperature=1.0, spread=0.5, n_folds=6):
    """Return how often the interval has the metric's expectation in it, and a good model's may be over-confident."""
    rng = np.random.default_rng(12)
    y_true, speaker = np.tile(np.repeat(np.arange(K), 8), n_speakers), np.repeat(np.arange(n_speakers), 8 * K)
    values, found = [], []
    for i in range(n_simulations):
        voices = rng.normal(0, spread, (n_speakers, K))[speaker]
        skill = rng.normal(1.0, 0.6 * spread, n_speakers)[speaker, None]
        proba = np.exp((rng.normal(size=voices.shape) + voices + skill * np.eye(K)[y_true]) / temperature)
        proba /= proba.sum(axis=1, keepdims=True)
        counts = count(y_true, y_true, speaker, K, proba=proba, folds=speaker % n_folds)
        values.append(score(counts, metric))
        found.append(interval(counts, metric, n_resamples=999, seed=i % 10))
    return np.mean([one.low <= np.mean(values) <= one.high for one in found])


@pytest.mark.parametrize("metric", NEEDY)
def test_interval_covers_the_metrics_of_probabilities(metric):
    assert 0.90 <= coverage_of_probabilities(metric, 100) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("metric", NEEDY)
@pytest.mark.parametrize(
    "world",
    [
        pytest.param({}, id="speakers-differ"),
        pytest.param({"spread": 1.0}, id="speakers-differ-much"),
        pytest.param({"temperature": 1.6}, id="modest"),
        pytest.param({"n_folds": 24}, id="one-speaker-a-fold"),
        pytest.param({"n_speakers": 10, "n_folds": 5}, id="10-speakers"),
    ],
)
def test_interval_covers_the_metrics_of_probabilities_in_many_worlds(metric, world):
    assert 0.92 <= coverage_of_probabilities(metric, 1500, **world) <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize(
    "world",
    [
        pytest.param({}, id="one-strong-effect"),
        pytest.param({"between": 0.0, "within": 0.0}, id="speakers-alike"),
        pytest.param({"centre": 1.5, "between": 1.5, "within": 1.0}, id="good-model"),
        pytest.param({"centre": np.array([0, 1, 2, -1, -2]), "unbalanced": True}, id="unbalanced"),
        pytest.param({"n_speakers": 8}, id="8-speakers"),
        pytest.param({"n_speakers": 90}, id="90-speakers"),
    ],
)
def test_interval_covers_the_truth_in_many_worlds(world):
    assert 0.92 <= coverage(3000, **world) <= 0.98


def contests(n_simulations, *, advantage=0.0, n_entries=2, n_speakers=24, seed=0):
    """Yield lists of `Counts` of models that find the same speakers and clips hard; the first has an advantage."""
    rng = np.random.default_rng(seed)
    for _ in range(n_simulations):
        speaker = 0.7 * rng.standard_normal((n_speakers, 1, 1)) + 0.5 * rng.standard_normal((n_speakers, K, 1))
        ease = speaker + rng.standard_normal((n_speakers, K, 8))
        own = 0.5 * rng.standard_normal((n_entries, n_speakers, K, 1))
        own[0] += advantage
        hits = (rng.random((n_entries, n_speakers, K, 8)) < logistic(ease + own)).sum(axis=-1)
        yield [simulated(one, 8) for one in hits]


def rejections(n_simulations, **world):
    """Return the share of contests with a significant p-value, and with an interval that excludes zero."""
    found = [
        difference(a, b, n_resamples=999, n_permutations=999, seed=i % 10)
        for i, (a, b) in enumerate(contests(n_simulations, **world))
    ]
    return np.mean([(one.p_value <= 0.05, one.low > 0 or one.high < 0) for one in found], axis=0)


def test_equal_models_are_seldom_told_apart():
    by_p_value, by_interval = rejections(400, seed=1)
    assert 0.01 < by_p_value <= 0.06
    assert 0.01 < by_interval <= 0.07


@pytest.mark.slow
@pytest.mark.parametrize("n_speakers", [10, 24])
def test_equal_models_are_told_apart_in_at_most_six_of_a_hundred(n_speakers):
    by_p_value, by_interval = rejections(4000, n_speakers=n_speakers)
    assert 0.03 < by_p_value <= 0.06
    assert 0.03 < by_interval <= 0.065


@pytest.mark.slow
def test_four_equal_models_share_a_group():
    """Holm keeps the chance of any false difference of six, not of each."""
    split = [
        (pairs({str(i): one for i, one in enumerate(entries)}, n_resamples=99)["p_holm"] <= 0.05).any()
        for entries in contests(400, n_entries=4)
    ]
    assert np.mean(split) <= 0.06


def test_power_grows_with_the_difference():
    power = [rejections(80, advantage=advantage)[0] for advantage in (0.0, 0.25, 0.5)]
    assert power[0] < power[1] < power[2]
    assert power[2] > 0.85  # about nine points of UAR
