"""X1, X2: a run that is killed, or loses power, at any system call is continued by the same command to the same bytes.

One traced run tells what the disk holds at every moment. Each such disk is written out and continued; a sample here,
all of them among the slow tests. That a real kill leaves just such a disk is shown by strace, which kills at the call.
"""

import hashlib
import json
import operator
import os
import shutil
import signal
import subprocess
import sys
from itertools import compress
from pathlib import PurePosixPath

import pandas as pd
import pyarrow.parquet as pq
import pytest
from crash_matrix import NO_STRACE, Bench, can_trace, settled
from disk_log import RENAMES, WRITES, Call, Disk, File, find_risks

pytestmark = pytest.mark.timeout(3600)

SCENES = {  # changes of the config, command, options
    "features": ({}, "features", ()),
    "first": ({}, "run", ()),
    "tuned": ({"models": ["svm"], "tuning": {"n_trials": 2, "inner_splits": 2}}, "run", ()),
    "again": ({}, "run", ("--force",)),
}
CUTS = {"cut-names-lost": False, "cut-names-kept": True}


class Scene:
    """A command that was run to its end under strace: the disk before, the calls, and what it came to."""

    def __init__(self, folder, changes, command, options):
        self.bench, self.folder, self.command, self.options = Bench.make(folder, **changes), folder, command, options
        self.before = Disk()
        for place in (folder / "calm", folder / "traced"):
            place.mkdir()
            if options:  # the second time
                assert self.bench.run(place, command=command).code == 0
                self.before = Disk.load(place)
        done = self.run(folder / "calm")
        assert done.code == 0, done.err
        self.result = settled(folder / "calm")
        self.calls = self.bench.record(folder / "traced", *options, command=command)
        self.kills = [call for call in self.calls if call.name != "lseek"]

    def run(self, place, **how):
        return self.bench.run(place, *self.options, command=self.command, **how)

    def moments(self):
        """Return (number, kind) of each moment at which the disk is as it never was before."""
        first = {}
        for moment, disk in self._disks():
            first.setdefault(fingerprint(disk), moment)
        return list(first.values())

    def disks(self, moments):
        """Yield (moment, disk) for each of some moments."""
        return ((moment, disk) for moment, disk in self._disks() if moment in moments)

    def _disks(self):
        """Yield the disk before each call and at the end: after a kill, half-way in a write, and after a power cut."""
        disk = self.before.copy()
        for number, call in enumerate([*self.calls, None]):
            yield (number, "kill"), disk
            for kind, keep_names in CUTS.items():
                yield (number, kind), disk.lose_power(keep_names=keep_names)
            if call and call.name in WRITES:
                half = disk.copy()
                half.apply(call.halved())
                yield (number, "half"), half
            if call:
                disk.apply(call)

    def describe(self, moment):
        number, kind = moment
        call = self.calls[number] if number < len(self.calls) else None
        return f"{kind} at {number}, {call.name} {call.path}" if call else f"{kind} at the end"

    def is_inside_sqlite(self, moment):
        number, _ = moment
        return number < len(self.calls) and ".db" in self.calls[number].path.name

    def continue_from(self, disk):
        """Run the command on a disk; return what is wrong with what it comes to."""
        place = self.folder / "continued"
        shutil.rmtree(place, ignore_errors=True)
        disk.write_to(place)
        return self.finish(place)

    def finish(self, place):
        done = self.run(place)
        found = settled(place) if done.code == 0 else {}
        other = sorted(path for path in {*found, *self.result} if found.get(path) != self.result.get(path))
        return [f"exit code {done.code}: {done.err}"] if done.code else other

    def kill(self, call):
        """Run the command anew and kill it as it makes a call; return the folder."""
        place = self.folder / "killed"
        shutil.rmtree(place, ignore_errors=True)
        self.before.write_to(place)
        strace = ["-o", os.devnull, "-e", f"trace={call.name}"]
        inject = f"inject={call.name}:signal=SIGKILL:when={call.number}"
        done = self.run(place, strace=[*strace, "-e", inject])
        assert done.code == -signal.SIGKILL, f"{call}: {done}"
        return place


def fingerprint(disk):
    """Return a hash of names and contents."""
    digest = hashlib.sha256()

    def add(folder):
        for name, node in sorted(folder.entries.items()):
            digest.update(f"{name}\0".encode())
            if isinstance(node, File):
                digest.update(hashlib.sha256(node.data).digest())
            else:
                add(node)
                digest.update(b"/")

    add(disk.root)
    return digest.digest()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A function that returns a scene by its name, made when it is first asked for."""
    if not can_trace():
        pytest.skip(NO_STRACE)
    made = {}

    def scene(name):
        if name not in made:
            made[name] = Scene(tmp_path_factory.mktemp(name), *SCENES[name])
        return made[name]

    return scene


def sample(things, n_things):
    """Return so many of a sequence at most, evenly spread."""
    things = list(things)
    step = max(1, -(-len(things) // n_things))
    return things[step // 2 :: step]


@pytest.mark.parametrize("name", SCENES)
def test_log_of_a_run_tells_what_it_left(scenes, name):
    """The oracle of all that follows: every byte of the disk from the log alone."""
    scene = scenes(name)
    disk = scene.before.copy()
    for call in scene.calls:
        disk.apply(call)
    disk.write_to(scene.folder / "replayed")
    assert contents(scene.folder / "replayed") == contents(scene.folder / "traced")
    assert settled(scene.folder / "traced") == scene.result


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- X2 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCENES)
def test_what_is_renamed_into_place_is_synced_before_and_its_folder_after(scenes, name):
    scene = scenes(name)
    assert sum(call.name in RENAMES for call in scene.calls) >= (1 if name == "features" else 10)
    assert find_risks(scene.before.copy(), scene.calls) == []


def test_missing_syncs_are_noticed(scenes):
    """The check can fail: each rename is found when files, or folders, are not synced."""
    scene = scenes("first")
    targets = [str(call.target) for call in scene.calls if call.name in RENAMES]
    disk, kinds = scene.before.copy(), {}
    for number, call in enumerate(scene.calls):
        if call.name == "fsync":
            kinds[number] = "file" if isinstance(disk.at(call.path), File) else "folder"
        disk.apply(call)
    without = {
        kind: find_risks(scene.before.copy(), [c for n, c in enumerate(scene.calls) if kinds.get(n) != kind])
        for kind in ("file", "folder")
    }
    assert without["file"] == [f"{target}: renamed before it was synced" for target in targets]
    assert {risk.partition(": its folder")[0] for risk in without["folder"]} >= set(targets)


def test_power_cut_after_a_rename_without_sync_leaves_an_empty_file():
    """What the model of a cut does to a writer that does not sync, and to one that does."""
    path, target = PurePosixPath("x.part"), PurePosixPath("x")
    calls = [Call("openat", 1, path, flags="O_CREAT"), Call("write", 1, path, data=b"new")]
    calls += [Call("fsync", 1, path), Call("rename", 1, path, target), Call("fsync", 2, PurePosixPath())]

    def after(calls, *, keep_names):
        disk = Disk()
        for call in calls:
            disk.apply(call)
        return {name: bytes(file.data) for name, file in disk.lose_power(keep_names=keep_names).root.entries.items()}

    assert after(calls, keep_names=False) == after(calls, keep_names=True) == {"x": b"new"}
    assert after(calls[:-1], keep_names=False) == {}
    assert after([call for call in calls if call.number != 1 or call.name != "fsync"], keep_names=True) == {"x": b""}


# --- X1 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCENES)
def test_run_is_continued_from_some_moments(scenes, name):
    scene = scenes(name)
    assert continued(scene, sample(scene.moments(), 4)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_run_is_continued_from_every_moment(scenes, name):
    """Every moment of a run, but only some of the thousands in which SQLite keeps a study."""
    scene = scenes(name)
    every = moments = scene.moments()
    if name == "tuned":
        inside = [scene.is_inside_sqlite(moment) for moment in every]
        moments = sample(compress(every, inside), 60) + sample(compress(every, map(operator.not_, inside)), 60)
    bad = continued(scene, moments)
    print(f"{name}: {len(moments)} disks of {len(every)}, {len(moments) - len(bad)} continued to the same")
    assert bad == {}


def continued(scene, moments):
    """Continue from the disks of some moments; return what is wrong by the moment."""
    outcomes = {scene.describe(moment): scene.continue_from(disk) for moment, disk in scene.disks(moments)}
    return {moment: faults for moment, faults in outcomes.items() if faults}


@pytest.mark.parametrize("name", SCENES)
def test_killed_run_is_continued_after_some_calls(scenes, name):
    scene = scenes(name)
    assert killed(scene, sample(scene.kills, 3)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_killed_run_is_continued_after_every_call(scenes, name):
    scene = scenes(name)
    calls = sample(scene.kills, 60) if name == "tuned" else scene.kills
    bad = killed(scene, calls)
    print(f"{name}: killed at {len(calls)} of {len(scene.kills)} calls, {len(calls) - len(bad)} continued to the same")
    assert bad == {}


def killed(scene, calls):
    outcomes = {f"{call.name} {call.number} {call.path}": scene.finish(scene.kill(call)) for call in calls}
    return {call: faults for call, faults in outcomes.items() if faults}


@pytest.mark.slow
def test_killed_merge_of_shards_loses_and_changes_no_vector(scenes, tmp_path):
    """A corpus that grows by a clip at a time makes as many shards, until the store merges them."""
    bench = Bench.make(tmp_path, n_repetitions=4)
    manifest = tmp_path / "corpus/manifest.csv"
    header, *rows = manifest.read_text().splitlines(keepends=True)
    rows.sort(key=lambda row: row.partition("-")[2])  # each speaker's every emotion once, then again
    place = tmp_path / "traced"
    place.mkdir()
    for n_rows in range(12, len(rows)):
        manifest.write_text("".join([header, *rows[:n_rows]]))
        before, n_before = Disk.load(place), len(list(place.rglob("*.parquet")))
        calls = bench.record(place, command="features")
        if len(list(place.rglob("*.parquet"))) < n_before:
            break
    else:
        pytest.fail("the store did not merge its shards")
    expected = vectors(place)
    assert len(expected) == n_rows
    disk, wrong = before, []
    for call in calls:
        shutil.rmtree(place)
        disk.write_to(place)
        done = bench.run(place, "--json", command="features")
        again = bench.run(place, "--json", command="features")
        is_good = vectors(place) == expected and json.loads(again.out)[0]["n_computed"] == 0
        wrong += [] if is_good else [f"{call.name} {call.path}: {done.err}"]
        disk.apply(call)
    print(f"merge: killed before {len(calls)} calls, {len(calls) - len(wrong)} with every vector")
    assert wrong == []


def vectors(place):
    """Return every clip's vector in a store, and fail where two shards disagree."""
    found = {}
    for path in place.glob("store/*/*.parquet"):
        for row in pq.read_table(path, columns=["clip", "vector"]).to_pylist():
            assert found.setdefault(row["clip"], row["vector"]) == row["vector"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2, 4, 9])
def test_killed_run_with_workers_is_continued(scenes, tmp_path, number):
    """The very command line, under strace from its start: nothing here is a fork, and the stopwatch runs."""
    scene = scenes("first")
    command = [sys.executable, "-m", "emobench", "run", scene.bench.config, "--output", tmp_path / "results", "-j", "2"]
    env = {**os.environ, "EMOBENCH_STORE": str(tmp_path / "store"), "PYTHONDONTWRITEBYTECODE": "1"}
    inject = f"inject=rename:signal=SIGKILL:when={number}"
    strace = ["strace", "-f", "-o", os.devnull, "-e", "trace=rename", "-e", inject]
    killed = subprocess.run([*strace, *command], env=env, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for table in ("leaderboard.csv", "scores.csv", "predictions.csv", "folds.csv", "pairs.csv"):
        assert untimed(tmp_path, table) == untimed(scene.folder / "calm", table)
    assert set(settled(tmp_path)) == set(scene.result)


def untimed(folder, table):
    [path] = folder.glob(f"results/*/{table}")
    frame = pd.read_csv(path, dtype=str)
    return frame.drop(columns=[name for name in frame if name.endswith(("_s", "_ms"))]).to_csv()
