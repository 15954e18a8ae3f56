"""The synthetic corpus: RAVDESS's design, spoken by a source-filter synthesiser; made on this machine.

It exists so that everything else can be tried where no recorded corpus is at hand. Nothing in it was recorded: pulses
of a glottal source with jitter, shimmer and aspiration pass a tract of formants, syllable by syllable, then a room and
a microphone. It is calibrated so that models land near where they do on real acted speech, and for the same reason:
what tells emotions apart (pitch, loudness, voice quality, tempo) also tells people apart, and each person expresses
an emotion in their own way, so that a model that has heard the speaker has much less to guess.

- An emotion is a row of `EMOTIONS`: a subdued and an aroused member of its family, as deviations from neutral speech.
- A speaker (`Speaker`) has a body, a manner of pronouncing, a room and a microphone, and an own *style*: where between
  the two members they place each emotion, how much of each correlate they use, and some habits of their own.
- A clip adds what no one repeats exactly: a few per cent of everything.

The signal is computed by overlap-add of short frames, each filtered in the frequency domain, so that no loop runs over
samples. All randomness of a clip derives from the seed and the clip's name by hashing: the order of clips, the number
of workers and the size of the design do not matter.

References
----------
Banse & Scherer (1996), Acoustic profiles in vocal emotion expression, J. Pers. Soc. Psychol. 70(3), 614-636.
Juslin & Laukka (2003), Communication of emotions in vocal expression and music performance, Psychol. Bull. 129(5).
Tartter (1980), Happy talk: perceptual and acoustic effects of smiling on speech, Percept. Psychophys. 27(1).
Klatt (1980), Software for a cascade/parallel formant synthesizer, J. Acoust. Soc. Am. 67(3), 971-995.
Doval, d'Alessandro & Henrich (2006), The spectrum of glottal flow models, Acta Acustica 92(6), 1026-1046.
Hillenbrand et al. (1995), Acoustic characteristics of American English vowels, J. Acoust. Soc. Am. 97(5).
Karjalainen & Järveläinen (2007), Reverberation modeling using velvet noise, AES 30th International Conference.
Livingstone & Russo (2018), The Ryerson audio-visual database of emotional speech and song, PLoS ONE 13(5).
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import secrets
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from emobench.corpora import Scan, Utterance
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

RECORD = "corpus.json"
BATCH = 16  # clips that a worker makes at once

# --- what is said, and how ---------------------------------------------------------------------------------------


# --- the design --------------------------------------------------------------------------------------------------


# --- who speaks, and the plan of one clip ------------------------------------------------------------------------


# --- the signal --------------------------------------------------------------------------------------------------


# --- the folder --------------------------------------------------------------------------------------------------


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
    folder = Path(folder).resolve()
    try:
        _write(folder, design, n_jobs, progress)
    except OSError as error:
        raise StorageError(
            f"The synthetic corpus must be written to {folder}. Got: {error}. Make room, or choose another folder."
        ) from error


def _write(folder: Path, design: Design, n_jobs: int, progress: Callable[[int], None] | None) -> None:
    clips = plan(design)
    if _holds(folder, design):
        _write_clips(folder, [clip for clip in clips if not (folder / clip.path).is_file()], design, n_jobs, progress)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _staging(folder) as staging:
        _write_clips(staging, clips, design, n_jobs, progress)
        record = {
            "corpus": CORPUS,
            "generator_version": GENERATOR_VERSION,
            "fingerprint": design.fingerprint(),
            "n_utterances": len(clips),
            "design": asdict(design),
        }
        _write_bytes(staging / RECORD, json.dumps(record, indent=2).encode() + b"\n")
        _sync_folder(staging)
        try:
            with contextlib.suppress(OSError):
                folder.rmdir()  # an empty one, which not every system lets a rename replace
            staging.rename(folder)
        except OSError:
            if not _holds(folder, design):  # else another process was faster, with the same bytes
                raise
        _sync_folder(folder.parent)


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`, gone at the end; first remove those that killed processes left.

    A process holds a lock on its own as long as it lives.
    """
    from filelock import FileLock, Timeout

    prefix = f".{folder.name}.making-"
    for left in folder.parent.glob(f"{glob.escape(prefix)}*.lock"):
        with contextlib.suppress(Timeout, OSError), FileLock(left).acquire(blocking=False):
            shutil.rmtree(left.with_suffix(""), ignore_errors=True)
            left.unlink()
    staging = folder.with_name(f"{prefix}{secrets.token_hex(4)}")
    with FileLock(f"{staging}.lock") as lock:
        try:
            staging.mkdir()
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            with contextlib.suppress(OSError):  # Windows keeps an open file; the next one removes it
                os.unlink(lock.lock_file)


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
    """Write clips, and see to it that they are on the disk."""
    speaker_folders = sorted({(folder / clip.path).parent for clip in clips})
    for speaker_folder in speaker_folders:
        speaker_folder.mkdir(exist_ok=True)
    batches = [clips[start : start + BATCH] for start in range(0, len(clips), BATCH)]
    n_done = 0
    with contextlib.closing(_write_batches(folder, batches, design.seed, n_jobs)) as counts:
        for n_written in counts:
            n_done += n_written
            if progress is not None:
                progress(n_done)
    for speaker_folder in speaker_folders:
        _sync_folder(speaker_folder)


def _write_batches(
    folder: Path, batches: list[Sequence[Utterance]], seed: int, n_jobs: int
) -> Generator[int, None, None]:
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
        _write_bytes(folder / clip.path, encoded.getvalue())
    return len(clips)


def _write_bytes(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
    planned = {clip.path: clip for clip in plan(read_design(root))}
    found = {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()} - {RECORD}
    ignored = {name for name in found if not _is_recording(name)}
    strange = sorted(found - ignored - set(planned))
    if strange:
        raise CorpusError(
            f"Files in {root} must be clips of its design, called like {next(iter(planned))} (emotion, intensity, "
            f"statement, repetition, speaker). {len(strange)} are not:\n{listing(strange)}\nMove them elsewhere."
        )
    return Scan(
        utterances=tuple(clip for path, clip in planned.items() if path in found),
        ignored=tuple(sorted(ignored)),
        missing=tuple(path for path in planned if path not in found),
    )


def _is_recording(name: str) -> bool:
    """Return whether a file claims to be a clip: not hidden (``._x.wav`` is macOS's shadow of ``x.wav``), and WAV."""
    return name.lower().endswith(".wav") and not any(part.startswith(".") for part in name.split("/"))
