"""Run emobench many times over, in forks of one process that has imported everything, under strace where asked to.

`Forks` starts this file as that process. A fork runs one command line, the work of its workers too, with a stopwatch
that stands still, so that every byte of a run must repeat, timing columns included; it takes a fraction of a second.
strace is attached before the command begins, so its log and its counts hold nothing of the start-up.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from disk_log import TRACED, Call, read_log

DEADLINE_S = 120
PASSING = (".lock", "-journal")
NO_STRACE = "strace must be here and be allowed to trace (apt-get install strace)"


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit code (negative: the signal that killed it), stdout and stderr."""

    code: int
    out: str
    err: str


class Forks:
    """A process that runs commands in forks of itself; it ends with the one that started it.

    Parameters
    ----------
    env : mapping
        Environment of the process.
    warm_up : sequence of str
        Command whose imports are done beforehand.
    """

    def __init__(self, env: Mapping[str, str], warm_up: Sequence[str]):
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONDONTWRITEBYTECODE"), "1")
        self.process = subprocess.Popen(
            [sys.executable, __file__, *warm_up],
            env={**env, **one_thread, "PYTHONHASHSEED": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def run(self, *arguments: object, **how: Any) -> Done:
        """Run ``emobench ARGUMENTS``; what `carry_out` takes may be given."""
        request = {"arguments": [str(argument) for argument in arguments], **how}
        assert self.process.stdin
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return Done(**self._answer())

    def _answer(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that forks has ended, with {self.process.wait()}")
        return json.loads(line)


@dataclass(frozen=True)
class Bench:
    """A config that is run in one folder after another, each with results and a feature store of its own."""

    config: Path

    @classmethod
    def make(cls, folder: Path, *, n_repetitions: int = 1, **changes: Any) -> Bench:
        """Write a corpus of 12 clips a repetition and a config of two models, each fitted thrice, into a folder."""
        import conftest

        (folder / "corpus").mkdir()
        manifest = conftest.write_corpus(folder / "corpus", n_repetitions=n_repetitions) / "manifest.csv"
        content = {
            "corpora": [{"name": "manifest", "path": str(manifest)}],
            "models": ["svm", "dummy"],
            "protocols": [{"name": "group-kfold", "n_splits": 2}],
            **changes,
        }
        (folder / "bench.yaml").write_text(json.dumps(content))  # JSON is YAML
        return cls(folder / "bench.yaml")

    def run(self, folder: Path, *options: object, command: str = "run", **how: Any) -> Done:
        """Run the config in a folder."""
        env = {"EMOBENCH_STORE": str(folder / "store"), **how.pop("env", {})}
        output = () if command == "features" else ("--output", folder / "results")
        return forks().run(command, self.config, *output, "-j", 1, *options, env=env, **how)

    def record(self, folder: Path, *options: object, **how: Any) -> list[Call]:
        """Run the config in a folder under strace; return what it called."""
        log = folder.with_name(f"{folder.name}.log")
        strace = ["-y", "-xx", "-s", "100000000", "-o", str(log), "-e", f"trace={','.join(TRACED)}"]
        folder.mkdir(exist_ok=True)
        done = self.run(folder, *options, strace=strace, **how)
        if done.code:
            raise RuntimeError(f"the run must succeed. It ended with {done.code}: {done.err}")
        return read_log(log, folder)


@functools.cache
def forks() -> Forks:
    """Return a process that forks, one for all tests."""
    with tempfile.TemporaryDirectory(prefix="forks-") as name:
        folder = Path(name)
        bench = Bench.make(folder, tuning={"n_trials": 1, "inner_splits": 2})
        env = {**os.environ, "EMOBENCH_STORE": str(folder / "store")}
        return Forks(env, ["run", str(bench.config), "--output", str(folder / "results"), "-j", "1"])


@functools.cache
def can_trace() -> bool:
    """Return whether strace is here and may attach itself to another process."""
    if not shutil.which("strace"):
        return False
    with subprocess.Popen(["sleep", "60"]) as other:
        command = ["strace", "-o", os.devnull, "-p", str(other.pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            said = strace.stderr.readline() if strace.stderr else ""
            other.kill()
    return "attached" in said


def settled(folder: Path) -> dict[str, bytes]:
    """Return what must be the same after a run, whatever happened before: every file's content by its path.

    What a study holds, ``trials.csv`` tells; its pages change.
    Locks are left out, and SQLite's journal, which a power cut may bring back and the next reader rolls back.
    """
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.endswith(PASSING))
    return {str(path.relative_to(folder)): _essence(path) for path in files}


def _essence(path: Path) -> bytes:
    if path.suffix == ".db" or path.name.startswith("."):
        return b""
    return path.read_bytes()


def carry_out(
    arguments: Sequence[str],
    *,
    env: Mapping[str, str] = {},
    strace: Sequence[str] = (),
    uid: int = 0,
    max_file_bytes: int = 0,
    clock_shift_s: float = 0,
) -> dict[str, Any]:
    """Run a command line in a fork; return what `Done` has.

    Parameters
    ----------
    strace : sequence of str
        Options of strace, none: not traced.
    uid : int
        User that the fork becomes, 0: it stays who it is.
    max_file_bytes : int
        No file may grow over it, 0: no limit.
    clock_shift_s : float
        What the wall clock is wrong by.
    """
    with tempfile.TemporaryDirectory(prefix="forks-") as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        go, gone = os.pipe()
        pid = os.fork()
        if not pid:
            code = 70
            try:
                for descriptor, path in ((1, out), (2, err)):
                    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
                os.close(gone)
                os.read(go, 1)
                os.environ.update(env)
                _restrict(uid, max_file_bytes)
                _shift_clock(clock_shift_s)
                code = _run_command(arguments)
            finally:
                os._exit(code)
        os.close(go)
        tracer = _attach(strace, pid) if strace else None
        os.close(gone)
        code = _wait(pid)
        if tracer:
            tracer.wait(DEADLINE_S)
        return {"code": code, "out": out.read_text(), "err": err.read_text()}


def _attach(options: Sequence[str], pid: int) -> subprocess.Popen[str]:
    tracer = subprocess.Popen(["strace", "-f", "-p", str(pid), *options], stderr=subprocess.PIPE, text=True)
    assert tracer.stderr
    if "attached" not in (said := tracer.stderr.readline()):
        os.kill(pid, signal.SIGKILL)
        raise RuntimeError(f"strace must be allowed to trace. It says: {said}")
    return tracer


def _wait(pid: int) -> int:
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise RuntimeError(f"the command must end within {DEADLINE_S} s")


def _restrict(uid: int, max_file_bytes: int) -> None:
    import resource

    if max_file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def _shift_clock(seconds: float) -> None:
    wall = time.time
    time.time = lambda: wall() + seconds


def _patch() -> None:
    """Keep the work in this process, and let every duration be zero."""
    from emobench.execution.workers import Pool

    Pool.run = _run_here  # type: ignore[method-assign]
    time.perf_counter = lambda: 0.0
    time.perf_counter_ns = lambda: 0


def _run_here(self: object, function: Any, tasks: Sequence[tuple], *, timeout_s: float | None = None) -> Any:
    for position, task in enumerate(tasks):
        yield position, function(*task)


def _run_command(arguments: Sequence[str]) -> int:
    """Run a command line; return its exit code."""
    from emobench.cli.main import main

    code: Any = 70
    try:
        main(list(arguments))
    except SystemExit as leaving:
        code = leaving.code
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return code


def main() -> None:
    """Carry out the command that is given, so that everything is imported, then answer requests, one a line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _patch()
    if code := _run_command(sys.argv[1:]):
        sys.exit(f"the command that warms up must succeed. It ended with {code}.")
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(carry_out(**json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
