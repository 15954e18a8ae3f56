"""Keras networks as ONNX. TensorFlow starts in a process of its own, so that what it writes can be looked at."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = '''
import hashlib, json, os, sys
import numpy as np
import keras
from keras import layers as L
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from emobench.bundles.converters import from_keras
from emobench.bundles.export import export

NETWORKS = {
    "reference": lambda: ((40, 1), [L.Conv1D(32, 5, padding="same", activation="relu"), L.Dropout(0.1),
                                    L.MaxPooling1D(8), L.Flatten()]),
    "dense": lambda: ((40,), [L.Dense(16, activation="relu")]),
    "normalised": lambda: ((60, 8), [L.Conv1D(16, 5), L.BatchNormalization(), L.ReLU(), L.GlobalAveragePooling1D()]),
    "lstm": lambda: ((60, 8), [L.Conv1D(16, 5, strides=2), L.LSTM(8)]),
    "bidirectional": lambda: ((60, 8), [L.Bidirectional(L.LSTM(8))]),
    "gru": lambda: ((60, 8), [L.Masking(), L.GRU(8)]),
}

class Network(ClassifierMixin, BaseEstimator):
    """As much of a classifier as an export needs; nothing is trained."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        shape, layers = NETWORKS[self.name]()
        last = L.Dense(len(self.classes_), activation="softmax")
        self.network_ = keras.Sequential([L.Input(shape), *layers, last])
        return self

    def predict_proba(self, X):
        return self.network_.predict(X.reshape(-1, *self.network_.input_shape[1:]), verbose=0)

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

sys.stdout.flush()
print("IMPORTED", file=sys.stderr, flush=True)
for name in NETWORKS:
    keras.utils.set_random_seed(0)
    network = Network()
    network.name = name
    shape, _ = NETWORKS[name]()
    X = np.random.default_rng(0).normal(2, 3, (60, int(np.prod(shape)))).astype(np.float32)
    model = make_pipeline(StandardScaler(), network).fit(X, np.arange(60) % 3 + 1)
    data, parity = export(model, X, n_classes=5, converter=from_keras)
    with open(os.path.join(sys.argv[1], f"{name}.onnx"), "wb") as file:
        file.write(data)
    np.save(os.path.join(sys.argv[1], f"{name}.npy"), X)
    np.savez(os.path.join(sys.argv[1], f"{name}.expected.npz"), label=model.predict(X), P=model.predict_proba(X))
    print(json.dumps([name, hashlib.sha256(data).hexdigest(), parity.max_difference]), flush=True)
'''


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Two processes with other hash seeds: the folder of one, and standard output and error of both."""
    folder = tmp_path_factory.mktemp("networks")
    results = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", SCRIPT, folder]
        results.append(subprocess.run(command, capture_output=True, text=True, env=environment))
        assert results[-1].returncode == 0, results[-1].stderr
    return folder, results


@pytest.mark.slow
def test_networks_answer_alike_with_numpy_and_onnxruntime_alone(exports):
    folder, _ = exports
    script = Path(__file__).with_name("bare_predictions.py")
    process = subprocess.run([sys.executable, "-P", script, folder], capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, "")
    for path in folder.glob("*.onnx"):
        found, expected = np.load(path.with_suffix(".npz")), np.load(path.with_suffix(".expected.npz"))
        np.testing.assert_array_equal(found["label"], expected["label"], err_msg=path.name)
        np.testing.assert_allclose(found["probabilities"][:, 1:4], expected["P"], atol=1e-5, err_msg=path.name)
        assert not found["probabilities"][:, [0, 4]].any()


@pytest.mark.slow
def test_networks_are_exported_to_equal_bytes_whatever_the_hash_seed(exports):
    first, second = ([json.loads(line) for line in result.stdout.splitlines()] for result in exports[1])
    assert first == second
    assert len(first) == 6


@pytest.mark.slow
def test_exporting_networks_writes_nothing_to_the_terminal(exports):
    for result in exports[1]:
        after_import = result.stderr.split("IMPORTED\n")[1]
        assert after_import == ""
