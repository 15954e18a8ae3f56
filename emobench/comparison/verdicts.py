"""Whether a candidate run is worse than a baseline: by how much it differs, and how sure that is.

Predictions of the same utterances are paired by speaker (`statistics.difference`). A leaderboard alone knows each
score and its interval, but not that the same speakers were hard for both; see `unpaired_difference`. What cannot be
compared is refused (`comparability`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from emobench.comparison import comparability
from emobench.comparison.comparability import SIDES, Board, NotComparableError
from emobench.errors import ConfigError, DataError
from emobench.metrics import METRICS, RECALL, MetricSpec, get_metric
from emobench.registry import Plugins, lookup, using
from emobench.results.run import Results, load_results
from emobench.results.tables import LEADERBOARD, PREDICTIONS, in_markdown
from emobench.statistics.counts import Counts, count_entries, score
from emobench.statistics.differences import ALPHA, Difference, difference, holm
from emobench.statistics.intervals import BOARD, CONFIDENCE, PLACES

if TYPE_CHECKING:
    import pandas as pd

IDENTICAL, BETTER, NO_WORSE, INCONCLUSIVE = "identical", "better", "no worse", "inconclusive"
WORSE, FAILED, MISSING, NEW = "worse", "failed", "missing", "new"
REGRESSIONS = (WORSE, FAILED, MISSING)
STATUSES = (*REGRESSIONS, INCONCLUSIVE, BETTER, NO_WORSE, IDENTICAL, NEW)

DEFAULT_FAIL = {"uar": 0.02}
MAX_GROWTH = 20  # a corpus this many times larger is no advice
TIMINGS = ("_ms", "_s")
MEASURED = (*TIMINGS, "_bytes")  # of machines and files rather than of answers; less is better
KEYS = (*BOARD, "entry")
STRESS = "stress:"  # of an answer to stressed recordings: stress:<name>:<measure>


@dataclass(frozen=True)
class Tolerance:
    """By how much a figure may become worse: absolute, or a share of the baseline's."""

    value: float
    is_relative: bool = False

    @classmethod
    def parse(cls, given: float | str | Tolerance) -> Tolerance:
        """Read ``0.02`` or ``25%``."""
        if isinstance(given, Tolerance):
            return given
        text = str(given).strip()
        try:
            value = float(text.removesuffix("%"))
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise ConfigError(
                f"A tolerance must be a number from 0, or a percentage of the baseline. Got {text!r}. "
                "Write it as 0.02 or 25%."
            )
        return cls(value / 100, True) if text.endswith("%") else cls(value)

    def of(self, reference: float) -> float:
        """Return the tolerance in the figure's own unit."""
        return self.value * abs(reference) if self.is_relative else self.value


@dataclass(frozen=True)
class Verdict:
    """What is to be said of one entry and metric.

    Attributes
    ----------
    status : str
        One of `STATUSES`.
    metric : str
        Empty where the whole entry is meant.
    baseline, candidate : float
    difference : float
        Candidate minus baseline.
    low, high : float
        Its 95 % interval over speakers.
    p_value : float
        That the two are interchangeable, adjusted for all verdicts (Holm).
    tolerance : float
        In the metric's unit.
    n_speakers : int
        Paired ones; 0 where predictions were not compared.
    reason : str
        What a person should know to make something of the status.
    """

    status: str
    corpus: str
    features: str
    protocol: str
    entry: str
    metric: str = ""
    baseline: float = math.nan
    candidate: float = math.nan
    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p_value: float = math.nan
    tolerance: float = math.nan
    n_speakers: int = 0
    reason: str = ""

    @property
    def board(self) -> Board:
        return self.corpus, self.features, self.protocol

    @property
    def title(self) -> str:
        return " · ".join(name for name in (*self.board, self.entry, self.metric) if name)


@dataclass(frozen=True)
class Comparison:
    """All verdicts on a candidate, and what should be known beside them.

    Attributes
    ----------
    baseline, candidate : str
        Names of the runs.
    verdicts : tuple of Verdict
        In the order of the boards, the baseline's entries first.
    notes : tuple of str
        Differences that do not forbid to compare, and what could not be checked.
    """

    baseline: str
    candidate: str
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...] = ()
    fail_inconclusive: bool = False
    allow_missing: bool = False

    def is_regression(self, verdict: Verdict) -> bool:
        """Return whether a verdict fails a build."""
        return verdict.status in REGRESSIONS and not (self.allow_missing and verdict.status == MISSING)

    @property
    def exit_code(self) -> int:
        """10 if something is worse, failed or missing; 11 if it cannot be told and must be; else 0."""
        if any(map(self.is_regression, self.verdicts)):
            return 10
        return 11 if self.fail_inconclusive and self.count(INCONCLUSIVE) else 0

    def count(self, status: str) -> int:
        return sum(verdict.status == status for verdict in self.verdicts)

    @property
    def summary(self) -> str:
        """One line: whether there is a regression, and how many verdicts have each status."""
        found = {10: "Regression", 11: "Inconclusive", 0: "No regression"}[self.exit_code]
        return f"{found}: {', '.join(f'{n} {status}' for status in STATUSES if (n := self.count(status)))}"

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each verdict, the fields of `Verdict` as columns."""
        import pandas as pd

        return pd.DataFrame([asdict(verdict) for verdict in self.verdicts], columns=list(Verdict.__dataclass_fields__))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON has it: null for what is not there."""
        rows = [{name: _plain(value) for name, value in asdict(verdict).items()} for verdict in self.verdicts]
        return {
            "exit_code": self.exit_code,
            "summary": self.summary,
            "baseline": self.baseline,
            "candidate": self.candidate,
            "verdicts": rows,
            "notes": list(self.notes),
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and rows for people; the board is shown where there are several."""
        has_boards = len({item.board for item in self.verdicts}) > 1
        headings = ["entry", "metric", "baseline", "candidate", "difference", "95 % interval", "p", "tolerance"]
        rows = [
            [item.status, *([comparability.title(item.board)] if has_boards else []), *_cells(item)]
            for item in self.verdicts
        ]
        return ["status", *(["board"] if has_boards else []), *headings], rows

    def remarks(self) -> list[str]:
        """Return the reasons of the verdicts, then the notes."""
        return [*(f"{item.title}: {item.reason}" for item in self.verdicts if item.reason), *self.notes]

    def to_markdown(self) -> str:
        """Return a comment for a pull request: the outcome in a line, a table, then what should be known."""
        headings, rows = self.table()
        lines = [f"**{self.summary}.** {in_markdown(self.candidate)} against {in_markdown(self.baseline)}.", ""]
        lines += [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
        for row, item in zip(rows, self.verdicts, strict=True):
            cells = [in_markdown(cell) for cell in row]
            cells[0] = f"**{cells[0]}**" if self.is_regression(item) else cells[0]
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", *(f"- {in_markdown(remark)}" for remark in self.remarks())]
        return "\n".join(lines).rstrip() + "\n"


@threadpool_limits.wrap(limits=1)  # more threads are slower at this size, and add up in another order
def compare(
    baseline: str | os.PathLike[str] | Results,
    candidate: str | os.PathLike[str] | Results,
    *,
    fail: Mapping[str, float | str | Tolerance] | None = None,
    fail_inconclusive: bool = False,
    allow_missing: bool = False,
    plugins: Plugins = (),
) -> Comparison:
    """Compare a candidate run with a baseline, entry by entry.

    Parameters
    ----------
    baseline, candidate : path or Results
        A run's folder, a folder that holds one run, or a leaderboard CSV.
    fail : mapping of metric to tolerance, optional
        What is compared, and by how much it may become worse: ``{"uar": 0.02, "latency_p50_ms": "25%"}``. UAR by 0.02
        where nothing is given. Scores are those of `METRICS` and ``recall_<class>``; what ends in ``_ms``, ``_s`` or
        ``_bytes`` is a column of the leaderboard; ``stress:<name>:<measure>`` is a figure of ``stress.csv`` at every
        level, with intervals of both runs, not paired.
    fail_inconclusive : bool
        Let the exit code be 11 where something cannot be told.
    allow_missing : bool
        Let entries pass that only the baseline has: the candidate is meant to be a part of it.
    plugins : path or sequence of path
        Files whose rows join the tables; see `emobench.registry.using`.

    Returns
    -------
    Comparison
        Statuses are those of `decide`, of `decide_measurement`, and of whole entries: *failed* (a fold failed where the
        baseline had a score) and *missing* are regressions, since a gate must not pass what it cannot see; *new* is
        not. *identical* are equal predictions, and equal figures where there are no predictions.

    Raises
    ------
    NotComparableError
        Listing everything that differs.
    ConfigError
        If a tolerance or a metric is not known, or a newer emobench wrote one of the two.
    DataError
        If a file is damaged.
    """
    with using(plugins):
        return _compare(baseline, candidate, fail, fail_inconclusive, allow_missing)


def _compare(
    baseline: str | os.PathLike[str] | Results,
    candidate: str | os.PathLike[str] | Results,
    fail: Mapping[str, float | str | Tolerance] | None,
    fail_inconclusive: bool,
    allow_missing: bool,
) -> Comparison:
    sides = [side if isinstance(side, Results) else load_results(side) for side in (baseline, candidate)]
    tolerances = {name: Tolerance.parse(value) for name, value in (DEFAULT_FAIL if fail is None else fail).items()}
    _check_metrics(tolerances, sides)
    boards = [comparability.read_boards(side) for side in sides]
    common = [board for board in boards[0] if board in boards[1]]
    comparability.check_comparable(sides, boards, common)
    pending = [
        item
        for board in boards[0]
        for item in _measure(sides, board, [found.get(board, {}) for found in boards], tolerances)
    ]
    adjusted = holm([math.nan if item.status else item.p_value for item in pending])
    verdicts = [
        item if item.status else _settle(replace(item, p_value=float(p_value)))
        for item, p_value in zip(pending, adjusted, strict=True)
    ]
    return Comparison(
        _name(sides[0]),
        _name(sides[1]),
        tuple(verdicts),
        tuple(comparability.remarks(sides, boards, common)),
        fail_inconclusive,
        allow_missing,
    )


def decide(
    found: Difference, tolerance: float, *, is_greater_better: bool = True, n_speakers: int = 0
) -> tuple[str, str]:
    """Return what a difference (candidate minus baseline) comes to, and why.

    - *worse*: the drop exceeds the tolerance, the 95 % interval excludes zero, and so does the test after Holm's
      correction for all verdicts. *better* is the same the other way round.
    - *no worse*: the interval lies above minus the tolerance (non-inferior, with the tolerance as margin).
    - *inconclusive*: neither can be said. The reason says how many speakers would decide it, should the difference stay
      as it is: an interval narrows as one over the square root of their number.

    Zero must be excluded on the side of a drop, so that of equal runs one in 40 would fail at most, however many
    entries they have, and a wider tolerance lets fewer fail; what was measured stands in ``tests/test_gate.py``.

    Parameters
    ----------
    found : Difference
        Its p-value is the adjusted one; where it is NaN the interval decides alone.
    tolerance : float
        At least 0, in the metric's unit.

    References
    ----------
    Piaggio et al. (2012), Reporting of noninferiority and equivalence randomized trials, JAMA 308, figure 1: the
    statuses and what each interval shows.
    """
    gain = found if is_greater_better else _negative(found)
    if math.isnan(gain.value) or math.isnan(gain.low) or math.isnan(gain.high):
        return INCONCLUSIVE, found.reason or "there is no interval"
    is_sure = math.isnan(gain.p_value) or gain.p_value <= ALPHA
    if gain.value < -tolerance and gain.high < 0 and is_sure:
        return WORSE, ""
    if gain.value > tolerance and gain.low > 0 and is_sure:
        return BETTER, ""
    if gain.low >= -tolerance:
        return NO_WORSE, ""
    if gain.value >= -tolerance:
        needed = _speakers(n_speakers, gain.value - gain.low, gain.value + tolerance)
        return INCONCLUSIVE, f"a drop beyond the tolerance cannot be excluded; {needed}"
    if gain.high < 0:
        return INCONCLUSIVE, (
            f"a drop beyond the tolerance, but among so many comparisons chance brings one like it (p = "
            f"{gain.p_value:.2g}); compare fewer metrics, or on more speakers"
        )
    needed = _speakers(n_speakers, gain.high - gain.value, -gain.value)
    return INCONCLUSIVE, f"a drop beyond the tolerance that chance can explain; {needed}"


def _negative(found: Difference) -> Difference:
    return replace(found, value=-found.value, low=-found.high, high=-found.low)


def _speakers(n_speakers: int, half_width: float, needed: float) -> str:
    """Say how many speakers make an interval's half as narrow as is needed."""
    if half_width > needed * math.sqrt(MAX_GROWTH):
        return "it is so near the tolerance that hardly any number of speakers would decide; choose another tolerance"
    enough = math.ceil(n_speakers * (half_width / needed) ** 2)
    more = f"about {enough} speakers instead of {n_speakers}" if n_speakers else "more speakers"
    return f"{more} would decide it, or more repeats where seeds differ"


def decide_measurement(
    baseline: float, candidate: float, tolerance: Tolerance, *, noise: float = math.nan
) -> tuple[str, str]:
    """Return what a time or a size comes to that has no interval over speakers, and why.

    *Worse* is an increase beyond the tolerance and beyond the noise, the difference that the machine shows between two
    measurements of the same thing; beyond the tolerance but not the noise is *inconclusive*. A percentage is one of the
    smaller figure in both directions, so that *better* and *worse* mirror each other.
    """
    if math.isnan(baseline) or math.isnan(candidate):
        where = [name for name, value in (("baseline", baseline), ("candidate", candidate)) if math.isnan(value)]
        return INCONCLUSIVE, f"not measured in the {' and the '.join(where)}; measure it in both"
    if baseline == candidate:
        return IDENTICAL, ""
    change = abs(candidate - baseline)
    if change <= tolerance.of(min(baseline, candidate)):
        return NO_WORSE, ""
    if change <= noise:
        return INCONCLUSIVE, f"within the noise of {noise:.3g} between two equal measurements; measure for longer"
    return (WORSE if candidate > baseline else BETTER), ""


def unpaired_difference(baseline: tuple[float, float, float], candidate: tuple[float, float, float]) -> Difference:
    """Return the difference of two scores of which only (value, low, high) are known, as if they were independent.

    The same speakers are hard for both, so their scores rise and fall together and the true interval is narrower:
    what this one excludes is excluded all the more, but much is inconclusive that predictions would decide.
    The p-value is that of a normal whose 95 % quantile is the side of the interval towards zero.

    References
    ----------
    Zou and Donner (2008), Construction of confidence limits about effect measures: a general approach, Statistics in
    Medicine 27 (MOVER); Newcombe (1998) for the difference of proportions.
    """
    from scipy import stats

    (base, base_low, base_high), (value, low, high) = baseline, candidate
    gap = round(value - base, PLACES)
    below, above = math.hypot(value - low, base_high - base), math.hypot(high - value, base - base_low)
    if math.isnan(gap) or math.isnan(below) or math.isnan(above):
        return Difference(gap, math.nan, math.nan, math.nan, "the leaderboards give no interval; compare predictions")
    towards_zero = below if gap > 0 else above
    if gap == 0 or towards_zero == 0:
        p_value = float(gap == 0)
    else:
        p_value = float(2 * stats.norm.sf(abs(gap) / towards_zero * stats.norm.ppf((1 + CONFIDENCE) / 2)))
    return Difference(gap, gap - below, gap + above, p_value)


# --- what is asked for -----------------------------------------------------------------------------------------------


def _check_metrics(tolerances: Mapping[str, Tolerance], sides: Sequence[Results]) -> None:
    if not tolerances:
        raise ConfigError("At least one metric must be compared. Got none. Leave `fail` out for UAR.")
    columns = {*LEADERBOARD, *(name for side in sides for name in side.leaderboard.columns)}
    recalls = {RECALL + label for side in sides for label in _classes(side)}
    known = {**METRICS, **dict.fromkeys([*recalls, *filter(_is_measured, columns)])}
    for name in tolerances:
        if name.startswith(STRESS):
            _check_stress(name, sides)
        elif recalls or not name.startswith(RECALL):
            lookup("metric", known, name)


def _check_stress(metric: str, sides: Sequence[Results]) -> None:
    """Refuse a figure of stressed recordings that neither run has."""
    tables = [table for side in sides if (table := side.table("stress")) is not None]
    stressed = [table[table["level"].notna()] for table in tables]
    known = {f"{STRESS}{row.stress}:{row.measure}": row for table in stressed for row in table.itertuples()}
    if not known:
        raise ConfigError(f"{metric}: neither run asked about stressed recordings. Add `stress: {{}}` to the config.")
    lookup("figure of stressed recordings", known, metric)


def _is_measured(metric: str) -> bool:
    return metric.endswith(MEASURED)


def _classes(side: Results) -> list[str]:
    return [label for corpus in side.run.get("corpora", {}).values() for label in corpus.get("classes", ())]


# --- what is measured -------------------------------------------------------------------------------------------------


def _measure(
    sides: Sequence[Results], board: Board, rows: Sequence[comparability.Rows], tolerances: Mapping[str, Tolerance]
) -> Iterator[Verdict]:
    """Yield the verdicts of a board; those that statistics will decide have no status yet."""
    before, after = rows
    for entry in dict.fromkeys([*before, *after]):
        blank = Verdict("", *board, entry)
        if entry not in before:
            yield replace(blank, status=NEW)
        elif entry not in after:
            yield replace(blank, status=MISSING)
        else:
            yield from _measure_entry(sides, blank, (before[entry], after[entry]), tolerances)


def _measure_entry(
    sides: Sequence[Results],
    blank: Verdict,
    rows: Sequence[Mapping[str, Any]],
    tolerances: Mapping[str, Tolerance],
) -> Iterator[Verdict]:
    failed = [where for where, row in zip(SIDES, rows, strict=True) if _number(row.get("n_failed")) > 0]
    if failed:
        status = {"candidate": FAILED, "baseline": NEW}[failed[0]] if len(failed) == 1 else INCONCLUSIVE
        yield replace(blank, status=status, reason=f"folds failed in the {' and the '.join(failed)}")
        return
    pair = _pair(sides, blank)
    for metric, tolerance in tolerances.items():
        item = replace(blank, metric=metric)
        if pair and metric.startswith(RECALL) and metric.removeprefix(RECALL) not in pair.before.classes:
            continue  # another corpus's class
        if _is_measured(metric):
            yield _measured(sides, item, rows, tolerance)
        elif metric.startswith(STRESS):
            yield from _stressed(sides, item, tolerance)
        elif pair is None:
            yield _unpaired(item, [_figures(row, metric) for row in rows], tolerance)
        else:
            yield _paired(item, pair, tolerance)


@dataclass(frozen=True)
class _Pair:
    """An entry's predictions in both runs, of the same utterances and repeats."""

    before: Counts
    after: Counts
    is_identical: bool
    has_identical_probabilities: bool
    n_folds: int


def _pair(sides: Sequence[Results], blank: Verdict) -> _Pair | None:
    """Return the predictions of an entry in both runs, None where one of them has kept none."""
    before, after = (_predictions(side, blank) for side in sides)
    if before is None or after is None:
        return None
    repeats = set(before["repeat"]) & set(after["repeat"])
    before, after = (
        part[part["repeat"].isin(repeats)].sort_values(["repeat", "utterance"], ignore_index=True)
        for part in (before, after)
    )
    same = ["repeat", "utterance", "speaker", "y_true"]
    if before.empty or not before[same].equals(after[same]):
        raise NotComparableError(
            f"Two runs must have predicted the same utterances. Those of {blank.title} differ in utterances, speakers "
            "or true labels. Run the candidate with the baseline's config and corpus."
        )
    classes = tuple(sides[0].run["corpora"][blank.corpus]["classes"])
    columns = sorted({name for part in (before, after) for name in part if name.startswith("p_")})
    return _Pair(
        count_entries(before, classes)[blank.entry],
        count_entries(after, classes)[blank.entry],
        before["y_pred"].equals(after["y_pred"]),
        before.reindex(columns=columns).equals(after.reindex(columns=columns)),
        before["fold"].nunique(),
    )


def _predictions(side: Results, blank: Verdict) -> pd.DataFrame | None:
    try:
        frame = side.predictions
    except (OSError, ValueError) as error:  # what pyarrow raises of a file that is none
        raise DataError(f"{side.path}: predictions.parquet must be readable. {error}. Run the config again.") from None
    if frame is None:
        return None
    if absent := sorted(set(PREDICTIONS) - set(frame.columns)):
        raise DataError(f"{side.path}: predictions.parquet must have its columns. It lacks {', '.join(absent)}.")
    wanted = (frame[list(KEYS)] == [*blank.board, blank.entry]).all(axis=1)
    return frame[wanted] if wanted.any() else None


def _paired(item: Verdict, pair: _Pair, tolerance: Tolerance) -> Verdict:
    found = difference(pair.after, pair.before, item.metric)
    values = [score(counts, item.metric) for counts in (pair.before, pair.after)]
    item = _with_difference(item, found, values, tolerance, len(pair.before.speakers))
    if pair.is_identical and (pair.has_identical_probabilities or not _row(item.metric).needs_probabilities):
        return replace(item, status=IDENTICAL)
    if pair.n_folds == 1:
        reason = "one fold is one training: whether another one would say the same cannot be told; use more folds"
        return replace(item, status=INCONCLUSIVE, reason=reason)
    return item


def _figures(row: Mapping[str, Any], metric: str) -> tuple[float, float, float]:
    """Return a score of the leaderboard with its bounds."""
    value, low, high = (_number(row.get(f"{metric}{end}")) for end in ("", "_low", "_high"))
    return value, low, high


def _stressed(sides: Sequence[Results], item: Verdict, tolerance: Tolerance) -> Iterator[Verdict]:
    """Yield a verdict for each level of a stress, from the figures of both runs and their intervals."""
    found: list[dict[float, tuple[float, float, float]]] = []
    for side in sides:
        table = side.table("stress")
        if table is None:
            found.append({})
            continue
        is_of_entry = (table[list(KEYS)] == [*item.board, item.entry]).all(axis=1) & table["level"].notna()
        part = table[is_of_entry & (STRESS + table["stress"] + ":" + table["measure"] == item.metric)]
        found.append({row.level: (row.value, row.low, row.high) for row in part.itertuples()})
    for level in dict.fromkeys([*found[0], *found[1]]):
        figures = [of_side.get(level, (math.nan,) * 3) for of_side in found]
        yield _unpaired(replace(item, metric=f"{item.metric} {level:g}"), figures, tolerance)


def _unpaired(item: Verdict, figures: Sequence[tuple[float, float, float]], tolerance: Tolerance) -> Verdict:
    before, after = figures
    item = _with_difference(item, unpaired_difference(before, after), (before[0], after[0]), tolerance)
    if absent := [where for where, score in zip(SIDES, (before, after), strict=True) if math.isnan(score[0])]:
        return replace(item, status=INCONCLUSIVE, reason=f"the {' and the '.join(absent)} shows no {item.metric}")
    if all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(before, after, strict=True)):
        return replace(item, status=IDENTICAL, reason="equal figures; predictions were not compared")
    return item


def _measured(
    sides: Sequence[Results], item: Verdict, rows: Sequence[Mapping[str, Any]], tolerance: Tolerance
) -> Verdict:
    before, after = (_number(row.get(item.metric)) for row in rows)
    allowed = tolerance.of(min(before, after))
    item = replace(item, baseline=before, candidate=after, difference=after - before, tolerance=allowed)
    cpus = [side.run.get("environment", {}).get("cpu") for side in sides]
    if item.metric.endswith(TIMINGS) and not (cpus[0] and cpus[0] == cpus[1]):
        named = " and ".join(str(cpu or "an unknown one") for cpu in cpus)
        reason = f"times of other processors ({named}) cannot be compared; time both on one machine"
        return replace(item, status=INCONCLUSIVE, reason=reason)
    noises = [_noise(side, item, value) for side, value in zip(sides, (before, after), strict=True)]
    known = [noise for noise in noises if not math.isnan(noise)]
    status, reason = decide_measurement(before, after, tolerance, noise=max(known, default=math.nan))
    if status in (WORSE, BETTER) and item.metric.endswith(TIMINGS) and not known:
        reason = "no noise was measured: the tolerance decided alone"
    return replace(item, status=status, reason=reason)


def _noise(side: Results, item: Verdict, value: float) -> float:
    """Return the noise of an entry's latency: that of the row of ``latency.csv`` that the leaderboard shows."""
    import pandas as pd

    shown = item.metric.removeprefix("latency_")
    noise = f"noise_{shown}"
    table = side.table("latency") if item.metric.startswith("latency_") else None
    if table is None or not {"entry", shown, noise} <= set(table.columns):
        return math.nan
    rows = table[table["entry"] == item.entry]
    gaps = (pd.to_numeric(rows[shown], errors="coerce") - value).abs()
    return _number(pd.to_numeric(rows[noise], errors="coerce").loc[gaps.idxmin()]) if gaps.notna().any() else math.nan


def _with_difference(
    item: Verdict, found: Difference, values: Sequence[float], tolerance: Tolerance, n_speakers: int = 0
) -> Verdict:
    return replace(
        item,
        baseline=values[0],
        candidate=values[1],
        difference=found.value,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
        tolerance=tolerance.of(values[0]),
        n_speakers=n_speakers,
        reason=found.reason,
    )


def _settle(item: Verdict) -> Verdict:
    found = Difference(item.difference, item.low, item.high, item.p_value, item.reason)
    status, reason = decide(
        found, item.tolerance, is_greater_better=_row(item.metric).is_greater_better, n_speakers=item.n_speakers
    )
    return replace(item, status=status, reason=reason or item.reason)


def _row(metric: str) -> MetricSpec:
    """Return the row of a metric that `_check_metrics` has let pass; of stress, that of a score like it."""
    if metric.startswith(STRESS):
        return get_metric("uar")
    return get_metric(metric, classes=[metric.removeprefix(RECALL)])


def _number(value: Any) -> float:
    import pandas as pd

    return math.nan if value is None or pd.isna(value) else float(value)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _name(side: Results) -> str:
    return str(side.run.get("run") or side.path)


# --- for people -------------------------------------------------------------------------------------------------------


def _cells(item: Verdict) -> list[str]:
    digits = ".3g" if _is_measured(item.metric) else ".3f"

    def show(value: float, form: str) -> str:
        return "" if math.isnan(value) else format(value, form)

    bounds = "" if math.isnan(item.low) else f"{item.low:+{digits}} to {item.high:+{digits}}"
    figures = [show(item.baseline, digits), show(item.candidate, digits), show(item.difference, f"+{digits}")]
    return [item.entry, item.metric, *figures, bounds, show(item.p_value, ".4f"), show(item.tolerance, ".3g")]
