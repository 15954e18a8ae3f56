"""From a corpus of a config to the recordings of a run: found or made, scanned, hashed and checked."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from emobench.audio.decoding import hash_file
from emobench.config.schema import CorpusConfig
from emobench.config.yaml import LoadedConfig
from emobench.corpora import Scan, Utterance, get_corpus
from emobench.corpora.location import cached_corpus, locate, places
from emobench.corpora.synthetic.design import Design, plan
from emobench.corpora.synthetic.writing import read_design, scan, write
from emobench.errors import AudioError, ConfigError, CorpusError
from emobench.files import storage_errors
from emobench.protocols import Labels
from emobench.registry import resolve
from emobench.reporter import Reporter


@dataclass(frozen=True)
class Dataset:
    """The recordings that a run takes from one corpus.

    Attributes
    ----------
    name : str
        What result rows call the corpus: the one that was really used.
    root : Path
        Folder that the utterances' paths are relative to; None for a corpus that is only planned.
    utterances : tuple of Utterance
    clips : tuple of str
        Hash of each recording's file; of its name where the corpus is only planned.
    classes : tuple of str
        Declared emotions, sorted: the order of the LabelEncoder.
    generator : str
        Fingerprint of a generated corpus, empty for recordings.
    excluded : tuple of AudioError
        Recordings that cannot be used.
    n_missing : int
        Recordings that a complete copy has and this one has not.
    remarks : tuple of str
        What the person should know.
    """

    name: str
    root: Path | None
    utterances: tuple[Utterance, ...]
    clips: tuple[str, ...]
    classes: tuple[str, ...]
    generator: str = ""
    excluded: tuple[AudioError, ...] = ()
    n_missing: int = 0
    remarks: tuple[str, ...] = field(default=())

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of what is in it: names, labels, and bytes (for a generated corpus, its generator)."""
        lines = [
            "\t".join((u.id, u.speaker, u.emotion, u.sex, self.generator or clip))
            for u, clip in zip(self.utterances, self.clips, strict=True)
        ]
        return hashlib.sha256("\n".join([*self.classes, *sorted(lines)]).encode()).hexdigest()[:16]

    @property
    def n_speakers(self) -> int:
        return len({utterance.speaker for utterance in self.utterances})

    def path(self, utterance: Utterance) -> Path:
        """Return where a recording is."""
        return (self.root or Path()) / utterance.path

    def labels(self) -> Labels:
        """Return what a protocol may look at, with the file's hash for the audio's."""
        return Labels(
            ids=tuple(u.id for u in self.utterances),
            speakers=tuple(u.speaker for u in self.utterances),
            emotions=tuple(u.emotion for u in self.utterances),
            sexes=tuple(u.sex for u in self.utterances),
            statements=tuple(u.statement for u in self.utterances),
            intensities=tuple(u.intensity for u in self.utterances),
            audio=self.clips,
            corpus=self.name,
        )

    def without(self, faults: Sequence[AudioError]) -> Dataset:
        """Return the dataset without the recordings that have a fault."""
        bad = {fault.path for fault in faults}
        kept = [(u, clip) for u, clip in zip(self.utterances, self.clips, strict=True) if str(self.path(u)) not in bad]
        return replace(
            self,
            utterances=tuple(u for u, _ in kept),
            clips=tuple(clip for _, clip in kept),
            excluded=(*self.excluded, *faults),
        )


def open_dataset(corpus: CorpusConfig, loaded: LoadedConfig, *, n_jobs: int, reporter: Reporter) -> Dataset:
    """Find, fetch or make a corpus; scan, select and hash its recordings.

    Unreadable files are collected in `excluded`, and whether that ends the run is decided with all other faults.

    Raises
    ------
    CorpusError
        If the corpus is not there, or its names or labels are wrong.
    ConfigError
        If it has no utterance of a declared emotion.
    """
    found = scan_corpus(corpus, loaded, n_jobs=n_jobs, reporter=reporter)
    utterances, classes = select_emotions(found.scan, corpus, found.name)
    hashes, faults = hash_clips([found.root / utterance.path for utterance in utterances])
    dataset = Dataset(
        name=found.name,
        root=found.root,
        utterances=utterances,
        clips=tuple(clip or "" for clip in hashes),
        classes=classes,
        generator=found.generator,
        n_missing=len(found.scan.missing),
        remarks=(*found.remarks, *_scan_remarks(found.scan, found.name)),
    )
    return dataset.without(faults)


def plan_dataset(corpus: CorpusConfig, loaded: LoadedConfig) -> Dataset:
    """Return the dataset as far as it can be known without making, fetching or hashing anything."""
    if is_to_be_made(corpus, loaded):
        scan = Scan(plan())
        utterances, classes = select_emotions(scan, corpus, "synthetic")
        clips = tuple(utterance.id for utterance in utterances)
        generator = Design().fingerprint()
        return Dataset("synthetic", None, utterances, clips, classes, generator, remarks=(_stand_in(corpus),))
    return open_dataset(corpus, loaded, n_jobs=1, reporter=Reporter())


def is_to_be_made(corpus: CorpusConfig, loaded: LoadedConfig) -> bool:
    """Return whether the synthetic corpus will stand for this one and is not there yet."""
    if corpus.path is not None or _find(corpus, loaded) is not None:
        return False
    return (corpus.name == "synthetic" or corpus.when_missing == "synthetic") and not synthetic_folder().is_dir()


def _find(corpus: CorpusConfig, loaded: LoadedConfig) -> Path | None:
    return locate(corpus.name, loaded.resolve_path(corpus.root) if corpus.root else None)


@dataclass(frozen=True)
class ScannedCorpus:
    """A corpus on this machine: what rows call it, its folder, its scan, and the generator's fingerprint if any."""

    name: str
    root: Path
    scan: Scan
    generator: str = ""
    remarks: tuple[str, ...] = ()


def scan_corpus(corpus: CorpusConfig, loaded: LoadedConfig, *, n_jobs: int, reporter: Reporter) -> ScannedCorpus:
    """Find a corpus, or fetch or make it as `when_missing` says, and scan its names and labels.

    Raises
    ------
    CorpusError
        If it is not there, or names or labels are wrong.
    """
    row = get_corpus(corpus.name)
    if corpus.path is not None:
        path = loaded.resolve_path(corpus.path)
        root = loaded.resolve_path(corpus.root) if corpus.root else path.parent
        return ScannedCorpus(corpus.label, root, resolve(row.scan)(root, path=path, name=corpus.label))
    root = _find(corpus, loaded)
    if root is None and corpus.name == "synthetic":
        return _scan_synthetic(make_synthetic(n_jobs=n_jobs, reporter=reporter))
    if root is None and corpus.when_missing == "synthetic":
        return _scan_synthetic(make_synthetic(n_jobs=n_jobs, reporter=reporter), _stand_in(corpus))
    if root is None and corpus.when_missing == "fetch":
        from emobench.corpora.fetch import fetch

        reporter.say(f"Downloading {row.title}")
        root = fetch(row, cached_corpus(corpus.name))
    if root is None:
        looked = ", ".join(map(str, places(corpus.name)))
        raise CorpusError(
            f"Corpus {corpus.name!r} must be on this machine. It is in none of: {looked}. "
            f"Set `root:` or EMOBENCH_DATA, run `emobench data fetch {corpus.name}`, or set `when_missing: synthetic`."
        )
    return (
        _scan_synthetic(root)
        if corpus.name == "synthetic"
        else ScannedCorpus(corpus.name, root, resolve(row.scan)(root))
    )


def _scan_synthetic(root: Path, *remarks: str) -> ScannedCorpus:

    return ScannedCorpus("synthetic", root, scan(root), read_design(root).fingerprint(), remarks)


def synthetic_folder(design: Design | None = None) -> Path:
    """Return where a synthetic corpus is kept in the user's cache, the one of 960 clips unless said."""

    return cached_corpus(f"synthetic-{(design or Design()).fingerprint()[:12]}")


def make_synthetic(*, n_jobs: int, reporter: Reporter, folder: Path | None = None, n_speakers: int = 24) -> Path:
    """Make the synthetic corpus where it is not there yet, in the user's cache unless said; return its folder."""

    design = Design(n_speakers=n_speakers)
    folder = folder or synthetic_folder(design)
    n_clips = len(plan(design))
    if not folder.is_dir():
        reporter.say(f"Making the synthetic corpus ({n_clips} clips) in {folder}")
    with storage_errors(folder), reporter.track("synthesise", n_clips) as advance:
        write(folder, design, n_jobs=n_jobs, progress=advance)
    return folder


def _stand_in(corpus: CorpusConfig) -> str:
    return (
        f"Corpus {corpus.name!r} is not on this machine, so the synthetic corpus stands in for it: computer-generated "
        f"sounds, whose figures say nothing about {corpus.name}. Every row says `synthetic`. For the real one, set "
        f"EMOBENCH_DATA or run `emobench data fetch {corpus.name}`."
    )


def _scan_remarks(scan: Scan, name: str) -> list[str]:
    remarks = [f"{name}: left out {count} recordings: {reason}" for reason, count in scan.left_out.items()]
    if scan.missing:
        some = ", ".join(scan.missing[:3]) + (" …" if len(scan.missing) > 3 else "")
        remarks.append(
            f"{name}: this copy is incomplete, {len(scan.missing)} recordings are missing ({some}); "
            f"`emobench data verify {name}` lists them"
        )
    if scan.ignored:
        remarks.append(f"{name}: ignored {len(scan.ignored)} files that are no recordings ({scan.ignored[0]} …)")
    return remarks


def select_emotions(scan: Scan, corpus: CorpusConfig, name: str) -> tuple[tuple[Utterance, ...], tuple[str, ...]]:
    """Return the utterances of the declared emotions, and these emotions in LabelEncoder order.

    Raises
    ------
    ConfigError
        If a declared emotion has no utterance, or fewer than two are left.
    """
    counts = Counter(utterance.emotion for utterance in scan.utterances)
    classes = tuple(sorted(corpus.emotions or counts))
    absent = [emotion for emotion in classes if not counts[emotion]]
    if absent:
        raise ConfigError(
            f"Every emotion of `emotions:` must have utterances. Corpus {name!r} has none of {', '.join(absent)}; it "
            f"has {', '.join(f'{emotion} ({count})' for emotion, count in sorted(counts.items()))}. Change `emotions:`."
        )
    if len(classes) < 2:
        raise ConfigError(
            f"A comparison must have at least 2 emotions. Corpus {name!r} has {len(classes)}: {', '.join(classes)}. "
            "Add recordings of other emotions."
        )
    return tuple(u for u in scan.utterances if u.emotion in classes), classes


def hash_clips(paths: Sequence[Path]) -> tuple[list[str | None], list[AudioError]]:
    """Hash every file of a corpus; None and an `AudioError` for each one that cannot be read."""

    def attempt(path: Path) -> str | AudioError:
        try:
            return hash_file(path)
        except AudioError as error:
            return error

    with ThreadPoolExecutor(max_workers=min(8, (os.cpu_count() or 1) + 2)) as threads:
        outcomes = list(threads.map(attempt, paths))
    return (
        [outcome if isinstance(outcome, str) else None for outcome in outcomes],
        [outcome for outcome in outcomes if isinstance(outcome, AudioError)],
    )
