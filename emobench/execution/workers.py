"""Worker processes: one loop over futures that survives the death of a worker.

Every worker is a fresh process with one compute thread (never forked: a forked child hangs after an XGBoost fit), even
when there is one worker only, so that results do not depend on how many there are. `cluster` does the same
on other machines.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emobench.errors import StorageError
from emobench.execution.output import free_stdout

ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "BLIS_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "NUMBA_NUM_THREADS",
        "TF_NUM_INTRAOP_THREADS",
        "TF_NUM_INTEROP_THREADS",
    ),
    "1",
) | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}

# Peak of a worker that has done jobs of every model on 960 × 160, tuned: 265 MB; 190 MB after one SVM.
WORKER_BYTES = 300 * 2**20

MAX_DEATHS = 3  # of workers that a task was in: once in company, then alone
MAX_FAILED_STARTS = 3
TICK_S = 0.2  # how often running tasks are held against their limit
PAUSE_S = 5.0  # a longer silence means that we were stopped ourselves, and is not held against a task


@dataclass(frozen=True)
class Crash:
    """What a task has for a result that killed its worker (``crashed``) or ran too long (``timeout``)."""

    reason: str
    kind: str = "crashed"

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


DEATH = "its worker process died (killed, or out of memory)"


def too_long(timeout_s: float) -> Crash:
    """Return the result of a task that was killed for running longer than its limit."""
    return Crash(f"it ran longer than job_timeout_s ({timeout_s:g} s)", "timeout")


class Pool:
    """A set of one-thread worker processes; use it as a context manager.

    Parameters
    ----------
    n_workers : int
    """

    def __init__(self, n_workers: int):
        self.n_workers = n_workers
        self._executor: Any = None
        self._news: Any = None  # both ends of the pipe on which workers say what they begin
        self._started: dict[int, tuple[int, float]] = {}  # position of a task → process id, when it was heard of
        self._done: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self._clock = _Clock()
        self._failed_starts = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._stop(kill=kind is not None)

    def run(
        self, function: Callable[..., Any], tasks: Sequence[tuple], *, timeout_s: float | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Call ``function(*task)`` for each task and yield (position, result) as they finish.

        The function must catch its own exceptions; one that escapes is raised here. When a worker dies, every task
        that was being run becomes a suspect and runs again alone, at most twice; one that kills its worker alone
        yields a `Crash`. What merely waited is not blamed.

        Parameters
        ----------
        timeout_s : float, optional
            A task that runs longer, counted from its start in a worker, is killed with the worker and yields a `Crash`
            of kind ``timeout``; the others that this stops run again.

        Raises
        ------
        StorageError
            If workers die before they begin anything.
        """
        waiting, suspects, deaths = deque(range(len(tasks))), deque[int](), Counter[int]()
        while waiting or suspects:
            batch = deque([suspects.popleft()]) if suspects else waiting
            for position in (yield from self._drain(function, tasks, batch, timeout_s)):  # ran when a worker died
                deaths[position] += 1
                if deaths[position] < MAX_DEATHS:
                    suspects.append(position)
                else:
                    yield position, Crash(DEATH)

    def _drain(
        self, function: Callable[..., Any], tasks: Sequence[tuple], waiting: deque[int], timeout_s: float | None
    ) -> Generator[tuple[int, Any], None, list[int]]:
        """Run what waits, side by side; return the positions that ran when a worker died by itself, or nothing."""
        running: dict[Future, int] = {}
        killed: set[int] = set()
        while waiting or running:
            is_broken = not self._submit(function, tasks, waiting, running)
            done = self._wait(TICK_S if timeout_s else None) & set(running) if running else set()
            self._hear()
            if timeout_s is not None:
                killed |= self._kill_overdue(running, killed, timeout_s)
            started = set(self._started)
            if is_broken or any(map(_is_lost, done)):
                is_broken, done = True, set(running)
                self._check_start(done, is_ours=bool(killed))
                self._stop(kill=True)  # it settles every future
            lost = set()
            for future in sorted(done, key=running.__getitem__):
                position = running.pop(future)
                if _is_lost(future):
                    lost.add(position)
                else:
                    self._started.pop(position, None)
                    yield position, future.result()
            if is_broken:
                for position in sorted(lost & killed):
                    yield position, too_long(timeout_s or 0)
                blamed = set() if killed else (lost & started or lost)
                waiting.extendleft(sorted(lost - killed - blamed, reverse=True))
                killed.clear()
                if blamed:
                    return sorted(blamed)
        return []

    def _submit(
        self, function: Callable[..., Any], tasks: Sequence[tuple], waiting: deque[int], running: dict[Future, int]
    ) -> bool:
        """Keep a few tasks in flight, so that few are lost with a worker; return False when one has died."""
        from joblib.externals.loky.process_executor import BrokenProcessPool

        while waiting and len(running) < 2 * self.n_workers:
            position = waiting[0]
            try:
                future = self._workers().submit(_announce, position, function, tasks[position])
            except BrokenProcessPool:
                return False
            except OSError as error:  # the interpreter cannot be executed, or its pipe broke because of that
                raise StorageError(
                    f"Worker processes must be able to start. {sys.executable}: "
                    f"{_reason(error)}. Correct its permissions, free memory, or raise ulimit -u."
                ) from error
            running[future] = position
            future.add_done_callback(self._done.put)
            waiting.popleft()
        return True

    def _wait(self, timeout_s: float | None) -> set[Future]:
        """Return the futures that are done, waiting for the first.

        `concurrent.futures.wait` holds the futures' locks in Python: a signal there leaves them locked, and no worker
        could be stopped any more.
        """
        done = set()
        with contextlib.suppress(queue.Empty):
            done.add(self._done.get(timeout=timeout_s))
            while True:
                done.add(self._done.get_nowait())
        return done

    def _hear(self) -> None:
        """Take in which tasks have begun, and where."""
        now_s = self._clock.now_s()
        while self._news and self._news[0].poll():
            position, pid = self._news[0].recv()
            self._started[position] = (pid, now_s)
            self._failed_starts = 0

    def _kill_overdue(self, running: Mapping[Future, int], killed: set[int], timeout_s: float) -> set[int]:
        """Kill the workers of tasks that are over their limit; return these tasks."""
        now_s = self._clock.now_s()
        overdue = {
            position
            for future, position in running.items()
            if not future.done() and position not in killed and position in self._started
            if now_s - self._started[position][1] > timeout_s
        }
        for position in overdue:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._started[position][0], _KILL)
        return overdue

    def _check_start(self, futures: set[Future], *, is_ours: bool) -> None:
        """Refuse to go on when workers die again and again before they begin anything."""
        self._failed_starts += not (self._started or is_ours)
        if self._failed_starts >= MAX_FAILED_STARTS:
            if not os.access(sys.executable, os.X_OK):
                raise StorageError(
                    f"Worker processes must be able to start. {sys.executable}: this user may not execute it. Correct "
                    "its permissions, or use another installation."
                )
            reasons = [str(future.exception()).strip() for future in futures if future.done() and _is_lost(future)]
            raise StorageError(
                "Worker processes must be able to start. They died at once, "
                f"{self._failed_starts} times: {(reasons or ['no reason given'])[0].splitlines()[0]} "
                "Free memory, raise the limit of processes (ulimit -u), or lower --n-jobs."
            )

    def _workers(self) -> Any:
        if self._executor is None:
            from joblib.externals.loky import ProcessPoolExecutor
            from joblib.externals.loky.backend.context import get_context

            self._news = get_context("loky").Pipe(duplex=False)
            self._executor = ProcessPoolExecutor(
                max_workers=self.n_workers, env=ONE_THREAD, initializer=_begin, initargs=(os.getpid(), self._news[1])
            )
        return self._executor

    def _stop(self, *, kill: bool) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, kill_workers=kill)
            for end in self._news:
                end.close()
            self._executor = self._news = None
            self._started.clear()


_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has no SIGKILL, and its SIGTERM cannot be caught


class _Clock:
    """Seconds that pass while we are awake: a time for which this process is stopped (Ctrl-Z) is left out."""

    def __init__(self) -> None:
        self._last_s = time.monotonic()
        self._paused_s = 0.0

    def now_s(self) -> float:
        now_s = time.monotonic()
        gap_s, self._last_s = now_s - self._last_s, now_s
        if gap_s > PAUSE_S:
            self._paused_s += gap_s - TICK_S
        return now_s - self._paused_s


def _reason(error: OSError) -> str:
    """Return why a worker cannot start: a broken pipe only says that its process ended before it read anything."""
    if isinstance(error, BrokenPipeError) and not os.access(sys.executable, os.X_OK):
        return "this user may not execute it"
    return error.strerror or str(error)


def _is_lost(future: Future) -> bool:
    """Return whether a future has no result because a worker died."""
    from joblib.externals.loky.process_executor import BrokenProcessPool, ShutdownExecutorError

    return not future.done() or isinstance(future.exception(), BrokenProcessPool | ShutdownExecutorError)


# --- in a worker ----------------------------------------------------------------------------------------------------

_news_of_worker: Any = None


def _begin(parent: int, news: Any) -> None:
    """Prepare a worker: it ends with its parent, and Ctrl-C and stdout are its parent's business."""
    global _news_of_worker
    _news_of_worker = news
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    free_stdout()
    end_with(parent)


def _announce(position: int, function: Callable[..., Any], task: tuple) -> Any:
    """Say which task begins in this process, then do it."""
    with contextlib.suppress(OSError):  # the parent is gone
        _news_of_worker.send((position, os.getpid()))  # one write of a few bytes: whole, whoever dies
    return function(*task)


def end_with(parent: int) -> None:
    """End this process when its parent is gone: a killed coordinator cannot end it, and loky's wait for ever."""
    if sys.platform == "linux":  # at once, even when the interpreter hangs in C code
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def count_workers(n_jobs: int, worker_bytes: int = WORKER_BYTES) -> int:
    """Return the number of workers for ``n_jobs``; -1 for as many as there can be.

    At most the cores that this process may use, and as many of `worker_bytes` as fit into the memory that it may use.
    """
    from joblib import cpu_count

    most = max(1, min(cpu_count(), _memory_bytes() // worker_bytes))
    return most if n_jobs < 0 else max(1, min(n_jobs, most))


def _memory_bytes() -> int:
    """Return the memory of the machine, or of the control group where that is less."""
    limits = []
    with contextlib.suppress(AttributeError, ValueError, OSError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(ValueError, OSError):  # "max" where there is no limit
            limits.append(int((Path("/sys/fs/cgroup") / name).read_text()))
    return min(limits, default=2**62)
