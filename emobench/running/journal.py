"""Finished jobs on the disk: one file a job, written when it arrives, so that nothing is computed twice."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from emobench.files import write_bytes
from emobench.running.evaluation import FoldResult, Job


def read_finished(folder: Path, jobs: Sequence[Job]) -> dict[str, FoldResult]:
    """Return the results that an earlier run left; a damaged one counts as not finished."""
    finished = {}
    for key, job in {job.key: job for job in jobs}.items():
        with contextlib.suppress(FileNotFoundError, ValueError):
            result = FoldResult.from_json(_job_path(folder, key).read_bytes())
            if result.key == key and job.is_answered_by(result):
                finished[key] = result
    return finished


def write_finished(folder: Path, result: FoldResult) -> None:
    """Keep a finished job; one with an error is refused, so that it is tried again."""
    if result.error:
        raise ValueError(f"a failed job must not be kept as a result: {result.error}")
    write_bytes(_job_path(folder, result.key), result.to_json().encode())


def take_over(before: Path, folder: Path, jobs: Sequence[Job], finished: dict[str, FoldResult]) -> None:
    """Copy what another run has finished: jobs are the same wherever their keys are."""
    for key, result in read_finished(before, [job for job in jobs if job.key not in finished]).items():
        write_finished(folder, result)
        finished[key] = result


def _job_path(folder: Path, key: str) -> Path:
    return folder / "jobs" / f"{key}.json"
