"""Storage that refuses: full, limited, broken or read-only disks, odd clocks, kills while a corpus is made.

X8, X9, X10, X17, D13 and D15, from outside: the command says what is wrong, leaves nothing by halves and keeps what is
finished; the same command then comes to the same bytes.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from crash_matrix import NO_STRACE, Bench, can_trace, forks, settled
from filelock import FileLock

from emobench.corpora import Archive, CorpusSpec
from emobench.corpora.fetch import fetch
from emobench.corpora.synthetic.design import Design
from emobench.corpora.synthetic.writing import scan, write

pytestmark = pytest.mark.timeout(600)

SMALL = Design(n_speakers=1)
ADVICE = {
    "ENOSPC": "The disk is full. Free some space",
    "EDQUOT": "The disk quota is used up. Free some space",
    "EFBIG": "The file would be larger than the limit (ulimit -f). Raise the limit",
    "EIO": "The system says: Input/output error. Fix that",
    "EROFS": "The file system is read-only. Choose another folder",
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench.make(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def calm(bench, tmp_path_factory):
    """What the bench comes to when nothing goes wrong."""
    folder = tmp_path_factory.mktemp("calm")
    assert bench.run(folder).code == 0
    return settled(folder)


@contextlib.contextmanager
def mounted(*arguments):
    """Mount something; skip the test where that is not allowed. The last argument is the folder."""
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("only root can mount")
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(arguments[-1])], check=True)


@contextlib.contextmanager
def read_only(folder):
    """Make a folder read-only, for root too."""
    with mounted("--bind", folder, folder):
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield


def complaint(done):
    """Return the one message of a command that failed with exit code 5."""
    assert done.code == 5, done
    assert "Traceback" not in done.err
    [message] = [line for line in done.err.splitlines() if line.startswith("error: ")]
    return message


# --- X8, X9: the disk is full, used up, limited or broken -----------------------------------------------------------


ERRORS = {
    "openat": ("ENOSPC", "EDQUOT", "EROFS"),
    "mkdir": ("ENOSPC", "EROFS", "EDQUOT"),
    "write": ("ENOSPC", "EFBIG", "EDQUOT", "EIO"),
    "fsync": ("EIO", "ENOSPC", "EDQUOT"),
    "rename": ("ENOSPC", "EROFS", "EIO"),
}


@pytest.fixture(scope="module")
def faults(bench, calm, tmp_path_factory):
    """Every call that writes, with an error of its own and the files that were published before it."""
    if not can_trace():
        pytest.skip(NO_STRACE)
    calls = bench.record(tmp_path_factory.mktemp("recorded"))
    found, published = [], []
    for call in calls:
        is_nameless = call.path.name.startswith("#") or call.path.suffix == ".lock"
        if call.name in ERRORS and not is_nameless:
            is_in_store = call.path.parts[0] == "store"  # which may be read-only (X10)
            choices = [error for error in ERRORS[call.name] if not (is_in_store and error == "EROFS")]
            found.append((call, choices[len(found) % len(choices)], tuple(published)))
        if call.name == "rename":
            published.append(str(call.target))
    return found


def inject_all(bench, calm, folder, faults):
    """Inject each fault into a run of its own and continue it; return what is wrong by the fault.

    A fault that hit another file, as libraries do not always open theirs in one order, says nothing; these must be few.
    """
    wrong, n_missed, log = {}, 0, folder / "log"
    for call, error, published in faults:
        place = folder / "place"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()  # as where the calls were counted
        strace = ["-o", str(log), "-y", "-s", "4096", "-e", f"trace={call.name}"]
        inject = f"inject={call.name}:error={error}:when={call.number}"
        done = bench.run(place, strace=[*strace, "-e", inject])
        [hit] = [line for line in log.read_text().splitlines() if "(INJECTED)" in line]
        if str(place) not in hit or lasting(call.path.name) not in hit:
            n_missed += 1
            continue
        left = settled(place)
        done_again = bench.run(place)
        message = [line for line in done.err.splitlines() if line.startswith("error: ")]
        checks = {
            f"exit code {done.code}": done.code == 5,
            f"message {message}": len(message) == 1 and str(place) in message[0] and ADVICE[error] in message[0],
            "traceback": "Traceback" not in done.err,
            "half published": all(calm.get(path) == content for path, content in left.items()),
            "finished lost": set(published) <= set(left) | {path for path in published if "/models/" in path},
            f"then {done_again.err}": done_again.code == 0 and settled(place) == calm,
        }
        if bad := [check for check, is_good in checks.items() if not is_good]:
            wrong[f"{error} from {call.name} {call.number} {call.path}"] = bad
    assert n_missed <= max(1, len(faults) // 10)
    return wrong


def lasting(name):
    """Return a file's name without what is drawn at random."""
    return name[:-13] if name.endswith(".part") else name.partition("-")[0]


def test_disk_that_fails_at_some_calls_is_said_and_the_run_continued(bench, calm, faults, tmp_path):
    some = faults[:: len(faults) // 6]
    assert inject_all(bench, calm, tmp_path, some) == {}


@pytest.mark.slow
def test_disk_that_fails_at_any_call_is_said_and_the_run_continued(bench, calm, faults, tmp_path):
    wrong = inject_all(bench, calm, tmp_path, faults)
    print(f"{len(faults)} faults, {len(faults) - len(wrong)} as they must be")
    assert wrong == {}


@pytest.mark.parametrize(
    "call, number, error, said",
    [
        ("pwrite64", 300, "ENOSPC", "database or disk is full"),
        pytest.param("fdatasync", 100, "EIO", "disk I/O error", marks=pytest.mark.slow),
    ],
)
def test_disk_that_fails_under_a_study_is_no_damage_and_tuning_goes_on(tmp_path, call, number, error, said):
    if not can_trace():
        pytest.skip(NO_STRACE)
    bench = Bench.make(tmp_path, models=["svm"], tuning={"n_trials": 2, "inner_splits": 2})
    strace = ["-o", os.devnull, "-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={number}"]
    done = bench.run(tmp_path / "place", strace=strace)
    assert done.code == 5
    assert f".db: must be writable. The system says: {said}. Make room" in done.err
    assert "--retune" not in done.err
    assert bench.run(tmp_path / "place").code == 0
    assert bench.run(tmp_path / "calm").code == 0
    assert settled(tmp_path / "place") == settled(tmp_path / "calm")


@pytest.mark.parametrize("full", ["store", "results"])
def test_full_disk_is_said_and_the_run_continued_when_there_is_room(bench, calm, tmp_path, full):
    (tmp_path / full).mkdir()
    with mounted("-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path / full):
        ballast = tmp_path / full / "ballast"
        with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        os.truncate(ballast, ballast.stat().st_size - {"store": 4096, "results": 16_384}[full])
        message = complaint(bench.run(tmp_path))
        assert str(tmp_path / full) in message
        assert ADVICE["ENOSPC"] in message
        ballast.unlink()
        assert not list((tmp_path / full).rglob("*.part"))
        assert bench.run(tmp_path).code == 0
        assert settled(tmp_path) == calm


def test_file_size_limit_is_said_and_the_run_continued(bench, calm, tmp_path):
    message = complaint(bench.run(tmp_path, max_file_bytes=9000))
    assert ADVICE["EFBIG"] in message
    assert bench.run(tmp_path).code == 0
    assert settled(tmp_path) == calm


def test_full_folder_of_temporary_files_does_not_matter(bench, calm, tmp_path):
    (tmp_path / "tmp").mkdir()
    with mounted("-t", "tmpfs", "-o", "size=4k,nr_inodes=1", "tmpfs", tmp_path / "tmp"):
        assert bench.run(tmp_path, env={"TMPDIR": str(tmp_path / "tmp")}).code == 0
    (tmp_path / "tmp").rmdir()
    assert settled(tmp_path) == calm


def test_plan_and_run_warn_of_a_disk_that_is_too_small(bench, tmp_path):
    (tmp_path / "results").mkdir()
    with mounted("-t", "tmpfs", "-o", "size=700k", "tmpfs", tmp_path / "results"):
        planned = json.loads(bench.run(tmp_path, "--json", command="plan").out)
        [remark] = [remark for remark in planned["remarks"] if "MB free" in remark]
        assert remark.startswith(f"{tmp_path / 'results'}: needs about 1.0 MB free and has 0.7 MB.")
        assert planned["disk_bytes"] > 1_000_000
        assert remark.partition(" MB free")[0].rpartition(" ")[0] in bench.run(tmp_path).err
    assert "MB free" not in bench.run(tmp_path, command="plan").err


# --- X10, D15: read-only --------------------------------------------------------------------------------------------


def test_results_that_cannot_be_written_are_said_before_anything_is_computed(bench, tmp_path):
    (tmp_path / "results").mkdir()
    with read_only(tmp_path / "results"):
        message = complaint(bench.run(tmp_path))
    assert f"{tmp_path / 'results'}: cannot be written. {ADVICE['EROFS']}" in message
    assert os.listdir(tmp_path) == ["results"]


def test_read_only_store_is_used_and_said(bench, calm, tmp_path):
    (tmp_path / "store").mkdir()
    with read_only(tmp_path / "store"):
        done = bench.run(tmp_path)
        assert done.code == 0
        assert "the feature store is read-only" in done.err
        assert os.listdir(tmp_path / "store") == []
    assert {path: content for path, content in calm.items() if path.startswith("results")} == settled(tmp_path)


def test_read_only_corpus_is_enough(bench, calm, tmp_path):
    with read_only(bench.config.parent):
        assert bench.run(tmp_path).code == 0
    assert settled(tmp_path) == calm


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("locked, code", [("results", 5), ("store", 0)])
def test_folder_of_another_user_is_as_good_as_read_only(locked, code):
    nobody = 65534
    with tempfile.TemporaryDirectory() as name:  # not below pytest's, which is closed to others
        folder = Path(name)
        folder.chmod(0o755)
        place = folder / "place"
        for path in (place, place / "results", place / "store"):
            path.mkdir()
            if path.name != locked:
                os.chown(path, nobody, nobody)
        done = Bench.make(folder).run(place, uid=nobody)
        assert done.code == code, done.err
        assert ("Permission denied" if code else "the feature store is read-only") in done.err
        assert list((place / locked).iterdir()) == []
        assert code == 0 or list((place / "store").iterdir()) == []


# --- X17: clocks ----------------------------------------------------------------------------------------------------


def test_time_stamps_decide_nothing(bench, calm, tmp_path):
    when_s = 4_000_000_000  # in the future, all the same
    assert bench.run(tmp_path).code == 0
    files = [path for folder in (tmp_path, bench.config.parent) for path in folder.rglob("*")]
    for path in files:
        os.utime(path, (when_s, when_s))
    done = bench.run(tmp_path, "--json", clock_shift_s=-(10**9))
    outcome = json.loads(done.out)
    assert (outcome["computed"], outcome["reused"]) == (0, 6)
    assert json.loads(bench.run(tmp_path, "--json", command="plan").out)["n_to_extract"] == 0
    assert settled(tmp_path) == calm
    changed = [path for path in tmp_path.rglob("*.*") if path.stat().st_mtime != when_s and path.suffix != ".lock"]
    assert changed == []


def test_run_begun_before_a_jump_of_the_clock_is_continued_after_it(bench, calm, tmp_path):
    assert bench.run(tmp_path, "--only", "dummy", clock_shift_s=10**9).code == 0
    outcome = json.loads(bench.run(tmp_path, "--json").out)
    assert (outcome["computed"], outcome["reused"]) == (3, 3)
    assert settled(tmp_path) == calm


def test_change_that_keeps_size_and_time_stamp_is_noticed(tmp_path):
    bench = Bench.make(tmp_path)
    before = json.loads(bench.run(tmp_path / "place", "--json").out)
    recording = tmp_path / "corpus/s1/sad-0.wav"
    status, content = recording.stat(), bytearray(recording.read_bytes())
    content[1001] ^= 1
    recording.write_bytes(content)
    os.utime(recording, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert recording.stat().st_size == status.st_size
    assert json.loads(bench.run(tmp_path / "place", "--json", command="plan").out)["n_to_extract"] == 1
    after = json.loads(bench.run(tmp_path / "place", "--json").out)
    assert (after["computed"], after["reused"]) == (6, 0)
    assert after["folder"] != before["folder"]


# --- D13: killed while a corpus is made or fetched ------------------------------------------------------------------


def make_corpus(folder, **how):
    return forks().run("data", "make", folder, "--speakers", 1, "-j", 1, **how)


@pytest.mark.parametrize("call", ["mkdir", "rename", "unlink"])
def test_killed_making_of_a_corpus_leaves_nothing_after_the_next(tmp_path, call):
    if not can_trace():
        pytest.skip(NO_STRACE)
    number = {"mkdir": 2, "rename": 5, "unlink": 1}[call]
    strace = ["-o", os.devnull, "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={number}"]
    folder = tmp_path / "corpora/synthetic"
    assert make_corpus(folder, strace=strace).code == -signal.SIGKILL
    left = {path.name for path in folder.parent.iterdir()}
    assert {name for name in left if not name.startswith(".synthetic.aside-")} == (
        {"synthetic"} if call == "unlink" else set()
    )
    assert left != {"synthetic"}
    shutil.rmtree(folder, ignore_errors=True)
    assert make_corpus(folder).code == 0
    assert os.listdir(folder.parent) == ["synthetic"]
    assert len(scan(folder).utterances) == 40


def test_folder_in_which_a_living_process_makes_a_corpus_is_left_alone(tmp_path):
    staging = tmp_path / ".synthetic.aside-0123abcd"
    staging.mkdir()
    with FileLock(f"{staging}.lock"):
        write(tmp_path / "synthetic", SMALL)
        assert staging.is_dir()
    shutil.rmtree(tmp_path / "synthetic")
    write(tmp_path / "synthetic", SMALL)
    assert os.listdir(tmp_path) == ["synthetic"]


def test_fetch_that_was_killed_after_all_was_done_is_tidied_up(tmp_path):
    write(tmp_path / "tiny", SMALL)
    (tmp_path / "tiny.fetch/unpack-x").mkdir(parents=True)
    (tmp_path / "tiny.fetch/a.zip").write_bytes(b"a whole archive")
    archive = Archive("a.zip", "https://example.invalid/a.zip", 15, "md5:0")
    spec = CorpusSpec("tiny", "", "emobench.corpora.synthetic.writing:scan", n_utterances=40, archives=(archive,))
    assert fetch(spec, tmp_path / "tiny", keep_archive=True) == tmp_path / "tiny"
    assert (tmp_path / "tiny.fetch/a.zip").exists()
    fetch(spec, tmp_path / "tiny")
    assert os.listdir(tmp_path) == ["tiny"]
