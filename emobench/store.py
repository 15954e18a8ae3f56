"""The feature store: vectors computed once, shared by every model and run, never stale and never wrong.

``<store>/<feature key>/<SHA-256 of the file>.parquet``: immutable shards of (clip id, content hash, vector). The name
proves a shard; one that does not match its name is moved to quarantine and its clips are extracted again. A clip id is
the hash of the file's bytes, so nothing depends on names or time stamps.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from emobench.audio import Audio, AudioPolicy, decode, hash_bytes, hash_file, read_bytes, resample
from emobench.corpora import Utterance
from emobench.errors import AudioError, HeldError, StorageError
from emobench.execution import Crash, Pool
from emobench.features import FeatureSpec, feature_key
from emobench.results import storage_errors, write_bytes
from emobench.splits import Labels

FLUSH_S = 3.0
CLIPS_A_TASK = 8
MAX_SHARDS = 32  # more are merged into one
LOCK_TIMEOUT_S = 3600

_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


@dataclass(frozen=True)
class FeatureTable:
    """The features of the utterances that a run uses, in the order of the corpus.

    Attributes
    ----------
    X : float32 array of shape (n_utterances, n_features)
        Finite.
    y : int array of shape (n_utterances,)
        Codes of `classes`.
    classes : tuple of str
        The declared emotions in LabelEncoder order.
    utterances : tuple of Utterance
    audio : tuple of str
        Hash of each recording's samples.
    clips : tuple of str
        Hash of each recording's file.
    spec : FeatureSpec
    key : str
        Of the store.
    """

    X: np.ndarray
    y: np.ndarray
    classes: tuple[str, ...]
    utterances: tuple[Utterance, ...]
    audio: tuple[str, ...]
    clips: tuple[str, ...]
    spec: FeatureSpec
    key: str

    @property
    def ids(self) -> tuple[str, ...]:
        """Utterance ids, unique."""
        return tuple(utterance.id for utterance in self.utterances)

    @property
    def groups(self) -> np.ndarray:
        """Speaker of each utterance: str array of shape (n_utterances,)."""
        return np.array([utterance.speaker for utterance in self.utterances])

    def labels(self) -> Labels:
        """Return what a protocol may look at."""
        return Labels(
            ids=self.ids,
            speakers=tuple(utterance.speaker for utterance in self.utterances),
            emotions=tuple(utterance.emotion for utterance in self.utterances),
            sexes=tuple(utterance.sex for utterance in self.utterances),
            audio=self.audio,
            corpus=self.utterances[0].corpus,
        )


@dataclass
class Extraction:
    """What `FeatureStore.extract` found: vectors, faults and remarks by clip id.

    Attributes
    ----------
    vectors : dict of clip id to float32 array of shape (n_features,)
    audio : dict of clip id to hash of the samples
    faults : list of AudioError
        Every recording that cannot be used.
    warnings : dict of clip id to str
        What deserves a remark about a recording that is used.
    repairs : list of str
        What was wrong with the store, and what was done about it.
    n_computed : int
        Clips that were not in the store.
    """

    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    audio: dict[str, str] = field(default_factory=dict)
    faults: list[AudioError] = field(default_factory=list)
    warnings: dict[str, str] = field(default_factory=dict)
    repairs: list[str] = field(default_factory=list)
    n_computed: int = 0


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


@dataclass(frozen=True)
class Extracted:
    """What a worker returns for one clip, and a shard keeps.

    Attributes
    ----------
    vector : float32 array of shape (n_features,)
    audio : str
        Hash of the samples.
    warning : str
    duration_s : float
    is_silent : bool
        With the duration: what another run's policy may not accept.
    """

    vector: np.ndarray
    audio: str
    warning: str
    duration_s: float
    is_silent: bool

    def is_accepted(self, policy: AudioPolicy) -> bool:
        """Return whether a policy takes the recording; the mono policy is in the feature key."""
        is_long_enough = policy.min_duration_s <= self.duration_s <= policy.max_duration_s
        return is_long_enough and not (self.is_silent and policy.max_silence == "reject")


class FeatureStore:
    """A folder of feature vectors.

    Parameters
    ----------
    root : path
        Made when something is first written.
    """

    def __init__(self, root: str | os.PathLike[str]):
        self.root = Path(root)

    def extract(
        self,
        spec: FeatureSpec,
        clips: Sequence[tuple[str, Path]],
        *,
        policy: AudioPolicy,
        pool: Callable[[], Pool],
        on_progress: Callable[[int, int], None] = lambda n_done, n_all: None,
    ) -> Extraction:
        """Return the vectors of clips, computing and keeping those that the store has not.

        Parameters
        ----------
        clips : sequence of (clip id, path)
        pool : callable
            Called only when something must be computed.
        on_progress : callable
            Called with the number of clips computed and to compute.

        Raises
        ------
        StorageError
            If the store cannot be written; what was written before stays.
        HeldError
            If another process holds this feature set for longer than an hour.
        """
        key = feature_key(spec, mono=policy.mono)
        wanted = dict(clips)
        found = Extraction()
        damaged = self._load(key, wanted, policy, found)
        if len(found.vectors) == len(wanted) and not damaged:
            return found
        with contextlib.ExitStack() as stack:
            is_writable = self._hold(key, stack, found)
            if is_writable:
                self._sweep(key)
            # Another process may have written, or mended, in the meantime.
            for path in self._load(key, wanted, policy, found):
                self._quarantine(path, found)
            missing = [(clip, path) for clip, path in wanted.items() if clip not in found.vectors]
            if missing:
                keep = self._write_shard if is_writable else _keep_nothing
                self._compute(key, spec, missing, policy, pool(), found, on_progress, keep)
            if is_writable and len(self.shards(key)) > MAX_SHARDS:
                self._merge(key)
        return found

    def shards(self, key: str) -> list[Path]:
        """Return the shards of a feature key, sorted by name."""
        return sorted((self.root / key).glob("*.parquet"))

    def count_missing(self, key: str, clips: set[str]) -> int:
        """Return how many of some clips have no vector yet; changes nothing."""
        for path in self.shards(key):
            clips = clips.difference(_read_shard(path) or ())
        return len(clips)

    def _load(self, key: str, wanted: Mapping[str, Path], policy: AudioPolicy, found: Extraction) -> list[Path]:
        """Add what the store has to what is found; return the shards that are damaged."""
        damaged = []
        for path in self.shards(key):
            rows = _read_shard(path)
            if rows is None:
                damaged.append(path)
                continue
            for clip, extracted in rows.items():
                if clip in wanted and clip not in found.vectors and extracted.is_accepted(policy):
                    _add(found, clip, extracted)
        return damaged

    def _compute(
        self,
        key: str,
        spec: FeatureSpec,
        missing: Sequence[tuple[str, Path]],
        policy: AudioPolicy,
        pool: Pool,
        found: Extraction,
        on_progress: Callable[[int, int], None],
        keep: Callable[[str, Mapping[str, Extracted]], Path | None],
    ) -> None:
        pending: dict[str, Extracted] = {}
        last_write_s = time.monotonic()
        on_progress(0, len(missing))
        try:
            for batch, outcome in _extract_all(spec, missing, policy, pool):
                for (clip, _), result in zip(batch, outcome, strict=True):
                    if isinstance(result, AudioError):
                        found.faults.append(result)
                    else:
                        _add(found, clip, result)
                        pending[clip] = result
                found.n_computed += len(batch)
                on_progress(found.n_computed, len(missing))
                if time.monotonic() - last_write_s > FLUSH_S:
                    done, pending = pending, {}
                    keep(key, done)
                    last_write_s = time.monotonic()
        finally:  # what is finished is kept, also when somebody interrupts
            keep(key, pending)
        found.faults.sort(key=lambda fault: fault.path)

    def _write_shard(self, key: str, rows: Mapping[str, Extracted]) -> Path | None:
        if not rows:
            return None
        content = _encode_shard(rows)
        path = self.root / key / f"{hashlib.sha256(content).hexdigest()}.parquet"
        write_bytes(path, content)
        return path

    def _quarantine(self, path: Path, found: Extraction) -> None:
        quarantine = self.root / "quarantine"
        try:
            quarantine.mkdir(parents=True, exist_ok=True)
            os.replace(path, quarantine / f"{path.parent.name}-{path.name}")
            done = "moved to quarantine"
        except OSError as error:
            done = f"left where it is ({error.strerror})"
        found.repairs.append(f"{path}: damaged (its content is not its name); {done}, extracted again")

    def _sweep(self, key: str) -> None:
        """Remove what a killed process left half written; only one process writes at a time."""
        for part in (self.root / key).glob(".*.part"):
            with contextlib.suppress(OSError):
                part.unlink()

    def _merge(self, key: str) -> None:
        """Make one shard of many; a reader that finds one gone looks again under the lock."""
        shards = {path: _read_shard(path) for path in self.shards(key)}
        rows = {clip: extracted for shard in shards.values() for clip, extracted in (shard or {}).items()}
        with contextlib.suppress(OSError):  # it can wait until there is space again
            merged = self._write_shard(key, rows)
            for path, shard in shards.items():
                if shard is not None and path != merged:
                    path.unlink()

    def _hold(self, key: str, stack: contextlib.ExitStack, found: Extraction) -> bool:
        """Hold a feature key against other processes; return False where the store cannot be written."""
        from filelock import FileLock, Timeout

        path = self.root / f"{key}.lock"
        try:
            with storage_errors(path):
                self.root.mkdir(parents=True, exist_ok=True)
                try:
                    stack.enter_context(FileLock(path, timeout=LOCK_TIMEOUT_S))
                except Timeout:  # an OSError too
                    raise HeldError(
                        f"{path}: must be free. Another emobench has extracted {key} for an hour. "
                        "Wait for it, or end it, and run the same command again."
                    ) from None
        except HeldError:
            raise
        except StorageError as error:
            if getattr(error.__cause__, "errno", None) not in _READ_ONLY:
                raise
            found.repairs.append(
                f"{self.root}: the feature store is read-only; what it has is used, and nothing new is kept"
            )
            return False
        return True


def _extract_all(
    spec: FeatureSpec, clips: Sequence[tuple[str, Path]], policy: AudioPolicy, pool: Pool
) -> Iterator[tuple[Sequence[tuple[str, Path]], Sequence[Extracted | AudioError]]]:
    """Yield batches of clips with their outcomes; a clip that kills its worker takes no other one with it."""
    batches = [clips[start : start + CLIPS_A_TASK] for start in range(0, len(clips), CLIPS_A_TASK)]
    while batches:
        crashed = []
        for position, outcome in pool.run(extract_clips, [(spec, batch, policy) for batch in batches]):
            batch = batches[position]
            if not isinstance(outcome, Crash):
                yield batch, outcome
            elif len(batch) > 1:
                crashed += [[clip] for clip in batch]
            else:
                path = batch[0][1]
                yield batch, [AudioError(path, f"must not end its worker: {outcome.reason}. Remove the recording.")]
        batches = crashed


def _keep_nothing(key: str, rows: Mapping[str, Extracted]) -> None:
    """Stand for `_write_shard` where the store cannot be written."""


def _add(found: Extraction, clip: str, extracted: Extracted) -> None:
    found.vectors[clip], found.audio[clip] = extracted.vector, extracted.audio
    if extracted.warning:
        found.warnings[clip] = extracted.warning


def _encode_shard(rows: Mapping[str, Extracted]) -> bytes:
    """Return a Parquet file: the same rows in any order give the same bytes, and so the same name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    clips = sorted(rows)
    vectors = np.stack([rows[clip].vector for clip in clips])
    columns = {
        "clip": pa.array(clips),
        "audio": pa.array([rows[clip].audio for clip in clips]),
        "warning": pa.array([rows[clip].warning for clip in clips]),
        "duration_s": pa.array([rows[clip].duration_s for clip in clips]),
        "is_silent": pa.array([rows[clip].is_silent for clip in clips]),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), vectors.shape[1]),
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def _read_shard(path: Path) -> dict[str, Extracted] | None:
    """Return what a shard holds by clip id, nothing if it is gone, or None if its content is not its name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with storage_errors(path):
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # merged, or quarantined, by another process
            return {}
    if hashlib.sha256(content).hexdigest() != path.stem:
        return None
    table = pq.read_table(pa.BufferReader(content))
    clips, *texts = (table.column(name).to_pylist() for name in ("clip", "audio", "warning", "duration_s", "is_silent"))
    vectors = table.column("vector").combine_chunks().flatten().to_numpy().reshape(len(clips), -1)
    return {clip: Extracted(vector, *rest) for clip, vector, *rest in zip(clips, vectors, *texts, strict=True)}


def extract_clips(
    spec: FeatureSpec, clips: Sequence[tuple[str, Path]], policy: AudioPolicy
) -> list[Extracted | AudioError]:
    """Extract a batch of clips in a worker: the outcome or the `AudioError` of each."""
    return [_extract_clip(spec, clip, path, policy) for clip, path in clips]


def _extract_clip(spec: FeatureSpec, clip: str, path: Path, policy: AudioPolicy) -> Extracted | AudioError:
    try:
        data = read_bytes(path, policy)
        if hash_bytes(data) != clip:
            raise AudioError(path, "must not change during a run. Its content changed since it was hashed. Run again.")
        audio = decode(data, path=path, policy=policy)
        vector = vectorise(spec, audio.signal, audio.sr, path=path)
    except AudioError as error:
        return error
    return Extracted(vector, audio.content, remarks_on(audio, spec), audio.duration_s, not audio.signal.any())


def remarks_on(audio: Audio, spec: FeatureSpec) -> str:
    """Return what deserves a remark about a recording that a feature set is computed from; mostly nothing."""
    low = f"recorded at {audio.sr} Hz, below the {spec.sr} Hz of {spec.name}: its upper bands are empty"
    return "; ".join(audio.warnings + ((low,) if audio.sr < spec.sr else ()))


def vectorise(spec: FeatureSpec, signal: np.ndarray, sr: int, *, path: str | os.PathLike[str]) -> np.ndarray:
    """Return the feature vector of a mono signal: float32 of shape (n_features,), finite.

    Raises
    ------
    AudioError
        If the signal is too short for the feature set, or a feature is not finite.
    """
    signal = resample(signal, sr, spec.sr)
    if len(signal) < spec.min_samples:
        raise AudioError(
            path,
            f"must have at least {spec.min_samples} samples at {spec.sr} Hz for {spec.name}. It has {len(signal)}. "
            "Remove it.",
        )
    try:
        with np.errstate(all="ignore"):  # what overflows is found below
            vector = np.asarray(spec(signal), dtype=np.float32)
    except Exception as error:
        error.add_note(f"{spec.name} was extracted from {path}")
        raise
    if vector.shape != (spec.n_features,):
        raise AudioError(path, f"{spec.name} must have shape ({spec.n_features},). Got {vector.shape}. Mend its row.")
    if not np.isfinite(vector).all():
        bad = np.flatnonzero(~np.isfinite(vector))
        raise AudioError(
            path,
            f"every feature must be finite. {len(bad)} of {spec.name} are not, the first at index {bad[0]}; "
            "the samples may be far beyond full scale ±1. Repair or remove the recording.",
        )
    return vector
