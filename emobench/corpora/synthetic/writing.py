"""The synthetic corpus on the disk: making its folder, and reading it back."""

from __future__ import annotations

import contextlib
import json
from collections import abc
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from emobench.corpora import Generator, Scan, Utterance
from emobench.corpora.location import cached_corpus
from emobench.corpora.scanning import find_files
from emobench.corpora.synthetic.design import (
    CORPUS,
    DEFAULT,
    GENERATOR_VERSION,
    SAMPLE_RATE_HZ,
    Design,
    plan,
)
from emobench.corpora.synthetic.speech import synthesise
from emobench.errors import ConfigError, CorpusError, StorageError, listing
from emobench.files import published, write_bytes, write_json

RECORD = "corpus.json"
BATCH = 16  # clips that a worker makes at once


def write(
    folder: Path,
    design: Design = DEFAULT,
    *,
    n_jobs: int = 1,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Make the corpus as 16-bit WAV files: the folder appears whole or not at all.

    A folder that already holds this design is left as it is, except that clips it lacks are made again.

    Parameters
    ----------
    folder : path
        Absent, empty, or made by this function from the same design.
    n_jobs : int
        Worker processes, of one compute thread each; the files do not depend on it.
    progress : callable
        Called with the number of clips that are done, each time that there are more.

    Raises
    ------
    CorpusError
        If the folder holds anything else.
    StorageError
        If the machine does not let it be written. Nothing is left behind.
    """
    folder, clips = Path(folder).resolve(), plan(design)
    if _holds(folder, design):
        _write_clips(folder, [clip for clip in clips if not (folder / clip.path).is_file()], design, n_jobs, progress)
        return
    record = {
        "corpus": CORPUS,
        "generator_version": GENERATOR_VERSION,
        "fingerprint": design.fingerprint(),
        "n_utterances": len(clips),
        "design": asdict(design),
    }
    try:
        with published(folder) as aside:
            _write_clips(aside, clips, design, n_jobs, progress)
            write_json(aside / RECORD, record)
    except StorageError:
        if not _holds(folder, design):  # else another process was faster, with the same bytes
            raise


def _holds(folder: Path, design: Design) -> bool:
    """Return whether the folder was made from this design; refuse what a rename must not replace."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    found = read_design(folder)
    if found != design:
        raise CorpusError(
            f"{folder} must be absent, empty, or hold the same synthetic corpus ({design}). "
            f"It holds {found}. Choose another folder, or delete this one."
        )
    return True


def _write_clips(
    folder: Path,
    clips: Sequence[Utterance],
    design: Design,
    n_jobs: int,
    progress: Callable[[int], None] | None,
) -> None:
    """Write clips here or in workers, and tell how many are done."""
    batches = [clips[start : start + BATCH] for start in range(0, len(clips), BATCH)]
    n_done = 0
    with contextlib.closing(_write_batches(folder, batches, design.seed, n_jobs)) as counts:
        for n_written in counts:
            n_done += n_written
            if progress is not None:
                progress(n_done)


def _write_batches(
    folder: Path, batches: list[Sequence[Utterance]], seed: int, n_jobs: int
) -> abc.Generator[int, None, None]:
    """Yield the number of clips of each batch when it is written, here or by workers."""
    if n_jobs == 1 or len(batches) <= 1:
        yield from (_write_batch(folder, batch, seed) for batch in batches)
        return
    from joblib import Parallel, delayed, parallel_config

    with parallel_config("loky", inner_max_num_threads=1):
        parallel = Parallel(n_jobs=n_jobs, return_as="generator_unordered")
        yield from parallel(delayed(_write_batch)(folder, batch, seed) for batch in batches)


def _write_batch(folder: Path, clips: Sequence[Utterance], seed: int) -> int:
    import io

    import soundfile

    for clip in clips:
        signal = synthesise(clip.speaker, clip.emotion, clip.statement, clip.intensity, clip.repetition, seed=seed)
        encoded = io.BytesIO()
        soundfile.write(encoded, signal, SAMPLE_RATE_HZ, subtype="PCM_16", format="WAV")
        write_bytes(folder / clip.path, encoded.getvalue())
    return len(clips)


def read_design(root: Path) -> Design:
    """Return the design from which a folder was made.

    Raises
    ------
    CorpusError
        If the folder has no record, or that of something else or of another version of the generator.
    """
    path = Path(root) / RECORD
    remedy = "Make it with `emobench data make`, or name the folder that it wrote."
    try:
        record = json.loads(path.read_bytes())
        version = record["generator_version"]
    except FileNotFoundError:
        raise CorpusError(f"A synthetic corpus must have a {RECORD}. {root} has none. {remedy}") from None
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise CorpusError(f"{path} must be the record of a synthetic corpus. Got {error!r}. {remedy}") from None
    if version != GENERATOR_VERSION:
        raise CorpusError(
            f"{path} must be of generator version {GENERATOR_VERSION}. Got {version!r}. Delete the folder; {remedy}"
        )
    try:
        design = Design(**{**record["design"], "emotions": tuple(record["design"]["emotions"])})
    except (TypeError, KeyError, ConfigError) as error:
        raise CorpusError(f"{path} must hold a design. Got: {error} {remedy}") from None
    if record.get("corpus") != CORPUS or record.get("fingerprint") != design.fingerprint():
        raise CorpusError(f"{path} must hold the fingerprint of its own design. It was edited. {remedy}")
    return design


def scan(root: Path, **options: Any) -> Scan:
    """Read a folder that `write` made: its recordings, junk, and what is missing; opens no audio.

    Raises
    ------
    CorpusError
        If the folder is no synthetic corpus, or holds files that its design does not know (all are named).
    ConfigError
        If options are given: this corpus has none.
    """
    if options:
        raise ConfigError(
            f"The synthetic corpus must be scanned without options. Got: {', '.join(options)}. Drop them."
        )
    root = Path(root)
    design = read_design(root)
    planned = {clip.path: clip for clip in plan(design)}
    files, ignored = find_files(root, (".wav",))
    found = set(files)
    strange = sorted(found - set(planned))
    if strange:
        raise CorpusError(
            f"Files in {root} must be clips of its design, called like {next(iter(planned))} (emotion, intensity, "
            f"statement, repetition, speaker). {len(strange)} are not:\n{listing(strange)}\nMove them elsewhere."
        )
    return Scan(
        utterances=tuple(clip for path, clip in planned.items() if path in found),
        ignored=tuple(name for name in ignored if name != RECORD),
        missing=tuple(path for path in planned if path not in found),
        generator=design.fingerprint(),
    )


def _home(*, n_speakers: int = DEFAULT.n_speakers) -> Path:
    return cached_corpus(f"{CORPUS}-{Design(n_speakers=n_speakers).fingerprint()[:12]}")


def _plan(*, n_speakers: int = DEFAULT.n_speakers) -> Scan:
    design = Design(n_speakers=n_speakers)
    return Scan(plan(design), generator=design.fingerprint())


def _make(folder: Path, *, n_speakers: int = DEFAULT.n_speakers, n_jobs: int, progress: Callable[[int], None]) -> None:
    write(folder, Design(n_speakers=n_speakers), n_jobs=n_jobs, progress=progress)


GENERATOR = Generator(home=_home, plan=_plan, make=_make)
