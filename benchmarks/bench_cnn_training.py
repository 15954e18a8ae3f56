"""Training and prediction of the CNN beside plain Keras, on one thread.

    pytest benchmarks/bench_cnn_training.py --benchmark-enable --benchmark-only

The two rows of a group do the same work, so their ratio is what the NumPy arithmetic gains. `EMOBENCH_BENCH_EPOCHS`
makes training shorter for both.
"""

import os

os.environ |= dict.fromkeys(  # before the libraries read them
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1"
)

import numpy as np
import pytest

from emobench.models.cnn import CNNClassifier, build_network

EPOCHS = int(os.environ.get("EMOBENCH_BENCH_EPOCHS", "50"))


@pytest.fixture(scope="module")
def clips():
    """As many clips as five sixths of RAVDESS' five emotions: 800 of 40 scaled features."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 5, 800)
    X = rng.normal(size=(800, 40)) + 0.5 * rng.normal(size=(5, 40))[codes]
    return X.astype(np.float32), codes


@pytest.fixture(scope="module")
def fitted(clips):
    model = CNNClassifier(epochs=1, random_state=0).fit(*clips)
    assert model.network_ is not None
    return model


@pytest.mark.benchmark(group=f"train, {EPOCHS} epochs")
def test_train_keras(benchmark, clips):
    X, codes = clips

    def fit():
        network = build_network(CNNClassifier(), 40, 5)
        network.fit(X[..., np.newaxis], codes, epochs=EPOCHS, batch_size=32, verbose=0)

    benchmark.pedantic(fit, rounds=3)


@pytest.mark.benchmark(group=f"train, {EPOCHS} epochs")
def test_train_cnn_classifier(benchmark, clips):
    benchmark.pedantic(lambda: CNNClassifier(epochs=EPOCHS, random_state=0).fit(*clips), rounds=3)


@pytest.mark.benchmark(group="predict one clip")
def test_predict_keras(benchmark, clips, fitted):
    benchmark.pedantic(
        lambda: fitted.network_.predict(clips[0][:1, :, np.newaxis], verbose=0), rounds=20, warmup_rounds=2
    )


@pytest.mark.benchmark(group="predict one clip")
def test_predict_cnn_classifier(benchmark, clips, fitted):
    benchmark(fitted.predict_proba, clips[0][:1])
