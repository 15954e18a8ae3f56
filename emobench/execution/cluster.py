"""Worker processes on other machines: the contract of `emobench.execution.workers.Pool`, kept by a Dask cluster.

Every worker must have the same emobench installed and see corpora under the same paths, as on a shared file system.
One that does not see the run's folder keeps its studies in memory. Nothing of Dask is imported unless it is asked for.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import tempfile
import threading
import time
import uuid
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

from emobench import __version__
from emobench.errors import ConfigError, StorageError
from emobench.execution.output import free_stdout
from emobench.execution.workers import DEATH, ONE_THREAD, TICK_S, Crash, too_long

CONNECT_S = 7.0
WORKERS_S = 600.0  # how long a cluster may have no worker; a batch system takes its time
LOOK_S = 2.0  # how often the workers are counted
SHARED_BYTES = 32_768  # arguments above it that several tasks have in common travel once
GRACE_S = 1.0  # after its limit a task that hangs ends its worker

_LOCAL = re.compile(r"local:([1-9][0-9]{0,3})")
_REMOTE = re.compile(r"(tcp|tls|ucx|ws|wss)://\S+")


class ClusterWarning(UserWarning):
    """A cluster works, but not as emobench would have it."""


def check_address(address: str) -> None:
    """Refuse an address that can name no cluster, and a machine without Dask, before anything is computed.

    Raises
    ------
    ConfigError
    """
    from importlib.util import find_spec

    if find_spec("distributed") is None:
        raise ConfigError(
            "--dask must have the package distributed. It is not installed. "
            'Install it with `pip install "emobench[dask]"`.'
        )
    _resolve(address)


def _resolve(address: str) -> str:
    """Return ``local:N`` or the URL of a scheduler, read from a scheduler file where one is named."""
    if _LOCAL.fullmatch(address) or _REMOTE.fullmatch(address):
        return address
    path = Path(address).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"--dask must be tcp://HOST:PORT, the file of a scheduler, or local:N. Got {address!r}. "
            "Start `dask scheduler --scheduler-file FILE` first, or correct it."
        )
    try:
        return str(json.loads(path.read_text())["address"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{path}: must be the JSON file that `dask scheduler --scheduler-file` writes. It is not. Name another one."
        ) from None


class DaskPool:
    """The workers of a Dask cluster; use it as a context manager.

    Parameters
    ----------
    address : str
        ``tcp://host:port`` of a scheduler, a scheduler file, or ``local:N`` for N processes on this machine.
    """

    def __init__(self, address: str):
        self.address = address
        self._client: Any = None
        self._stack = contextlib.ExitStack()
        self._started: dict[str, float] = {}  # key of a future → when its task was last heard to begin
        self._n_threads = 0
        self._looked_s = -LOOK_S

    def __enter__(self) -> DaskPool:
        return self

    def __exit__(self, *_: Any) -> None:
        self._client = None
        self._stack.close()

    def run(
        self, function: Callable[..., Any], tasks: Sequence[tuple], *, timeout_s: float | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Call ``function(*task)`` for each task and yield (position, result) as they finish.

        The function must catch its own exceptions; one that escapes is raised here. What a worker that dies was doing
        runs elsewhere. A task in whose company more workers died than the scheduler allows is tried once more alone,
        in the end, and yields a `Crash` if it does it again.

        Parameters
        ----------
        timeout_s : float, optional
            A task that runs longer, counted from its start in a worker, yields a `Crash` of kind ``timeout`` and ends
            its worker, which its nanny starts again; a worker without a nanny is gone.

        Raises
        ------
        StorageError
            If the scheduler cannot be reached, is lost, or has no usable workers.
        """
        if not tasks:
            return
        client = self._connect()
        shared = _Shared(client, tasks)
        suspects = yield from self._drain(client, function, shared, deque(range(len(tasks))), timeout_s)
        for position in suspects:
            if (yield from self._drain(client, function, shared, deque([position]), timeout_s)):
                yield position, Crash(DEATH)

    def _drain(
        self, client: Any, function: Callable[..., Any], shared: _Shared, waiting: deque[int], timeout_s: float | None
    ) -> Generator[tuple[int, Any], None, list[int]]:
        """Run what waits, side by side; return the positions on which the scheduler gave up."""
        import distributed

        suspects: list[int] = []
        running: dict[Any, int] = {}
        try:
            while waiting or running:
                while waiting and len(running) < max(1, 2 * self._count_threads(client)):
                    position = waiting.popleft()
                    arguments = (self._topic, timeout_s, function, *shared.arguments(position))
                    key = f"emobench-{position}-{uuid.uuid4().hex}"
                    running[client.submit(_work, key, *arguments, key=key, pure=False, priority=-position)] = position
                with client.as_current(), contextlib.suppress(TimeoutError, CancelledError):  # told apart below
                    distributed.wait(list(running), timeout=TICK_S, return_when="FIRST_COMPLETED")
                self._check_alive(client, running)
                for future in [future for future in running if future.status in ("finished", "error")]:
                    position = running.pop(future)
                    if isinstance(future.exception(), distributed.KilledWorker):
                        suspects.append(position)
                    else:
                        yield position, future.result()
                now_s = time.monotonic()
                for future in [f for f in running if timeout_s and now_s - self._started.get(f.key, now_s) > timeout_s]:
                    position = running.pop(future)
                    future.cancel(force=True)
                    yield position, too_long(timeout_s or 0)
        finally:
            if running and client.status == "running":
                with contextlib.suppress(Exception):  # we are leaving; the scheduler may have left before
                    client.cancel(list(running), force=True)
        return suspects

    # --- the cluster ------------------------------------------------------------------------------------------------

    def _connect(self) -> Any:
        if self._client is None:
            self._stack.enter_context(_silence())
            address = _resolve(self.address)
            local = _LOCAL.fullmatch(address)
            where: Any = self._start_local(int(local[1])) if local else address
            self._client = self._stack.enter_context(_client(where, self.address))
            self._topic = f"emobench-{uuid.uuid4().hex}"
            self._client.subscribe_topic(self._topic, self._hear)
            self._wait_for_workers(self._client)
            _check_workers(self._client, self.address)
        return self._client

    def _start_local(self, n_workers: int) -> Any:
        import dask
        from distributed import LocalCluster

        settings = {
            "distributed.nanny.pre-spawn-environ": ONE_THREAD,
            "distributed.scheduler.allowed-failures": 1,
            "distributed.worker.preload": [__name__],
        }
        scratch = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="emobench-", ignore_cleanup_errors=True))
        self._stack.enter_context(dask.config.set(settings | {"temporary-directory": scratch}))
        try:
            return self._stack.enter_context(
                LocalCluster(
                    n_workers=n_workers,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",
                    worker_dashboard_address=None,
                    local_directory=scratch,
                    silence_logs=logging.CRITICAL,
                )
            )
        except (OSError, RuntimeError) as error:
            raise StorageError(f"A local Dask cluster must be able to start. It did not: {error}") from error

    def _hear(self, event: tuple[float, Any]) -> None:
        self._started[event[1]] = time.monotonic()

    def _count_threads(self, client: Any) -> int:
        """Return the number of tasks that the cluster can do at a time, looked up now and then."""
        if time.monotonic() - self._looked_s > LOOK_S:
            with _lost_reported(self.address):
                self._n_threads = len(client.nthreads())
            self._looked_s = time.monotonic()
        return self._n_threads

    def _check_alive(self, client: Any, running: dict[Any, int]) -> None:
        """Raise StorageError if the scheduler is lost, or no worker has been there for long."""
        if client.status != "running" or any(future.status == "cancelled" for future in running):
            raise StorageError(
                f"The Dask scheduler {self.address} must stay until the run is finished. It was lost or restarted. "
                "What is finished is kept; run the same command again."
            )
        if not self._count_threads(client):
            self._wait_for_workers(client)

    def _wait_for_workers(self, client: Any) -> None:
        try:
            with _lost_reported(self.address):
                client.wait_for_workers(1, timeout=WORKERS_S)
        except TimeoutError:
            raise StorageError(
                f"The Dask cluster {self.address} must have workers. It had none for {WORKERS_S / 60:.0f} minutes. "
                "Start some with `dask worker --nthreads 1` and run the same command again; what is finished is kept."
            ) from None


class _Shared:
    """Arguments of tasks; a large one that several tasks have in common is sent to the cluster once."""

    def __init__(self, client: Any, tasks: Sequence[tuple]):
        from distributed.protocol.pickle import dumps

        self.tasks = tasks
        counts = Counter(id(argument) for task in tasks for argument in task)
        known = {id(argument): argument for task in tasks for argument in task if counts[id(argument)] > 1}
        # A task that returns it, and not `scatter`: the scheduler can make it again when the worker that had it dies.
        self.futures = {
            number: client.submit(_itself, argument, key=f"emobench-shared-{uuid.uuid4().hex}", pure=False)
            for number, argument in known.items()
            if len(dumps(argument)) > SHARED_BYTES
        }

    def arguments(self, position: int) -> list[Any]:
        return [self.futures.get(id(argument), argument) for argument in self.tasks[position]]


@contextlib.contextmanager
def _client(where: Any, address: str) -> Iterator[Any]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        client = _answer(where, address)
    for warning in caught:
        if type(warning.message).__name__ == "VersionMismatchWarning":
            lines = [line for line in str(warning.message).splitlines() if line.startswith("|")]
            warnings.warn(
                "the workers have other versions of libraries, so that results may differ in the last digits:\n"
                + "\n".join(lines),
                ClusterWarning,
                stacklevel=2,
            )
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):  # we are leaving; the scheduler may have left before
            client.close(timeout=CONNECT_S)


def _answer(where: Any, address: str) -> Any:
    """Return a client, or raise StorageError. What takes connections and never speaks hangs Dask's own constructor."""
    from distributed import Client

    outcome: list[Any] = [TimeoutError()]

    def connect() -> None:
        try:
            outcome[0] = Client(where, timeout=CONNECT_S, set_as_default=False, name="emobench")
        except Exception as error:  # raised below, in the thread that waits
            outcome[0] = error

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_S + 1)
    if not isinstance(outcome[0], Exception):
        return outcome[0]
    if not isinstance(outcome[0], OSError | ValueError):  # TimeoutError is an OSError
        raise outcome[0]
    reason = (str(outcome[0]) or "no answer").splitlines()[0]
    raise StorageError(
        f"The Dask scheduler {address} must answer. It did not within {CONNECT_S:.0f} s: {reason}. "
        "Start it, or correct --dask."
    ) from outcome[0]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep Dask's own log from the terminal: what matters is raised."""
    import distributed  # sets the levels of its own loggers, so that its parent's does not count

    names = {distributed.__name__, "bokeh", "tornado", "asyncio"}
    known = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in names]
    loggers = [logging.getLogger(name) for name in names.union(known)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _lost_reported(address: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise
    except OSError as error:  # CommClosedError is one
        raise StorageError(
            f"The Dask scheduler {address} must stay until the run is finished. It was lost: {error}. "
            "What is finished is kept; run the same command again."
        ) from error


def _check_workers(client: Any, address: str) -> None:
    """Hold the workers against what emobench needs of them.

    Raises
    ------
    StorageError
        If a worker has no emobench, or another one.
    """
    try:
        with _lost_reported(address):
            found = client.run(describe_worker)
    except (ImportError, AttributeError) as error:
        raise StorageError(
            f"Every Dask worker must have emobench {__version__} installed. One has not: {error}. Install it there."
        ) from error
    others = {worker: row["version"] for worker, row in found.items() if row["version"] != __version__}
    if others:
        worker, version = next(iter(others.items()))
        raise StorageError(
            f"Every Dask worker must have emobench {__version__}. {worker} has {version}. Install the same one there."
        )
    several = [worker for worker, n_threads in client.nthreads().items() if n_threads > 1]
    if several:
        warnings.warn(
            f"{len(several)} Dask workers have several threads, of which emobench uses one; start them with "
            "`dask worker --nworkers N --nthreads 1`",
            ClusterWarning,
            stacklevel=2,
        )
    unset = [worker for worker, row in found.items() if row["unset"]]
    if unset:
        names = ", ".join(found[unset[0]]["unset"])
        warnings.warn(
            f"{len(unset)} Dask workers are not held to one compute thread from their start ({names} is not 1); "
            "results may differ in the last digits",
            ClusterWarning,
            stacklevel=2,
        )


# --- on a worker ----------------------------------------------------------------------------------------------------

_one_at_a_time = threading.Lock()


def dask_setup(worker: Any) -> None:
    """Prepare a worker of `local:N`, which Dask calls: Ctrl-C and stdout are its parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    free_stdout()


def describe_worker() -> dict[str, Any]:
    """Return what the coordinator wants to know of a worker."""
    needed = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {"version": __version__, "unset": [name for name in needed if os.environ.get(name) != "1"]}


def _itself(argument: Any) -> Any:
    return argument


def _work(key: str, topic: str, timeout_s: float | None, function: Callable[..., Any], *task: Any) -> Any:
    """Do a task in a worker, one at a time and with one compute thread; say when it begins."""
    import faulthandler

    from distributed import get_worker
    from threadpoolctl import threadpool_limits

    with _one_at_a_time, open(os.devnull, "w") as nowhere:
        for name, value in ONE_THREAD.items():
            os.environ.setdefault(name, value)
        if timeout_s:
            get_worker().log_event(topic, key)
            # It needs no thread of the interpreter, so it also ends a task that hangs in C code.
            faulthandler.dump_traceback_later(timeout_s + GRACE_S, exit=True, file=nowhere)
        try:
            with threadpool_limits(1):
                return function(*task)
        finally:
            if timeout_s:
                faulthandler.cancel_dump_traceback_later()
