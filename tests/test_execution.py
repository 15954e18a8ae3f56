"""Workers die, tasks raise, order varies: every task has one result, and nobody is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emobench.errors import StorageError
from emobench.execution import workers as module
from emobench.execution.workers import ONE_THREAD, Crash, Pool, count_workers

pytestmark = pytest.mark.timeout(120)


def square(x):
    return x * x


def nap(x, seconds):
    time.sleep(seconds)
    return x


def die(x, how):
    if how == "exit":
        os._exit(3)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    return x


def note(x, folder):
    """Leave a mark for each time it is called, then die if `x` is odd."""
    (Path(folder) / f"{x}-{time.monotonic_ns()}").touch()
    if x % 2:
        os._exit(1)
    return x


def divide(x):
    return 1 / x


def threads():
    import numpy as np
    from threadpoolctl import threadpool_info

    np.ones((64, 64)) @ np.ones((64, 64))
    return {name: os.environ.get(name) for name in ONE_THREAD}, [pool["num_threads"] for pool in threadpool_info()]


def process_id(_):
    time.sleep(0.05)
    return os.getpid()


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def run(function, tasks, n_workers=2):
    with Pool(n_workers) as pool:
        outcomes = list(pool.run(function, tasks))
    assert sorted(position for position, _ in outcomes) == list(range(len(tasks)))
    return dict(outcomes)


@pytest.mark.parametrize("n_workers", [1, 2])
def test_every_task_has_its_result(n_workers):
    assert run(square, [(x,) for x in range(30)], n_workers) == {x: x * x for x in range(30)}


def test_no_tasks_start_no_workers():
    with Pool(2) as pool:
        assert list(pool.run(square, [])) == []
        assert pool._executor is None


def test_results_come_as_they_finish_whatever_the_order_of_tasks():
    naps = [0.6, 0.0, 0.1, 0.0]
    with Pool(2) as pool:
        list(pool.run(square, [(1,), (2,)]))  # both workers are up
        positions = [position for position, _ in pool.run(nap, [(x, seconds) for x, seconds in enumerate(naps)])]
    assert sorted(positions) == [0, 1, 2, 3]
    assert positions[-1] == 0


def test_a_pool_runs_again_and_keeps_its_workers():
    with Pool(1) as pool:
        first = dict(pool.run(process_id, [(0,)]))
        assert dict(pool.run(process_id, [(0,)])) == first


@pytest.mark.parametrize("how, n_workers", [("exit", 1), ("kill", 2), ("segfault", 2)])
def test_task_that_kills_its_worker_is_a_crash_and_the_others_finish(how, n_workers):
    outcomes = run(die, [(x, how if x == 3 else "") for x in range(8)], n_workers)
    assert isinstance(outcomes.pop(3), Crash)
    assert outcomes == {x: x for x in range(8) if x != 3}


def test_several_killers_are_all_found():
    killers = {0, 1, 6}
    outcomes = run(die, [(x, "kill" if x in killers else "") for x in range(8)])
    assert {x for x, outcome in outcomes.items() if isinstance(outcome, Crash)} == killers
    assert {x: outcomes[x] for x in range(8) if x not in killers} == {x: x for x in range(8) if x not in killers}


def test_only_killers_are_only_crashes():
    outcomes = run(die, [(x, "exit") for x in range(2)])
    assert {outcome.reason for outcome in outcomes.values()} == {"its worker process died (killed, or out of memory)"}


def test_killer_has_one_more_chance_and_no_task_runs_for_ever(tmp_path):
    run(note, [(x, str(tmp_path)) for x in range(6)], n_workers=1)
    counts = [len(list(tmp_path.glob(f"{x}-*"))) for x in range(6)]
    assert max(counts) <= 3
    assert min(counts) >= 1


def test_pool_works_after_a_crash():
    with Pool(1) as pool:
        assert isinstance(dict(pool.run(die, [(0, "exit")]))[0], Crash)
        assert dict(pool.run(square, [(3,)])) == {0: 9}


def test_exception_that_escapes_a_task_is_raised():
    with pytest.raises(ZeroDivisionError), Pool(2) as pool:
        list(pool.run(divide, [(1,), (0,), (2,)]))


def test_workers_have_one_compute_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    ((environment, n_threads),) = run(threads, [()], n_workers=1).values()
    assert environment == ONE_THREAD
    assert n_threads
    assert set(n_threads) == {1}
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_one_worker_is_a_process_of_its_own():
    assert run(process_id, [(0,)], n_workers=1) != {0: os.getpid()}


def test_there_are_no_more_workers_than_asked_for():
    assert len(set(run(process_id, [(x,) for x in range(12)]).values())) <= 2


@pytest.mark.parametrize("ending", ["end", "exception", "abandoned"])
def test_no_worker_is_left_behind(ending):
    pids = set()
    try:
        with Pool(2) as pool:
            pids |= set(dict(pool.run(process_id, [(x,) for x in range(6)])).values())
            if ending == "exception":
                next(pool.run(nap, [(0, 0), *[(1, 60)] * 4]))
                raise KeyboardInterrupt
            if ending == "abandoned":
                next(pool.run(nap, [(x, 0.05) for x in range(10)]))
    except KeyboardInterrupt:
        pass
    assert pids
    assert not any(is_running(pid) for pid in pids)


def test_workers_do_not_outlive_a_killed_coordinator(tmp_path):
    code = (
        "import time; from emobench.execution.workers import Pool\n"
        "with Pool(1) as pool:\n"
        "    import os\n"
        "    print(next(pool.run(os.getpid, [()]))[1], flush=True)\n"
        "    time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 20
    while is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(worker)


def test_count_workers_stays_within_cores_and_memory(monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    monkeypatch.setattr(module, "_memory_bytes", lambda: 10 * module.WORKER_BYTES)
    assert [count_workers(n_jobs) for n_jobs in (-1, 0, 1, 2, 8, 9, 1000)] == [8, 1, 1, 2, 8, 8, 8]
    monkeypatch.setattr(module, "_memory_bytes", lambda: 3 * module.WORKER_BYTES)
    assert [count_workers(n_jobs) for n_jobs in (-1, 1, 2, 8)] == [3, 1, 2, 3]
    monkeypatch.setattr(module, "_memory_bytes", lambda: 0)
    assert [count_workers(n_jobs) for n_jobs in (-1, 1, 8)] == [1, 1, 1]


def test_count_workers_on_this_machine():
    assert 1 <= count_workers(-1) <= (os.cpu_count() or 1)
    assert module._memory_bytes() > 2**28


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), BrokenPipeError(32, "Broken pipe")], ids=str
)
def test_workers_that_cannot_start_are_a_storage_error_with_the_cause(monkeypatch, error):
    """N40: a broken pipe of ours is not one of whoever reads our output."""
    from joblib.externals.loky import ProcessPoolExecutor

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(ProcessPoolExecutor, "submit", fail)
    monkeypatch.setattr("os.access", lambda *_: False)
    cause = "this user may not execute it" if isinstance(error, BrokenPipeError) else "Permission denied"
    with Pool(1) as pool, pytest.raises(StorageError, match=f"must be able to start.*{cause}"):
        list(pool.run(abs, [(1,)]))
