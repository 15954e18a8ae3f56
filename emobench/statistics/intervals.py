"""How sure a score is: intervals, differences and groups of entries that cannot be told apart, over speakers.

The unit is the speaker. A benchmark asks how a model does on people it has never heard, and clips of one person
resemble each other: resampling clips instead makes an interval half as wide as it is. All figures here follow from
what is summed once per entry, speaker and repeat (`Counts`): the confusion matrix, the losses of the probabilities, and
for AUROC the pairs of utterances that each two speakers win. A score is defined on the pooled predictions of a repeat,
then averaged over repeats, so the score of any resample of speakers is a matrix product.

What an interval says: how the score would vary over other speakers, with the models as they were trained. Speakers
of one fold share a trained model, so what another training part would change is not in it, nor is the spread over
seeds, which stands beside it.

Everything is deterministic: one seed gives one set of resamples, common to all entries and metrics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from emobench.errors import ConfigError, DataError
from emobench.metrics import (
    METRICS,
    N_BINS,
    NO_PROBABILITIES,
    get_metric,
    log_losses,
    overconfidence,
    squared_errors,
)
from emobench.protocols.certificate import rows_fingerprint

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95
ALPHA = 0.05
N_RESAMPLES = 9999
MIN_SPEAKERS_OF_CLASS = 4
AUROC = "auroc"  # alone follows from pairs of speakers
CENTRED = frozenset({AUROC, "ece"})  # in [0, 1], with resamples that are biased; see `interval`
NO_SWAP_TEST = "auroc has no swap test: it would compare the probabilities of two models with each other"
RECALL = "recall_"  # of one class: recall_<class>
PLACES = 12  # differences are rounded to it, so that what is equal in exact arithmetic is a tie

BOARD = ["corpus", "features", "protocol"]
INTERVALS = (*BOARD, "entry", "metric", "value", "low", "high", "seed_sd", "n_speakers", "n_utterances", "reason")
GROUPS = (*BOARD, "entry", "rank_group")
PAIRS = (
    *BOARD,
    "metric",
    "entry_a",
    "entry_b",
    "difference",
    "low",
    "high",
    "p_value",
    "p_holm",
    "n_speakers",
    "n_utterances",
    "reason",
)


@dataclass(frozen=True)
class Counts:
    """All that a score needs to know of one entry's predictions.

    Attributes
    ----------
    speakers : tuple of str
        Sorted.
    tables : int array of shape (n_repeats, n_speakers, n_classes, n_classes)
        Utterances by (true, predicted) class.
    utterances : str
        Fingerprint of the utterances, empty where they were not given.
    classes : tuple of str
        For ``recall_<class>``; empty where they were not given.
    losses : array of shape (n_repeats, n_speakers, 2 + N_BINS), or None
        Sums over utterances of the log-loss, the squared error, and the overconfidence of each bin; None for a model
        without probabilities.
    contests : tuple of Contest
        Of each repeat and fold; empty for a model without probabilities.
    """

    speakers: tuple[str, ...]
    tables: np.ndarray
    utterances: str = ""
    classes: tuple[str, ...] = ()
    losses: np.ndarray | None = None
    contests: tuple[Contest, ...] = ()

    @property
    def n_utterances(self) -> int:
        """Return the number of utterances of a repeat."""
        return int(self.tables.sum()) // len(self.tables)


@dataclass(frozen=True)
class Contest:
    """What AUROC is made of in one fold of one repeat.

    Attributes
    ----------
    repeat : int
        Position among the repeats.
    members : int array of shape (n,)
        The fold's speakers, as positions in `Counts.speakers`.
    wins : array of shape (n_classes, n, n)
        Of class c and members i and j: the pairs of an utterance of c by i and one of another class by j in which the
        first is given the greater probability of c; a tie is half a pair.
    n_true : array of shape (n, n_classes)
        Utterances of each member and class.
    """

    repeat: int
    members: np.ndarray
    wins: np.ndarray
    n_true: np.ndarray


@dataclass(frozen=True)
class Interval:
    """Bounds of a score; NaN with a reason where there are none."""

    low: float
    high: float
    reason: str = ""


@dataclass(frozen=True)
class Difference:
    """A score minus another on the same utterances; what is NaN has its reason."""

    value: float
    low: float
    high: float
    p_value: float
    reason: str = ""


@dataclass(frozen=True)
class Description:
    """What a run's predictions say and how surely: tables with the columns `INTERVALS`, `GROUPS` and `PAIRS`."""

    intervals: pd.DataFrame
    groups: pd.DataFrame
    pairs: pd.DataFrame


def count(
    y_true: np.ndarray,
    y_pred: np.ndarray,
    speakers: Sequence[str],
    n_classes: int,
    *,
    repeats: Sequence[int] | None = None,
    utterances: Sequence[str] | None = None,
    classes: Sequence[str] = (),
    proba: np.ndarray | None = None,
    folds: Sequence[int] | None = None,
) -> Counts:
    """Count one entry's predictions by speaker, repeat, true and predicted class.

    Parameters
    ----------
    y_true, y_pred : int arrays of shape (n,)
        Codes of the declared classes.
    speakers : sequence of n str
    n_classes : int
    repeats : sequence of n int, optional
        One repeat by default.
    utterances : sequence of n str, optional
        Ids. With them, `difference` can prove that it compares like with like.
    classes : sequence of n_classes str, optional
        Their names, for the recall of each.
    proba : array of shape (n, n_classes), optional
        None for a model without probabilities.
    folds : sequence of n int, optional
        Which model gave each probability, for AUROC. One fold by default.

    Raises
    ------
    DataError
        If there is nothing to count, or a code is not of a declared class.
    """
    y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
    if not len(y_true):
        raise DataError("A score must have predictions. Got none. Run the entry first.")
    if min(y_true.min(), y_pred.min()) < 0 or max(y_true.max(), y_pred.max()) >= n_classes:
        raise DataError(
            f"Labels must be codes of the {n_classes} declared classes. Got {min(y_true.min(), y_pred.min())} to "
            f"{max(y_true.max(), y_pred.max())}. Declare every emotion that occurs."
        )
    names, speaker = np.unique(np.asarray(speakers, dtype=object), return_inverse=True)
    numbers, repeat = np.unique(np.zeros(len(y_true), int) if repeats is None else repeats, return_inverse=True)
    shape = (len(numbers), len(names), n_classes, n_classes)
    cells = np.ravel_multi_index((repeat, speaker, y_true, y_pred), shape)
    tables = np.bincount(cells, minlength=math.prod(shape)).reshape(shape)
    fingerprint = "" if utterances is None else rows_fingerprint(utterances, np.arange(len(y_true)))
    counts = Counts(tuple(map(str, names)), tables, fingerprint, tuple(classes))
    if proba is None:
        return counts
    fold = np.zeros(len(y_true), int) if folds is None else np.asarray(folds)
    contests = [
        _contest(y_true[rows], proba[rows], speaker[rows], number)
        for number in range(len(numbers))
        for index in np.unique(fold)
        if (rows := np.flatnonzero((repeat == number) & (fold == index))).size
    ]
    losses = _losses(y_true, proba, repeat * len(names) + speaker, len(numbers) * len(names))
    return replace(counts, losses=losses.reshape(*shape[:2], -1), contests=tuple(contests))


def _losses(y_true: np.ndarray, proba: np.ndarray, cells: np.ndarray, n_cells: int) -> np.ndarray:
    """Sum up the losses of each cell (a repeat's speaker): shape (n_cells, 2 + N_BINS)."""
    bins, excess = overconfidence(y_true, proba)
    return np.column_stack(
        [
            np.bincount(cells, log_losses(y_true, proba), minlength=n_cells),
            np.bincount(cells, squared_errors(y_true, proba), minlength=n_cells),
            np.bincount(cells * N_BINS + bins, excess, minlength=n_cells * N_BINS).reshape(n_cells, N_BINS),
        ]
    )


def _contest(y_true: np.ndarray, proba: np.ndarray, speaker: np.ndarray, repeat: int) -> Contest:
    members, member = np.unique(speaker, return_inverse=True)
    n, n_classes = len(members), proba.shape[1]
    wins = np.zeros((n_classes, n, n))
    for code in range(n_classes):
        first, own = proba[y_true == code, code], member[y_true == code]
        for other in range(n):
            second = np.sort(proba[(y_true != code) & (member == other), code])
            beaten = np.searchsorted(second, first, side="left") + np.searchsorted(second, first, side="right")
            wins[code, :, other] = np.bincount(own, beaten / 2, minlength=n)
    n_true = np.bincount(member * n_classes + y_true, minlength=n * n_classes).reshape(n, n_classes)
    return Contest(repeat, members, wins, n_true.astype(float))


def score(counts: Counts, metric: str = "uar") -> float:
    """Return the score of the pooled predictions of a repeat, averaged over repeats: what the leaderboard shows."""
    return float(score_repeats(counts, metric).mean())


def score_repeats(counts: Counts, metric: str = "uar") -> np.ndarray:
    """Return the score of each repeat: shape (n_repeats,). Their spread is that over the models' seeds."""
    return _by_repeat(counts, metric, np.ones((1, len(counts.speakers))))[0]


def score_resamples(counts: Counts, metric: str, weights: np.ndarray) -> np.ndarray:
    """Score resamples of speakers.

    Parameters
    ----------
    metric : str
        A row of `METRICS`, or ``recall_<class>``.
    weights : array of shape (n_resamples, n_speakers)
        How often each speaker is in the resample.

    Returns
    -------
    array of shape (n_resamples,)
        NaN where a resample lacks a class.
    """
    return _by_repeat(counts, metric, weights).mean(axis=-1)


def interval(
    counts: Counts,
    metric: str = "uar",
    *,
    confidence: float = CONFIDENCE,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the BCa bootstrap interval of a score over speakers, at a level that allows for few speakers.

    The bootstrap knows the spread of the speakers it has, as if that were the truth: its standard error is
    sqrt(n/(n-1)) too small and its quantiles are the normal's instead of Student's. So the percentiles are asked for at
    the level ``2 Φ(t sqrt(n/(n-1))) - 1`` with t the Student quantile of n-1 degrees of freedom, which is exact for
    the mean of normal values (Hesterberg 2015, the expanded percentile interval): 0.965 for 0.95 at 24 speakers.

    Measured, 1500 simulations each of speakers with random effects (logit scale, 8 clips a class), nominal 95 %:

    ==================================  =========  ======
    speakers                            plain BCa  here
    ==================================  =========  ======
    24, recall .5, moderate effects     94.3 %     95.3 %
    24, recall .5, one strong effect    93.1 %     94.5 %
    24, recall .8, strong effects       92.7 %     94.9 %
    24, unbalanced in every class       92.1 %     94.3 %
    24, recall .95, strong effects      90.5 %     92.6 %
    6 / 8 / 10                          88/88/91   93/94/95
    48 / 90                             94.1/94.4  94.8/94.7
    ==================================  =========  ======

    At 24 speakers the interval is 8 % wider than plain BCa's. The log-loss and the Brier score have 95 % there as well.

    Resamples of ECE lie above it, as a bin of fewer different speakers is less balanced, and BCa would take that for
    a bias of the score shown: 70 to 84 % of such intervals hold what the score is on average, and some not even the
    score itself. AUROC's lie above it too where a fold has few speakers, as one drawn twice is compared with
    themselves (93 %). So the resamples of these two are centred on the score (`CENTRED`): 93 to 97 % and 95 %.

    Decided cases:

    - The same value in every resample (a constant answer's UAR, a perfect score): the interval is that value.
    - Too few speakers for the level, ``2**(1 - n) > 1 - confidence`` (at 95 %: fewer than 6; one speaker always): NaN.
      Resamples cannot leave the range of the speakers, and that range misses the median speaker so often by itself;
      the swap test of `difference` cannot reach the level with fewer either.
    - A declared class that nobody speaks: NaN, as the score.
    - Speakers that lack a class: resamples in which nobody speaks it are left out. Where fewer than four speakers have
      it, NaN (coverage falls to 89 % with three of 24, and is 93 % with four).
    - AUROC in a resample: a fold counts as often as its utterances were drawn; a fold of which nobody was drawn, or
      nobody with a class, is left out.
    - A model without probabilities: NaN, as the score.

    References
    ----------
    Efron (1987), Better bootstrap confidence intervals, JASA 82; Hesterberg (2015), What teachers should know about
    the bootstrap, The American Statistician 69; Bisani and Ney (2004), Bootstrap estimates for confidence intervals in
    ASR performance evaluation, ICASSP (why the speaker is the unit).
    """
    found = _interval(
        lambda weights: score_resamples(counts, metric, weights), counts, metric, confidence, n_resamples, seed
    )
    if metric not in CENTRED:
        return found
    return replace(found, low=float(np.clip(found.low, 0, 1)), high=float(np.clip(found.high, 0, 1)))


def difference(
    a: Counts,
    b: Counts,
    metric: str = "uar",
    *,
    confidence: float = CONFIDENCE,
    n_resamples: int = N_RESAMPLES,
    n_permutations: int = N_RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Return the score of `a` minus that of `b`, paired by speaker, with interval and p-value.

    The interval is that of `interval`, of the difference in the same resamples. The p-value is of the hypothesis that
    the two are interchangeable: speaker by speaker, with all their utterances and repeats, the predictions are swapped
    or not; it is the share of swaps with a difference at least as large, of either sign. All swaps are tried
    where they are at most `n_permutations`; else that many are drawn, and the observed one counts as another.
    Equal counts have difference 0, interval [0, 0] and p = 1, whatever the number of speakers.

    Measured, 4000 simulations of equal models that find the same speakers and clips hard, 24 speakers: p ≤ 0.05 in
    4.7 %, the interval excludes zero in 5.8 %. If a fold's speakers also share what its trained model is good at
    (four a fold, sd 0.3 on the logit scale), it is 8 %: see the head of this module. Sixteen seeds of the MLP on the
    synthetic corpus: none of 120 pairs.

    Raises
    ------
    ConfigError
        If the two are not on the same utterances and repeats.
    """
    _check_paired(a, b)

    def of_weights(weights: np.ndarray) -> np.ndarray:
        return np.round(score_resamples(a, metric, weights) - score_resamples(b, metric, weights), PLACES)

    observed = float(of_weights(np.ones((1, len(a.speakers))))[0])
    if observed == 0 and (_sums(a, metric) == _sums(b, metric)).all():
        return Difference(0.0, 0.0, 0.0, 1.0)
    lacking = b if b.losses is None else a
    bounds = _interval(of_weights, lacking, metric, confidence, n_resamples, seed)
    p_value = _swap_test(a, b, metric, observed, n_permutations, seed)
    is_untested = math.isnan(p_value) and not bounds.reason
    return Difference(observed, bounds.low, bounds.high, p_value, NO_SWAP_TEST if is_untested else bounds.reason)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Adjust p-values for their number; NaN stays NaN and does not count.

    References
    ----------
    Holm (1979), A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6.
    """
    p_values = np.asarray(p_values, dtype=float)
    adjusted = np.full(p_values.shape, np.nan)
    order = np.argsort(p_values, kind="stable")[: np.isfinite(p_values).sum()]
    steps = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def rank_groups(p_adjusted: np.ndarray, *, alpha: float = ALPHA) -> list[int]:
    """Group entries that cannot be told apart from the best of their group.

    Group 1 is the best entry and everything not significantly different from it; the next group starts at the best
    entry that is left, and so on. "Not told apart" is not transitive, so no grouping can say everything: two of a group
    may differ from each other, and an entry may have a lower group than a better one whose difference is surer. The
    table of pairs says which.

    Parameters
    ----------
    p_adjusted : array of shape (n_entries, n_entries)
        Symmetric, best entry first; NaN is not significant.

    Returns
    -------
    list of int, one an entry, from 1
    """
    p_adjusted = np.asarray(p_adjusted)
    groups = np.zeros(len(p_adjusted), dtype=int)
    while not groups.all():
        free = groups == 0
        best = int(np.argmax(free))
        told_apart = p_adjusted[best] <= alpha
        told_apart[best] = False
        groups[free & ~told_apart] = groups.max() + 1
    return groups.tolist()


def pairs(
    entries: Mapping[str, Counts],
    metric: str = "uar",
    *,
    confidence: float = CONFIDENCE,
    n_resamples: int = N_RESAMPLES,
    n_permutations: int = N_RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare every two entries of one corpus, feature set and protocol; p-values by Holm over all of them.

    More permutations are drawn where there are so many pairs that Holm's correction would leave nothing significant.

    Returns
    -------
    DataFrame with the columns `PAIRS` less those of the board, in the order of `entries`.
    """
    import pandas as pd

    names = list(entries)
    couples = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    enough = max(n_permutations, math.ceil(2 * len(couples) / (1 - confidence)))
    rows = []
    for a, b in couples:
        found = difference(
            entries[a],
            entries[b],
            metric,
            confidence=confidence,
            n_resamples=n_resamples,
            n_permutations=enough,
            seed=seed,
        )
        sizes = {"n_speakers": len(entries[a].speakers), "n_utterances": entries[a].n_utterances}
        bounds = {"difference": found.value, "low": found.low, "high": found.high, "p_value": found.p_value}
        rows.append({"metric": metric, "entry_a": a, "entry_b": b, **bounds, **sizes, "reason": found.reason})
    frame = pd.DataFrame(rows, columns=[name for name in PAIRS if name not in (*BOARD, "p_holm")])
    frame.insert(frame.columns.get_loc("p_value") + 1, "p_holm", holm(frame["p_value"].to_numpy(dtype=float)))
    return frame


def describe(
    predictions: pd.DataFrame,
    classes: Mapping[str, Sequence[str]],
    *,
    metrics: Sequence[str] | None = None,
    rank_by: str = "uar",
    confidence: float = CONFIDENCE,
    n_resamples: int = N_RESAMPLES,
    n_permutations: int = N_RESAMPLES,
    seed: int = 0,
) -> Description:
    """Return intervals, groups and pairs of all entries of a run, per corpus, feature set and protocol.

    An entry that has predicted fewer utterances than another has a failed fold, and is left out. Entries are ordered
    best first, by name where they are equal; pairs and groups are by `rank_by`. `seed_sd` is the standard deviation of
    the score over repeats, NaN where there is one.

    Parameters
    ----------
    predictions : DataFrame
        The tidy table `emobench.results.PREDICTIONS`.
    classes : mapping of corpus to its declared classes
    metrics : sequence of str, optional
        Every row of `METRICS` and the recall of every class by default.
    """
    import pandas as pd

    intervals, groups, compared = [], [], []
    for board, part in predictions.groupby(BOARD, sort=False, observed=True):
        key = dict(zip(BOARD, board, strict=True))
        declared = tuple(classes[key["corpus"]])
        entries = count_entries(part, declared)
        scores = {name: round(score(counts, rank_by), PLACES) for name, counts in entries.items()}
        sign = -1 if _is_greater_better(rank_by) else 1
        entries = {name: entries[name] for name in sorted(entries, key=lambda name: (sign * scores[name], name))}
        for name, counts in entries.items():
            sizes = {"n_speakers": len(counts.speakers), "n_utterances": counts.n_utterances}
            for metric in (*METRICS, *(RECALL + label for label in declared)) if metrics is None else metrics:
                found = interval(counts, metric, confidence=confidence, n_resamples=n_resamples, seed=seed)
                by_repeat = score_repeats(counts, metric)
                seed_sd = float(by_repeat.std(ddof=1)) if len(by_repeat) > 1 else math.nan
                scored = {"value": float(by_repeat.mean()), "low": found.low, "high": found.high, "seed_sd": seed_sd}
                intervals.append({**key, "entry": name, "metric": metric, **scored, **sizes, "reason": found.reason})
        frame = pairs(
            entries,
            rank_by,
            confidence=confidence,
            n_resamples=n_resamples,
            n_permutations=n_permutations,
            seed=seed,
        )
        compared.append(frame.assign(**key)[list(PAIRS)])
        names = [name for name in entries if not math.isnan(scores[name])]
        numbers = rank_groups(_matrix(frame, names), alpha=1 - confidence)
        groups += [{**key, "entry": name, "rank_group": number} for name, number in zip(names, numbers, strict=True)]
    return Description(
        pd.DataFrame(intervals, columns=list(INTERVALS)),
        pd.DataFrame(groups, columns=list(GROUPS)),
        pd.concat(compared, ignore_index=True) if compared else pd.DataFrame(columns=list(PAIRS)),
    )


def _is_greater_better(metric: str) -> bool:
    return metric.startswith(RECALL) or get_metric(metric).is_greater_better


def count_entries(part: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, Counts]:
    """Count the complete entries of one board (a corpus, feature set and protocol of the table of predictions)."""
    code = {label: index for index, label in enumerate(classes)}
    whole = part.groupby("entry", observed=True).size().max()
    return {
        str(name): count(
            cells["y_true"].map(code).fillna(-1).to_numpy(dtype=int),
            cells["y_pred"].map(code).fillna(-1).to_numpy(dtype=int),
            cells["speaker"].to_numpy(),
            len(classes),
            repeats=cells["repeat"].to_numpy(),
            utterances=cells["utterance"].tolist(),
            classes=classes,
            proba=_probabilities(cells, classes),
            folds=cells["fold"].to_numpy(),
        )
        for name, cells in part.groupby("entry", sort=False, observed=True)
        if len(cells) == whole
    }


def _probabilities(cells: pd.DataFrame, classes: tuple[str, ...]) -> np.ndarray | None:
    """Return an entry's probabilities, None where it gives none."""
    columns = [f"p_{label}" for label in classes]
    if not set(columns) <= set(cells.columns):
        return None
    proba = cells[columns].to_numpy(dtype=float)
    return None if np.isnan(proba).any() else proba


def _matrix(frame: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """Return the adjusted p-values of a table of pairs as a symmetric matrix."""
    place = {name: index for index, name in enumerate(names)}
    matrix = np.full((len(names), len(names)), np.nan)
    for a, b, p_value in zip(frame["entry_a"], frame["entry_b"], frame["p_holm"], strict=True):
        if a in place and b in place:
            matrix[place[a], place[b]] = matrix[place[b], place[a]] = p_value
    return matrix


def _interval(
    statistic: Callable[[np.ndarray], np.ndarray],
    counts: Counts,
    metric: str,
    confidence: float,
    n_resamples: int,
    seed: int,
) -> Interval:
    """Return the interval of a function of the speakers' weights; see `interval`."""
    n = len(counts.speakers)
    observed = float(statistic(np.ones((1, n)))[0])
    if math.isnan(observed):
        return _none(_why_undefined(counts, metric))
    if 2.0 ** (1 - n) > 1 - confidence:
        enough = math.ceil(1 - math.log2(1 - confidence))
        return _none(f"an interval at {confidence:.0%} takes at least {enough} speakers, there are {n}")
    replicates = statistic(_resamples(n, n_resamples, seed))
    defined = replicates[~np.isnan(replicates)]
    fewest = int((counts.tables.sum(axis=3) > 0).all(axis=0).sum(axis=0)[_classes_of(counts, metric)].min())
    if len(defined) < n_resamples and fewest < MIN_SPEAKERS_OF_CLASS:
        return _none(
            f"an interval takes at least {MIN_SPEAKERS_OF_CLASS} speakers of each class, one class has {fewest}"
        )
    if np.ptp(defined) == 0:
        return Interval(observed, observed)
    if metric in CENTRED:
        defined = defined + (observed - defined.mean())
    return _bca(statistic, n, defined, confidence)


def _bca(statistic: Callable[[np.ndarray], np.ndarray], n: int, replicates: np.ndarray, confidence: float) -> Interval:
    from scipy import stats

    def of_rows(rows: np.ndarray, axis: int = -1) -> np.ndarray:
        """Score resamples given as speakers' indices, as SciPy's jackknife gives them."""
        flat = rows.reshape(-1, rows.shape[-1])
        cells = flat + n * np.arange(len(flat))[:, None]
        weights = np.bincount(cells.ravel(), minlength=n * len(flat)).reshape(-1, n)
        return statistic(weights).reshape(rows.shape[:-1])

    student = stats.t.ppf((1 + confidence) / 2, n - 1) * math.sqrt(n / (n - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = stats.bootstrap(
            (np.arange(n),),
            of_rows,
            vectorized=True,
            n_resamples=0,
            bootstrap_result=SimpleNamespace(bootstrap_distribution=replicates),
            confidence_level=2 * stats.norm.cdf(student) - 1,
            method="BCa",
        ).confidence_interval
    if math.isnan(found.low) or math.isnan(found.high):
        return _none("nearly every resample is on one side of the score, so that its bias cannot be corrected")
    return Interval(float(found.low), float(found.high))


def _why_undefined(counts: Counts, metric: str) -> str:
    is_needy = not metric.startswith(RECALL) and get_metric(metric).needs == "probabilities"
    if is_needy and counts.losses is None:
        return NO_PROBABILITIES
    n_true = counts.tables.sum(axis=(1, 3)).min(axis=0)
    where = ""
    if metric == "auroc" and n_true.all():
        n_true = np.min([contest.n_true.sum(axis=0) for contest in counts.contests], axis=0)
        where = " in some fold"
    if metric.startswith(RECALL):
        return f"no test utterance of {metric.removeprefix(RECALL)}"
    return f"no test utterance of {int((n_true == 0).sum())} of the {len(n_true)} declared classes{where}"


def _classes_of(counts: Counts, metric: str) -> slice:
    """Return the classes that a metric needs to be spoken."""
    if not metric.startswith(RECALL):
        return slice(None)
    code = counts.classes.index(metric.removeprefix(RECALL))
    return slice(code, code + 1)


def _swap_test(a: Counts, b: Counts, metric: str, observed: float, n_permutations: int, seed: int) -> float:
    """Return the p-value of swapping two entries' predictions speaker by speaker."""
    if math.isnan(observed) or metric == AUROC:
        return math.nan
    n = len(a.speakers)
    is_exact = 2 ** (n - 1) <= n_permutations
    if is_exact:  # the last speaker stays: to swap everyone else instead only turns the sign
        swaps = (np.arange(2 ** (n - 1))[:, None] >> np.arange(n)) & 1
    else:
        swaps = np.random.default_rng([seed, 1]).integers(0, 2, (n_permutations, n))
    form, whole = _form(a, metric), np.ones((1, n))
    sums_a, sums_b = form.sums(a), form.sums(b)
    mixed = _pool(sums_a, 1 - swaps) + _pool(sums_b, swaps)
    rest = _pool(sums_a, whole) + _pool(sums_b, whole) - mixed
    gaps = np.round(np.abs((form.score(mixed) - form.score(rest)).mean(axis=-1)), PLACES)
    n_extreme = int((gaps >= abs(observed)).sum())
    return n_extreme / len(swaps) if is_exact else (n_extreme + 1) / (len(swaps) + 1)


@lru_cache(maxsize=2)
def _resamples(n_speakers: int, n_resamples: int, seed: int) -> np.ndarray:
    """Draw speakers with replacement: how often each is in a resample, shape (n_resamples, n_speakers)."""
    weights = np.random.default_rng([seed, 0]).multinomial(n_speakers, np.full(n_speakers, 1 / n_speakers), n_resamples)
    weights.flags.writeable = False
    return weights


def _by_repeat(counts: Counts, metric: str, weights: np.ndarray) -> np.ndarray:
    """Score the weighted speakers of every repeat: shape (n_resamples, n_repeats)."""
    weights = np.asarray(weights, dtype=float)
    if metric == AUROC:
        return _aurocs(counts, weights)
    form = _form(counts, metric)
    return form.score(_pool(form.sums(counts), weights))


def _pool(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Add up sums of shape (n_repeats, n_speakers, m) over weighted speakers: (n_resamples, n_repeats, m)."""
    n_repeats, n_speakers, m = sums.shape
    flat = sums.transpose(1, 0, 2).reshape(n_speakers, -1)
    return (np.asarray(weights, dtype=float) @ flat).reshape(-1, n_repeats, m)


def _aurocs(counts: Counts, weights: np.ndarray) -> np.ndarray:
    """Return AUROC as `_by_repeat` does.

    A resample's fold counts as much as the share of its utterances that was drawn: all folds equally in what is
    observed, each fold as often as its speaker was drawn where that is one. A fold of which nobody was drawn, or nobody
    with a class, is left out of the resample; if one lacks a class from the start there is no AUROC.
    """
    n_repeats = len(counts.tables)
    total, whole = np.zeros((2, len(weights), n_repeats))
    for contest in counts.contests:
        drawn = weights[:, contest.members]
        n_true = drawn @ contest.n_true
        n_pairs = n_true * (n_true.sum(axis=1, keepdims=True) - n_true)
        wins = np.column_stack([((drawn @ of_class) * drawn).sum(axis=1) for of_class in contest.wins])
        area = _share(wins, n_pairs).mean(axis=1)
        share = np.where(np.isnan(area), 0, n_true.sum(axis=1) / contest.n_true.sum())
        total[:, contest.repeat] += share * np.nan_to_num(area)
        whole[:, contest.repeat] += share
    is_undefined = not all(contest.n_true.any(axis=0).all() for contest in counts.contests)
    return np.full_like(total, np.nan) if is_undefined else _share(total, whole)


@dataclass(frozen=True)
class _Form:
    """How a metric follows from sums over speakers.

    Attributes
    ----------
    sums : callable
        Takes `Counts`; returns an array of shape (n_repeats, n_speakers, m).
    score : callable
        Takes such sums over speakers, shape (…, m); returns shape (…).
    """

    sums: Callable[[Counts], np.ndarray]
    score: Callable[[np.ndarray], np.ndarray]


def _form(counts: Counts, metric: str) -> _Form:
    if metric in FORMS:
        return FORMS[metric]
    if metric.startswith(RECALL) and metric.removeprefix(RECALL) in counts.classes:
        code = counts.classes.index(metric.removeprefix(RECALL))
        return _Form(_margins, lambda sums: _recalls(sums)[..., code])
    raise ConfigError(
        f"A metric with an interval must be one of {', '.join((*FORMS, AUROC))} or recall_<class>. Got {metric!r}. "
        "Add it to FORMS in emobench/statistics.py if it follows from sums over speakers."
    )


def _sums(counts: Counts, metric: str) -> np.ndarray:
    """Return all that a metric's value depends on."""
    if metric == AUROC:
        return np.concatenate([contest.wins.ravel() for contest in counts.contests])
    return _form(counts, metric).sums(counts)


def _margins(counts: Counts) -> np.ndarray:
    """Return right answers, true and predicted utterances of each class."""
    tables = counts.tables
    return np.concatenate([tables.diagonal(axis1=2, axis2=3), tables.sum(axis=3), tables.sum(axis=2)], axis=2)


def _recalls(sums: np.ndarray) -> np.ndarray:
    hits, n_true, _ = np.split(sums, 3, axis=-1)
    return _share(hits, n_true)


def _uar(sums: np.ndarray) -> np.ndarray:
    return _recalls(sums).mean(axis=-1)


def _war(sums: np.ndarray) -> np.ndarray:
    hits, n_true, _ = np.split(sums, 3, axis=-1)
    return _share(hits.sum(axis=-1), n_true.sum(axis=-1))


def _macro_f1(sums: np.ndarray) -> np.ndarray:
    hits, n_true, n_pred = np.split(sums, 3, axis=-1)
    return np.where(n_true > 0, _share(2 * hits, n_true + n_pred), np.nan).mean(axis=-1)


def _losses_of(columns: slice) -> Callable[[Counts], np.ndarray]:
    """Return a function that gives some columns of the losses and the number of utterances; NaN without losses."""

    def sums(counts: Counts) -> np.ndarray:
        n_true = counts.tables.sum(axis=(2, 3))[..., None].astype(float)
        if counts.losses is None:
            return np.full((*n_true.shape[:2], 2), np.nan)
        return np.concatenate([counts.losses[..., columns], n_true], axis=-1)

    return sums


def _mean_size(sums: np.ndarray) -> np.ndarray:
    """Return the sum of the sizes of all sums but the last, by the last, which is the number of utterances."""
    return _share(np.abs(sums[..., :-1]).sum(axis=-1), sums[..., -1])


FORMS: dict[str, _Form] = {
    "uar": _Form(_margins, _uar),
    "war": _Form(_margins, _war),
    "macro_f1": _Form(_margins, _macro_f1),
    "log_loss": _Form(_losses_of(slice(0, 1)), _mean_size),
    "brier": _Form(_losses_of(slice(1, 2)), _mean_size),
    "ece": _Form(_losses_of(slice(2, None)), _mean_size),
}


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _none(reason: str) -> Interval:
    return Interval(math.nan, math.nan, reason)


def _check_paired(a: Counts, b: Counts) -> None:
    def problem() -> str:
        if a.speakers != b.speakers:
            return f"{len(set(a.speakers) ^ set(b.speakers))} speakers are in one of them only"
        if a.tables.shape != b.tables.shape:
            return f"repeats, speakers and classes are {a.tables.shape[:3]} and {b.tables.shape[:3]}"
        if a.utterances and b.utterances and a.utterances != b.utterances:
            return f"their utterances have the fingerprints {a.utterances} and {b.utterances}"
        if (a.tables.sum(axis=3) != b.tables.sum(axis=3)).any():
            return "their true labels differ"
        return ""

    if found := problem():
        raise ConfigError(
            f"A difference must be of predictions of the same utterances and repeats. Here {found}. "
            "Compare entries of one corpus and protocol, on what both have."
        )
