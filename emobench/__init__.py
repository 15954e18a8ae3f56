"""emobench: an honest, fast comparison of models for speech emotion recognition.

>>> import emobench
>>> emobench.run("configs/all.yaml").leaderboard      # doctest: +SKIP
>>> emobench.load("svm").predict("clip.wav").emotion  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "compare": "emobench.comparison.verdicts",
    "load": "emobench.prediction.predictor",
    "load_results": "emobench.results.run",
    "predict": "emobench.prediction.predictor",
    "run": "emobench.running.runner",
}

__all__ = ["compare", "load", "load_results", "predict", "run"]


def __getattr__(name: str) -> Any:
    """Import a public function when it is first used, so that `import emobench` costs nothing."""
    if name in _PUBLIC:
        import importlib

        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'emobench' has no attribute {name!r}")
