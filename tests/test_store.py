"""Vectors are computed once, shared, and never stale or wrong, whatever happens to the files or to the processes."""

import errno
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from emobench.audio import AudioPolicy
from emobench.audio.decoding import hash_file, read_audio
from emobench.errors import HeldError, StorageError
from emobench.execution.workers import Crash, Pool
from emobench.features import FEATURES, feature_key, inventory
from emobench.features import store as module
from emobench.features.extraction import vectorise
from emobench.features.shards import read_shard, to_hashes, to_texts
from emobench.features.store import FeatureStore
from emobench.files import hash_bytes
from emobench.running.datasets import hash_clips

SR = 22_050
SPEC, STATS = FEATURES["mfcc40"], FEATURES["mfcc40_stats"]
KEY = feature_key(SPEC)
POLICY = AudioPolicy()


class FakePool:
    """Run tasks here, one after the other; remember which clips were asked for."""

    def __init__(self, crashes=()):
        self.clips, self.crashes = [], set(crashes)

    def __call__(self):
        return self

    def run(self, function, tasks):
        for position, (specs, batch, policy) in enumerate(tasks):
            self.clips += [clip for clip, _ in batch]
            if self.crashes & {path.name for _, path in batch}:
                yield position, Crash("its worker process died")
            else:
                yield position, function(specs, batch, policy)


def no_pool():
    pytest.fail("nothing must be computed")


def write_wav(path, seed, *, n_samples=6615, sr=SR, scale=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).normal(scale=scale, size=n_samples), sr)
    return hash_file(path), path


@pytest.fixture
def clips(tmp_path):
    return [write_wav(tmp_path / "corpus" / f"{seed:02}.wav", seed) for seed in range(10)]


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path / "store")


def extract(store, clips, pool=no_pool, *, spec=SPEC, policy=POLICY, **options):
    [found] = store.extract([spec], clips, policy=policy, pool=pool, **options)
    return found


def assert_same(one, other):
    np.testing.assert_array_equal(one.is_found, other.is_found)
    np.testing.assert_array_equal(one.X[one.is_found], other.X[one.is_found])
    np.testing.assert_array_equal(one.audio[one.is_found], other.audio[one.is_found])
    assert one.warnings == other.warnings


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# --- once -----------------------------------------------------------------------------------------------------------


def test_vectors_are_computed_once(store, clips):
    pool = FakePool()
    cold = extract(store, clips, pool)
    assert sorted(pool.clips) == sorted(clip for clip, _ in clips)
    assert cold.n_computed == 10
    warm = extract(store, clips)
    assert warm.n_computed == 0
    assert_same(cold, warm)
    assert warm.repairs == warm.faults == []


def test_vectors_are_those_of_the_feature_set(store, clips):
    found = extract(store, clips, FakePool())
    assert found.X.dtype == np.float32
    assert found.is_found.all()
    for row, (_, path) in enumerate(clips):
        recording = read_audio(path)
        np.testing.assert_array_equal(found.X[row], vectorise(SPEC, recording.signal, recording.sr, path=path))
        assert to_texts(found.audio[row : row + 1]) == (recording.content,)


def test_only_what_is_missing_is_computed(store, clips):
    extract(store, clips[:4], FakePool())
    assert store.count_missing([KEY], [clip for clip, _ in clips]) == 6
    pool = FakePool()
    found = extract(store, clips, pool)
    assert sorted(pool.clips) == sorted(clip for clip, _ in clips[4:])
    assert found.n_computed == 6
    assert store.count_missing([KEY], [clip for clip, _ in clips]) == 0


def test_one_content_under_two_names_is_computed_once(store, clips, tmp_path):
    copy = tmp_path / "corpus" / "copy.wav"
    copy.write_bytes(clips[0][1].read_bytes())
    asked = [clips[0], (hash_file(copy), copy), *clips[1:]]
    pool = FakePool()
    cold = extract(store, asked, pool)
    assert len(pool.clips) == 10
    assert store.count_missing([KEY], [clip for clip, _ in asked]) == 0
    warm = extract(store, asked)
    assert_same(cold, warm)
    assert warm.is_found.all()
    np.testing.assert_array_equal(warm.X[0], warm.X[1])
    np.testing.assert_array_equal(warm.X[2:], extract(store, clips[1:]).X)


def test_renamed_and_touched_files_are_found(store, clips, tmp_path):
    extract(store, clips, FakePool())
    renamed = []
    for clip, path in clips:
        renamed.append((clip, path.rename(tmp_path / f"renamed-{path.name}")))
        os.utime(renamed[-1][1], (0, 0))
    extract(store, renamed)


@pytest.mark.parametrize(
    "spec, policy",
    [
        (replace(SPEC, version=2), POLICY),
        (replace(SPEC, params={"n_mfcc": 13}, n_features=13), POLICY),
        (replace(SPEC, sr=16_000), POLICY),
        (SPEC, AudioPolicy(mono="first")),
    ],
    ids=["version", "params", "sr", "mono"],
)
def test_other_features_are_other_vectors(store, clips, spec, policy):
    extract(store, clips, FakePool())
    pool = FakePool()
    found = extract(store, clips, pool, spec=spec, policy=policy)
    assert len(pool.clips) == 10
    assert found.X.shape == (10, spec.n_features)
    assert found.is_found.all()
    extract(store, clips, spec=spec, policy=policy)
    extract(store, clips)


def test_another_version_of_a_library_is_another_key(store, clips, monkeypatch):
    extract(store, clips, FakePool())
    monkeypatch.setattr("emobench.features.library_versions", lambda: {"librosa": "999"})
    pool = FakePool()
    extract(store, clips, pool)
    assert len(pool.clips) == 10


def test_changed_file_is_computed_again_and_alone(store, clips):
    extract(store, clips, FakePool())
    clips[3] = write_wav(clips[3][1], seed=99)
    pool = FakePool()
    extract(store, clips, pool)
    assert pool.clips == [clips[3][0]]


def test_progress_counts_from_nothing_to_all(store, clips, monkeypatch):
    monkeypatch.setattr(module, "CLIPS_A_TASK", 4)
    told = []
    extract(store, clips, FakePool(), on_progress=lambda *counts: told.append(counts))
    assert told == [(0, 10), (4, 10), (8, 10), (10, 10)]


def test_feature_sets_share_one_pass_and_have_a_key_each(store, clips):
    pool = FakePool()
    means, statistics = store.extract([SPEC, STATS], clips, policy=POLICY, pool=pool)
    assert len(pool.clips) == 10
    assert (means.X.shape, statistics.X.shape) == ((10, 40), (10, 160))
    assert (means.n_computed, statistics.n_computed) == (10, 10)
    np.testing.assert_array_equal(means.X, statistics.X[:, :40])
    assert_same(extract(store, clips), means)
    assert_same(extract(store, clips, spec=STATS), statistics)


def test_clips_are_computed_for_the_feature_sets_that_lack_them(store, clips):
    """Some clips lack one feature set, some the other, some both, some none: each is decoded once at most."""
    extract(store, clips[:6], FakePool(), spec=SPEC)
    extract(store, clips[4:8], FakePool(), spec=STATS)
    assert store.count_missing([KEY, feature_key(STATS)], [clip for clip, _ in clips]) == 8
    pool = FakePool()
    means, statistics = store.extract([SPEC, STATS], clips, policy=POLICY, pool=pool)
    lacking = [clip for clip, _ in clips[:4] + clips[6:]]
    assert sorted(pool.clips) == sorted(lacking)
    assert (means.n_computed, statistics.n_computed) == (4, 6)
    assert means.is_found.all()
    assert statistics.is_found.all()


def test_recording_that_one_feature_set_cannot_take_is_kept_for_the_other(store, clips, tmp_path):
    short = write_wav(tmp_path / "short.wav", 0, n_samples=4000)
    means, statistics = store.extract([SPEC, STATS], [*clips, short], policy=POLICY, pool=FakePool())
    assert means.is_found.all()
    assert means.faults == []
    assert statistics.is_found.tolist() == [True] * 10 + [False]
    assert [fault.path for fault in statistics.faults] == [str(short[1])]
    assert extract(store, [short]).is_found.all()


def test_warm_store_decodes_no_audio(store, clips):
    """A second run needs the hashes of the files alone: the recordings themselves may be gone."""
    store.extract([SPEC, STATS], clips, policy=POLICY, pool=FakePool())
    for _, path in clips:
        path.unlink()
    for found in store.extract([SPEC, STATS], clips, policy=POLICY, pool=no_pool):
        assert found.is_found.all()


@pytest.mark.parametrize("n_equal", [0, 8, 31], ids=lambda n: f"{n} bytes equal")
@pytest.mark.parametrize("is_repeated", [False, True])
def test_clips_are_looked_up_by_all_their_bytes(n_equal, is_repeated):
    rng = np.random.default_rng(0)
    digests = [bytes(n_equal) + rng.bytes(32 - n_equal - 1) + bytes([last]) for last in range(40)]
    asked = to_hashes([digest.hex() for digest in [*digests[:30], *(digests[:5] if is_repeated else [])]])
    offered = to_hashes(sorted(digest.hex() for digest in digests[20:]))
    positions, rows = module._Wanted(asked).find(offered)
    assert sorted(rows.tolist()) == list(range(20, 30))
    np.testing.assert_array_equal(offered[positions], asked[rows])


def test_nothing_asked_for_is_nothing_made(store):
    assert extract(store, []).X.shape == (0, 40)
    assert not store.root.exists()


def test_real_workers_find_the_same_numbers(store, clips, tmp_path):
    with Pool(1) as pool:
        real = extract(store, clips, lambda: pool)
    assert_same(real, extract(store, clips))
    here = extract(FeatureStore(tmp_path / "other"), clips, FakePool())
    np.testing.assert_allclose(real.X, here.X, rtol=1e-5, atol=1e-5)  # more threads in BLAS round otherwise


# --- shards ---------------------------------------------------------------------------------------------------------


def test_shards_are_named_by_their_content(store, clips):
    extract(store, clips, FakePool())
    (shard,) = store.shards(KEY)
    assert shard.stem == hash_bytes(shard.read_bytes())
    assert to_texts(read_shard(shard).clips) == tuple(sorted(clip for clip, _ in clips))


def test_same_clips_in_any_order_make_the_same_shard(store, clips, tmp_path):
    other = FeatureStore(tmp_path / "other")
    extract(store, clips, FakePool())
    extract(other, clips[::-1], FakePool())
    assert [path.name for path in store.shards(KEY)] == [path.name for path in other.shards(KEY)]


def damage(path, how):
    content = path.read_bytes()
    if how == "flipped bit":
        path.write_bytes(content[:500] + bytes([content[500] ^ 4]) + content[501:])
    elif how == "flipped bit in the footer":
        path.write_bytes(content[:-20] + bytes([content[-20] ^ 4]) + content[-19:])
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "renamed":
        path.rename(path.with_stem("0" * 64))
    elif how == "foreign":
        path.write_bytes(b"not Parquet at all")


DAMAGES = ["flipped bit", "flipped bit in the footer", "truncated", "empty", "renamed", "foreign"]


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_shard_is_quarantined_and_its_clips_are_computed_again(store, clips, how):
    first = extract(store, clips[:4], FakePool())
    bad = store.shards(KEY)[0]
    second = extract(store, clips[4:], FakePool())
    damage(bad, how)
    bad = bad if bad.exists() else bad.with_stem("0" * 64)
    assert store.count_missing([KEY], [clip for clip, _ in clips]) == 4
    pool = FakePool()
    found = extract(store, clips, pool)
    assert sorted(pool.clips) == sorted(clip for clip, _ in clips[:4])
    np.testing.assert_array_equal(found.X, np.concatenate([first.X, second.X]))
    (repair,) = found.repairs
    assert str(bad) in repair
    assert "moved to quarantine, extracted again" in repair
    assert (store.root / "quarantine" / f"{KEY}-{bad.name}").exists()
    again = extract(store, clips)
    assert again.repairs == []
    assert_same(again, found)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A corpus of ten clips, a store that has it in two shards, and what is right."""
    folder = tmp_path_factory.mktemp("sound")
    clips = [write_wav(folder / "corpus" / f"{seed:02}.wav", seed) for seed in range(10)]
    store = FeatureStore(folder / "store")
    extract(store, clips[:4], FakePool())
    found = extract(store, clips, FakePool())
    return clips, {path.name: path.read_bytes() for path in store.shards(KEY)}, found


PLACES = [0, 3, -1, -4, -8, *np.random.default_rng(0).integers(0, 4000, 25).tolist()]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("number", [0, 1], ids=["first", "second"])
def test_no_flipped_byte_of_any_shard_changes_a_number(sound, tmp_path, place, number):
    clips, contents, right = sound
    store = FeatureStore(tmp_path / "store")
    (store.root / KEY).mkdir(parents=True)
    for position, (name, content) in enumerate(sorted(contents.items())):
        if position == number:
            content = bytearray(content)
            content[place % len(content)] ^= 1 + place % 255
        (store.root / KEY / name).write_bytes(content)
    found = extract(store, clips, FakePool())
    assert_same(found, right)
    assert [("damaged" in repair) for repair in found.repairs] == [True]
    assert extract(store, clips).repairs == []


def test_damaged_shard_of_other_clips_is_quarantined_too(store, clips):
    extract(store, clips[:4], FakePool())
    (bad,) = store.shards(KEY)
    extract(store, clips[4:], FakePool())
    damage(bad, "flipped bit")
    assert len(extract(store, clips[4:]).repairs) == 1


def test_deleted_shard_is_computed_again(store, clips):
    first = extract(store, clips, FakePool())
    store.shards(KEY)[0].unlink()
    assert_same(extract(store, clips, FakePool()), first)


def test_shard_that_another_process_moves_first_is_no_error(store, clips, monkeypatch):
    extract(store, clips, FakePool())
    damage(store.shards(KEY)[0], "truncated")
    move = os.replace

    def late(old, new):
        if "quarantine" in str(new):
            os.unlink(old)
        move(old, new)

    monkeypatch.setattr(module.os, "replace", late)
    assert extract(store, clips, FakePool()).is_found.all()


def test_many_shards_are_merged_into_one(store, clips, monkeypatch):
    monkeypatch.setattr(module, "MAX_SMALL_SHARDS", 3)
    for clip in clips[:3]:
        extract(store, [clip], FakePool())
    assert len(store.shards(KEY)) == 3
    extract(store, clips[3:4], FakePool())
    assert len(store.shards(KEY)) == 1
    found = extract(store, clips, FakePool())
    assert found.n_computed == 6
    assert_same(found, extract(store, clips))


def test_merge_that_fails_loses_nothing(store, clips, monkeypatch):
    monkeypatch.setattr(module, "MAX_SMALL_SHARDS", 1)
    extract(store, clips[:1], FakePool())
    write = store._write_shard

    def full(key, rows, identity):
        if len(rows) > 1:
            raise StorageError("full")
        return write(key, rows, identity)

    monkeypatch.setattr(store, "_write_shard", full)
    assert extract(store, clips[1:2], FakePool()).is_found.all()
    assert len(store.shards(KEY)) == 2


# --- interruptions --------------------------------------------------------------------------------------------------


class Interrupted(FakePool):
    def __init__(self, n_batches):
        super().__init__()
        self.n_batches = n_batches

    def run(self, function, tasks):
        yield from itertools.islice(super().run(function, tasks), self.n_batches)
        raise KeyboardInterrupt


def test_interrupted_extraction_keeps_what_is_finished(store, clips, monkeypatch):
    monkeypatch.setattr(module, "CLIPS_A_TASK", 2)
    with pytest.raises(KeyboardInterrupt):
        extract(store, clips, Interrupted(3))
    pool = FakePool()
    extract(store, clips, pool)
    assert len(pool.clips) == 4


KILLED = """
import json, os, signal, sys
sys.path.insert(0, sys.argv[1])
import test_store
from emobench.features import store
from pathlib import Path
store.FLUSH_S, store.CLIPS_A_TASK = 0, 2

class Killed(test_store.FakePool):
    def run(self, function, tasks):
        for number, outcome in enumerate(super().run(function, tasks)):
            if number == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            yield outcome

clips = [(clip, Path(path)) for clip, path in json.loads(sys.argv[3])]
test_store.extract(store.FeatureStore(sys.argv[2]), clips, Killed())
"""


def run_python(code, *arguments):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)])


def as_json(clips):
    return json.dumps([(clip, str(path)) for clip, path in clips])


def test_clips_are_kept_every_few_seconds(store, clips, monkeypatch):
    """Not only at the end: what dies a moment later has them on the disk."""
    monkeypatch.setattr(module, "FLUSH_S", 0)
    monkeypatch.setattr(module, "CLIPS_A_TASK", 2)
    on_disk = []
    extract(store, clips, FakePool(), on_progress=lambda *_: on_disk.append(len(store.shards(KEY))))
    assert on_disk == [0, 0, 1, 2, 3, 4]


def test_killed_extraction_keeps_its_shards(store, clips):
    process = run_python(KILLED, Path(__file__).parent, store.root, as_json(clips))
    assert process.wait(60) == -signal.SIGKILL
    assert len(store.shards(KEY)) == 3
    leftover = store.root / KEY / ".x.parquet.abc.part"
    leftover.write_bytes(b"half a sh")
    pool = FakePool()
    found = extract(store, clips, pool)
    assert len(pool.clips) == 4
    assert found.is_found.all()
    assert not leftover.exists()


RACER = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
import test_store
from emobench.features import store
from pathlib import Path

class Counted(test_store.FakePool):
    def run(self, function, tasks):
        for outcome in super().run(function, tasks):
            time.sleep(0.2)
            yield outcome

store.CLIPS_A_TASK = 2
clips = [(clip, Path(path)) for clip, path in json.loads(sys.argv[3])]
pool = Counted()
(Path(sys.argv[4]).with_suffix(".ready")).touch()
while not Path(sys.argv[5]).exists():
    time.sleep(0.005)
specs = [test_store.SPEC, test_store.STATS][:: int(sys.argv[6])]
found = store.FeatureStore(sys.argv[2]).extract(specs, clips, policy=test_store.POLICY, pool=pool)
counts = {"computed": pool.clips, "found": [int(one.is_found.sum()) for one in found]}
Path(sys.argv[4]).write_text(json.dumps(counts))
"""


@pytest.mark.timeout(120)
def test_two_processes_compute_each_clip_once_and_both_finish(store, clips, tmp_path):
    asked = [clips[:8], clips[2:]]  # they overlap
    reports = [tmp_path / f"{number}.json" for number in range(2)]
    go = tmp_path / "go"
    processes = [
        run_python(RACER, Path(__file__).parent, store.root, as_json(part), report, go, direction)
        for part, report, direction in zip(asked, reports, (1, -1), strict=True)  # the feature sets in another order
    ]
    deadline = time.monotonic() + 60
    while not all(report.with_suffix(".ready").exists() for report in reports) and time.monotonic() < deadline:
        time.sleep(0.02)
    go.touch()
    assert [process.wait(60) for process in processes] == [0, 0]
    done = [json.loads(report.read_text()) for report in reports]
    assert [report["found"] for report in done] == [[8, 8], [8, 8]]
    assert sorted(done[0]["computed"] + done[1]["computed"]) == sorted(clip for clip, _ in clips)
    assert_same(extract(store, clips), extract(FeatureStore(tmp_path / "other"), clips, FakePool()))


def test_store_that_another_process_holds_is_waited_for_and_then_reported(store, clips, monkeypatch):
    from filelock import FileLock

    monkeypatch.setattr(module, "LOCK_TIMEOUT_S", 0.2)
    store.root.mkdir()
    with (
        FileLock(store.root / f"{KEY}.lock"),
        pytest.raises(HeldError, match=r"\.lock: another emobench is extracting"),
    ):
        extract(store, clips)
    extract(store, clips, FakePool())


# --- recordings -----------------------------------------------------------------------------------------------------


def test_bad_recordings_are_collected_and_the_good_ones_kept(store, clips, tmp_path):
    bad = {
        "a.wav": b"",
        "b.wav": b"version https://git-lfs.github.com/spec/v1\n",
        "c.wav": clips[0][1].read_bytes()[:900],
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    mixed = [
        *clips,
        *((hash_file(tmp_path / name), tmp_path / name) for name in bad),
        ("f" * 64, tmp_path / "gone.wav"),
    ]
    found = extract(store, mixed, FakePool())
    assert found.is_found.tolist() == [True] * 10 + [False] * 4
    assert [fault.path for fault in found.faults] == [str(tmp_path / name) for name in (*bad, "gone.wav")]
    for fault, reason in zip(found.faults, ["empty", "Git LFS", "truncated", "must exist"], strict=True):
        assert reason in fault.reason
    pool = FakePool()
    again = extract(store, mixed, pool)
    assert len(pool.clips) == 4
    assert [str(fault) for fault in again.faults] == [str(fault) for fault in found.faults]


def test_file_that_changes_between_hash_and_decode_is_a_fault(store, clips):
    write_wav(clips[3][1], seed=99)
    found = extract(store, clips, FakePool())
    (fault,) = found.faults
    assert fault.path == str(clips[3][1])
    assert "must not change during a run" in fault.reason
    assert found.is_found.tolist() == [row != 3 for row in range(10)]


def test_clip_that_kills_its_worker_is_a_fault_and_takes_no_other_with_it(store, clips):
    found = extract(store, clips, FakePool(crashes={"03.wav"}))
    (fault,) = found.faults
    assert fault.path == str(clips[3][1])
    assert fault.reason.startswith("must not end its worker: its worker process died")
    assert found.is_found.sum() == 9


def test_remarks_survive_in_the_store(store, tmp_path):
    clips = [
        write_wav(tmp_path / "low.wav", 0, sr=16_000),
        write_wav(tmp_path / "silent.wav", 0, scale=0),
        write_wav(tmp_path / "plain.wav", 1),
    ]
    cold = extract(store, clips, FakePool())
    warm = extract(store, clips)
    assert cold.warnings == warm.warnings
    assert cold.warnings == {
        clips[0][0]: "recorded at 16000 Hz, below the 22050 Hz of mfcc40: its upper bands are empty",
        clips[1][0]: "nothing but digital silence",
    }


@pytest.mark.parametrize(
    "policy, reason",
    [
        (AudioPolicy(min_duration_s=0.4), "must last at least 0.4 s"),
        (AudioPolicy(max_duration_s=0.2), "must last at most 0.2 s"),
    ],
    ids=["min", "max"],
)
def test_stricter_policy_is_not_fooled_by_what_is_stored(store, tmp_path, policy, reason):
    clips = [write_wav(tmp_path / "x.wav", 0, scale=0)]
    extract(store, clips, FakePool())
    found = extract(store, clips, FakePool(), policy=policy)
    assert not found.is_found.any()
    assert [fault.reason.startswith(reason) for fault in found.faults] == [True]
    assert extract(store, clips).is_found.all()


def test_features_that_are_not_finite_are_a_fault_with_the_name_of_the_file(store, tmp_path, monkeypatch):
    path = tmp_path / "loud.wav"
    soundfile.write(path, np.full(6615, 0.5) * np.resize([1, -1], 6615), SR, subtype="FLOAT")
    monkeypatch.setattr("emobench.features.mfcc.time_mean", lambda frames: np.full(40, np.inf))
    found = extract(store, [(hash_file(path), path)], FakePool())
    (fault,) = found.faults
    assert fault.path == str(path)
    assert fault.reason.startswith("every feature must be finite. 40 of mfcc40 are not, the first at index 0")
    assert store.shards(KEY) == []


def test_hash_clips_hashes_all_and_collects_what_cannot_be_read(clips, tmp_path):
    (tmp_path / "folder.wav").mkdir()
    paths = [clips[0][1], tmp_path / "gone.wav", tmp_path / "folder.wav", clips[1][1]]
    hashes, faults = hash_clips(paths)
    assert hashes == [clips[0][0], None, None, clips[1][0]]
    assert [fault.path for fault in faults] == [str(paths[1]), str(paths[2])]


# --- the disk -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize(
    "number, advice",
    [(errno.ENOSPC, "The disk is full. Free some space"), (errno.EIO, "The system says: Input/output")],
)
def test_disk_that_fails_is_a_storage_error_and_publishes_nothing(store, clips, monkeypatch, call, number, advice):
    with monkeypatch.context() as patch:

        def fail(*_):
            raise OSError(number, os.strerror(number))

        patch.setattr(f"emobench.files.os.{call}", fail)
        with pytest.raises(StorageError, match=f"{store.root}.*cannot be written. {advice}"):
            extract(store, clips, FakePool())
    assert store.shards(KEY) == []
    assert not list(store.root.rglob("*.part"))
    extract(store, clips, FakePool())
    extract(store, clips)


def test_size_limit_is_a_storage_error(store, clips):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(StorageError, match="Raise the limit"):
            extract(store, clips, FakePool())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert store.shards(KEY) == []


def read_only(*_, **__):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.fixture
def locked(monkeypatch):
    """Make every write to the store fail as on a read-only file system."""

    def lock():
        monkeypatch.setattr("filelock.FileLock.acquire", read_only)
        monkeypatch.setattr("emobench.files.tempfile.mkstemp", read_only)
        monkeypatch.setattr(module.os, "replace", read_only)

    return lock


def test_read_only_store_is_read_and_the_rest_is_computed_in_memory(store, clips, tmp_path, locked):
    extract(store, clips[:4], FakePool())
    before = files(store.root)
    locked()
    pool = FakePool()
    found = extract(store, clips, pool)
    assert len(pool.clips) == 6
    assert found.is_found.all()
    (remark,) = found.repairs
    assert remark == f"{store.root}: the feature store is read-only; what it has is used, and nothing new is kept"
    assert files(store.root) == before


def test_read_only_store_that_has_everything_says_nothing(store, clips, locked):
    extract(store, clips, FakePool())
    locked()
    assert extract(store, clips).repairs == []


def test_damaged_shard_in_a_read_only_store_is_left_there_and_not_used(store, clips, locked):
    first = extract(store, clips, FakePool())
    damage(store.shards(KEY)[0], "flipped bit")
    locked()
    found = extract(store, clips, FakePool())
    assert_same(found, first)
    assert [("left where it is" in repair) for repair in found.repairs] == [False, True]


@pytest.mark.skipif(os.geteuid() != 0, reason="must be root to mount")
def test_store_on_a_read_only_mount(store, clips, tmp_path):
    extract(store, clips[:4], FakePool())
    target = tmp_path / "mounted"
    target.mkdir()
    commands = (["mount", "--bind", str(store.root), str(target)], ["mount", "-o", "remount,bind,ro", str(target)])
    mounted = False
    try:
        for command in commands:
            try:
                done = subprocess.run(command, capture_output=True)
            except FileNotFoundError:
                pytest.skip("there is no mount")
            if done.returncode:
                pytest.skip("mounting is not allowed here")
            mounted = True
        found = extract(FeatureStore(target), clips, FakePool())
        assert found.is_found.all()
        assert "read-only" in found.repairs[0]
        fresh = extract(FeatureStore(target / "new"), clips, FakePool())
        assert fresh.is_found.all()
    finally:
        if mounted:
            subprocess.run(["umount", str(target)], check=True)


# --- frames over time -----------------------------------------------------------------------------------------------

FRAMES = FEATURES["logmel64"]
FRAMES_KEY = feature_key(FRAMES)


@pytest.fixture
def talks(tmp_path):
    """Recordings of 1 to 7 s, so of 1 to 3 windows of 3 s."""
    durations_s = [1, 7, 4, 1, 5]
    folder = tmp_path / "corpus"
    return [
        write_wav(folder / f"{seed}.wav", seed, n_samples=16_000 * duration_s, sr=16_000)
        for seed, duration_s in enumerate(durations_s)
    ]


def windows_of(found, row):
    first, end = found.spans[row]
    return found.X[first:end]


def assert_windows_are_those_of_the_recordings(found, talks):
    assert found.is_found.all()
    for row, (_, path) in enumerate(talks):
        recording = read_audio(path)
        np.testing.assert_array_equal(
            windows_of(found, row), vectorise(FRAMES, recording.signal, recording.sr, path=path)
        )


def test_frames_are_kept_with_all_windows_of_a_recording(store, talks):
    cold = extract(store, talks, FakePool(), spec=FRAMES)
    warm = extract(store, talks[::-1], spec=FRAMES)
    assert np.diff(cold.spans, axis=1).ravel().tolist() == [1, 3, 2, 1, 2]
    assert (cold.n_computed, warm.n_computed) == (5, 0)
    assert_windows_are_those_of_the_recordings(cold, talks)
    assert_windows_are_those_of_the_recordings(warm, talks[::-1])
    assert store.count_missing([FRAMES_KEY], [clip for clip, _ in talks]) == 0


def test_one_content_under_two_names_has_the_same_frames(store, talks):
    found = extract(store, [talks[1], talks[0], talks[1]], FakePool(), spec=FRAMES)
    assert_windows_are_those_of_the_recordings(found, [talks[1], talks[0], talks[1]])
    assert len(found.X) == 4


def test_only_missing_frames_are_computed(store, talks):
    extract(store, talks[:2], FakePool(), spec=FRAMES)
    pool = FakePool()
    assert_windows_are_those_of_the_recordings(extract(store, talks, pool, spec=FRAMES), talks)
    assert sorted(pool.clips) == sorted(clip for clip, _ in talks[2:])


def test_merged_shards_keep_the_frames_of_each_recording_together(store, talks, monkeypatch):
    monkeypatch.setattr(module, "MAX_SMALL_SHARDS", 2)
    for talk in talks:
        extract(store, [talk], FakePool(), spec=FRAMES)
    assert len(store.shards(FRAMES_KEY)) < len(talks)
    assert_windows_are_those_of_the_recordings(extract(store, talks, spec=FRAMES), talks)


def test_frames_that_are_extracted_again_are_the_stored_ones(store, talks):
    extract(store, talks, FakePool(), spec=FRAMES)
    found = inventory.recompute(store, len(talks), rng=np.random.default_rng(0))
    assert (found.n_clips, found.mended, found.unmended) == (5, [], [])


def test_damaged_frames_are_computed_again(store, talks):
    extract(store, talks, FakePool(), spec=FRAMES)
    [path] = store.shards(FRAMES_KEY)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = extract(store, talks, FakePool(), spec=FRAMES)
    assert len(found.repairs) == 1
    assert_windows_are_those_of_the_recordings(found, talks)


def test_frames_and_vectors_come_from_one_pass(store, talks):
    pool = FakePool()
    vectors, frames = store.extract([SPEC, FRAMES], talks, policy=POLICY, pool=pool)
    assert len(pool.clips) == len(talks)
    assert vectors.X.shape == (5, 40)
    assert_windows_are_those_of_the_recordings(frames, talks)


def test_a_store_that_cannot_be_made_names_the_variable_to_set(clips, tmp_path, monkeypatch):
    """N48: HOME=/ and somebody who may not write there."""
    monkeypatch.setattr("emobench.files.Path.mkdir", read_only)
    found = extract(FeatureStore(tmp_path / "nowhere"), clips, FakePool())
    assert found.is_found.all()
    (remark,) = found.repairs
    assert "nothing is kept; set EMOBENCH_STORE to a folder that can be written" in remark
