"""A config for what somebody has: look at a folder or a CSV, and write what runs."""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emobench.corpora import CORPORA, CorpusSpec, Scan, drafts
from emobench.corpora.manifest import scan as scan_manifest
from emobench.corpora.scanning import check_scan, find_files
from emobench.errors import ConfigError, CorpusError, EmobenchError
from emobench.files import write_bytes
from emobench.registry import resolve
from emobench.running.planning import plan

MANIFEST = "manifest.csv"
N_SPLITS = 6


@dataclass(frozen=True)
class Found:
    """A corpus that was found: its row, its folder or CSV, and what it holds."""

    row: CorpusSpec
    place: Path
    scan: Scan

    @property
    def counts(self) -> dict[str, int]:
        """How many recordings each emotion has."""
        return Counter(utterance.emotion for utterance in self.scan.utterances)

    @property
    def speakers(self) -> set[str]:
        """The speakers, as far as they are known."""
        return {utterance.speaker for utterance in self.scan.utterances} - {""}

    @property
    def emotions(self) -> list[str]:
        """Those that can be learnt and tested: of two speakers or more, where there are as many."""
        having = defaultdict(set)
        for utterance in self.scan.utterances:
            having[utterance.emotion].add(utterance.speaker)
        return sorted(emotion for emotion, speakers in having.items() if len(speakers) > 1 or len(self.speakers) < 2)


@dataclass(frozen=True)
class Started:
    """What `init` wrote.

    Attributes
    ----------
    config : Path
    manifest : Path or None
        None where none was needed.
    found : tuple of str
        What was found, a sentence each.
    command : str
        What to do next.
    problem : str
        What stands in the way of that; empty where nothing does.
    """

    config: Path
    manifest: Path | None
    found: tuple[str, ...]
    command: str
    problem: str = ""


def init(place: Path, config: Path) -> Started:
    """Look at a folder or a CSV, and write a config that compares models on it.

    Parameters
    ----------
    place : Path
        A folder of recordings, or the CSV of a manifest.
    config : Path
        Where to write; must not exist.

    Raises
    ------
    ConfigError
        If `config` exists.
    CorpusError
        If there is nothing that emobench can read the labels of.
    """
    if os.path.lexists(config):
        raise ConfigError(f"{config} exists. Name another file with --config, or remove it.")
    if not place.exists():
        raise CorpusError(f"{place} does not exist. Name a folder of recordings, or a CSV.")
    drafted: tuple[str, ...] = ()
    if place.is_file():
        found = [_manifest(place)]
    elif (place / MANIFEST).is_file():
        found = [_manifest(place / MANIFEST)]
    elif not (found := _known_corpora(place)):
        draft = _draft(place)
        drafted = (f"wrote {place / MANIFEST}", *draft.remarks)
        write_bytes(place / MANIFEST, draft.text().encode())
        found = [_manifest(place / MANIFEST)]
    write_bytes(config, _config(found, config.absolute().parent).encode())
    output = _output(found)
    told = [sentence for corpus in found for sentence in _describe(corpus)]
    command = f"emobench run {shlex.quote(str(config))}{f' --output {shlex.quote(output)}' if output else ''}"
    manifest = found[0].place if drafted else None
    return Started(config, manifest, (*told, *drafted), command, _problem(config, output))


def _known_corpora(folder: Path) -> list[Found]:
    """Return the corpora whose recordings the folder holds."""
    found = []
    for row in CORPORA.values():
        if row.needs_path or row.generator:
            continue
        try:
            found.append(Found(row, folder, check_scan(resolve(row.scan)(folder), row, folder, row.name)))
        except CorpusError:  # the folder is of something else
            continue
    return found


def _manifest(path: Path) -> Found:
    return Found(CORPORA["manifest"], path, scan_manifest(path=path))


def _draft(folder: Path) -> drafts.Draft:
    """Return a manifest for a folder that has none: from its audformat tables, else from its names."""
    tables = sorted([*folder.glob("db.*.csv"), *folder.glob("db.*.parquet")])
    draft = drafts.from_audformat(tables, folder) if tables else drafts.guess(folder)
    if draft is None:
        files, _ = find_files(folder)
        such = f", such as {files[0]}" if files else ""
        raise CorpusError(
            f"{folder} holds {len(files)} recordings{such}, and no corpus by name. Their names do not all tell the "
            "emotion where emobench looks for it. Write a manifest with `emobench data manifest --from regex`, or by "
            "hand."
        )
    return draft


# --- the config -------------------------------------------------------------------------------------------------------


def _config(found: Sequence[Found], folder: Path) -> str:
    """Return the text of a config; places in it are relative to its folder."""
    lines = ["schema_version: 1", "corpora:"]
    for corpus in found:
        place = os.path.relpath(corpus.place, folder)
        key = "path" if corpus.row.needs_path else "root"
        lines += [f"  - name: {corpus.row.name}", f"    {key}: {json.dumps(place, ensure_ascii=False)}"]
        if corpus.emotions != sorted(corpus.counts):
            lines += [f"    emotions: {json.dumps(corpus.emotions, ensure_ascii=False)}"]
    lines += ["features: [mfcc40]", "models: [svm, mlp, xgboost, dummy]", f"protocols: [{_protocol(found)}]", "seed: 0"]
    return "\n".join(lines) + "\n"


def _protocol(found: Sequence[Found]) -> str:
    """Return the protocol that every corpus allows: by speakers, where they are known and there are two."""
    n_speakers = min(len(corpus.speakers) for corpus in found)
    if n_speakers < 2:
        return f"{{name: random-kfold, n_splits: {N_SPLITS}}}"
    if n_speakers < N_SPLITS and len(found) == 1:
        return "loso"
    return f"{{name: group-kfold, n_splits: {min(n_speakers, N_SPLITS)}}}"


def _describe(corpus: Found) -> list[str]:
    """Return what was found, and what follows from it, a sentence each."""
    emotions = ", ".join(f"{emotion} {count}" for emotion, count in sorted(corpus.counts.items()))
    n_speakers = len(corpus.speakers)
    speakers = f"{n_speakers} speaker{'s' * (n_speakers != 1)}" if n_speakers else "speakers unknown"
    told = [f"{corpus.row.title.split(':')[0]} in {corpus.place}: {len(corpus.scan.utterances)} recordings, {speakers}"]
    told += [f"emotions: {emotions}", *corpus.scan.remarks]
    told += [f"left out {count}: {reason}" for reason, count in corpus.scan.left_out.items()]
    if corpus.scan.missing:
        told.append(f"{len(corpus.scan.missing)} recordings of a complete copy are missing")
    if rare := sorted(set(corpus.counts) - set(corpus.emotions)):
        told.append(f"left out, as only one speaker has them: {', '.join(rare)}")
    if n_speakers < 2:
        told.append("the split is random: no figure for new speakers")
    elif n_speakers < N_SPLITS:
        told.append("the scores of so few speakers are given one by one, without an interval")
    return told


def _output(found: Sequence[Found]) -> str:
    """Return where results go, if not to `results`: inside a corpus they would be read as data."""
    here = Path.cwd().resolve()
    roots = [corpus.place.resolve() for corpus in found if not corpus.row.needs_path]
    above = next((root.parent for root in roots if here.is_relative_to(root)), None)
    return os.path.relpath(above / "results", here) if above else ""


def _problem(config: Path, output: str) -> str:
    """Return what would end a run of the config, found as `plan` does."""
    try:
        plan(config, output=Path(output or "results"))
    except EmobenchError as error:
        return str(error)
    return ""
