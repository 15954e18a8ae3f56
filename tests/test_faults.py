"""Whole runs in which models kill, hang, raise and print, storage is damaged and signals arrive (FAULTS, section 4).

The model `misfit` comes from a plug-in that is written into a folder of the test, so the way of plug-ins is tested too.
"""

import json
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest
from filelock import FileLock

from emobench.errors import HeldError
from emobench.execution.workers import WORKER_BYTES
from emobench.models.tuning import TunedClassifier
from emobench.running.evaluation import FoldResult
from emobench.running.journal import write_finished
from emobench.running.planning import plan

pytestmark = pytest.mark.timeout(180)

EMOBENCH = [sys.executable, "-m", "emobench"]
PLUGIN = '''\
import contextlib
import os
import re
import signal
import sys
import time
import zlib
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.naive_bayes import GaussianNB

from emobench.models import Float, ModelSpec


class Misfit(ClassifierMixin, BaseEstimator):
    """Naive Bayes that misbehaves in `fit`, `times` times on the same `size` utterances, on one such fold if `once`."""

    def __init__(self, how="", times=1000000, size=12, once=False, smoothing=1e-9):
        self.how = how
        self.times = times
        self.size = size
        self.once = once
        self.smoothing = smoothing

    def fit(self, X, y):
        folder, fold = Path(os.environ["MISFIT"]), f"{len(X)}-{zlib.crc32(X.tobytes())}"
        (folder / f"{self.how}-{fold}-{os.getpid()}-{time.monotonic_ns()}").touch()
        is_bad = len(X) == self.size and len(list(folder.glob(f"{self.how}-{fold}-*"))) <= self.times
        if is_bad and self.once:
            with contextlib.suppress(FileExistsError), open(folder / f"once {self.how}", "x") as file:
                file.write(fold)
            is_bad = (folder / f"once {self.how}").read_text() == fold
        if is_bad:
            misbehave(self.how)
        self.model_ = GaussianNB(var_smoothing=self.smoothing).fit(X, y)
        self.classes_, self.n_features_in_ = self.model_.classes_, X.shape[1]
        return self

    def predict(self, X):
        y = self.model_.predict(X)
        return np.where(np.arange(len(y)) < 5, np.nan, y) if self.how == "not-a-number" else y


def misbehave(how):
    if how == "exit":
        os._exit(3)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "hang":
        time.sleep(1000)
    if how == "block":
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP})
        re.match("(a*)*b", "a" * 40)  # in C, for ages, and without letting another thread run
    if how == "nap":
        time.sleep(1.5)
    if how == "sysexit":
        sys.exit("enough")
    if how == "raise":
        raise ValueError("no such luck\\nin two lines")
    if how == "print":
        print("noise on stdout")
        print("noise on stderr", file=sys.stderr)
        os.write(1, b"noise on descriptor 1\\n")
        os.write(2, b"noise on descriptor 2\\n")
    if how == "interrupt":
        raise KeyboardInterrupt("enough")
    if how == "memory":
        raise_limit_and_allocate()


def raise_limit_and_allocate():
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, before[1]))
    try:
        np.ones(2**34)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


ROW = ModelSpec(
    "misfit", "Misfit", "misfit:Misfit", space={"smoothing": Float(1e-9, 1e-3, log=True)}, is_scaled=False, cost=0.1
)
'''
ENTRY_POINTS = "[emobench.models]\nmisfit = misfit:ROW\n"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """Folder to put on PYTHONPATH: a module and its entry point, as pip would install them."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "misfit.py").write_text(PLUGIN)
    (folder / "misfit-1.0.dist-info").mkdir()
    (folder / "misfit-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: misfit\nVersion: 1.0\n")
    (folder / "misfit-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


@pytest.fixture
def bench(plugin, tiny_corpus, tmp_path, monkeypatch):
    """Write a config and start ``emobench run`` on it with the plug-in; return the process."""
    (tmp_path / "calls").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(plugin))
    monkeypatch.setenv("EMOBENCH_STORE", str(plugin / "store"))  # extracted once for all tests
    monkeypatch.setenv("MISFIT", str(tmp_path / "calls"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))

    def start(models, *options, text="", command=EMOBENCH, **popen):
        config = tmp_path / "faults.yaml"
        rows = "".join(f"- {json.dumps(model)}\n" for model in models)
        config.write_text(
            f"corpora: [{{name: manifest, id: tiny, path: {tiny_corpus}/manifest.csv}}]\n"
            f"models:\n{rows}protocols: [{{name: group-kfold, n_splits: 2}}]\n{text}"
        )
        arguments = ["run", str(config), "--output", str(tmp_path / "results"), *map(str, options)]
        return subprocess.Popen(
            [*command, *arguments],
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True, **popen},
        )

    return start


def misfit(how, **params):
    return {"name": "misfit", "id": how, "params": {"how": how, **params}}


def finish(process):
    """Wait for a run; return exit code, stdout and stderr."""
    with process:
        try:
            out, err = process.communicate(timeout=150)
        finally:
            process.kill()
    assert "Traceback" not in err, err
    assert process.returncode != 1, err
    return process.returncode, out, err


def errors(folder, entry):
    [scores] = folder.glob("results/*/scores.csv")
    rows = pd.read_csv(scores, keep_default_na=False)
    return rows.loc[(rows["entry"] == entry) & (rows["metric"] == "uar"), "error"].tolist()


def calls(folder, how):
    return list((folder / "calls").glob(f"{how}-*"))


def board(folder):
    [path] = folder.glob("results/*/leaderboard.csv")
    return pd.read_csv(path).set_index("entry")


def family(process):
    """Return every process that a run starts, until its leaderboard is there or it ends."""
    seen = {}
    while process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            seen[child.pid] = child
        time.sleep(0.1)
    return set(seen.values())


def left(processes):
    """Return the command lines of those that still run a moment later."""
    alive = psutil.wait_procs(processes, timeout=3)[1]
    return [process.cmdline() for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def wait_until(is_so, timeout_s=60):
    end = time.monotonic() + timeout_s
    while not (found := is_so()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def test_models_that_kill_raise_and_leave_are_rows_and_the_others_finish(bench, tmp_path):
    """X18, X20: each kind of failure is told apart, none is kept, and no process or file is left."""
    kinds = ["raise", "sysexit", "interrupt", "not-a-number", "memory", "print"]
    models = ["svm", *map(misfit, kinds), misfit("exit", once=True)]
    models.append(misfit("kill", once=True, times=1))
    process = bench(models, "-j", 2, "--json")
    workers = family(process)
    code, out, err = finish(process)
    assert code == 4
    failed = {"raise": 2, "sysexit": 2, "interrupt": 2, "not-a-number": 2, "memory": 2, "exit": 1}
    assert {entry: n for entry, n in board(tmp_path)["n_failed"].items() if n} == failed
    assert errors(tmp_path, "raise") == [r"ValueError: no such luck\nin two lines"] * 2
    assert errors(tmp_path, "sysexit") == ["SystemExit: enough"] * 2
    assert errors(tmp_path, "interrupt") == ["KeyboardInterrupt: enough"] * 2
    assert errors(tmp_path, "not-a-number") == ["ValueError: predict returned NaN for 5 of 12 utterances."] * 2
    assert all("MemoryError" in error for error in errors(tmp_path, "memory"))
    assert sorted(errors(tmp_path, "exit")) == ["", "crashed: its worker process died (killed, or out of memory)"]
    assert board(tmp_path).loc[["svm", "print", "kill"], "rank"].notna().all()
    assert "noise" not in out + err
    logs = {path.name: path.read_text() for path in tmp_path.glob("results/*/logs/*.txt")}
    assert len(logs) == 11
    log = logs["tiny+mfcc40+group-kfold+raise+repeat0+fold0.txt"]
    assert log.startswith("raise · tiny · mfcc40 · group-kfold fold 0\nValueError: no such luck\\n")
    assert 'raise ValueError("no such luck' in log
    told = [remark for remark in json.loads(out)["remarks"] if remark.startswith("failed: ")]
    assert len(told) == len(set(told)) == 6  # one line for each kind of failure
    assert workers
    assert left(workers) == []
    assert not list((tmp_path / "tmp").iterdir())

    only = [option for entry in ("raise", "print", "kill") for option in ("--only", entry)]
    before = {how: len(calls(tmp_path, how)) for how in ("raise", "print", "kill")}
    code, out, _ = finish(bench(models, "-j", 1, "--json", *only))
    assert (code, json.loads(out)["computed"]) == (4, 5)
    folds = {how: len(calls(tmp_path, how)) - n for how, n in before.items()}
    assert folds["raise"] >= 2


def test_hanging_jobs_are_killed_when_their_time_is_up_and_the_others_finish(bench, tmp_path):
    """X19: also one that hangs in C code with every signal blocked."""
    models = ["svm", misfit("hang", once=True), misfit("block", once=True)]
    code, out, _ = finish(bench(models, "-j", 2, "--json", text="job_timeout_s: 6\n"))
    assert code == 4
    for how in ("hang", "block"):
        assert sorted(errors(tmp_path, how)) == ["", "timeout: it ran longer than job_timeout_s (6 s)"]
    assert json.loads(out)["failed"] == 2


# --- X3 to X6: signals, and a second run ----------------------------------------------------------------------------


def started(bench, tmp_path, *options):
    """Start a run that takes long; return it when its first job is finished."""
    process = bench([misfit("nap"), "svm"], "-j", 2, *options, text="repeats: 200\n")
    wait_until(lambda: list(tmp_path.glob("results/*/jobs/*.json")) or process.poll() is not None)
    return process


@pytest.mark.parametrize(
    "number, code",
    [
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),  # test_cli has one that is always run
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_signal_ends_a_run_its_workers_and_its_files_and_keeps_what_is_finished(bench, tmp_path, number, code):
    process = started(bench, tmp_path)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    begun = time.monotonic()
    result, _, err = finish(process)
    assert (result, time.monotonic() - begun < 20) == (code, True)
    assert err.splitlines()[-1].startswith("Stopped. Finished work is kept. To continue: emobench run ")
    assert len(workers) >= 2
    assert left(workers) == []
    assert not list(tmp_path.rglob("*.part"))
    assert not list((tmp_path / "tmp").iterdir())
    for path in tmp_path.glob("results/*/jobs/*.json"):
        FoldResult.from_json(path.read_bytes())
    assert not list(tmp_path.glob("results/*/leaderboard.csv"))


@pytest.mark.slow
def test_second_signal_ends_a_run_at_once_and_its_workers_with_it(bench, tmp_path):
    process = started(bench, tmp_path)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    with process:
        process.communicate(timeout=20)
    assert process.returncode in (130, -signal.SIGINT)
    assert left(workers) == []


@pytest.mark.slow
def test_run_that_is_stopped_and_continued_does_no_job_twice_and_a_second_run_is_refused(bench, tmp_path):
    """X5, X6: the second run says who holds the folder."""
    models = [misfit("nap"), "svm"]
    process = bench(models, "-j", 2)
    wait_until(lambda: calls(tmp_path, "nap") or process.poll() is not None)
    process.send_signal(signal.SIGSTOP)
    code, _, err = finish(bench(models, "-j", 1))
    assert code == 5
    assert f"It is held by process {process.pid} on host {socket.gethostname()}. Wait for that run, or end it." in err
    time.sleep(2)
    process.send_signal(signal.SIGCONT)
    assert finish(process)[0] == 0
    assert len(calls(tmp_path, "nap")) == 3
    assert board(tmp_path)["n_failed"].sum() == 0


# --- X22, X24, X25: tuning ------------------------------------------------------------------------------------------


def test_damaged_study_ends_with_5_when_the_rest_is_kept_and_retune_mends_it(bench, tmp_path):
    models, text = ["svm", "dummy"], "tuning: {n_trials: 2, inner_splits: 2}\n"
    code, _, err = finish(bench(models, "-j", 1, text=text))
    assert code == 0, err
    before = board(tmp_path)
    [folder] = tmp_path.glob("results/*")
    studies = sorted(folder.glob("studies/*.db"))
    job = folder / "jobs" / f"{studies[0].stem}.json"
    if not job.exists():  # the study of the fit on everything
        studies.reverse()
        job = folder / "jobs" / f"{studies[0].stem}.json"
    content = studies[0].read_bytes()
    studies[0].write_bytes(content[:5000] + bytes(4000) + content[9000:])
    job.unlink()
    code, out, err = finish(bench(models, "-j", 1, text=text))
    assert (code, out) == (5, "")
    assert f"{studies[0]}: must be a study that this emobench can continue." in err
    assert "emobench run CONFIG --retune --only svm-tuned" in err
    assert board(tmp_path)["n_failed"].to_dict() == {"svm": 0, "svm-tuned": 1, "dummy": 0}
    code, out, err = finish(bench(models, "-j", 1, "--retune", "--json", text=text))
    assert (code, json.loads(out)["computed"], json.loads(out)["reused"]) == (0, 3, 6), err
    assert untimed(board(tmp_path)) == untimed(before)
    assert len(list(folder.glob("studies/*.db"))) == 3


def untimed(table):
    return table.drop(columns=[name for name in table.columns if name.endswith(("_s", "_ms"))]).to_csv()


def test_search_that_completes_no_trial_and_network_that_diverges_are_told(bench, tmp_path):
    """X22, X24: the defaults are taken and said; a loss that is not finite is a row."""
    models = [misfit("raise", size=6), {"name": "cnn", "id": "wild", "params": {"learning_rate": 1e30, "epochs": 2}}]
    text = "tuning: {n_trials: 2, inner_splits: 2, per_model: {wild: 0, cnn: 0}}\n"
    code, out, err = finish(bench(models, "-j", 2, "--json", text=text))
    assert code == 4, err
    remarks = "\n".join(json.loads(out)["remarks"])
    assert remarks.count("tuning_failed (defaults taken)") == 1  # one line for both folds
    assert errors(tmp_path, "raise-tuned") == ["", ""]
    for error in errors(tmp_path, "wild"):
        assert error.startswith("DivergedError: Network 'reference' diverged: ")
    assert board(tmp_path)["n_failed"]["wild"] == 2
    assert board(tmp_path).loc["wild", ["rank", "uar", "uar_low", "log_loss", "worst_speaker_uar"]].isna().all()


def test_study_has_one_writer(tmp_path):
    """The worker of a killed run may live on: the next one waits for it."""
    study = tmp_path / "study.db"
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((24, 4)).astype(np.float32), np.arange(24) % 2
    tuned = TunedClassifier("svm", n_trials=2, inner_splits=2, random_state=0, study=study)
    with FileLock(tmp_path / ".study.db.lock"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("emobench.models.tuning.LOCK_TIMEOUT_S", 0.2)
        with pytest.raises(HeldError, match="another worker has held this study"):
            tuned.fit(X, y)
    assert not study.exists()
    assert len(tuned.fit(X, y).trials_) == 2


# --- X31 ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_start_method_that_the_user_forces_does_not_reach_the_workers(bench, tmp_path):
    """A forked worker would hang after an XGBoost fit in the parent."""
    script = (
        "import multiprocessing, sys\nmultiprocessing.set_start_method('fork')\n"
        "import numpy as np\nfrom emobench.cli import main as cli\nfrom emobench.models import build, get_model\n"
        "build(get_model('xgboost'), {'n_estimators': 2}).fit(np.eye(4, dtype='float32'), np.array([0, 1, 0, 1]))\n"
        "cli.main(sys.argv[1:])"
    )
    models = [{"name": "xgboost", "params": {"n_estimators": 2}}]
    assert finish(bench(models, "-j", 1, command=[sys.executable, "-c", script]))[0] == 0


# --- the plan -------------------------------------------------------------------------------------------------------


def test_plan_learns_from_the_times_of_finished_jobs(tiny_corpus, tmp_path):
    config = {
        "corpora": [{"name": "manifest", "path": str(tiny_corpus / "manifest.csv")}],
        "models": ["svm", "mlp"],
        "protocols": [{"name": "group-kfold", "n_splits": 2}],
    }
    planned = plan(config, output=tmp_path, n_jobs=1)
    assert (planned.n_workers, planned.worker_bytes) == (1, WORKER_BYTES)
    assert planned.disk_bytes > 0
    folder = tmp_path / planned.run
    svm = [job for job in planned.jobs if job.entry == "svm" and len(job.test)]
    table = planned.estimate_s
    write_finished(folder, FoldResult(svm[0].key, fit_s=600.0, predict_s=0.0))
    learned = plan(config, output=tmp_path, n_jobs=1)
    assert len(learned.finished) == 1
    assert learned.estimate_s == pytest.approx(600 * 3, rel=0.05)  # another fold, and everything: twice as much
    assert table < 60
    assert plan(config, output=tmp_path, n_jobs=1, only=["mlp"]).estimate_s < 60
