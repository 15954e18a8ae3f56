"""A model in ONNX Runtime that answers rows of features: one thread, the processor, nothing on the terminal.

It needs NumPy, ONNX Runtime and the parser of ONNX: neither TensorFlow nor scikit-learn nor XGBoost.
"""

from __future__ import annotations

import numpy as np

from emobench.bundles.gate import DISTRUST, check_onnx
from emobench.errors import BundleError, DataError

INPUT, LABEL, PROBABILITIES = "features", "label", "probabilities"
BATCH_ROWS = 256
"""Rows that are answered at once; the values inside a network need memory for each."""

FATAL = 4  # what ONNX Runtime logs nevertheless; its errors are raised


class Session:
    """A model that was exported by `emobench.bundles.export`, or claims so.

    Parameters
    ----------
    data : bytes
        Of ``model.onnx``. A path is never handed to ONNX Runtime, which would read further files from its folder.
    n_classes : int

    Attributes
    ----------
    n_features : int
    has_probabilities : bool

    Raises
    ------
    BundleError
        If the bytes are not such a model, or could do harm; see `emobench.bundles.gate`.
    """

    def __init__(self, data: bytes, n_classes: int):
        import onnxruntime

        check_onnx(data)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = FATAL
        # Else bytes that look like ONNX Runtime's own format as well would be read as that, past the gate.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        try:
            self._session = onnxruntime.InferenceSession(
                data,
                options,
                providers=["CPUExecutionProvider"],
                enable_fallback=0,  # a second attempt, which it prints
            )
        except Exception as error:  # ONNX Runtime's exceptions have no base of their own
            raise BundleError(f"model.onnx cannot be loaded by ONNX Runtime ({_reason(error)}). {DISTRUST}") from error
        self.n_classes = n_classes
        self.n_features, self.has_probabilities = self._signature()

    def predict(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return codes and probabilities of rows.

        Parameters
        ----------
        X : float array of shape (n, n_features)

        Returns
        -------
        labels : int64 array of shape (n,)
        probabilities : float32 array of shape (n, n_classes), or None

        Raises
        ------
        BundleError
            If the model fails on them, or gives what is no answer.
        DataError
            If X has another shape.
        """
        X = np.ascontiguousarray(X, dtype=np.float32)
        if X.ndim != 2 or X.shape[1] != self.n_features:
            raise DataError(f"X has shape {X.shape}; the model takes (n, {self.n_features}). Give rows of features.")
        if len(X) <= BATCH_ROWS:
            return self._answers(X)
        parts = [self._answers(X[start : start + BATCH_ROWS]) for start in range(0, len(X), BATCH_ROWS)]
        labels, probabilities = zip(*parts, strict=True)
        return np.concatenate(labels), np.concatenate(probabilities) if self.has_probabilities else None

    def labels(self, X: np.ndarray) -> np.ndarray:
        """Return the code of the most probable class of each row; see `predict`."""
        return self.predict(X)[0]

    def probabilities(self, X: np.ndarray) -> np.ndarray | None:
        """Return the probability of each class, or None; see `predict`."""
        return self.predict(X)[1]

    def _answers(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        try:
            answers = self._session.run(None, {INPUT: X})
        except Exception as error:  # as above
            raise BundleError(f"model.onnx fails on {len(X)} rows ({_reason(error)}). {DISTRUST}") from error
        labels, probabilities = answers[0], answers[1] if self.has_probabilities else None
        is_answer = labels.shape == (len(X),) and (not len(X) or 0 <= labels.min() <= labels.max() < self.n_classes)
        if probabilities is not None:
            is_answer &= probabilities.shape == (len(X), self.n_classes) and bool(np.isfinite(probabilities).all())
        if not is_answer:
            raise BundleError(f"model.onnx does not give one of {self.n_classes} classes for each row. {DISTRUST}")
        return labels, probabilities

    def _signature(self) -> tuple[int, bool]:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        n_features = inputs[0].shape[-1] if inputs and inputs[0].shape else None
        expected = [(INPUT, "tensor(float)", 2), (LABEL, "tensor(int64)", 1), (PROBABILITIES, "tensor(float)", 2)]
        found = [(value.name, value.type, len(value.shape)) for value in (*inputs, *outputs)]
        if len(inputs) != 1 or found not in (expected, expected[:2]) or not isinstance(n_features, int):
            names = ", ".join(f"{value.name} ({value.type}, {value.shape})" for value in (*inputs, *outputs)[:8])
            raise BundleError(
                f"model.onnx takes and gives {names}; expected are {INPUT} (float, n × features), {LABEL} (int64, n) "
                f"and perhaps {PROBABILITIES} (float, n × classes). Export the model with emobench."
            )
        return n_features, len(outputs) == 2


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
