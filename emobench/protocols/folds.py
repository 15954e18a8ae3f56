"""Protocols: which speakers are tested by a model that has never heard them, and the proof that it has not.

A protocol is one row of `PROTOCOLS`. It gives every utterance the number of the fold that tests it; the other folds'
utterances train. The folds depend on names alone, never on a library's version or a random generator's stream, and have
a fingerprint, so that two runs can prove that they tested the same thing.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emobench.errors import ConfigError, SplitError, listing
from emobench.protocols import Fold, Labels, ProtocolSpec, get_protocol
from emobench.registry import resolve

# EmoBox's RAVDESS folds (Ma et al. 2024, EmoBox: Multilingual Multi-corpus Speech Emotion Recognition Toolkit and
# Benchmark): test actors, from its fold files; an unseeded shuffle made them, so they are copied facts.
EMOBOX_FOLDS = ((1, 11, 20, 21), (4, 10, 12, 14), (8, 9, 19, 23), (3, 5, 7, 24), (2, 15, 16, 18), (6, 13, 17, 22))

# Luna-Jiménez et al. (2022), A proposal for multimodal emotion recognition using aural transformers and action units
# on RAVDESS dataset, Applied Sciences 12(1): 327.
LUNA_FOLDS = ((2, 5, 14, 15, 16), (3, 6, 7, 13, 18), (10, 11, 12, 19, 20), (8, 17, 21, 23, 24), (1, 4, 9, 22))


def make_folds(
    name: str, labels: Labels, *, options: Mapping[str, Any] | None = None, seed: int = 0, repeat: int = 0
) -> list[Fold]:
    """Split a corpus by the protocol of a name; see `split`."""
    return split(get_protocol(name), labels, options=options, seed=seed, repeat=repeat)


def split(
    row: ProtocolSpec, labels: Labels, *, options: Mapping[str, Any] | None = None, seed: int = 0, repeat: int = 0
) -> list[Fold]:
    """Split a corpus by a protocol.

    Raises
    ------
    SplitError
        If the protocol cannot split this corpus: too few speakers, or one that it does not know.
    ConfigError
        If a protocol of a plug-in fails, or does not return a fold for each utterance.
    """
    if row.corpora and (labels.source or labels.corpus) not in row.corpora:
        raise SplitError(
            f"Protocol {row.name!r} must be used with {' or '.join(row.corpora)}. Got corpus {labels.corpus!r}. "
            "Take loso or group-kfold, which fit any corpus."
        )
    if row.needs_speakers and not labels.has_speakers:
        corpus = f"Corpus {labels.corpus!r}" if labels.corpus else "The corpus"
        raise SplitError(
            f"{corpus} does not tell who speaks, so {row.name!r} cannot keep speakers apart. Add the column 'speaker' "
            "to its manifest, or take random-kfold or file, whose every result then says that speakers are unknown."
        )
    defaults = {option: its.default for option, its in row.options.items()}
    numbers = _assign(row, labels, seed, defaults | dict(options or {}))
    return [
        Fold(repeat, int(index), np.flatnonzero(numbers != index), np.flatnonzero(numbers == index))
        for index in np.unique(numbers)
    ]


def _assign(row: ProtocolSpec, labels: Labels, seed: int, options: Mapping[str, Any]) -> np.ndarray:
    """Return the fold of each utterance, or refuse what somebody's function answers instead."""
    try:
        numbers = np.asarray(resolve(row.assign)(labels, seed=seed, **options))
    except ConfigError:
        raise
    except Exception as error:  # of a plug-in
        raise ConfigError(
            f"Protocol {row.name!r} failed on corpus {labels.corpus!r}: {type(error).__name__}: {error}. Correct it."
        ) from error
    if numbers.shape != (len(labels.ids),) or not np.issubdtype(numbers.dtype, np.integer):
        raise ConfigError(
            f"Protocol {row.name!r} returned {numbers.dtype} of shape {numbers.shape}, not the fold of each of "
            f"{len(labels.ids)} utterances as whole numbers. Correct it."
        )
    if len(np.unique(numbers)) < 2:
        raise SplitError(f"Protocol {row.name!r} puts corpus {labels.corpus!r} into one fold. At least 2 are needed.")
    return numbers


def loso(labels: Labels, *, seed: int = 0) -> np.ndarray:
    """Give each speaker, in sorted order, a fold of their own."""
    speakers = sorted(set(labels.speakers))
    if len(speakers) < 2:
        raise _one_speaker(labels)
    return _by_speaker(labels, {speaker: index for index, speaker in enumerate(speakers)})


def group_kfold(labels: Labels, *, n_splits: int = 6, seed: int = 0) -> np.ndarray:
    """Deal the speakers, sorted by sex and then name, round-robin into folds.

    Every fold then has both sexes and, where labels are balanced over speakers, every class.

    Raises
    ------
    SplitError
        If there are fewer speakers than folds.

    References
    ----------
    Roberts et al. (2017), Cross-validation strategies for data with temporal, spatial, hierarchical, or phylogenetic
    structure, Ecography 40: 913–929.
    """
    _check_n_splits(n_splits)
    order = sorted({(sex, speaker) for sex, speaker in zip(labels.sexes, labels.speakers, strict=True)})
    speakers = [speaker for _, speaker in order]
    if len(speakers) < 2:
        raise _one_speaker(labels)
    if len(speakers) < n_splits:
        raise SplitError(
            f"n_splits must be at most the number of speakers ({len(speakers)}). Got {n_splits}. "
            f"Lower protocols.n_splits to {len(speakers)} or add recordings of other speakers."
        )
    return _by_speaker(labels, {speaker: index % n_splits for index, speaker in enumerate(speakers)})


def inner_folds(speakers: Sequence[str], sexes: Sequence[str], n_splits: int) -> list[Fold]:
    """Split the rows of a training part for tuning: speakers disjoint, both sexes in every fold.

    Raises
    ------
    SplitError
        If there are fewer speakers than folds.
    """
    rows = tuple(map(str, range(len(speakers))))
    labels = Labels(ids=rows, speakers=tuple(speakers), emotions=rows, sexes=tuple(sexes), audio=rows)
    return make_folds("group-kfold", labels, options={"n_splits": n_splits})


def emobox_6fold(labels: Labels, *, seed: int = 0) -> np.ndarray:
    """Split RAVDESS's actors as EmoBox does."""
    return _by_actor(labels, EMOBOX_FOLDS, "emobox-6fold")


def luna_5fold(labels: Labels, *, seed: int = 0) -> np.ndarray:
    """Split RAVDESS's actors as Luna-Jiménez et al. (2022) do."""
    return _by_actor(labels, LUNA_FOLDS, "luna-5fold")


def random_kfold(labels: Labels, *, n_splits: int = 6, seed: int = 0) -> np.ndarray:
    """Deal clips at random into folds, balanced by emotion, speakers shared.

    The order is by a hash of seed and utterance id, so no generator's stream enters. Identical audio stays together.
    """
    _check_n_splits(n_splits)
    units: dict[str, int] = {}
    for row, audio in enumerate(labels.audio):
        units.setdefault(audio, row)
    if len(units) < n_splits:
        raise SplitError(
            f"n_splits must be at most the number of different recordings ({len(units)}). Got {n_splits}. Lower it."
        )

    def shuffled(row: int) -> tuple[str, str]:
        return labels.emotions[row], hashlib.sha256(f"{seed}\0{labels.ids[row]}".encode()).hexdigest()

    fold_of = {labels.audio[row]: index % n_splits for index, row in enumerate(sorted(units.values(), key=shuffled))}
    return np.array([fold_of[audio] for audio in labels.audio])


def statement_out(labels: Labels, *, seed: int = 0) -> np.ndarray:
    """Give each statement, in sorted order, a fold of its own."""
    return _by_value(labels, labels.statements, "statement")


def intensity_out(labels: Labels, *, seed: int = 0) -> np.ndarray:
    """Give each intensity, in sorted order, a fold of its own."""
    return _by_value(labels, labels.intensities, "intensity")


def sex_out(labels: Labels, *, seed: int = 0) -> np.ndarray:
    """Give each sex, in sorted order, a fold of its own."""
    return _by_value(labels, labels.sexes, "sex")


def from_file(labels: Labels, *, path: str, protocol: str = "", seed: int = 0) -> np.ndarray:
    """Read the fold of each utterance from a CSV with the columns ``utterance`` and ``fold``.

    Where a run wrote the file for several protocols, `protocol` picks the lines of one.
    """
    wanted = dict.fromkeys(labels.ids, -1)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            absent = {"utterance", "fold"} - set(reader.fieldnames or ())
            if absent:
                raise ConfigError(
                    f"{path}: must have the columns utterance and fold. Missing: {', '.join(sorted(absent))}. "
                    "Take a folds.csv that a run wrote as the pattern."
                )
            for line in reader:
                if not protocol or line.get("protocol") == protocol:
                    _take_fold(wanted, line, f"{path}, line {reader.line_num}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: must be a readable CSV of folds. {error}. Check protocols.path.") from None
    absent_ids = [utterance for utterance, fold in wanted.items() if fold < 0]
    if absent_ids:
        raise SplitError(
            f"{path}: must name the fold of every utterance. {len(absent_ids)} of {len(wanted)} are missing:\n"
            f"{listing(absent_ids)}\nUse the corpus and the emotions that the file was made for."
        )
    _, numbers = np.unique(list(wanted.values()), return_inverse=True)
    if len(set(numbers)) < 2:
        raise SplitError(f"{path}: must hold at least 2 folds. It holds 1. Check protocols.path.")
    return numbers


def _take_fold(wanted: dict[str, int], line: Mapping[str, str | None], place: str) -> None:
    utterance = (line["utterance"] or "").removeprefix("'")
    if utterance not in wanted:
        return
    try:
        fold = int(line["fold"] or "")
    except ValueError:
        fold = -1
    if fold < 0:
        raise ConfigError(f"{place}: fold must be a whole number from 0. Got {line['fold']!r}. Correct the line.")
    if wanted[utterance] not in (-1, fold):
        raise SplitError(
            f"{place}: an utterance must be in one fold. {utterance!r} is in {wanted[utterance]} and {fold}. "
            "Name one protocol of the file with protocols.protocol."
        )
    wanted[utterance] = fold


def _by_speaker(labels: Labels, fold_of: Mapping[str, int]) -> np.ndarray:
    return np.array([fold_of[speaker] for speaker in labels.speakers])


def _by_value(labels: Labels, values: Sequence[str], what: str) -> np.ndarray:
    """Give each value of an attribute a fold; refuse a corpus that does not tell the attribute of every utterance."""
    n_told, n_utterances = sum(map(bool, values)), len(labels.ids)
    corpus = labels.corpus or "the corpus"
    if n_told < n_utterances:
        raise SplitError(
            f"Protocol '{what}-out' must know the {what} of every utterance. Corpus {corpus!r} tells it of {n_told} of "
            f"{n_utterances}. Take group-kfold, or add the column {what!r} to a manifest."
        )
    found, numbers = np.unique(values, return_inverse=True)
    if len(found) < 2:
        raise SplitError(
            f"Protocol '{what}-out' must have utterances of at least 2 values of {what}. Corpus {corpus!r} has "
            f"{str(found[0])!r} alone. Take group-kfold."
        )
    return numbers


def _by_actor(labels: Labels, folds: Sequence[Sequence[int]], name: str) -> np.ndarray:
    fold_of = {f"{actor:02d}": index for index, actors in enumerate(folds) for actor in actors}
    unknown = sorted(set(labels.speakers) - set(fold_of))
    if unknown:
        raise SplitError(f"Protocol {name!r} knows speakers 01–24. Got {', '.join(unknown[:5])}. Take group-kfold.")
    numbers = _by_speaker(labels, fold_of)
    present = np.unique(numbers)
    if len(present) < 2:
        raise SplitError(
            f"Protocol {name!r} must have speakers in at least 2 of its folds. Got {len(set(labels.speakers))} "
            "speakers, all in one. Add speakers or take loso."
        )
    return np.searchsorted(present, numbers)


def _check_n_splits(n_splits: int) -> None:
    if n_splits < 2:
        raise SplitError(f"n_splits must be at least 2. Got {n_splits}. Raise protocols.n_splits.")


def _one_speaker(labels: Labels) -> SplitError:
    corpus = labels.corpus or "the corpus"
    return SplitError(
        f"A speaker-grouped protocol must have at least 2 speakers. Corpus {corpus!r} has {len(set(labels.speakers))}. "
        "Add recordings of other speakers."
    )
