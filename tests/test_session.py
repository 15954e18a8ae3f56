"""Models from outside: what is refused, what answers, and that nothing else happens."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from crafted_models import (
    N_CLASSES,
    N_FEATURES,
    REFUSED_BY_THE_GATE,
    REFUSED_BY_THE_SESSION,
    external,
    growing,
    linear,
    loop,
)

from emobench.bundles.inspection import try_model
from emobench.bundles.session import BATCH_ROWS, Session
from emobench.errors import BundleError, DataError

X = np.random.default_rng(0).normal(size=(9, N_FEATURES)).astype(np.float32)


def test_session_answers_codes_and_probabilities():
    session = Session(linear().SerializeToString(), N_CLASSES)
    labels, probabilities = session.predict(X)
    assert (session.n_features, session.has_probabilities) == (N_FEATURES, True)
    assert (labels.dtype, labels.shape, probabilities.shape) == (np.int64, (9,), (9, N_CLASSES))
    np.testing.assert_array_equal(labels, probabilities.argmax(axis=1))
    np.testing.assert_array_equal(session.labels(X), labels)
    np.testing.assert_array_equal(session.probabilities(X), probabilities)


def test_session_answers_many_rows_as_it_answers_each():
    session = Session(linear().SerializeToString(), N_CLASSES)
    many = np.tile(X, (2 * BATCH_ROWS // len(X), 1))
    np.testing.assert_array_equal(session.labels(many)[: len(X)], session.labels(X))
    assert session.probabilities(many).shape == (len(many), N_CLASSES)
    assert session.labels(X[:0]).shape == (0,)


def test_session_takes_rows_of_its_width_only():
    session = Session(linear().SerializeToString(), N_CLASSES)
    with pytest.raises(DataError, match="the model takes .n, 4."):
        session.labels(X[:, :3])


@pytest.mark.parametrize("crafted, message", REFUSED_BY_THE_GATE.values(), ids=REFUSED_BY_THE_GATE)
def test_gate_refuses(crafted, message, monkeypatch):
    import onnxruntime

    def reached(*_, **__):
        raise AssertionError("ONNX Runtime was given the file")

    monkeypatch.setattr(onnxruntime, "InferenceSession", reached)
    with pytest.raises(BundleError, match=message):
        Session(crafted().SerializeToString(), N_CLASSES)


@pytest.mark.parametrize("crafted, message", REFUSED_BY_THE_SESSION.values(), ids=REFUSED_BY_THE_SESSION)
def test_session_refuses(crafted, message, capfd):
    with pytest.raises(BundleError, match=message):
        Session(crafted().SerializeToString(), N_CLASSES).predict(X)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "data", [b"", b"nonsense", b"\x80\x04pickle", b"\x08" * 1000], ids=["empty", "text", "pickle", "x"]
)
def test_session_refuses_what_is_no_onnx(data):
    with pytest.raises(BundleError, match="model.onnx"):
        Session(data, N_CLASSES)


def test_session_does_not_take_onnx_runtimes_own_format(tmp_path):
    """Its bytes are told by four letters, which a model that passes the gate could carry as well."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(linear().SerializeToString(), options)
    data = (tmp_path / "model.ort").read_bytes()
    assert data[4:8] == b"ORTM"
    onnxruntime.InferenceSession(data)  # it would
    with pytest.raises(BundleError):
        Session(data, N_CLASSES)


def test_external_data_is_not_read_from_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "secret.bin").write_bytes(np.ones((N_FEATURES, N_CLASSES), np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="another file"):
        Session(external().SerializeToString(), N_CLASSES)


def test_trial_of_a_good_model_tells_what_it_takes():
    trial = try_model(linear().SerializeToString(), N_CLASSES)
    assert (trial.n_features, trial.has_probabilities) == (N_FEATURES, True)
    assert trial.predict_ms > 0


def test_endless_loop_ends_with_its_process():
    with pytest.raises(BundleError, match="no answer within 3 s"):
        try_model(loop(2**62).SerializeToString(), N_CLASSES, timeout_s=3)


def test_loop_that_ends_answers():
    assert try_model(loop(10).SerializeToString(), N_CLASSES).n_features == N_FEATURES


def test_model_that_asks_for_more_memory_than_there_is_ends_in_an_error():
    with pytest.raises(BundleError, match="model.onnx"):
        try_model(growing().SerializeToString(), N_CLASSES)


def test_trial_passes_on_what_the_session_says():
    with pytest.raises(BundleError, match="in another file"):
        try_model(external().SerializeToString(), N_CLASSES)


def test_damaged_models_are_refused_or_answer(tmp_path):
    from test_export import MODELS, converter, fitted, rows

    from emobench.bundles.export import to_onnx

    n_features = rows(5)[0].shape[1]
    for name in ("svc-rbf", "mlp", "logreg", "xgboost", "voting"):
        data = to_onnx(fitted(MODELS[name], "five"), n_features, 5, converter(MODELS[name]))
        (tmp_path / f"{name}.onnx").write_bytes(data)
    n_damaged, script = 2000, Path(__file__).with_name("damaged_models.py")
    process = subprocess.run(
        [sys.executable, script, tmp_path, "0", str(n_damaged)], capture_output=True, text=True, cwd=tmp_path
    )
    assert (process.returncode, process.stderr) == (0, "")
    n_refused, n_answered = map(int, process.stdout.split())
    assert n_refused + n_answered == n_damaged
    assert min(n_refused, n_answered) > n_damaged / 20
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".onnx"] * 5


def test_prediction_imports_no_library_of_training():
    heavy = {"keras", "onnxmltools", "pandas", "scipy", "skl2onnx", "sklearn", "tensorflow", "tf2onnx", "xgboost"}
    code = (
        "import sys; sys.path[:0] = [sys.argv[1]]; from crafted_models import linear; from emobench.bundles.session "
        f"import Session; import numpy as np; Session(linear().SerializeToString(), 4).labels(np.zeros((1, 4))); "
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    assert subprocess.check_output(command, text=True).strip() == "[]"


def test_onnx_runtime_reports_to_nobody(tmp_path):
    """Without the switch, an import leaves an identifier of the device and a queue of events, which it sends."""
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    code = "from emobench.bundles.session import Session; Session(open(0, 'rb').read(), 4)"
    absent = {"ORT_DISABLE_TELEMETRY", "CI"}
    environment = {name: value for name, value in os.environ.items() if name not in absent}
    places = {"HOME": tmp_path / "home", "TMPDIR": tmp_path / "tmp", "XDG_CACHE_HOME": tmp_path / "home"}
    command = [sys.executable, "-c", code]
    subprocess.run(command, input=linear().SerializeToString(), env={**environment, **places}, check=True)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
