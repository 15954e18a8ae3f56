"""Intervals, differences and groups against naive loops and SciPy, and simulations of how often they are right."""

import itertools
import math
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from emobench import metrics, statistics
from emobench.errors import ConfigError, DataError
from emobench.statistics import Counts, count, describe, difference, holm, interval, pairs, rank_groups, score

CLASSES = ("angry", "calm", "fearful", "happy", "sad")
K = len(CLASSES)
METRICS = ("uar", "war", "macro_f1")


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


def logistic(z):
    return 1 / (1 + np.exp(-z))


# --- sufficient statistics -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_score_of_a_resample_is_the_metric_of_its_pooled_rows(metric):
    rows = corpus(n_repeats=3)
    weights = np.random.default_rng(1).multinomial(8, np.full(8, 1 / 8), 40)
    expected = [naive(rows, metric, row) for row in weights]
    assert statistics.score_resamples(counted(rows), metric, weights) == pytest.approx(expected, abs=1e-12)


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
    found = statistics.score_resamples(counted(rows), metric, weights)
    assert found == pytest.approx([naive(rows, metric, row) for row in weights], nan_ok=True)
    assert np.isnan(found).tolist() == [False, True, False]


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
    weights = statistics._resamples(8, 300, 4)
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
    statistics._resamples.cache_clear()
    assert interval(counts, n_resamples=999, seed=7) == first
    assert interval(counts, n_resamples=999, seed=8) != first


def test_interval_of_a_constant_answer_is_its_value():
    y_true, _, speakers, repeats = corpus(n_speakers=24)
    counts = count(y_true, np.zeros_like(y_true), speakers, K, repeats=repeats)
    assert interval(counts) == statistics.Interval(0.2, 0.2)
    perfect = count(y_true, y_true, speakers, K)
    assert {interval(perfect, metric) for metric in METRICS} == {statistics.Interval(1.0, 1.0)}


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
    with pytest.raises(ConfigError, match="one of uar, war, macro_f1. Got 'auroc'"):
        interval(counted(corpus()), "auroc")


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
    weights = statistics._resamples(10, 500, 3)
    gaps = np.array([naive(rows_a, "uar", row) - naive(rows_b, "uar", row) for row in weights])
    found = difference(a, b, n_resamples=500, seed=3)
    assert gaps.min() <= found.low < np.median(gaps) < found.high <= gaps.max()
    alone = [interval(counts, n_resamples=500, seed=3) for counts in (a, b)]
    assert found.high - found.low < min(one.high - one.low for one in alone)  # what pairing is for


@pytest.mark.parametrize("n_speakers", [1, 24])
def test_difference_of_equal_predictions_is_nothing_for_certain(n_speakers):
    counts = counted(corpus(n_speakers))
    assert difference(counts, counted(corpus(n_speakers))) == statistics.Difference(0.0, 0.0, 0.0, 1.0)


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


def tidy(n_entries=3, *, n_repeats=2, n_speakers=24, n_clips=40, corpus_name="synthetic", step=0.15):
    """Return a run's table of predictions."""
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
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def test_describe_gives_every_board_its_intervals_groups_and_pairs():
    frame = pd.concat([tidy(), tidy(2, corpus_name="other", n_speakers=4)], ignore_index=True)
    found = describe(frame, {"synthetic": CLASSES, "other": CLASSES}, n_resamples=999)
    assert list(found.intervals.columns) == list(statistics.INTERVALS)
    assert list(found.pairs.columns) == list(statistics.PAIRS)
    assert list(found.groups.columns) == list(statistics.GROUPS)
    assert found.intervals.groupby("corpus", sort=False).size().to_dict() == {"synthetic": 9, "other": 6}
    assert found.pairs.groupby("corpus", sort=False).size().to_dict() == {"synthetic": 3, "other": 1}
    assert found.groups["rank_group"].tolist() == [1, 2, 3, 1, 1]  # four speakers tell nothing apart
    assert found.groups["entry"].tolist() == ["e2", "e1", "e0", "e1", "e0"]
    first = found.intervals.iloc[0]
    assert (first["entry"], first["metric"], first["n_speakers"], first["n_utterances"]) == ("e2", "uar", 24, 960)
    assert first["low"] < first["value"] < first["high"]
    assert found.intervals.query("corpus == 'other'")["low"].isna().all()


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
    assert list(nothing.pairs.columns) == list(statistics.PAIRS)


def test_describe_refuses_a_label_that_is_not_declared():
    with pytest.raises(DataError, match="declared classes"):
        describe(tidy(1), {"synthetic": CLASSES[:4]})


def test_describe_costs_less_than_five_seconds_for_ten_entries():
    frame = tidy(10, n_repeats=5, step=0.02)
    statistics._resamples.cache_clear()
    start = time.process_time()
    found = describe(frame, {"synthetic": CLASSES})
    assert time.process_time() - start < 5
    assert (len(found.intervals), len(found.pairs)) == (30, 45)


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
