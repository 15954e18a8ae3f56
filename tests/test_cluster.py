"""The contract of worker processes, kept by a real Dask scheduler with real workers over TCP."""

import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from test_execution import die, divide, is_running, nap, process_id, square, threads
from test_faults import bench, board, errors, finish, left, misfit, plugin, wait_until  # noqa: F401  (fixtures)

from emobench.errors import ConfigError, StorageError
from emobench.execution import cluster as module
from emobench.execution.cluster import ClusterWarning, DaskPool, check_address
from emobench.execution.workers import ONE_THREAD, Crash

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.timeout(180)


class Cluster:
    """A scheduler and two workers of one thread, each with a nanny, as subprocesses."""

    def __init__(self, folder, environment):
        self.file = folder / "scheduler.json"
        self.folder = folder
        self.environment = environment
        self.workers = []
        self.scheduler = self._start("scheduler", "--port", "0")
        wait_until(self.file.exists)
        for _ in range(2):
            self.add_worker()

    def add_worker(self):
        options = ["--nworkers", "1", "--nthreads", "1", "--local-directory", str(self.folder)]
        self.workers.append(self._start("worker", *options))

    def _start(self, what, *options):
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--scheduler-file", str(self.file)]
        with open(self.folder / "log", "a") as log:
            return subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--no-dashboard", *options],
                env=os.environ | self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def lose_worker(self):
        """Kill a worker with its nanny, as a machine that goes down does."""
        os.killpg(self.workers[0].pid, signal.SIGKILL)
        self.workers.pop(0).wait()

    def stop(self):
        for process in [*self.workers, self.scheduler]:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def cluster(plugin, tmp_path_factory):  # noqa: F811
    """Running cluster whose scheduler allows one failure of a task."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "calls").mkdir()
    environment = {
        "PYTHONPATH": f"{plugin}{os.pathsep}{Path(__file__).parent}",
        "MISFIT": str(folder / "calls"),
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
        **ONE_THREAD,
    }
    running = Cluster(folder, environment)
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def pool(cluster):
    with DaskPool(str(cluster.file)) as pool:
        yield pool


def untimed(folder):
    """Return the leaderboard's bytes without the timing columns."""
    [path] = folder.glob("*/leaderboard.csv")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return table.drop(columns=[name for name in table.columns if name.endswith(("_s", "_ms"))]).to_csv(index=False)


# --- the contract ---------------------------------------------------------------------------------------------------


def test_every_task_has_its_result_from_a_process_elsewhere(pool):
    assert dict(pool.run(square, [(x,) for x in range(40)])) == {x: x * x for x in range(40)}
    assert list(pool.run(square, [])) == []
    pids = set(dict(pool.run(process_id, [(x,) for x in range(12)])).values())
    assert 1 <= len(pids) <= 2
    assert os.getpid() not in pids


def test_exception_that_escapes_a_task_is_raised(pool):
    with pytest.raises(ZeroDivisionError):
        list(pool.run(divide, [(1,), (0,), (2,)]))
    assert dict(pool.run(square, [(3,)])) == {0: 9}


def test_workers_have_one_compute_thread(pool):
    ((environment, n_threads),) = dict(pool.run(threads, [()])).values()
    assert environment == ONE_THREAD
    assert set(n_threads) == {1}


def test_large_argument_that_tasks_share_travels_once(pool):
    shared, own = np.zeros(100_000), [np.full(10_000, x) for x in range(6)]
    tasks = [(shared, array) for array in own]
    arguments = module._Shared(pool._connect(), tasks)
    assert len(arguments.futures) == 1
    assert isinstance(arguments.arguments(3)[0], distributed.Future)
    assert arguments.arguments(3)[1] is own[3]
    assert dict(pool.run(np.sum, [(shared,)] * 4)) == dict.fromkeys(range(4), 0.0)


def test_task_that_kills_every_worker_it_meets_is_a_crash_and_the_others_finish(pool):
    outcomes = dict(pool.run(die, [(x, "kill" if x == 2 else "") for x in range(10)]))
    assert str(outcomes.pop(2)) == "crashed: its worker process died (killed, or out of memory)"
    assert outcomes == {x: x for x in range(10) if x != 2}


def test_task_over_its_limit_is_a_timeout_and_the_others_finish(pool):
    outcomes = dict(pool.run(nap, [(x, 60 if x == 1 else 0.05) for x in range(6)], timeout_s=1.5))
    assert outcomes.pop(1) == Crash("it ran longer than job_timeout_s (1.5 s)", "timeout")
    assert outcomes == {x: x for x in range(6) if x != 1}


# --- runs -----------------------------------------------------------------------------------------------------------

SMALL = ["svm", {"name": "xgboost", "params": {"n_estimators": 5}}]
ALL = [
    *SMALL,
    {"name": "mlp", "params": {"max_iter": 20}},
    {"name": "cnn", "params": {"epochs": 2}},
]
TUNING = "tuning: {n_trials: 2, inner_splits: 2"


@pytest.mark.parametrize(
    "models, tuning, n_jobs",
    [
        pytest.param(SMALL, f"{TUNING}}}\n", 2, id="small"),
        pytest.param(ALL, f"{TUNING}}}\n", 1, id="all, one worker", marks=pytest.mark.slow),
        pytest.param(ALL, f"{TUNING}}}\n", 2, id="all, two workers", marks=pytest.mark.slow),
    ],
)
def test_cluster_that_loses_a_machine_writes_the_same_leaderboard(
    bench,  # noqa: F811
    cluster,
    tmp_path,
    monkeypatch,
    models,
    tuning,
    n_jobs,
):
    """X27: the same bytes from one worker, from two, and from Dask when a machine goes down in the middle."""
    boards = []
    for name, *options in [("here", "-j", n_jobs), ("dask", "--dask", cluster.file)]:
        monkeypatch.setenv("EMOBENCH_STORE", str(tmp_path / f"store-{name}"))
        process = bench(models, *options, text=tuning)
        if name == "dask":
            wait_until(lambda p=process: list(tmp_path.glob("results/*/jobs/*.json")) or p.poll() is not None)
            cluster.lose_worker()
        code, _, err = finish(process)
        assert code == 0, err
        boards.append(untimed((tmp_path / "results").rename(tmp_path / name)))
    cluster.add_worker()
    assert boards[0].count("-tuned") == len(models)
    assert boards[1] == boards[0]


@pytest.mark.slow
def test_job_that_kills_every_worker_is_a_row_and_the_run_ends_with_4(bench, cluster, tmp_path):  # noqa: F811
    models = ["svm", misfit("exit", once=True)]
    code, _, _ = finish(bench(models, "--dask", cluster.file))
    assert code == 4
    assert sorted(errors(tmp_path, "exit")) == ["", "crashed: its worker process died (killed, or out of memory)"]
    assert board(tmp_path)["n_failed"].to_dict() == {"svm": 0, "exit": 1}


@pytest.mark.slow
def test_local_cluster_is_stopped_by_ctrl_c_and_leaves_nobody(bench, tmp_path):  # noqa: F811
    process = bench([misfit("nap"), "svm"], "--dask", "local:2", text="repeats: 50\n")
    wait_until(lambda: list(tmp_path.glob("results/*/jobs/*.json")) or process.poll() is not None)
    children = psutil.Process(process.pid).children(recursive=True)
    addresses = {connection.laddr.ip for child in children for connection in listening(child)}
    assert addresses <= {"127.0.0.1"}
    os.killpg(process.pid, signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130, err
    assert err.splitlines()[-1].startswith("Stopped. Finished work is kept. To continue: emobench run ")
    assert left(children) == []
    assert not list((tmp_path / "tmp").iterdir())


def listening(process):
    return [row for row in process.net_connections() if row.status == psutil.CONN_LISTEN]


# --- what can be wrong with a cluster -------------------------------------------------------------------------------


def test_dask_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'`pip install "emobench\[dask\]"`'):
        check_address("local:2")


@pytest.mark.parametrize("address", ["", "local", "local:0", "local:-1", "localhost:8786", "none.json", "/"])
def test_address_that_names_no_cluster_is_refused(address):
    with pytest.raises(ConfigError, match="--dask must be tcp://HOST:PORT, the file of a scheduler, or local:N"):
        check_address(address)


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', "\x00"])
def test_file_that_is_not_of_a_scheduler_is_refused(tmp_path, text):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(ConfigError, match="must be the JSON file that `dask scheduler --scheduler-file` writes"):
        check_address(str(tmp_path / "s.json"))


def test_scheduler_that_does_not_answer_is_an_error_within_10_s(monkeypatch):
    assert module.CONNECT_S + 1 < 10
    monkeypatch.setattr(module, "CONNECT_S", 1.5)
    with socket.socket() as silent:  # it takes connections and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for port in (9, silent.getsockname()[1]):
            started = time.monotonic()
            with pytest.raises(StorageError, match="must answer"), DaskPool(f"tcp://127.0.0.1:{port}") as pool:
                list(pool.run(square, [(1,)]))
            assert time.monotonic() - started < 10


def test_worker_with_another_emobench_is_refused_and_one_with_threads_warned_of(monkeypatch):
    class Client:
        def __init__(self, **found):
            self.found = {"version": module.__version__, "unset": []} | found

        def run(self, function):
            return {"tcp://w": self.found}

        def nthreads(self):
            return {"tcp://w": 4}

    with pytest.raises(StorageError, match="tcp://w has 0.0.1"):
        module._check_workers(Client(version="0.0.1"), "s")
    with pytest.warns(ClusterWarning) as caught:
        module._check_workers(Client(unset=["OMP_NUM_THREADS"]), "s")
    assert ["several threads" in str(w.message) for w in caught] == [True, False]
    assert "OMP_NUM_THREADS is not 1" in str(caught[1].message)


def test_scheduler_that_is_lost_ends_the_work(cluster, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    lost = Cluster(other, cluster.environment)
    said = io.StringIO()  # what Dask would print itself
    handler = logging.StreamHandler(said)
    logging.getLogger("distributed.client").addHandler(handler)
    try:
        with DaskPool(str(lost.file)) as pool:
            results = pool.run(nap, [(0, 0), (1, 60), (2, 60)])
            assert next(results) == (0, 0)
            os.killpg(lost.scheduler.pid, signal.SIGKILL)
            with pytest.raises(StorageError, match="must stay until the run is finished"):
                list(results)
    finally:
        logging.getLogger("distributed.client").removeHandler(handler)
        lost.stop()
    assert said.getvalue() == ""
    assert not any(is_running(process.pid) for process in [lost.scheduler, *lost.workers])


def test_nothing_of_dask_is_imported_unless_asked_for(tiny_corpus, tmp_path):
    config = {
        "corpora": [{"name": "manifest", "path": str(tiny_corpus / "manifest.csv")}],
        "models": ["dummy"],
        "protocols": [{"name": "group-kfold", "n_splits": 2}],
    }
    code = (
        "import json, sys\nfrom emobench.execution import cluster\nfrom emobench.running import planning\n"
        f"if __name__ == '__main__':\n    planning.plan(json.loads({json.dumps(json.dumps(config))}))\n"
        "    print([name for name in ('dask', 'distributed') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
