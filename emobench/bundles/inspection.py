"""A stranger's model is tried in a process of its own, with limits of memory and time.

The sums of a bundle prove integrity, not origin, and no look at a graph tells how long it runs: GRU and masking need
loops, so loops cannot be banned, and an endless one hangs ONNX Runtime. Here it hangs a child, which is killed.

    python -P -m emobench.bundles.inspection N_CLASSES TIMEOUT_S MEMORY_BYTES < model.onnx
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass

from emobench.errors import BundleError, EmobenchError

TIMEOUT_S = 20.0
MEMORY_BYTES = 2 * 2**30
N_ROWS = 64


@dataclass(frozen=True)
class Trial:
    """How a model behaved on rows of noise, of zeros and of large numbers.

    Attributes
    ----------
    n_features : int
    has_probabilities : bool
    load_ms, predict_ms : float
        Of loading, and of one row.
    """

    n_features: int
    has_probabilities: bool
    load_ms: float
    predict_ms: float


def try_model(data: bytes, n_classes: int, *, timeout_s: float = TIMEOUT_S, memory_bytes: int = MEMORY_BYTES) -> Trial:
    """Load a model in a child process and let it answer.

    Parameters
    ----------
    data : bytes
        Of ``model.onnx``.
    timeout_s : float
        After which the child is killed.
    memory_bytes : int
        That the child may have; not enforced on Windows.

    Raises
    ------
    BundleError
        If it is refused, does not answer in time, or needs more memory.
    """
    command = [sys.executable, "-P", "-m", __name__, str(n_classes), str(timeout_s), str(memory_bytes)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # each thread reserves memory
    try:
        child = subprocess.run(command, input=data, capture_output=True, timeout=timeout_s, env=environment)
    except subprocess.TimeoutExpired:
        raise BundleError(
            f"model.onnx gave no answer within {timeout_s:g} s, and was killed. An endless loop does that; do not use "
            "this file. If it is only slow, allow more time."
        ) from None
    try:
        answer = json.loads(child.stdout)
    except ValueError:
        how = f"signal {-child.returncode}" if child.returncode < 0 else f"exit status {child.returncode}"
        raise BundleError(
            f"model.onnx ended the process that tried it ({how}); it may have {memory_bytes / 2**30:g} GiB and "
            f"{timeout_s:g} s. Do not use this file."
        ) from None
    if "error" in answer:
        raise BundleError(answer["error"])
    return Trial(**answer)


def _limit(timeout_s: float, memory_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    seconds = math.ceil(timeout_s) + 1  # a child whose parent died is not there for ever
    for kind, limit in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))


def _try(data: bytes, n_classes: int) -> Trial:
    import numpy as np

    from emobench.bundles.session import Session

    start = time.perf_counter()
    session = Session(data, n_classes)
    loaded = time.perf_counter()
    shape = (N_ROWS, session.n_features)
    rows = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    session.predict(rows[:1])
    begun = time.perf_counter()
    session.predict(rows[:1])
    predict_ms = (time.perf_counter() - begun) * 1e3
    for X in (rows, np.zeros(shape), 1e6 * rows):
        session.predict(X)
    return Trial(session.n_features, session.has_probabilities, (loaded - start) * 1e3, predict_ms)


def _main(n_classes: str, timeout_s: str, memory_bytes: str) -> None:
    data = sys.stdin.buffer.read()
    _limit(float(timeout_s), int(memory_bytes))
    try:
        answer = vars(_try(data, int(n_classes)))
    except EmobenchError as error:
        answer = {"error": str(error)}
    except MemoryError:
        answer = {"error": f"model.onnx needs more than {int(memory_bytes) / 2**30:g} GiB. Do not use this file."}
    print(json.dumps(answer))


if __name__ == "__main__":
    _main(*sys.argv[1:])
