"""What docs/deploy.md promises: a model answers as it was fitted where there are only NumPy and ONNX Runtime."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from fitted import bundle_of

from emobench.bundles.storage import write_bundle
from emobench.models import MODELS, ModelSpec, build, get_model

BARE = Path(__file__).with_name("bare_predictions.py")
CLASSES = ("angry", "calm", "happy", "sad")
QUICK = {"cnn": {"epochs": 3, "filters": 8}, "mlp": {"hidden_layer_sizes": [8]}, "xgboost": {"n_estimators": 10}}
PLUGINS = {
    "logreg": "sklearn.linear_model:LogisticRegression",
    "extra-trees": "sklearn.ensemble:ExtraTreesClassifier",
    "lda": "sklearn.discriminant_analysis:LinearDiscriminantAnalysis",
}
SLOW = {"cnn"}  # TensorFlow's import


@pytest.fixture(scope="module")
def clips():
    """Features and codes of 80 clips, and features of 40 others."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 4
    X = (rng.normal(scale=2, size=(4, 40))[y] + rng.normal(size=(120, 40))).astype(np.float32)
    return X[:80], y[:80], X[80:]


def fit(name, clips):
    """Return a fitted model of the registry and its bundle."""
    X, y, _ = clips
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a perceptron so small need not converge
        estimator = build(get_model(name), QUICK.get(name), random_state=0).fit(X, y)
    return estimator, bundle_of(estimator, X, model=name, classes=CLASSES)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in [*MODELS, *PLUGINS]]
)
def test_model_answers_alike_with_numpy_and_onnxruntime_alone(monkeypatch, tmp_path, clips, name):
    if name in PLUGINS:
        monkeypatch.setitem(MODELS, name, ModelSpec(name=name, title=name, estimator=PLUGINS[name]))
    estimator, bundle = fit(name, clips)
    (tmp_path / "model.onnx").write_bytes(bundle.files["model.onnx"])
    np.save(tmp_path / "model.npy", clips[2])
    subprocess.run([sys.executable, "-P", BARE, tmp_path], check=True)
    with np.load(tmp_path / "model.npz") as found:
        np.testing.assert_array_equal(found["label"], estimator.predict(clips[2]))
        assert ("probabilities" in found) == hasattr(estimator, "predict_proba")
        if "probabilities" in found:
            np.testing.assert_allclose(found["probabilities"], estimator.predict_proba(clips[2]), atol=1e-5)


def test_code_of_the_documentation_answers_as_the_model(tmp_path, clips, pytestconfig):
    page = (pytestconfig.rootpath / "docs" / "deploy.md").read_text(encoding="utf-8")
    code, _ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    estimator, bundle = fit("mlp", clips)
    write_bundle(tmp_path / "svm-tuned", bundle)
    np.save(tmp_path / "features.npy", clips[2])
    bare = f"import sys; sys.path.insert(0, {os.fspath(BARE.parent)!r}); import bare_predictions as bare\n"
    bare += "sys.meta_path.insert(0, bare.Blocker())\n"
    done = subprocess.run([sys.executable, "-c", bare + code], cwd=tmp_path, capture_output=True, text=True)
    expected = [CLASSES[label] for label in estimator.predict(clips[2])]
    assert done.stdout == f"{expected}\n", done.stderr
    (tmp_path / "svm-tuned" / "model.onnx").write_bytes(b"")
    done = subprocess.run([sys.executable, "-c", bare + code], cwd=tmp_path, capture_output=True, text=True)
    assert "model.onnx is damaged" in done.stderr


def test_code_of_the_documentation_averages_the_windows_of_a_recording(monkeypatch, tmp_path, pytestconfig):
    page = (pytestconfig.rootpath / "docs" / "deploy.md").read_text(encoding="utf-8")
    code = "".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    row = ModelSpec("flat", "Frames as they stand", PLUGINS["logreg"], defaults={"C": 1e-4}, takes=("frames",))
    monkeypatch.setitem(MODELS, "flat", row)
    rng = np.random.default_rng(0)
    y = np.arange(40) % 4
    frames = (rng.normal(size=(4, 1, 64))[y] + 3 * rng.normal(size=(40, 300, 64))).astype(np.float32)
    X = frames.reshape(40, -1)
    estimator = build(row, shape=(300, 64), random_state=0).fit(X, y)
    write_bundle(tmp_path / "svm-tuned", bundle_of(estimator, X, model="flat", classes=CLASSES))
    windows = frames[[1, 2, 6]]
    np.save(tmp_path / "windows.npy", windows)
    np.save(tmp_path / "features.npy", windows.reshape(3, -1))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["['calm', 'happy', 'happy']", "happy"], done.stderr
