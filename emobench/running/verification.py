"""Check a corpus on this machine: every name, and every recording from its first byte to its last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from emobench.audio import AudioPolicy
from emobench.audio.damage import SILENCE
from emobench.audio.decoding import read_audio
from emobench.config.schema import CorpusConfig
from emobench.config.yaml import validate_config
from emobench.corpora import Scan, Utterance, get_corpus
from emobench.errors import AudioError, ConfigError, CorpusError
from emobench.execution.workers import Crash, Pool, count_workers
from emobench.protocols import Labels
from emobench.protocols.duplicates import describe_conflict, find_conflicts, find_groups
from emobench.reporter import Reporter
from emobench.running.datasets import find, hash_clips, obtain, scan

CLIPS_A_TASK = 32


@dataclass(frozen=True)
class Verification:
    """What a corpus holds.

    Attributes
    ----------
    faults : tuple of AudioError
        Recordings that cannot be used.
    warnings : tuple of str
        Recordings that can, with a remark.
    identical : tuple of tuple of str
        Groups of utterances with the same audio.
    conflicts : tuple of str
        Those among them that have two emotions or two speakers, but for known defects.
    audio : mapping of str to str
        Hash of the samples of each recording that can be used, by its path.
    """

    name: str
    root: Path
    scan: Scan
    duration_s: float
    faults: tuple[AudioError, ...] = ()
    warnings: tuple[str, ...] = ()
    identical: tuple[tuple[str, ...], ...] = field(default=())
    conflicts: tuple[str, ...] = ()
    audio: Mapping[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> tuple[str, ...]:
        return self.scan.missing

    @property
    def n_used(self) -> dict[str, int]:
        """How many recordings each rule of `exclude:` leaves."""
        n_found, rules = len(self.scan.utterances), {"none": {}, "known": {}, **self.scan.defects}
        return {rule: n_found - len(defects) for rule, defects in rules.items()}

    def summary(self, *, short: bool = False) -> dict[str, Any]:
        """Return the figures for people, or with every list for machines."""
        counts = {part: _count(self.scan, part) for part in ("emotion", "sex", "speaker")}
        defects = self.scan.defects.get("known", {})
        figures: dict[str, Any] = {
            "corpus": self.name,
            "folder": str(self.root),
            "recordings": len(self.scan.utterances),
            "speakers": len(counts["speaker"]),
            "emotions": counts["emotion"],
            "sexes": counts["sex"],
            "by_speaker": counts["speaker"],
            "hours": round(self.duration_s / 3600, 3),
            "missing": list(self.missing),
            "bad": [str(fault) for fault in self.faults],
            "warnings": list(self.warnings),
            "identical_audio": [list(group) for group in self.identical],
            "conflicts": list(self.conflicts),
            "known_defects": [f"{path}: {reason}" for path, reason in sorted(defects.items())],
            "used_with_exclude": self.n_used,
            "left_out": dict(self.scan.left_out),
            "remarks": list(self.scan.remarks),
            "ignored_files": list(self.scan.ignored),
        }
        if not short:
            return figures
        lists = {key: len(figures[key]) for key in ("missing", "bad", "warnings", "conflicts", "ignored_files")}
        shown = {
            "emotions": _told(counts["emotion"]),
            "sexes": _told(counts["sex"]),
            "by_speaker": _told_evenly(counts["speaker"]),
            "identical_audio": "; ".join(" = ".join(group) for group in self.identical) or "none",
            "known_defects": "; ".join(figures["known_defects"]) or "none",
            "used_with_exclude": _told(self.n_used),
            "left_out": _told(self.scan.left_out) or "none",
            "remarks": "; ".join(self.scan.remarks) or "none",
        }
        return {**figures, **lists, **shown}


def _count(scan: Scan, part: str) -> dict[str, int]:
    """Return how many recordings each value of a part of an utterance has."""
    counts = Counter(getattr(utterance, part) or "unknown" for utterance in scan.utterances)
    return dict(sorted(counts.items()))


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{value} {count}" for value, count in counts.items())


def _told_evenly(counts: Mapping[str, int]) -> str:
    """Return counts of which most are the same: ``82 each, except 1002 81``."""
    [(usual, n_usual)] = Counter(counts.values()).most_common(1)
    others = {value: count for value, count in counts.items() if count != usual}
    if n_usual < 2 or len(others) > n_usual:
        return _told(counts)
    return f"{usual} each" + (f", except {_told(others)}" if others else "")


def verify(
    name: str, *, root: Path | None = None, path: Path | None = None, reporter: Reporter | None = None
) -> Verification:
    """Scan a corpus and decode every recording.

    Raises
    ------
    ConfigError
        If there is no such corpus, or a manifest has no CSV.
    CorpusError
        If it is not on this machine, or names or labels are wrong.
    """
    reporter = reporter or Reporter()
    n_workers = count_workers(-1)
    corpus = corpus_of(name, root, path, exclude="none")
    row, folder = find(corpus)
    if folder is None and row.generator:
        raise CorpusError(f"The {name} corpus is not made yet. Run `emobench data make` first.")
    row, folder = obtain(corpus, n_jobs=n_workers, reporter=reporter)
    found = scan(corpus, row, folder)
    utterances = found.utterances
    batches = [utterances[start : start + CLIPS_A_TASK] for start in range(0, len(utterances), CLIPS_A_TASK)]
    duration_s, faults, warnings = 0.0, [], []
    audio: dict[str, str] = {}  # by utterance
    silent = set()
    with Pool(n_workers) as pool, reporter.track("decode", len(utterances)) as advance:
        n_done = 0
        for position, outcome in pool.run(_decode_batch, [(folder, batch) for batch in batches]):
            batch = batches[position]
            n_done += len(batch)
            advance(n_done)
            if isinstance(outcome, Crash):
                outcome = [AudioError(folder / utterance.path, outcome.reason) for utterance in batch]
            for utterance, result in zip(batch, outcome, strict=True):
                if isinstance(result, AudioError):
                    faults.append(result)
                    continue
                content, seconds, remarks = result
                duration_s += seconds
                audio[utterance.id] = content
                silent |= {utterance.id} if SILENCE in remarks else set()
                warnings += [f"{folder / utterance.path}: {remark}" for remark in remarks]
    labels = _labels(corpus.label, [utterance for utterance in utterances if utterance.id in audio], audio)
    identical = sorted(tuple(sorted(labels.ids[row] for row in group)) for group in find_groups(labels.audio))
    defects = found.defects.get("known", {})
    sound = _labels(corpus.label, [u for u in utterances if u.id in audio and u.path not in defects], audio)
    conflicts = [
        describe_conflict(sound, group, is_silent=sound.ids[group[0]] in silent) for group in find_conflicts(sound)
    ]
    return Verification(
        corpus.label,
        folder,
        found,
        duration_s,
        faults=tuple(sorted(faults, key=str)),
        warnings=tuple(sorted(warnings)),
        identical=tuple(identical),
        conflicts=tuple(conflicts),
        audio={utterance.path: audio[utterance.id] for utterance in utterances if utterance.id in audio},
    )


def _labels(name: str, utterances: Sequence[Utterance], audio: Mapping[str, str]) -> Labels:
    """Return who says what in which recording; `audio` has its samples' hash by utterance."""
    return Labels(
        ids=tuple(utterance.id for utterance in utterances),
        speakers=tuple(utterance.speaker for utterance in utterances),
        emotions=tuple(utterance.emotion for utterance in utterances),
        sexes=tuple(utterance.sex for utterance in utterances),
        audio=tuple(audio[utterance.id] for utterance in utterances),
        corpus=name,
    )


def hashes(
    name: str, *, root: Path | None = None, path: Path | None = None, reporter: Reporter | None = None
) -> tuple[list[tuple[str, str, str]], Verification]:
    """Return (path, audio id, clip id) of each recording that can be used, and what else was found; see `verify`.

    These are the keys of a file of embeddings.
    """
    found = verify(name, root=root, path=path, reporter=reporter)
    clips, faults = hash_clips([found.root / clip for clip in found.audio])
    rows = [(clip, audio, sha) for (clip, audio), sha in zip(found.audio.items(), clips, strict=True) if sha]
    return rows, replace(found, faults=(*found.faults, *faults))


def corpus_of(name: str, root: Path | None = None, path: Path | None = None, **options: Any) -> CorpusConfig:
    """Return a corpus as a config has it."""
    if get_corpus(name).needs_path and path is None:
        raise ConfigError(f"Corpus {name!r} needs --path, the CSV of its recordings. Add it.")
    given = {"root": root and str(root), "path": path and str(path)}
    corpus = {"name": name, **options, **{key: value for key, value in given.items() if value is not None}}
    return validate_config({"corpora": [corpus], "models": ["dummy"]}, "the command line").corpora[0]


def _decode_batch(root: Path, utterances: tuple[Utterance, ...]) -> list[Any]:
    """Decode recordings in a worker: (content hash, seconds, remarks) each, or the `AudioError`."""
    return [_decode_one(root / utterance.path) for utterance in utterances]


def _decode_one(path: Path) -> tuple[str, float, tuple[str, ...]] | AudioError:
    try:
        audio = read_audio(path, AudioPolicy())
    except AudioError as error:
        return error
    except OSError as error:
        return AudioError(path, f"must be readable. The system says: {error.strerror}. Check the disk.")
    return audio.content, audio.duration_s, audio.warnings
