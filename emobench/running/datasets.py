"""From a corpus of a config to the recordings of a run: found, fetched or made, scanned, hashed and checked."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emobench.audio.damage import SILENCE
from emobench.audio.decoding import hash_file
from emobench.config.schema import CorpusConfig, RunConfig
from emobench.corpora import CorpusSpec, Scan, Utterance, get_corpus
from emobench.corpora.labels import fit_encoder, look_alikes, refuse_look_alikes, relabel, unite
from emobench.corpora.location import cached_corpus, data_folder, locate, places, store_folder
from emobench.corpora.scanning import check_scan, leave_out
from emobench.errors import AudioError, ConfigError, CorpusError, DataError, EmobenchError, listing
from emobench.features import FeatureSpec, FeatureTable, feature_key, get_features
from emobench.features.shards import to_texts
from emobench.features.store import Extraction, FeatureStore
from emobench.protocols import Labels
from emobench.registry import resolve
from emobench.reporter import Reporter, summarise
from emobench.results.tables import EXCLUDED, write_csv
from emobench.running.exclusion import settle, silent_conflicts

if TYPE_CHECKING:
    from sklearn.preprocessing import LabelEncoder

_FILES_A_TASK = 64  # that a thread hashes, as a future takes longer than a small file


@dataclass(frozen=True)
class Dataset:
    """The recordings that a run takes from one corpus.

    Attributes
    ----------
    name : str
        What result rows call the corpus: the one that was really used.
    source : str
        Its row of `CORPORA`.
    root : Path
        Folder that the utterances' paths are relative to; None for a corpus that is only planned.
    utterances : tuple of Utterance
    clips : tuple of str
        Hash of each recording's file; of its name where the corpus is only planned.
    audio : tuple of str
        Hash of each recording's samples; of its file as long as it was not decoded.
    classes : tuple of str
        Declared emotions, sorted: the order of the LabelEncoder.
    generator : str
        Fingerprint of a generated corpus, empty for recordings.
    licence : str
        Of the corpus; empty where its row does not say.
    excluded : tuple of AudioError
        Recordings that cannot be used.
    notes : tuple of (path, note)
        On recordings that are used.
    dropped : tuple of (path, reason)
        Recordings that the config leaves out: by path, as silence, as conflicts.
    labels_before : mapping of str to int
        The corpus's own labels with their counts, where the config gives some of them another name.
    labels_after : mapping of str to int
        The labels then; `emotions:` selects among them.
    n_missing : int
        Recordings that a complete copy has and this one has not.
    remarks : tuple of str
        What the person should know.
    """

    name: str
    source: str
    root: Path | None
    utterances: tuple[Utterance, ...]
    clips: tuple[str, ...]
    audio: tuple[str, ...]
    classes: tuple[str, ...]
    generator: str = ""
    licence: str = ""
    excluded: tuple[AudioError, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    dropped: tuple[tuple[str, str], ...] = ()
    labels_before: Mapping[str, int] = field(default_factory=dict)
    labels_after: Mapping[str, int] = field(default_factory=dict)
    n_missing: int = 0
    remarks: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of what is in it: names, labels, and bytes (for a generated corpus, its generator)."""
        lines = [
            "\t".join((u.id, u.speaker, u.emotion, u.sex, self.generator or clip))
            for u, clip in zip(self.utterances, self.clips, strict=True)
        ]
        return hashlib.sha256("\n".join([*self.classes, *sorted(lines)]).encode()).hexdigest()[:16]

    @cached_property
    def encoder(self) -> LabelEncoder:
        """The LabelEncoder that all models share, fitted on the declared emotions."""
        return fit_encoder(self.classes)

    @cached_property
    def y(self) -> np.ndarray:
        """Codes of the emotions: int array of shape (n_utterances,)."""
        return self.encoder.transform([utterance.emotion for utterance in self.utterances])

    @cached_property
    def labels(self) -> Labels:
        """What a protocol may look at."""
        return Labels(
            ids=tuple(utterance.id for utterance in self.utterances),
            speakers=tuple(utterance.speaker for utterance in self.utterances),
            emotions=tuple(utterance.emotion for utterance in self.utterances),
            sexes=tuple(utterance.sex for utterance in self.utterances),
            statements=tuple(utterance.statement for utterance in self.utterances),
            intensities=tuple(utterance.intensity for utterance in self.utterances),
            audio=self.audio,
            corpus=self.name,
            source=self.source,
        )

    @property
    def n_speakers(self) -> int:
        """Number of speakers, 0 where they are unknown."""
        return len(set(self.labels.speakers) - {""})

    @property
    def left_out(self) -> dict[str, int]:
        """Labels with their counts that `emotions:` leaves out."""
        return {label: count for label, count in self.labels_after.items() if label not in self.classes}

    @property
    def look_alike_speakers(self) -> list[tuple[str, str]]:
        """Pairs of speakers whose names look alike; there are none unless the config says `distinct: true`."""
        return look_alikes(self.labels.speakers)

    @property
    def not_used(self) -> tuple[AudioError, ...]:
        """Recordings that are left out, for whatever reason."""
        root = self.root or Path()
        return (*self.excluded, *(AudioError(root / path, reason) for path, reason in self.dropped))

    def path(self, utterance: Utterance) -> Path:
        """Return where a recording is."""
        return (self.root or Path()) / utterance.path

    def take(self, rows: Sequence[int] | np.ndarray, **changes: Any) -> Dataset:
        """Return the dataset with some of its recordings only."""
        parts = {name: tuple(getattr(self, name)[row] for row in rows) for name in ("utterances", "clips", "audio")}
        return replace(self, **{**parts, **changes})

    def without(self, faults: Sequence[AudioError]) -> Dataset:
        """Return the dataset without the recordings that have a fault."""
        bad = {fault.path for fault in faults}
        kept = [row for row, utterance in enumerate(self.utterances) if str(self.path(utterance)) not in bad]
        return self.take(kept, excluded=(*self.excluded, *faults))


def open_dataset(corpus: CorpusConfig, *, n_jobs: int, reporter: Reporter, output: Path | None = None) -> Dataset:
    """Find, fetch or make a corpus; scan, select and hash its recordings.

    Unreadable files are collected in `excluded`, and whether that ends the run is decided with all other faults.

    Raises
    ------
    CorpusError
        If the corpus is not there, or its names or labels are wrong.
    ConfigError
        If it has no utterance of a declared emotion, or the folder `output` lies in it.
    """
    row, root = obtain(corpus, n_jobs=n_jobs, reporter=reporter)
    dataset = _select(scan(corpus, row, root), corpus, row, root)
    _check_apart(dataset, row, output)
    hashes, faults = hash_clips([dataset.path(utterance) for utterance in dataset.utterances])
    clips = tuple(clip or "" for clip in hashes)
    return replace(dataset, clips=clips, audio=clips).without(faults)


def plan_dataset(corpus: CorpusConfig, *, output: Path | None = None) -> Dataset:
    """Return the dataset as far as it can be known with nothing made or fetched."""
    row, root = find(corpus)
    if root is None and row.generator:
        return _select(_checked(resolve(row.generator).plan(), corpus, row, None), corpus, row, None)
    if root is None and corpus.when_missing == "fetch":
        raise _absent(corpus, "A plan downloads nothing. ")
    return open_dataset(corpus, n_jobs=1, reporter=Reporter(), output=output)


def find(corpus: CorpusConfig) -> tuple[CorpusSpec, Path | None]:
    """Return the row that is really used and its folder, None where it must be fetched or made first."""
    row = get_corpus(corpus.name)
    if corpus.path is not None:
        return row, Path(corpus.root or Path(corpus.path).parent)
    root = locate(row, Path(corpus.root) if corpus.root else None)
    if root is None and corpus.when_missing not in ("error", "fetch"):
        row = get_corpus(corpus.when_missing)
        root = locate(row)
    return row, root


def obtain(corpus: CorpusConfig, *, n_jobs: int, reporter: Reporter) -> tuple[CorpusSpec, Path]:
    """Return the row that is really used and its folder, fetched or made as `when_missing` says.

    Raises
    ------
    CorpusError
        If it is not there.
    """
    row, root = find(corpus)
    if root is None and row.generator:
        root = make(row, n_jobs=n_jobs, reporter=reporter)
    elif root is None and corpus.when_missing == "fetch":
        from emobench.corpora.fetch import fetch

        reporter.say(f"Downloading {row.title}")
        root = fetch(row, cached_corpus(corpus.name))
    elif root is None:
        raise _absent(corpus)
    return row, root


def scan(corpus: CorpusConfig, row: CorpusSpec, root: Path) -> Scan:
    """Scan the names and labels of a corpus as its config has them; raise `CorpusError` if they are wrong."""
    options = corpus.options if row.name == corpus.name else {}
    options = {name: Path(value) if row.options[name].type is Path else value for name, value in options.items()}
    try:
        found = resolve(row.scan)(root, **options)
    except EmobenchError:
        raise
    except Exception as error:  # of a plug-in
        raise CorpusError(
            f"The scanner of corpus {row.name!r} failed on {root}: {type(error).__name__}: {error}. Correct it."
        ) from error
    return _checked(found, corpus, row, root)


def _checked(found: Scan, corpus: CorpusConfig, row: CorpusSpec, root: Path | None) -> Scan:
    """Return what a scanner found without what the config excludes, and with the names that it gives."""
    name, is_asked_for = name_in_results(corpus, row), row.name == corpus.name
    found = check_scan(found, row, root, name, labels=corpus.labels)
    if isinstance(corpus.exclude, list):
        found = leave_out(found, dict.fromkeys(corpus.exclude, "`exclude:`"), name=name, is_strict=is_asked_for)
    else:
        found = leave_out(found, _excluded_by(found, corpus.exclude), name=name, is_strict=False)
    found = relabel(found, corpus.labels, name=name, is_strict=is_asked_for)
    if corpus.speakers == "unknown":
        found = replace(found, utterances=tuple(replace(u, speaker="") for u in found.utterances))
    elif is_asked_for:
        found = unite(found, corpus.speakers, name=name)
    refuse_look_alikes(found, name=name, emotions=corpus.emotions or (), distinct=corpus.distinct)
    return found


def _excluded_by(found: Scan, rule: str) -> dict[str, str]:
    """Return what a rule of `exclude:` leaves out of a corpus: path → reason, with the rule."""
    return {path: f"{reason} (exclude: {rule})" for path, reason in found.defects.get(rule, {}).items()}


def name_in_results(corpus: CorpusConfig, row: CorpusSpec) -> str:
    """Return what result rows call a corpus of a config: by another's name where that stands in for it."""
    return corpus.label if row.name == corpus.name else row.name


def make(row: CorpusSpec, *, n_jobs: int, reporter: Reporter, folder: Path | None = None, **options: object) -> Path:
    """Make a generated corpus where it is not there yet, in the user's cache by default; return its folder."""
    generator = resolve(row.generator)
    folder = folder or generator.home(**options)
    n_clips = len(generator.plan(**options).utterances)
    if not folder.is_dir():
        reporter.say(f"Making the {row.name} corpus ({n_clips} clips) in {folder}")
    with reporter.track("synthesise", n_clips) as advance:
        generator.make(folder, n_jobs=n_jobs, progress=advance, **options)
    return folder


def _select(found: Scan, corpus: CorpusConfig, row: CorpusSpec, root: Path | None) -> Dataset:
    """Return the dataset of the declared emotions, with names in place of hashes."""
    is_asked_for, name = row.name == corpus.name, name_in_results(corpus, row)
    utterances, classes = select_emotions(found, corpus, name)
    after = dict(sorted(Counter(utterance.emotion for utterance in found.utterances).items()))
    ids = tuple(utterance.id for utterance in utterances)
    return Dataset(
        name=name,
        source=row.name,
        root=root,
        utterances=utterances,
        clips=ids,
        audio=ids,
        classes=classes,
        generator=found.generator,
        licence=row.licence,
        dropped=found.dropped,
        labels_before=found.labels_before,
        labels_after=after,
        n_missing=len(found.missing),
        remarks=(
            *([] if is_asked_for else [_stand_in(corpus, row)]),
            *_place_remarks(corpus, row, root),
            *_scan_remarks(found, name),
            *_label_remarks(found.labels_before, after, classes, name),
        ),
    )


def _check_apart(dataset: Dataset, row: CorpusSpec, output: Path | None) -> None:
    """Refuse an output folder or a store whose files would be read as recordings, or beside them."""
    root = (dataset.root or Path()).resolve()
    for what, folder in (("--output", output), ("The feature store", store_folder().resolve())):
        if folder is None or (folder != root and root not in folder.parents):
            continue
        if row.needs_path and not any(folder in (root / u.path).parents for u in dataset.utterances):
            continue  # a manifest reads only what it names
        raise ConfigError(
            f"{what} must not be inside a corpus, where it would be read as data. {folder} is in {root}. "
            "Choose another folder."
        )


def _absent(corpus: CorpusConfig, reason: str = "") -> CorpusError:
    looked = ", ".join(map(str, places(get_corpus(corpus.name))))
    return CorpusError(
        f"Corpus {corpus.name!r} is not on this machine; it is in none of: {looked}. {reason}"
        f"Set `root:` or EMOBENCH_DATA, run `emobench data fetch {corpus.name}`, or set `when_missing: synthetic`."
    )


def _stand_in(corpus: CorpusConfig, row: CorpusSpec) -> str:
    return (
        f"Corpus {corpus.name!r} is not on this machine, so the {row.name} corpus stands in for it: computer-generated "
        f"sounds, whose figures say nothing about {corpus.name}. Every row says `{row.name}`. For the real one, set "
        f"EMOBENCH_DATA or run `emobench data fetch {corpus.name}`."
    )


def _place_remarks(corpus: CorpusConfig, row: CorpusSpec, root: Path | None) -> list[str]:
    data = data_folder()
    known = [place.resolve() for place in places(row)]
    if root is None or data is None or corpus.root or corpus.path or root in known or root.parent == data.resolve():
        return []
    return [f"{row.name}: found in {root}, which is not directly below EMOBENCH_DATA ({data})"]


def _scan_remarks(scan: Scan, name: str) -> list[str]:
    remarks = [f"{name}: {remark}" for remark in scan.remarks]
    remarks += [f"{name}: left out {count} recordings: {reason}" for reason, count in scan.left_out.items()]
    reasons = Counter(reason for _, reason in scan.dropped)
    remarks += [f"{name}: left out {count} recordings: {reason}" for reason, count in reasons.items()]
    if scan.missing:
        some = ", ".join(scan.missing[:3]) + (" …" if len(scan.missing) > 3 else "")
        remarks.append(
            f"{name}: this copy is incomplete, {len(scan.missing)} recordings are missing ({some}); "
            f"`emobench data verify {name}` lists them"
        )
    if scan.ignored:
        remarks.append(f"{name}: ignored {len(scan.ignored)} files that are no recordings ({scan.ignored[0]} …)")
    return remarks


def _label_remarks(before: Mapping[str, int], after: Mapping[str, int], classes: Sequence[str], name: str) -> list[str]:
    remarks = [f"{name}: labels before `labels:`: {_counted(before)}; after: {_counted(after)}"] if before else []
    left_out = {label: count for label, count in after.items() if label not in classes}
    if left_out:
        total = sum(left_out.values())
        remarks.append(
            f"{name}: `emotions:` leaves out {total} of {sum(after.values())} recordings: {_counted(left_out)}"
        )
    return remarks


def _counted(labels: Mapping[str, int]) -> str:
    return ", ".join(f"{label} {count}" for label, count in sorted(labels.items()))


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

    batches = [paths[start : start + _FILES_A_TASK] for start in range(0, len(paths), _FILES_A_TASK)]
    with ThreadPoolExecutor(max_workers=min(8, (os.cpu_count() or 1) + 2)) as threads:
        outcomes = [outcome for batch in threads.map(lambda b: list(map(attempt, b)), batches) for outcome in batch]
    return (
        [outcome if isinstance(outcome, str) else None for outcome in outcomes],
        [outcome for outcome in outcomes if isinstance(outcome, AudioError)],
    )


# --- features -------------------------------------------------------------------------------------------------------


def extract(
    config: RunConfig,
    features: Sequence[FeatureSpec],
    datasets: Sequence[Dataset],
    *,
    pool: Callable[[], Any],
    excluded: Path | None,
    reporter: Reporter,
) -> tuple[list[Dataset], dict[tuple[str, str], FeatureTable], list[str]]:
    """Extract the features of all datasets; a recording that fails in one feature set is out of all of them.

    Parameters
    ----------
    features : sequence of FeatureSpec
        Those that stand in a file are given to the recordings that are left.
    excluded : path, optional
        CSV for the list of recordings that cannot be used, where they end the run.

    Returns
    -------
    datasets : list of Dataset
        Without the recordings that cannot be used, and with the hashes of samples.
    tables : dict of (corpus, features) to FeatureTable
    remarks : list of str

    Raises
    ------
    DataError
        If recordings cannot be used, and the config does not leave them out.
    """
    store, specs = FeatureStore(store_folder()), computed(features)
    found: list[list[Extraction]] = []
    faults: dict[str, list[AudioError]] = {}
    remarks: list[str] = []
    for dataset in datasets:
        clips = [(clip, dataset.path(u)) for clip, u in zip(dataset.clips, dataset.utterances, strict=True)]
        with reporter.track(f"features of {dataset.name}", len(clips)) as advance:
            on_progress = _counting_all(len(clips), advance)
            parts = store.extract(specs, clips, policy=config.audio.policy, pool=pool, on_progress=on_progress)
        found.append(parts)
        faults[dataset.name] = _all_faults(dataset, parts, clips)
        for repair in dict.fromkeys(repair for part in parts for repair in part.repairs):
            reporter.warn(repair)
    if any(faults.values()):
        _refuse_faults(config, faults, excluded)
        remarks.append(
            f"{sum(map(len, faults.values()))} recordings are excluded (on_bad_audio: skip); excluded.csv lists them"
        )
    kept, tables = [], {}
    for dataset, parts in zip(datasets, found, strict=True):
        whole, rows = _usable(dataset, parts, faults[dataset.name])
        whole, left, more = settled(config, whole, _silent(whole, parts))
        rows = rows[left]
        remarks += more
        notes = _notes(whole, parts)
        remarks += [f"{line}; notes.csv lists all" if " more: " in line else line for line in summarise(notes)]
        kept.append(replace(whole, notes=tuple(notes)))
        for spec, part in zip(specs, parts, strict=True):
            if part.spans is None:
                tables[whole.name, spec.name] = _table(whole, spec, config, part.X[rows], part.n_computed)
            else:
                found_spans = part.spans[rows]
                tables[whole.name, spec.name] = _table(whole, spec, config, part.X, part.n_computed, found_spans)
        for spec in (spec for spec in features if spec.is_read):
            X = spec.vectors.take(_names(whole), corpus=whole.name)
            tables[whole.name, spec.name] = _table(whole, spec, config, X)
    every = [names for dataset in kept for names in _names(dataset)]
    remarks += filter(None, (spec.vectors.foreign(every) for spec in features if spec.is_read))
    return kept, tables, remarks


def _counting_all(n_clips: int, advance: Callable[..., None]) -> Callable[[int, int], None]:
    """Return what a store tells its progress to, for a bar that clips found in the store count for as well."""
    return lambda n_done, n_missing: advance(n_clips - n_missing + n_done)


def computed(features: Iterable[FeatureSpec]) -> list[FeatureSpec]:
    """Return the feature sets that are made of the sound; at least one, so that every recording is decoded."""
    return [spec for spec in features if not spec.is_read] or [get_features("mfcc40")]


def _names(dataset: Dataset) -> list[dict[str, tuple[str, ...]]]:
    """Return what each recording may be called in a file of vectors."""
    return [
        {"audio_id": (audio,), "clip_id": (clip,), "path": (utterance.path, utterance.id)}
        for utterance, clip, audio in zip(dataset.utterances, dataset.clips, dataset.audio, strict=True)
    ]


def _all_faults(dataset: Dataset, parts: Sequence[Extraction], clips: Sequence[tuple[str, Path]]) -> list[AudioError]:
    """Return what is wrong with a dataset, one fault a path: a clip under several names is read once."""
    names = defaultdict(list)
    for clip, path in clips:
        names[clip].append(str(path))
    same = {path: group for group in names.values() for path in group}
    first = {fault.path: fault for fault in dataset.excluded}
    for part in parts:
        for fault in part.faults:
            for name in same.get(fault.path, [fault.path]):
                first.setdefault(name, AudioError(name, fault.reason))
    return list(first.values())


def _refuse_faults(config: RunConfig, faults: Mapping[str, Sequence[AudioError]], excluded: Path | None) -> None:
    """Raise `DataError` with what cannot be used, unless the config leaves it out."""
    if config.on_bad_audio == "skip":
        return
    every = sorted((fault for group in faults.values() for fault in group), key=str)
    where = "`emobench data verify` lists all of them"
    if excluded is not None:
        write_excluded(excluded, faults)
        where = f"The full list is in {excluded}"
    raise DataError(
        f"{len(every)} recordings cannot be used:\n{listing([str(fault) for fault in every])}\n"
        f"{where}. Repair or remove them, or set on_bad_audio: skip to leave them out."
    )


def _usable(dataset: Dataset, parts: Sequence[Extraction], faults: Sequence[AudioError]) -> tuple[Dataset, np.ndarray]:
    """Return the dataset without what cannot be used, with the hashes of samples, and the rows that are left."""
    bad = {fault.path for fault in faults}
    rows = np.flatnonzero([str(dataset.path(utterance)) not in bad for utterance in dataset.utterances])
    if not len(rows):
        raise DataError(f"Corpus {dataset.name!r} has no usable recordings; all are excluded. Repair them.")
    assert all(part.is_found[rows].all() for part in parts)
    audio = to_texts(parts[0].audio[rows])
    return dataset.take(rows, audio=audio, excluded=tuple(faults)), rows


def settled(
    config: RunConfig, dataset: Dataset, silent: np.ndarray | None = None
) -> tuple[Dataset, np.ndarray, list[str]]:
    """Leave out silence and conflicts as the config says; see `settle`.

    Parameters
    ----------
    silent : bool array of shape (n_utterances,), optional
        Which recordings are silent; without it, only identical files with two labels are looked at.

    Returns
    -------
    dataset : Dataset
    rows : int array
        Where each of its recordings was before.
    remarks : list of str
    """
    labels = dataset.labels
    if silent is None:
        silent = silent_conflicts(labels, [dataset.path(utterance) for utterance in dataset.utterances])
    reasons, remarks = settle(config, labels, silent)
    rows = np.setdiff1d(np.arange(len(silent)), list(reasons))
    dropped = tuple((dataset.utterances[row].path, reason) for row, reason in sorted(reasons.items()))
    return dataset.take(rows, dropped=(*dataset.dropped, *dropped)) if reasons else dataset, rows, remarks


def _silent(dataset: Dataset, parts: Sequence[Extraction]) -> np.ndarray:
    """Return which recordings are nothing but digital silence: bool array of shape (n_utterances,)."""
    remarks = parts[0].warnings
    return np.array([SILENCE in remarks.get(clip, "").split("; ") for clip in dataset.clips], bool)


def _notes(dataset: Dataset, parts: Sequence[Extraction]) -> list[tuple[str, str]]:
    """Return what deserves a remark about recordings that are used: (path, note), by path."""
    found = {
        (utterance.path, note)
        for part in parts
        for clip, utterance in zip(dataset.clips, dataset.utterances, strict=True)
        for note in filter(None, part.warnings.get(clip, "").split("; "))
    }
    return sorted(found)


def _table(
    dataset: Dataset,
    spec: FeatureSpec,
    config: RunConfig,
    X: np.ndarray,
    n_computed: int = 0,
    spans: np.ndarray | None = None,
) -> FeatureTable:
    return FeatureTable(
        X=X,
        y=dataset.y,
        classes=dataset.classes,
        ids=dataset.labels.ids,
        speakers=dataset.labels.speakers,
        sexes=dataset.labels.sexes,
        spec=replace(spec, vectors=None) if spec.is_read else spec,  # a row of a plug-in file is pickled as itself
        key=feature_key(spec, mono=config.audio.mono),
        n_computed=n_computed,
        spans=spans,
    )


def write_excluded(path: Path, faults: Mapping[str, Sequence[AudioError]]) -> None:
    """Write the recordings that cannot be used as a CSV."""
    import pandas as pd

    rows = [(corpus, fault.path, fault.reason) for corpus, group in faults.items() for fault in sorted(group, key=str)]
    write_csv(path, pd.DataFrame(rows, columns=list(EXCLUDED)))
