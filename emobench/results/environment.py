"""The machine and the software of a run."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from pathlib import Path
from typing import Any

LIBRARIES = (
    "emobench",
    "joblib",
    "librosa",
    "numpy",
    "onnx",
    "onnxmltools",
    "onnxruntime",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "scipy",
    "skl2onnx",
    "soundfile",
    "soxr",
    "tensorflow",
    "tensorflow-cpu",
    "tf2onnx",
    "keras",
    "xgboost",
    "xgboost-cpu",
)


def environment() -> dict[str, Any]:
    """Return the machine and software of this run: versions, processor, git commit; nothing that changes by itself."""
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": cpu(),
        "n_cores": os.cpu_count(),
        "versions": versions(),
        "git_commit": _git_commit(),
    }


def versions() -> dict[str, str]:
    """Return the versions of the installed libraries that results depend on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def cpu() -> str:
    """Return the name of the processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git_commit() -> str:
    """Return the commit of emobench's own sources, with ``+`` where they were changed; empty when installed."""
    import subprocess

    source = Path(__file__).resolve().parents[1]
    if not (source.parent / ".git").exists() or not shutil.which("git"):
        return ""

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(source), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()

    try:
        commit = git("rev-parse", "--verify", "--quiet", "HEAD")
        return commit and commit + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return ""
