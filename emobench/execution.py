"""Worker processes: one loop over futures that survives the death of a worker.

Every worker is a fresh process with one compute thread (never forked: a forked child hangs after an XGBoost fit), even
when there is one worker only, so that results do not depend on how many there are.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
) | {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "-1"}

WORKER_BYTES = 700 * 2**20  # what a worker with TensorFlow takes


@dataclass(frozen=True)
class Crash:
    """What a task that kills its worker has for a result."""

    reason: str


class Pool:
    """A set of one-thread worker processes; use it as a context manager.

    Parameters
    ----------
    n_workers : int
    """

    def __init__(self, n_workers: int):
        self.n_workers = n_workers
        self._executor: Any = None

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._stop(kill=kind is not None)

    def run(self, function: Callable[..., Any], tasks: Sequence[tuple]) -> Iterator[tuple[int, Any]]:
        """Call ``function(*task)`` for each task and yield (position, result) as they finish.

        The function must catch its own exceptions; one that escapes is raised here. When a worker dies, everything
        that was in flight runs again, one task at a time, and a task that kills its worker alone yields a `Crash`.
        """
        waiting = deque(range(len(tasks)))
        suspects: deque[int] = deque()
        while waiting or suspects:
            is_alone = bool(suspects)
            batch = deque([suspects.popleft()]) if is_alone else waiting
            lost = yield from self._drain(function, tasks, batch)
            if is_alone and lost:
                yield lost[0], Crash("its worker process died (killed, or out of memory)")
            else:
                suspects.extend(lost)

    def _drain(
        self, function: Callable[..., Any], tasks: Sequence[tuple], waiting: deque[int]
    ) -> Generator[tuple[int, Any], None, list[int]]:
        """Run what waits, side by side; return the positions in flight when a worker died, or nothing."""
        from joblib.externals.loky.process_executor import BrokenProcessPool

        running: dict[Future, int] = {}
        while waiting or running:
            # Few in flight, so that few are suspects when a worker dies.
            broken = False
            while waiting and len(running) < 2 * self.n_workers:
                try:
                    running[self._workers().submit(function, *tasks[waiting[0]])] = waiting[0]
                except BrokenProcessPool:
                    broken = True
                    break
                waiting.popleft()
            lost = []
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                position = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    lost.append(position)
                else:
                    yield position, future.result()
            if lost or (broken and not running):
                self._stop(kill=True)
            if lost:
                return sorted([*lost, *running.values()])
        return []

    def _workers(self) -> Any:
        if self._executor is None:
            from joblib.externals.loky import ProcessPoolExecutor

            self._executor = ProcessPoolExecutor(
                max_workers=self.n_workers, env=ONE_THREAD, initializer=_end_with, initargs=(os.getpid(),)
            )
        return self._executor

    def _stop(self, *, kill: bool) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, kill_workers=kill)
            self._executor = None


def _end_with(parent: int) -> None:
    """End this worker when its parent is gone: a killed coordinator cannot end it, and loky's wait for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def count_workers(n_jobs: int) -> int:
    """Return the number of workers for ``n_jobs``; -1 for as many as there can be.

    At most the cores that this process may use, and as many as fit into the memory that it may use.
    """
    from joblib import cpu_count

    most = max(1, min(cpu_count(), _memory_bytes() // WORKER_BYTES))
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
