"""How robust and how fair an entry is: from its answers to clean and stressed recordings to figures and verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from emobench.metrics import MetricSpec, get_metric, recall_of
from emobench.reports import slices
from emobench.statistics.counts import Counts, count_rows, score
from emobench.statistics.intervals import (
    BOARD,
    N_RESAMPLES,
    Interval,
    Spread,
    bounds,
    interval_of,
    nothing,
    resamples,
    spreads,
)
from emobench.stresses import JUDGED

CLEAN = "clean"  # in place of a stress: the recordings as they are
PASS, FAIL, INCONCLUSIVE = "pass", "fail", "inconclusive"
PITCH_GROUPS = {"low": (0.0, 145.0), "middle": (145.0, 190.0), "high": (190.0, math.inf)}  # mean F0 in Hz
SEX_GAP = 0.075
"""Difference of UAR between the sexes that is tolerated; with the groups of pitch from Derington et al. (2025)."""

ENTRY = [*BOARD, "entry"]
ANSWERS = {  # the tidy table that `describe` takes: one row a recording, stress and level
    **dict.fromkeys(ENTRY, "string"),
    **dict.fromkeys(("repeat", "fold"), "int64"),
    **dict.fromkeys(("utterance", "speaker", "sex"), "string"),
    "f0_hz": "float64",
    **dict.fromkeys(("y_true", "stress"), "string"),
    "level": "float64",
    "y_pred": "string",
    "confidence": "float64",
    "error": "string",
}
COLUMNS = {
    **dict.fromkeys((*ENTRY, "stress"), "string"),
    "level": "float64",
    **dict.fromkeys(("measure", "group"), "string"),
    **dict.fromkeys(("value", "low", "high", "threshold"), "float64"),
    "verdict": "string",
    **dict.fromkeys(("n_utterances", "n_speakers"), "int64"),
    "reason": "string",
}

Thresholds = Mapping[tuple[str, float], Mapping[str, float]]
"""By stress and level: the least value that a measure should have."""


def describe(
    answers: pd.DataFrame,
    classes: Mapping[str, Sequence[str]],
    thresholds: Thresholds,
    *,
    sex_gap: float = SEX_GAP,
    seed: int = 0,
) -> pd.DataFrame:
    """Score every entry under every stress, against its own answers to the clean recordings.

    Parameters
    ----------
    answers : DataFrame with the columns `ANSWERS`
        Every recording once clean and once for each stress and level.
    classes : mapping of corpus to the classes of its models
    thresholds : mapping of (stress, level) to mapping of measure to float

    Returns
    -------
    DataFrame with the columns `COLUMNS`, one row for each of

    - ``uar``: over the classes that occur.
    - ``unchanged``: share of answers that are those to the clean recording.
    - ``delta_uar``: UAR minus that of the clean recordings, negative where it drops.
    - ``gap``: UAR of the clean recordings of one group minus that of another; `group` names them.

    Intervals are over speakers. A verdict is *pass* where the whole interval keeps the threshold, *fail* where none of
    it does, else *inconclusive*; a row without a threshold has none.
    """
    rows: list[dict[str, Any]] = []
    for key, part in answers.groupby(ENTRY, sort=False, observed=True):
        where = dict(zip(ENTRY, key, strict=True))
        of_entry = _Entry(part, tuple(classes[where["corpus"]]), seed)
        rows += [where | row for row in [*of_entry.stresses(thresholds), *of_entry.gaps(sex_gap)]]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({name: kind for name, kind in COLUMNS.items() if kind != "string"})


def describe_run(answers: pd.DataFrame, run: Mapping[str, Any]) -> pd.DataFrame:
    """Score every complete entry of a run under every stress; see `describe`.

    Parameters
    ----------
    answers : DataFrame with the columns `ANSWERS`
    run : mapping
        The content of ``run.json``.
    """
    sizes = answers.groupby(ENTRY, sort=False, observed=True).size()
    whole = sizes[sizes == sizes.groupby(level=BOARD).transform("max")].index
    kept = answers.set_index(ENTRY).loc[whole].reset_index()
    settings = run["stress"]
    thresholds = {
        (row["stress"], row["level"]): {name: row[name] for name in JUDGED if name in row}
        for row in settings["thresholds"]
    }
    classes = {name: about["classes"] for name, about in run["corpora"].items()}
    return describe(kept, classes, thresholds, sex_gap=settings["sex_gap"])


@dataclass(frozen=True)
class _Entry:
    """The answers of one entry on one board."""

    answers: pd.DataFrame
    classes: tuple[str, ...]
    seed: int

    def stresses(self, thresholds: Thresholds) -> Iterator[dict[str, Any]]:
        clean, metric = self.clean, self.metric
        parts = {
            key: self._aligned(part)
            for key, part in self.answers[self.answers["stress"] != CLEAN].groupby(["stress", "level"], sort=False)
        }
        whole = {key: part for key, part in parts.items() if not (part["error"] != "").any()}
        counts = [self._count(part) for part in (clean, *whole.values())]
        known = self._spreads(counts, metric)
        kept = [self._count(part.assign(y_true=clean["y_pred"])) for part in whole.values()]
        same = self._spreads(kept, get_metric("war")) if kept else []
        sizes = {"n_utterances": counts[0].n_utterances, "n_speakers": len(counts[0].speakers)}
        yield self._row(CLEAN, math.nan, "uar", known[0].observed, interval_of(known[0], counts[0], metric), sizes)
        of_part = {key: place for place, key in enumerate(whole)}
        for (stress, level), part in parts.items():
            wanted = thresholds.get((stress, level), {})
            if (stress, level) not in whole:
                yield from self._failed(stress, level, part, wanted, sizes)
                continue
            place = of_part[stress, level]
            spread, agreement = known[place + 1], same[place]
            gap = spread.minus(known[0])
            found = {
                "unchanged": (agreement.observed, interval_of(agreement, kept[place], get_metric("war"))),
                "uar": (spread.observed, interval_of(spread, counts[0], metric)),
                "delta_uar": (gap.observed, bounds(gap, counts[0], metric)),
            }
            for measure, (value, interval) in found.items():
                yield self._row(stress, level, measure, value, interval, sizes, threshold=wanted.get(measure))

    def gaps(self, sex_gap: float) -> Iterator[dict[str, Any]]:
        """Yield the differences between groups of clean recordings."""
        clean = self.clean
        sexes = sorted(set(clean["sex"]) - {""})
        if len(sexes) == 2:
            parts = [clean[clean["sex"] == sex] for sex in sexes]
            metric = self._shared(parts)
            a, b = (self._count(part) for part in parts)
            sizes = {"n_utterances": a.n_utterances + b.n_utterances, "n_speakers": len(a.speakers) + len(b.speakers)}
            value, interval = math.nan, nothing("the sexes share fewer than two classes")
            if metric:
                value = score(a, metric) - score(b, metric)
                interval = slices.difference(a, b, metric, seed=self.seed)
            group = f"{sexes[0]}-{sexes[1]}"
            yield self._row(CLEAN, math.nan, "gap", value, interval, sizes, group=group, most=sex_gap)
        for name, (low_hz, high_hz) in PITCH_GROUPS.items():
            is_member = clean["f0_hz"].gt(low_hz) & clean["f0_hz"].le(high_hz)
            if is_member.any() and not is_member.all():
                yield self._pitch_gap(name, is_member.to_numpy())

    def _pitch_gap(self, name: str, is_member: np.ndarray) -> dict[str, Any]:
        """Return the difference between a group of pitch and all others; speakers are in both."""
        clean = self.clean
        parts = [clean[is_member], clean[~is_member]]
        sizes = {"n_utterances": int(is_member.sum()), "n_speakers": parts[0]["speaker"].nunique()}
        metric, value = self._shared(parts), math.nan
        interval = nothing("the groups share fewer than two classes")
        if metric:
            both = [self._of_everybody(part) for part in parts]
            known = self._spreads(both, metric)
            gap = known[0].minus(known[1])
            value, interval = gap.observed, bounds(gap, both[0], metric)
        return self._row(CLEAN, math.nan, "gap", value, interval, sizes, group=f"{name} pitch-others")

    @property
    def clean(self) -> pd.DataFrame:
        return _sorted(self.answers[self.answers["stress"] == CLEAN])

    @property
    def metric(self) -> MetricSpec:
        """The mean recall over the classes that the recordings have."""
        return recall_of([code for code, label in enumerate(self.classes) if (self.answers["y_true"] == label).any()])

    def _aligned(self, part: pd.DataFrame) -> pd.DataFrame:
        part, clean = _sorted(part), self.clean
        assert part["utterance"].tolist() == clean["utterance"].tolist()
        return part

    def _count(self, part: pd.DataFrame) -> Counts:
        return count_rows(part, self.classes)

    def _of_everybody(self, part: pd.DataFrame) -> Counts:
        """Count a part of the clean recordings, with a place for every speaker of all of them."""
        counts, whole = self._count(part), self._count(self.clean)
        tables = np.zeros_like(whole.tables)
        tables[:, np.searchsorted(whole.speakers, counts.speakers)] = counts.tables
        return replace(whole, tables=tables)

    def _spreads(self, counts: Sequence[Counts], metric: MetricSpec) -> list[Spread]:
        drawn = resamples(len(counts[0].speakers), N_RESAMPLES, self.seed)
        return [of_rows[metric.name] for of_rows in spreads(counts, [metric], drawn)]

    def _shared(self, parts: Sequence[pd.DataFrame]) -> MetricSpec | None:
        """Return the mean recall over the classes that every part has, None where that is one class or none."""
        shared = set.intersection(*(set(part["y_true"]) for part in parts))
        codes = [code for code, label in enumerate(self.classes) if label in shared]
        return recall_of(codes) if len(codes) > 1 else None

    def _failed(
        self, stress: str, level: float, part: pd.DataFrame, wanted: Mapping[str, float], sizes: Mapping[str, int]
    ) -> Iterator[dict[str, Any]]:
        errors = part.loc[part["error"] != "", "error"]
        reason = f"{len(errors)} of {len(part)} recordings could not be stressed: {errors.iloc[0]}"
        for measure in ("unchanged", "uar", "delta_uar"):
            threshold = wanted.get(measure)
            yield self._row(stress, level, measure, math.nan, nothing(reason), sizes, threshold=threshold)

    @staticmethod
    def _row(
        stress: str,
        level: float,
        measure: str,
        value: float,
        interval: Interval,
        sizes: Mapping[str, int],
        *,
        group: str = "",
        threshold: float | None = None,
        most: float | None = None,
    ) -> dict[str, Any]:
        """Return a row: `threshold` is the least value that passes, `most` the largest of either sign."""
        least, limit = (-math.inf, math.inf) if threshold is None else (threshold, math.inf)
        if most is not None:
            least, limit = -most, most
        asked = threshold if most is None else most
        return {
            **{"stress": stress, "level": level, "measure": measure, "group": group},
            **{"value": value, "low": interval.low, "high": interval.high, "threshold": asked},
            "verdict": "" if asked is None else verdict(interval, least, limit),
            **sizes,
            "reason": interval.reason,
        }


def verdict(interval: Interval, least: float, most: float = math.inf) -> str:
    """Say whether a value is between two bounds, as far as its interval tells."""
    if least <= interval.low and interval.high <= most:
        return PASS
    if interval.high < least or interval.low > most:
        return FAIL
    return INCONCLUSIVE


def worst(table: pd.DataFrame, n: int = 3) -> list[str]:
    """Return the stresses that cost one entry most, in words, a level each."""
    drops = table[(table["measure"] == "delta_uar") & (table["value"] < 0)].sort_values("value", kind="stable")
    drops = drops.drop_duplicates("stress").head(n)
    shares = table[table["measure"] == "unchanged"].set_index(["stress", "level"])["value"]
    return [
        f"{row.stress} {row.level:g}: UAR falls by {-row.value:.3f} [{-row.high:.3f}, {-row.low:.3f}], "
        f"{1 - shares[row.stress, row.level]:.0%} of the answers change"
        for row in drops.itertuples()
    ]


def _sorted(answers: pd.DataFrame) -> pd.DataFrame:
    return answers.sort_values(["repeat", "utterance"], kind="stable").reset_index(drop=True)
