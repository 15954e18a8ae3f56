"""What a saved model answers when recordings are not what they were in the studio."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emobench.bundles.manifest import AUDIO_ID_DIGITS
from emobench.errors import AudioError, DataError, listing
from emobench.features import MEAN_F0
from emobench.features.copies import Copy, Original, copies_of
from emobench.features.rows import pool_answers, rows_of
from emobench.features.shards import to_texts
from emobench.features.store import Extraction, FeatureStore
from emobench.files import write_bytes
from emobench.prediction.predictor import Predictor
from emobench.reporter import Reporter
from emobench.reports.stress import CLEAN
from emobench.results.tables import csv_bytes
from emobench.stresses import Change

WORST = "worst.csv"
NO_LEAK = (
    "Give a corpus that the model has not heard. About its own, `stress: {}` in the config asks each fold's model, "
    "which has not heard its test part."
)


@dataclass(frozen=True)
class Subject:
    """Recordings that a model is asked about.

    Attributes
    ----------
    originals : tuple of n Original
    about : DataFrame of n rows
        ``utterance, speaker, sex, y_true``.
    """

    originals: tuple[Original, ...]
    about: pd.DataFrame

    def take(self, rows: np.ndarray) -> Subject:
        """Return some of the recordings."""
        return Subject(tuple(self.originals[row] for row in rows), self.about.iloc[rows].reset_index(drop=True))


class Asker:
    """A saved model, and the store and the workers that make what it is asked about.

    Parameters
    ----------
    predictor : Predictor
    store : FeatureStore
    pool : callable
        Returns the workers; called only when something must be computed.
    """

    def __init__(
        self, predictor: Predictor, store: FeatureStore, pool: Callable[[], Any], reporter: Reporter | None = None
    ):
        self.predictor, self.store, self.pool = predictor, store, pool
        self.reporter = reporter or Reporter()

    def listen(self, subject: Subject) -> tuple[Subject, pd.DataFrame, list[AudioError]]:
        """Return the recordings that can be used, the answers to them as they are, and what is wrong with the others.

        Raises
        ------
        DataError
            If the model was trained on one of them, or does not say on what, or none can be used.
        """
        clips = [(original.clip, original.path) for original in subject.originals]
        found, f0 = self._extract([self.predictor.spec, MEAN_F0], clips, "recordings")
        kept = np.flatnonzero(found.is_found & f0.is_found)
        if not len(kept):
            raise DataError(f"None of the recordings can be used:\n{listing([str(fault) for fault in found.faults])}")
        self._check_unheard(found.audio[kept], subject, kept)
        usable = subject.take(kept)
        usable.about["f0_hz"] = f0.X[kept, 0]
        return usable, self._answered(usable, found, kept, CLEAN, np.nan), [*found.faults, *f0.faults]

    def ask(self, subject: Subject, change: Change, title: str) -> pd.DataFrame:
        """Return the answers to stressed recordings; a recording that could not be stressed has an `error`."""
        copies = copies_of(subject.originals, change)
        [found] = self._extract([self.predictor.spec], [(copy.clip, copy) for copy in copies], title)
        reasons = {fault.path: fault.reason for fault in found.faults}
        error = ["" if is_found else reasons[str(copy)] for is_found, copy in zip(found.is_found, copies, strict=True)]
        answers = subject.about.assign(
            stress=change.stress, level=change.level, y_pred="", confidence=np.nan, error=error
        )
        rows = np.flatnonzero(found.is_found)
        if len(rows):
            known = self._answered(subject.take(rows), found, rows, change.stress, change.level)
            for name in ("y_pred", "confidence"):
                answers.loc[rows, name] = known[name].to_numpy()
        return answers

    def _extract(self, specs: Sequence[Any], clips: Sequence[tuple[str, Path | Copy]], title: str) -> list[Any]:
        with self.reporter.track(title, len(clips)) as advance:
            parts = self.store.extract(
                specs,
                clips,
                policy=self.predictor.policy,
                pool=self.pool,
                on_progress=lambda n_done, n_all: advance(len(clips) - n_all + n_done),
            )
        for repair in dict.fromkeys(repair for part in parts for repair in part.repairs):
            self.reporter.warn(repair)
        return parts

    def _answered(
        self, subject: Subject, found: Extraction, clips: np.ndarray, stress: str, level: float
    ) -> pd.DataFrame:
        """Return the answers to some clips, which are the recordings of the subject."""
        rows, owners = rows_of(found.spans, clips)
        codes, proba = pool_answers(*self.predictor.classify(found.X[rows]), owners)
        n = len(clips)
        confidence = np.full(n, np.nan) if proba is None else proba[np.arange(n), codes].astype(float)
        answers = [self.predictor.classes[code] for code in codes]
        return subject.about.assign(stress=stress, level=level, y_pred=answers, confidence=confidence, error="")

    def _check_unheard(self, audio: np.ndarray, subject: Subject, rows: np.ndarray) -> None:
        known, entry = set(self.predictor.bundle.manifest.audio_ids), self.predictor.entry
        if not known:
            raise DataError(
                f"{entry}: the saved model must say which recordings it was trained on. It does not, so nobody can "
                "know whether it has heard these. Run its config again."
            )
        ids = [audio_id[:AUDIO_ID_DIGITS] in known for audio_id in to_texts(audio)]
        heard = [str(subject.originals[rows[place]].path) for place in np.flatnonzero(ids)]
        if heard:
            raise DataError(
                f"{entry}: must be asked about recordings that it was not trained on. It was trained on {len(heard)} "
                f"of these {len(ids)}:\n{listing(heard, limit=3)}\n{NO_LEAK}"
            )


def worst_flips(answers: pd.DataFrame, n: int) -> pd.DataFrame:
    """Return the stressed recordings whose right answers became wrong ones, the most confident first.

    Parameters
    ----------
    answers : DataFrame
        Of one model: the clean recordings, and stressed ones.
    """
    clean = answers[answers["stress"] == CLEAN].set_index("utterance")["y_pred"]
    stressed = answers[(answers["stress"] != CLEAN) & (answers["error"] == "")]
    stressed = stressed.assign(y_clean=stressed["utterance"].map(clean))
    flipped = stressed[(stressed["y_clean"] == stressed["y_true"]) & (stressed["y_pred"] != stressed["y_true"])]
    flipped = flipped.sort_values(["confidence", "utterance"], ascending=[False, True], kind="stable")
    turn = flipped.groupby(["stress", "level"]).cumcount()  # without probabilities, every stress has its turn
    flipped = flipped.assign(turn=turn).sort_values(
        ["confidence", "turn", "stress", "level"], ascending=[False, True, True, True], kind="stable"
    )
    return flipped.drop(columns="turn").head(n)


def save_worst(folder: Path, subject: Subject, worst: pd.DataFrame, predictor: Predictor, *, seed: int) -> None:
    """Write stressed recordings as 32-bit WAV, so that a person can hear them, with a CSV that says what was answered.

    Raises
    ------
    StorageError
        If the folder cannot be written.
    """
    places = {utterance: row for row, utterance in enumerate(subject.about["utterance"])}
    names = []
    for number, flip in enumerate(worst.itertuples(), start=1):
        change = Change(str(flip.stress), float(flip.level), seed)
        [copy] = copies_of(subject.originals, change, rows=[places[flip.utterance]])
        names.append(f"{number:03d}-{flip.stress}{flip.level:g}-{copy.original.path.stem}.wav")
        audio = copy.make(predictor.policy)
        write_bytes(folder / names[-1], _wav(audio.signal, audio.sr))
    columns = ["utterance", "speaker", "stress", "level", "y_true", "y_clean", "y_pred", "confidence"]
    table = worst[columns].copy()
    table.insert(0, "file", names)
    write_bytes(folder / WORST, csv_bytes(table))


def _wav(signal: np.ndarray, sr: int) -> bytes:
    """Return a WAV of floating point, the same bytes every time; libsndfile's would hold the time."""
    import io

    from scipy.io import wavfile

    file = io.BytesIO()
    wavfile.write(file, sr, signal)
    return file.getvalue()
