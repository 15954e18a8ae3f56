"""The contract of a protocol: folds of names alone, with speakers apart unless the row says otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np

from emobench.errors import LeakageError
from emobench.protocols import Labels, ProtocolSpec
from emobench.protocols.certificate import certify, fold_fingerprint
from emobench.protocols.folds import split
from emobench.testing.rows import check_row

EMOTIONS = ("angry", "calm", "fearful", "happy", "sad")


def design(n_speakers: int = 24, corpus: str = "ravdess") -> Labels:
    """Return the labels of a balanced corpus of RAVDESS's design: speakers 01…24, 5 emotions, 4 recordings of each."""
    rows = [
        (f"{speaker:02d}", emotion, repetition)
        for speaker in range(1, n_speakers + 1)
        for emotion in EMOTIONS
        for repetition in range(4)
    ]
    return Labels(
        ids=tuple(f"{corpus}/{speaker}/{emotion}-{repetition}.wav" for speaker, emotion, repetition in rows),
        speakers=tuple(speaker for speaker, _, _ in rows),
        emotions=tuple(emotion for _, emotion, _ in rows),
        sexes=tuple("female" if int(speaker) % 2 == 0 else "male" for speaker, _, _ in rows),
        audio=tuple(f"{speaker}{emotion}{repetition}" for speaker, emotion, repetition in rows),
        corpus=corpus,
        statements=tuple("kids" if repetition % 2 else "dogs" for _, _, repetition in rows),
        intensities=tuple("strong" if repetition // 2 else "normal" for _, _, repetition in rows),
    )


def check_protocol(row: ProtocolSpec, labels: Labels | None = None, **options: Any) -> None:
    """Check that a protocol splits as it says: every utterance tested once, and nothing shared but what it waives.

    Parameters
    ----------
    labels : Labels, optional
        Of a corpus that it can split; by default one of RAVDESS's design.
    **options
        Of the protocol, as a config sets them.

    Raises
    ------
    AssertionError
        With what is wrong.
    """
    check_row(row, "protocol")
    for name, option in row.options.items():
        assert option.default is None or not option.problem(option.default), f"the default of {name} is not allowed"
        assert option.default is not None or name in options, f"give the option {name}, which has no default"
    labels = labels or design(corpus=(*row.corpora, "ravdess")[0])
    folds = split(row, labels, options=options, seed=1)
    try:
        certificate = certify(labels, folds, protocol=row.name, waives=row.waives)
    except LeakageError as error:
        raise AssertionError(str(error)) from error
    assert certificate["n_tested"] == len(labels.ids), f"{certificate['n_tested']} of {len(labels.ids)} are tested"
    for fold in folds:
        assert len(fold.train), f"fold {fold.index} has no training part"
    expected = fold_fingerprint(folds, labels.ids)
    again = fold_fingerprint(split(row, labels, options=options, seed=1), labels.ids)
    assert again == expected, "the same seed gives other folds the next time"
    shuffled = _permute(labels)
    other = fold_fingerprint(split(row, shuffled, options=options, seed=1), shuffled.ids)
    assert other == expected, "the folds depend on the order of the utterances"


def _permute(labels: Labels) -> Labels:
    return labels.take(np.random.default_rng(0).permutation(len(labels.ids)))
