"""What a config makes of recordings that are sound but say nothing, or contradict each other: silence and conflicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emobench.audio import DEFAULT_POLICY
from emobench.audio.damage import SILENCE
from emobench.audio.decoding import read_audio
from emobench.config.schema import RunConfig
from emobench.errors import AudioError, DataError, listing
from emobench.protocols import Labels
from emobench.protocols.duplicates import describe_conflict, find_conflicts, refuse_conflicts


def settle(config: RunConfig, labels: Labels, silent: np.ndarray) -> tuple[dict[int, str], list[str]]:
    """Decide which recordings of a corpus are left out as silence or as conflicts, or refuse the corpus.

    Parameters
    ----------
    silent : bool array of shape (n_utterances,)
        Which recordings are nothing but digital silence.

    Returns
    -------
    reasons : dict of row to str
        Why each recording that is left out is.
    remarks : list of str

    Raises
    ------
    DataError
        For silence under `on_silence: fail`, or if nothing is left.
    CorpusError
        For identical audio with two labels or speakers under `on_conflict: fail`.
    """
    reasons, remarks = {}, []
    if config.on_silence == "fail" and silent.any():
        raise DataError(
            f"{np.count_nonzero(silent)} recordings of corpus {labels.corpus!r} are {SILENCE} (on_silence: fail):\n"
            f"{listing([labels.ids[row] for row in np.flatnonzero(silent)])}\n"
            "Remove them, or set on_silence: leave_out."
        )
    if config.on_silence == "leave_out" and silent.any():
        reasons = dict.fromkeys(np.flatnonzero(silent).tolist(), f"{SILENCE} (on_silence: leave_out)")
        remarks.append(f"{labels.corpus}: left out {len(reasons)} recordings of {SILENCE} (on_silence: leave_out)")
    conflicts = [group for group in find_conflicts(labels) if not reasons.keys() & set(group)]
    if config.on_conflict == "fail":
        refuse_conflicts(labels, conflicts, lambda row: bool(silent[row]))
    elif conflicts:
        described = [describe_conflict(labels, group, is_silent=bool(silent[group[0]])) for group in conflicts]
        for group, text in zip(conflicts, described, strict=True):
            reasons |= dict.fromkeys(group, f"identical audio with two labels: {text} (on_conflict: drop)")
        remarks.append(
            f"{labels.corpus}: left out {sum(map(len, conflicts))} recordings whose identical audio has two labels or "
            f"speakers (on_conflict: drop):\n{listing(described)}"
        )
    if len(reasons) == len(silent):
        raise DataError(f"Corpus {labels.corpus!r} has no recordings left. {remarks[0]}. Correct the config.")
    return reasons, remarks


def silent_conflicts(labels: Labels, paths: Sequence[Path]) -> np.ndarray:
    """Return which recordings are silent, looking only where identical files have two labels: a plan decodes no others.

    Returns
    -------
    silent : bool array of shape (n_utterances,)
    """
    silent = np.zeros(len(paths), bool)
    for group in find_conflicts(labels):
        silent[group] = _is_silent(paths[group[0]])
    return silent


def _is_silent(path: Path) -> bool:
    try:
        return SILENCE in read_audio(path, DEFAULT_POLICY).warnings
    except AudioError:  # extraction will say what it is
        return False
