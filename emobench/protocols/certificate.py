"""The proof that nothing leaks: who is in a training part, who in the test part, and what they share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from emobench.errors import LeakageError, SplitError, listing
from emobench.protocols import UNKNOWN_SPEAKERS, Fold, Labels


def fold_fingerprint(folds: Iterable[Fold], ids: Sequence[str]) -> str:
    """Return 16 hex digits that identify a split: which utterance is tested in which fold."""
    lines = sorted(f"{ids[row]}\t{fold.index}" for fold in folds for row in fold.test)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def rows_fingerprint(ids: Sequence[str], rows: np.ndarray) -> str:
    """Return 16 hex digits that identify a set of utterances."""
    return hashlib.sha256("\n".join(sorted(ids[row] for row in rows)).encode()).hexdigest()[:16]


def check_classes(
    labels: Labels, folds: Sequence[Fold], classes: Sequence[str], *, protocol: str, allow_missing: bool = False
) -> list[str]:
    """Check that every fold trains on every class; return a sentence for each test part that lacks one.

    Raises
    ------
    SplitError
        If a training part lacks a class and that is not allowed.
    """
    emotions = np.array(labels.emotions)
    lacking, remarks = [], []
    for fold in folds:
        untrained = sorted(set(classes) - set(emotions[fold.train]))
        untested = sorted(set(classes) - set(emotions[fold.test]))
        if untrained:
            lacking.append(f"fold {fold.index}: no training utterance of {', '.join(untrained)}")
        if untested:
            remarks.append(f"{protocol}, fold {fold.index}: no test utterance of {', '.join(untested)}")
    if lacking and not allow_missing:
        raise SplitError(
            f"Every fold must train on every class. Protocol {protocol!r} on corpus {labels.corpus!r} does not:\n"
            f"{listing(lacking)}\nAdd speakers with these emotions, leave the emotions out of `emotions`, or set "
            "allow_missing_class: true."
        )
    return remarks + [f"{protocol}, {text}" for text in lacking]


def certify(labels: Labels, folds: Sequence[Fold], *, protocol: str, waives: Sequence[str] = ()) -> dict[str, Any]:
    """Prove, fold by fold, that nothing of the test part is in the training part.

    Compares utterances, speakers and the audio itself, and that each utterance is tested exactly once a repeat. Where
    speakers are unknown nothing is certified: ``is_certified`` is false, and no count of shared speakers is there.

    Returns
    -------
    certificate : dict
        What was compared and found, with the fingerprint of each part; written to ``run.json``.

    Raises
    ------
    LeakageError
        Naming the offending pair.
    """
    proofs = []
    for fold in folds:
        _refuse_shared(labels.ids, labels, fold, protocol, "utterance")
        _refuse_shared(labels.audio, labels, fold, protocol, "audio")
        if "speaker" not in waives and labels.has_speakers:
            _refuse_shared(labels.speakers, labels, fold, protocol, "speaker")
        proofs.append(
            {
                "fold": fold.index,
                "n_train": len(fold.train),
                "n_test": len(fold.test),
                "train": rows_fingerprint(labels.ids, fold.train),
                "test": rows_fingerprint(labels.ids, fold.test),
                **(_speakers(labels, fold) if labels.has_speakers else {}),
                "shared_audio": 0,
                "shared_utterances": 0,
            }
        )
    tested = np.sort(np.concatenate([fold.test for fold in folds]))
    if len(tested) != len(set(tested.tolist())):
        raise LeakageError(f"Protocol {protocol!r} must test an utterance once. It tests some in two folds. Fix it.")
    return {
        "protocol": protocol,
        "waives": list(waives) if labels.has_speakers else [UNKNOWN_SPEAKERS],
        **({} if labels.has_speakers else {"is_certified": False}),
        "folds_fingerprint": fold_fingerprint(folds, labels.ids),
        "n_utterances": len(labels.ids),
        "n_tested": len(tested),
        "folds": proofs,
    }


def _speakers(labels: Labels, fold: Fold) -> dict[str, Any]:
    tested = _values(labels.speakers, fold.test)
    return {"test_speakers": sorted(tested), "shared_speakers": len(_values(labels.speakers, fold.train) & tested)}


def _refuse_shared(values: Sequence[str], labels: Labels, fold: Fold, protocol: str, what: str) -> None:
    shared = _values(values, fold.train) & _values(values, fold.test)
    if not shared:
        return
    value = min(shared)
    train = next(labels.ids[row] for row in fold.train if values[row] == value)
    test = next(labels.ids[row] for row in fold.test if values[row] == value)
    named = "identical audio" if what == "audio" else f"{what} {value!r}"
    raise LeakageError(
        f"Training and test must share no {what}. Protocol {protocol!r}, fold {fold.index}: {named} is in both, "
        f"as {train!r} (training) and {test!r} (test). Put both into one fold, or remove one."
    )


def _values(values: Sequence[str], rows: np.ndarray) -> set[str]:
    return {values[row] for row in rows}
