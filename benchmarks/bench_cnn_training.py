"""Training of networks by `KerasClassifier` beside `keras.Model.fit`, processor time of one thread.

    pytest benchmarks/bench_cnn_training.py --benchmark-enable --benchmark-only -s

Both train the same network for the same epochs, tracing included, in turn. What counts is the ratio of the shortest
times: what else the machine does can only lengthen them. The networks for frames spend their time in the arithmetic,
which is the same; their bar says "not slower" and leaves 5 % to noise.
"""

import time

import numpy as np
import pytest

from emobench.models.keras_classifier import KerasClassifier
from emobench.models.networks import NETWORKS, build_network, import_tensorflow

ROUNDS = 3
BAR = {"reference": 1.6, "cnn-frames": 0.95, "crnn": 0.95}


def make_clips(shape, n_clips=800):
    """As many clips as five sixths of RAVDESS' five emotions, scaled features that tell a little about the class."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 5, n_clips)
    X = rng.normal(size=(n_clips, *shape)) + 0.5 * rng.normal(size=(5, *shape))[codes]
    return X.astype(np.float32), codes


def fit_keras(name, X, codes, epochs):
    network = build_network(NETWORKS[name], X.shape[1:], 5, {})
    network.compile(optimizer="rmsprop", loss="sparse_categorical_crossentropy")
    network.fit(X, codes, epochs=epochs, batch_size=32, verbose=0)


def fit_classifier(name, X, codes, epochs):
    KerasClassifier(name, shape=X.shape[1:], epochs=epochs).fit(X.reshape(len(X), -1), codes)


def processor_s(function, *args):
    started = time.process_time()
    function(*args)
    return time.process_time() - started


@pytest.mark.parametrize(
    ("name", "shape", "epochs"),
    [("reference", (40, 1), 50), ("cnn-frames", (300, 64), 10), ("crnn", (300, 64), 10)],
    ids=["reference", "cnn-frames", "crnn"],
)
def test_training(benchmark, name, shape, epochs):
    import_tensorflow()
    X, codes = make_clips(shape)
    taken = {fit_keras: [], fit_classifier: []}

    def round_of_both():
        for fit, seconds in taken.items():
            seconds.append(processor_s(fit, name, X, codes, epochs))

    benchmark.pedantic(round_of_both, rounds=ROUNDS)
    keras_s, classifier_s = (min(seconds) for seconds in taken.values())
    ratio = keras_s / classifier_s
    print(f"\n{name}, {epochs} epochs: Model.fit {keras_s:.2f} s, KerasClassifier {classifier_s:.2f} s, {ratio:.2f} ×")
    benchmark.extra_info |= {"ratio": ratio, "bar": BAR[name]}
    assert ratio >= BAR[name]
