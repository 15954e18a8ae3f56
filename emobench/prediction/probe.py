"""The process that `latency` measures: it loads a bundle, answers one clip, then answers again and again.

    echo '{"bundle": …, "clip": …, "batches": [1, 8, 64], "block_s": 0.1, "core": 1, "plugins": []}' |
        python -P -m emobench.prediction.probe

The task comes on stdin; `plugins` are pairs of name and text. The last line on stdout is JSON: what took how many
nanoseconds, or an error. Nothing is imported before it is needed for an answer, because the time to the first one is
measured from outside.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emobench.errors import EmobenchError

if TYPE_CHECKING:
    from emobench.prediction.predictor import Predictor

MIN_CALLS = 1
MAX_CALLS = 400
WARM_UP_CALLS = 5
WARM_UP_S = 0.05


def main(task: str) -> None:
    asked = json.loads(task)
    try:
        answer = probe(**asked)
    except EmobenchError as error:
        answer = {"error": str(error)}
    except Exception as error:  # of any library; it is told, not swallowed
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer))


def probe(
    *,
    bundle: str,
    clip: str,
    batches: Sequence[int],
    block_s: float,
    core: int | None,
    plugins: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Return when the first answer was there (`time.perf_counter_ns`), and a block for each stage and batch size."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    from emobench.prediction.predictor import load
    from emobench.registry import PluginFile

    predictor = load(bundle, plugins=[PluginFile(*file) for file in plugins])
    emotion = predictor.labels(_no_vector(predictor))[0] if predictor.spec.is_read else predictor.predict(clip).emotion
    answered_ns = time.perf_counter_ns()
    first = {"answered_ns": answered_ns, "emotion": emotion, "peak_memory_bytes": peak_memory_bytes()}
    from threadpoolctl import threadpool_limits

    blocks = []
    with threadpool_limits(1):
        for stage, batch, call in calls(predictor, clip, batches):
            durations_ns = time_calls(call, block_s)
            blocks.append({"stage": stage, "batch": batch, "durations_ns": durations_ns})
            blocks[-1]["peak_memory_bytes"] = peak_memory_bytes()
    return {**first, "blocks": blocks}


def calls(predictor: Predictor, clip: str, batches: Sequence[int]) -> Iterator[tuple[str, int, Callable[[], object]]]:
    """Yield what is timed: stage, batch size, and a function without arguments.

    A model of vectors that another program makes is timed from these vectors only.
    """
    import numpy as np

    from emobench.audio.decoding import read_audio

    if predictor.spec.is_read:
        row = _no_vector(predictor)
    else:
        audio = read_audio(clip)
        row = np.atleast_2d(predictor.features(audio.signal, audio.sr))[:1]  # of frames, the first window
    for batch in sorted(batches):
        X = np.tile(row, (batch, 1))
        yield "features_to_label", batch, functools.partial(predictor.labels, X)
    if batches and not predictor.spec.is_read:
        yield "wav_to_label", 1, functools.partial(predictor.predict, clip)


def _no_vector(predictor: Predictor) -> Any:
    """Return a row of features that stand for nothing."""
    import numpy as np

    return np.zeros((1, predictor.spec.n_features), dtype=np.float32)


def time_calls(call: Callable[[], object], block_s: float, *, clock_ns: Callable[[], int] | None = None) -> list[int]:
    """Return the nanoseconds of each call, after some that warm up, until the time of the block is used up.

    At least `MIN_CALLS`, at most `MAX_CALLS`. The garbage collector waits meanwhile.
    """
    clock_ns = clock_ns or time.perf_counter_ns
    end_ns = clock_ns() + round(WARM_UP_S * 1e9)
    for _ in range(WARM_UP_CALLS):
        call()
        if clock_ns() >= end_ns:
            break
    gc.collect()
    gc.disable()
    durations_ns: list[int] = []
    try:
        end_ns = clock_ns() + round(block_s * 1e9)
        while len(durations_ns) < MIN_CALLS or (clock_ns() < end_ns and len(durations_ns) < MAX_CALLS):
            started_ns = clock_ns()
            call()
            durations_ns.append(clock_ns() - started_ns)
    finally:
        gc.enable()
    return durations_ns


def peak_memory_bytes() -> int | None:
    """Return the most memory that this process has had resident; None where the system does not say."""
    try:
        # ru_maxrss begins with the peak of the process that started this one; VmHWM does not.
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main(sys.stdin.read())
