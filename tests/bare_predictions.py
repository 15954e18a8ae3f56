"""Answer rows of features by exported models in a process that has NumPy and ONNX Runtime, and nothing else of ours.

    python tests/bare_predictions.py FOLDER

For each ``NAME.onnx`` the rows of ``NAME.npy`` are answered into ``NAME.npz``. Every other library is out of reach, as
on a machine that has only these two.
"""

import os
import sys
from pathlib import Path

ABSENT = ("emobench", "keras", "onnx", "onnxmltools", "pandas", "scipy", "skl2onnx", "sklearn", "tensorflow", "xgboost")


class Blocker:
    """Refuses to find a module, as if it were not installed."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def main(folder):
    sys.meta_path.insert(0, Blocker())
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import numpy as np
    import onnxruntime

    for path in sorted(Path(folder).glob("*.onnx")):
        session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        answers = session.run(names, {"features": np.load(path.with_suffix(".npy"))})
        np.savez(path.with_suffix(".npz"), **dict(zip(names, answers, strict=True)))
    assert not set(ABSENT) & set(sys.modules)


if __name__ == "__main__":
    main(sys.argv[1])
