"""A bundle gives the same answers after loading, or `BundleError`; never another answer, and nothing is executed."""

import contextlib
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import threading
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from emobench.bundles import bundle as module
from emobench.bundles.bundle import (
    Bundle,
    VersionWarning,
    export_bundle,
    load_bundle,
    save_bundle,
    verify_bundle,
)
from emobench.corpora.labels import fit_encoder
from emobench.errors import BundleError, StorageError
from emobench.models import MODELS, ModelSpec, build, get_model

ROOT = Path(__file__).parents[1]
CLASSES = ("angry", "bored", "calm", "happy", "sad")
SEEN = np.array([0, 2, 3, 4])  # nobody was bored
QUICK = {
    "cnn": {"epochs": 3, "filters": 8, "pool_size": 4},
    "mlp": {"hidden_layer_sizes": (8, 4)},
    "xgboost": {"n_estimators": 5, "max_depth": 2},
}
NAMES = sorted(MODELS)
N_FEATURES = 40

rng = np.random.default_rng(0)
CODES = SEEN[np.arange(80) % 4]
X = (rng.normal(scale=2, size=(5, N_FEATURES))[CODES] + rng.normal(size=(80, N_FEATURES))).astype(np.float32)


def make_bundle(name, *, params=None, entry=None, seed=0):
    params = QUICK.get(name, {}) if params is None else params
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a perceptron so small need not converge
        estimator = build(get_model(name), params, random_state=seed).fit(X, CODES)
    return Bundle(
        estimator=estimator,
        classes=CLASSES,
        entry=entry or name,
        model=name,
        params=params,
        features={"name": "mfcc40", "version": 1, "sr": 22_050, "params": {"n_mfcc": 40}},
        sr=22_050,
        trained_on={"corpus": "synthetic", "fingerprint": "c0ffee", "n_utterances": 80, "n_speakers": 4},
        scores={"protocol": "group-kfold", "uar": np.float64(0.5), "log_loss": float("nan")},
        versions={"emobench": "0.0"},
    )


@pytest.fixture(scope="module")
def bundles():
    """Fitted bundles by model. Do not change them."""
    return {name: make_bundle(name) for name in NAMES}


@pytest.fixture(scope="module")
def saved(bundles, tmp_path_factory):
    """Saved bundles by model. Do not change them: see `copy_of`."""
    root = tmp_path_factory.mktemp("bundles")
    for name, bundle in bundles.items():
        save_bundle(root / name, bundle)
    return root


@pytest.fixture
def copy_of(saved, tmp_path):
    """A function that copies the saved bundle of a model, to be spoilt."""

    def copy(name):
        target = tmp_path / "copies" / name
        shutil.rmtree(target, ignore_errors=True)
        return Path(shutil.copytree(saved / name, target))

    return copy


@pytest.fixture
def sentinel(tmp_path):
    """A file that malicious content creates when it is executed."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


def answers(bundle):
    estimator = bundle.estimator
    proba = estimator.predict_proba(X) if hasattr(estimator, "predict_proba") else np.empty(0)
    return fit_encoder(bundle.classes).inverse_transform(estimator.predict(X)), proba


def assert_same_answers(one, other):
    for left, right in zip(answers(one), answers(other), strict=True):
        np.testing.assert_array_equal(left, right)


def reseal(folder, **changes):
    """Write a bundle.json whose sums are right for what the folder holds now, as an attacker would."""
    content = json.loads((folder / "bundle.json").read_bytes()) | changes
    if "files" not in changes:
        for name in content["files"]:
            data = (folder / name).read_bytes()
            content["files"][name] = {"sha256": module._sha256(data), "n_bytes": len(data)}
    (folder / "bundle.json").write_bytes(module._render(content))


def model_file(folder):
    return next(path for path in folder.iterdir() if path.name in module.MODEL_FILES.values())


class Malicious:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Forgetful(LogisticRegression):
    """Does not keep the number of features."""

    def fit(self, X, y):
        super().fit(X, y)
        del self.n_features_in_
        return self


def npz_bytes(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def npy_bytes(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npy_header(shape, descr="<f4", payload=b""):
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + payload


# -- round trip


@pytest.mark.parametrize("name", NAMES)
def test_bundle_answers_the_same_after_loading(bundles, saved, name):
    loaded = load_bundle(saved / name)
    assert_same_answers(loaded, bundles[name])
    assert loaded.estimator.classes_.tolist() == SEEN.tolist()
    assert "bored" not in answers(loaded)[0]


@pytest.mark.parametrize("name", NAMES)
def test_bundle_keeps_what_it_says(bundles, saved, name):
    bundle, loaded = bundles[name], load_bundle(saved / name)
    for field in ("classes", "entry", "model", "model_version", "features", "sr", "trained_on"):
        assert getattr(loaded, field) == getattr(bundle, field)
    assert loaded.params == json.loads(json.dumps(bundle.params))
    assert loaded.scores == {"protocol": "group-kfold", "uar": 0.5, "log_loss": None}
    assert loaded.versions["emobench"] == "0.0"
    assert loaded.versions["scikit-learn"]


@pytest.mark.parametrize("name", NAMES)
def test_loaded_bundle_can_be_saved_again(saved, tmp_path, name):
    loaded = load_bundle(saved / name)
    save_bundle(tmp_path / "again", loaded)
    assert_same_answers(load_bundle(tmp_path / "again"), loaded)


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_bundle_holds_a_perceptron_of_every_solver(tmp_path, solver):
    bundle = make_bundle("mlp", params={"solver": solver, "hidden_layer_sizes": [4], "max_iter": 20})
    save_bundle(tmp_path / "mlp", bundle)
    assert_same_answers(load_bundle(tmp_path / "mlp"), bundle)


@pytest.mark.parametrize("n_classes", [2, 5])
@pytest.mark.parametrize("name", NAMES)
def test_bundle_holds_any_number_of_classes(tmp_path, name, n_classes):
    codes = np.arange(80) % n_classes
    bundle = make_bundle(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bundle.estimator.fit(X, codes)
    save_bundle(tmp_path / name, bundle)
    assert_same_answers(load_bundle(tmp_path / name), bundle)


@pytest.mark.parametrize(
    "estimator",
    [RandomForestClassifier(n_estimators=3, random_state=0), LogisticRegression()],
    ids=lambda estimator: type(estimator).__name__,
)
def test_bundle_holds_a_plug_in_of_scikit_learn(monkeypatch, tmp_path, estimator):
    target = f"{type(estimator).__module__}:{type(estimator).__name__}"
    monkeypatch.setitem(MODELS, "plugin", ModelSpec(name="plugin", title="", estimator=target, is_scaled=False))
    fitted = Pipeline([("model", estimator)]).fit(X, CODES)
    bundle = replace(make_bundle("dummy"), model="plugin", estimator=fitted)
    save_bundle(tmp_path / "plugin", bundle)
    assert_same_answers(load_bundle(tmp_path / "plugin"), bundle)
    monkeypatch.delitem(MODELS, "plugin")
    with pytest.raises(BundleError, match="Unknown model 'plugin'.* Install the plug-in"):
        load_bundle(tmp_path / "plugin")


def test_label_encoder_decodes_codes():
    assert fit_encoder(CLASSES).inverse_transform([4, 2]).tolist() == ["sad", "calm"]


# -- damage


def damage_flip(path, rng):
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    path.write_bytes(data)


def damage_zeros(path, rng):
    data = bytearray(path.read_bytes())
    start = rng.integers(len(data) - 64)
    data[start : start + 64] = rng.bytes(64)
    path.write_bytes(data)


def damage_cut(path, rng):
    os.truncate(path, rng.integers(path.stat().st_size))


def damage_append(path, rng):
    path.write_bytes(path.read_bytes() + rng.bytes(1))


def damage_delete(path, rng):
    path.unlink()


def damage_empty(path, rng):
    path.write_bytes(b"")


def damage_add(path, rng):
    (path.parent / f".{path.name}").write_bytes(b"")


def damage_rename(path, rng):
    path.rename(path.with_suffix(".bak"))


def damage_folder(path, rng):
    path.unlink()
    path.mkdir()


def damage_symlink(path, rng):
    real = path.rename(path.parent.parent / f"real-{path.name}")
    path.symlink_to(real)


def damage_fifo(path, rng):
    path.unlink()
    os.mkfifo(path)


def damage_huge(path, rng):
    os.truncate(path, 2**40)


DAMAGES = [damage for name, damage in list(globals().items()) if name.startswith("damage_")]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.removeprefix("damage_"))
@pytest.mark.parametrize("name", NAMES)
def test_damage_is_noticed(copy_of, name, damage):
    rng = np.random.default_rng(len(name))
    for file in sorted(path.name for path in copy_of(name).iterdir()):
        for _ in range(3):
            folder = copy_of(name)
            damage(folder / file, rng)
            with pytest.raises(BundleError, match=f"^{folder}: ") as caught:
                load_bundle(folder)
            assert str(caught.value).rstrip().endswith("."), "what to do is missing"


def test_every_byte_of_bundle_json_counts(copy_of):
    folder = copy_of("dummy")
    original = (folder / "bundle.json").read_bytes()
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    for position in range(len(original)):
        changed = bytearray(original)
        changed[position] ^= 1 << position % 8
        with pytest.raises(BundleError):
            module._decode(files | {"bundle.json": bytes(changed)})


def test_files_of_another_bundle_are_noticed(saved, copy_of, tmp_path):
    save_bundle(tmp_path / "other", make_bundle("cnn", seed=1))
    for file in ("bundle.json", "scaler.npz", "weights.npz"):
        folder = copy_of("cnn")
        if (tmp_path / "other" / file).read_bytes() != (folder / file).read_bytes():
            shutil.copy(tmp_path / "other" / file, folder / file)
            with pytest.raises(BundleError, match="SHA-256"):
                load_bundle(folder)
    folder = copy_of("svm")
    shutil.copy(saved / "mlp" / "model.skops", folder / "model.skops")
    reseal(folder)
    with pytest.raises(BundleError, match="must hold the pipeline StandardScaler → SVC. Got StandardScaler → MLPC"):
        load_bundle(folder)


@pytest.mark.parametrize("name", ["cnn", "dummy", "mlp", "svm"])
def test_damage_under_a_right_sum_raises_nothing_else(copy_of, name):
    folder, rng = copy_of(name), np.random.default_rng(1)
    original = model_file(folder).read_bytes()
    for _ in range(30):
        data = bytearray(original)
        for position in rng.integers(len(data), size=rng.integers(1, 20)):
            data[position] = rng.integers(256)
        model_file(folder).write_bytes(data)
        reseal(folder)
        with contextlib.suppress(BundleError):
            load_bundle(folder)


def spoil_and_load(saved, name, first_seed, n_damaged):
    """Damage a bundle at random in a process of its own, so that a crash is seen; return how many still answered."""
    script = Path(__file__).with_name("damaged_bundles.py")
    run = [sys.executable, str(script), str(saved / name), str(first_seed), str(n_damaged)]
    done = subprocess.run(run, cwd=saved, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    n_refused, n_answered = map(int, done.stdout.split())
    assert n_refused + n_answered == n_damaged
    return n_answered


@pytest.mark.parametrize("name", NAMES)
def test_damaged_bundle_is_an_error_or_an_answer(saved, name):
    spoil_and_load(saved, name, 0, 20)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_hundred_damaged_bundles_are_an_error_or_an_answer(saved, name):
    n_answered = spoil_and_load(saved, name, 1000, 200)
    assert n_answered < 100  # most damage is found even under right sums


# -- one zip


@pytest.mark.parametrize("name", NAMES)
def test_zipped_bundle_is_the_bundle(saved, tmp_path, name):
    export_bundle(saved / name, tmp_path / "a.zip", as_zip=True)
    assert_same_answers(load_bundle(tmp_path / "a.zip"), load_bundle(saved / name))
    assert verify_bundle(tmp_path / "a.zip") == verify_bundle(saved / name)
    export_bundle(tmp_path / "a.zip", tmp_path / "again")
    for path in (saved / name).iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    export_bundle(tmp_path / "again", tmp_path / "b.zip", as_zip=True)
    assert (tmp_path / "b.zip").read_bytes() == (tmp_path / "a.zip").read_bytes()


def test_export_replaces_bundles_only(saved, tmp_path):
    (tmp_path / "thesis.zip").write_bytes(archive_bytes("chapter1.tex", b"Once"))
    with pytest.raises(BundleError, match="thesis.zip: .* must not replace"):
        export_bundle(saved / "svm", tmp_path / "thesis.zip", as_zip=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").touch()
    with pytest.raises(BundleError, match="folder for itself"):
        export_bundle(saved / "svm", tmp_path / "thesis")
    for model in ("svm", "dummy"):
        export_bundle(saved / model, tmp_path / "model.zip", as_zip=True)
        export_bundle(saved / model, tmp_path / "model")
    assert load_bundle(tmp_path / "model.zip").model == load_bundle(tmp_path / "model").model == "dummy"


def test_export_of_a_damaged_bundle_is_refused(copy_of, tmp_path):
    folder = copy_of("svm")
    damage_flip(folder / "model.skops", np.random.default_rng(0))
    with pytest.raises(BundleError, match="SHA-256"):
        export_bundle(folder, tmp_path / "a.zip", as_zip=True)
    assert not (tmp_path / "a.zip").exists()


def zipped(path, members, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as archive:
            for name, data in members:
                archive.writestr(name, data)
    return path


ZIPS = {
    "parent": (lambda files: [*files, ("../evil", b"")], "in no folder. Got .*'../evil'"),
    "absolute": (lambda files: [*files, ("/tmp/evil", b"")], "in no folder"),
    "backslash": (lambda files: [*files, ("..\\evil", b"")], "in no folder"),
    "folder": (lambda files: [*files, ("sub/", b"")], "in no folder"),
    "inner": (lambda files: [(f"svm/{name}", data) for name, data in files] + files[:1], "in no folder"),
    "twice": (lambda files: [*files, files[-1]], "each once"),
    "foreign": (lambda files: [*files, ("model.pkl", b"\x80\x04N.")], "'model.pkl'"),
    "missing": (lambda files: files[:1], "model.skops: missing"),
    "bomb": (lambda files: [*files[:1], ("model.skops", bytes(300_000_000))], "at most [0-9]+ bytes"),
    "manifest-bomb": (lambda files: [("bundle.json", bytes(2_000_000)), *files[1:]], "at most [0-9]+ bytes"),
    "changed": (lambda files: [*files[:1], ("model.skops", files[1][1][:-1])], "bytes instead of"),
}


@pytest.mark.parametrize(("change", "message"), ZIPS.values(), ids=ZIPS)
def test_zip_that_holds_anything_else_is_refused(saved, tmp_path, change, message):
    files = [(name, (saved / "svm" / name).read_bytes()) for name in ("bundle.json", "model.skops")]
    path = zipped(tmp_path / "a.zip", change(files))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BundleError, match=f"(?s)^{path}: .*{message}"):
        load_bundle(path)
    assert sorted(tmp_path.rglob("*")) == before
    assert load_bundle(zipped(tmp_path / "b.zip", files)).model == "svm"


def test_damaged_zip_is_refused(saved, tmp_path):
    export_bundle(saved / "svm", tmp_path / "a.zip", as_zip=True)
    data, rng = (tmp_path / "a.zip").read_bytes(), np.random.default_rng(0)
    expected = load_bundle(tmp_path / "a.zip")
    for kind in ("cut", "flip", "encrypted", "method"):
        for _ in range(20):
            changed = bytearray(data)
            if kind == "cut":
                changed = changed[: rng.integers(len(data))]
            elif kind == "flip":
                changed[rng.integers(len(data))] ^= 1 << rng.integers(8)
            else:
                changed[data.index(b"PK\x01\x02") + (8 if kind == "encrypted" else 10)] = rng.integers(1, 256)
            (tmp_path / "a.zip").write_bytes(changed)
            with contextlib.suppress(BundleError):  # a changed date or comment is none of the model
                assert_same_answers(load_bundle(tmp_path / "a.zip"), expected)


# -- what bundle.json may say


def test_newer_schema_says_upgrade(copy_of):
    folder = copy_of("svm")
    reseal(folder, schema_version=2, novelty=True)
    with pytest.raises(BundleError, match="Upgrade emobench"):
        load_bundle(folder)


WRONG = {
    "schema-0": {"schema_version": 0},
    "schema-bool": {"schema_version": True},
    "schema-text": {"schema_version": "1"},
    "unknown-key": {"extra": 1},
    "classes-unsorted": {"classes": ["sad", "happy", "calm", "bored", "angry"]},
    "classes-repeated": {"classes": ["angry", "angry", "calm", "happy", "sad"]},
    "classes-numbers": {"classes": [1, 2, 3, 4, 5]},
    "classes-none": {"classes": []},
    "classes-too-few": {"classes": ["angry", "bored", "calm", "happy"]},
    "codes-other": {"codes": [0, 2, 3]},
    "codes-negative": {"codes": [-1, 0, 2, 3]},
    "codes-repeated": {"codes": [0, 0, 2, 3]},
    "codes-floats": {"codes": [0.0, 2.0, 3.0, 4.0]},
    "features-text": {"features": "mfcc40"},
    "n-features": {"n_features": 41},
    "n-features-huge": {"n_features": 10**15},
    "sr-zero": {"sr": 0},
    "sr-text": {"sr": "22050"},
    "params-other": {"params": {"C": 1.0}},
    "params-unknown": {"params": {"epoch": 1}},
    "params-bad": {"params": {"epochs": -1}},
    "model-unknown": {"model": "snv"},
    "model-other": {"model": "xgboost"},
    "model-path": {"model": "../svm"},
    "storage": {"storage": "pickle"},
    "scores-text": {"scores": "good"},
    "versions-numbers": {"versions": {"numpy": 2}},
    "files-none": {"files": {}},
    "files-path": {"files": {"../model.skops": {"sha256": "0" * 64, "n_bytes": 1}}},
    "files-absolute": {"files": {"/etc/passwd": {"sha256": "0" * 64, "n_bytes": 1}}},
}


@pytest.mark.parametrize("name", ["cnn", "svm", "xgboost"])
@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG.keys())
def test_wrong_content_is_refused(copy_of, name, changes):
    if changes == {"model": name}:
        pytest.skip("that is right")
    folder = copy_of(name)
    reseal(folder, **changes)
    with pytest.raises(BundleError, match=f"^{folder}: "):
        load_bundle(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"[]", b"{}", b'{"schema_version": NaN}', b"\xff\xfe{\x00}\x00", b"[" * 100_000, b'{"a": 1, "a": 2}']
    + [b" " * 2_000_000, b"\x80\x04]\x94.", b'{"schema_version": 1e999}', b'{"schema_version": ' + b"9" * 5000 + b"}"],
    ids=lambda content: repr(content[:12]),
)
def test_what_is_no_bundle_json_is_refused(copy_of, content):
    folder = copy_of("svm")
    (folder / "bundle.json").write_bytes(content)
    with pytest.raises(BundleError, match="bundle.json"):
        load_bundle(folder)


def test_nan_in_bundle_json_is_refused(copy_of):
    folder = copy_of("svm")
    data = (folder / "bundle.json").read_bytes()
    (folder / "bundle.json").write_bytes(data.replace(b"22050", b"NaN"))
    with pytest.raises(BundleError, match="NaN is no JSON number"):
        load_bundle(folder)


def test_other_version_of_scikit_learn_warns(copy_of, bundles):
    folder = copy_of("svm")
    versions = json.loads((folder / "bundle.json").read_bytes())["versions"]
    reseal(folder, versions=versions | {"scikit-learn": "1.2.0"})
    with pytest.warns(VersionWarning, match=r"svm: It was saved with scikit-learn 1\.2\.0, here is") as caught:
        loaded = load_bundle(folder)
    assert caught[0].filename == __file__
    assert_same_answers(loaded, bundles["svm"])


def test_other_version_of_scikit_learn_is_blamed_when_loading_fails(copy_of):
    folder = copy_of("svm")
    (folder / "model.skops").write_bytes(b"no skops")
    reseal(folder, versions={"scikit-learn": "1.2.0"})
    with pytest.raises(BundleError, match=r"cannot be read .* saved with scikit-learn 1\.2\.0"):
        load_bundle(folder)


def test_other_version_of_the_model_warns(monkeypatch, saved):
    monkeypatch.setitem(MODELS, "cnn", replace(MODELS["cnn"], version=7))
    with pytest.warns(VersionWarning, match="version 1 of model 'cnn', here is 7"):
        load_bundle(saved / "cnn")


def test_same_versions_do_not_warn(saved):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in NAMES:
            load_bundle(saved / name)


def test_missing_xgboost_is_named(monkeypatch, saved):
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(BundleError, match="needs xgboost, not installed here. Install xgboost"):
        load_bundle(saved / "xgboost")
    load_bundle(saved / "svm")


# -- nothing is executed (S1 to S4)


def pickled(path, protocol):
    return pickle.dumps(Malicious(path), protocol=protocol)


def joblib_bytes(path, compress):
    buffer = io.BytesIO()
    joblib.dump(Malicious(path), buffer, compress=compress)
    return buffer.getvalue()


def archive_bytes(name, data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


FOREIGN = {
    "model.pkl": (lambda path: pickled(path, 4), "a pickle"),
    "model-5.pkl": (lambda path: pickled(path, 5), "a pickle"),
    "model-0.pkl": (lambda path: pickled(path, 0), "a file"),
    "model.joblib": (lambda path: joblib_bytes(path, 0), "a pickle"),
    "zlib.joblib": (lambda path: joblib_bytes(path, ("zlib", 3)), "compressed joblib"),
    "gzip.joblib": (lambda path: joblib_bytes(path, ("gzip", 3)), "gzip"),
    "bz2.joblib": (lambda path: joblib_bytes(path, ("bz2", 3)), "bzip2"),
    "xz.joblib": (lambda path: joblib_bytes(path, ("xz", 3)), "xz"),
    "model.h5": (lambda path: b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "model.keras": (lambda path: archive_bytes("config.json", '{"class_name": "Lambda"}'), "ZIP"),
    "model.pt": (lambda path: archive_bytes("archive/data.pkl", pickled(path, 2)), "ZIP"),
    "model.npy": (lambda path: npy_bytes(np.array([Malicious(path)])), "NumPy"),
    "empty": (lambda path: b"", "a file"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_file_is_refused_by_its_first_bytes(tmp_path, sentinel, name):
    make, kind = FOREIGN[name]
    (tmp_path / name).write_bytes(make(sentinel))
    with pytest.raises(BundleError, match=f"must be a folder with bundle.json, .*JSON, npz, UBJ.* Got .*{kind}"):
        load_bundle(tmp_path / name)


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("model", ["cnn", "svm", "xgboost"])
def test_foreign_content_under_a_bundles_name_is_refused(copy_of, sentinel, name, model):
    folder = copy_of(model)
    model_file(folder).write_bytes(FOREIGN[name][0](sentinel))
    reseal(folder)
    with pytest.raises(BundleError):
        load_bundle(folder)


def test_file_of_a_bundle_names_its_folder(saved):
    with pytest.raises(BundleError, match=f"Got one file of it. Give the folder {saved / 'svm'}"):
        load_bundle(saved / "svm" / "model.skops")


def test_no_such_folder_is_said(tmp_path):
    with pytest.raises(BundleError, match="nowhere: It must be a folder .* No such file"):
        load_bundle(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(BundleError, match="something else than a file or a folder"):
        load_bundle(tmp_path / "fifo")


def test_link_to_a_bundle_is_followed(saved, tmp_path):
    (tmp_path / "latest").symlink_to(saved / "dummy")
    assert load_bundle(tmp_path / "latest").model == "dummy"


def with_function(function):
    scaler = StandardScaler().fit(X)
    scaler.mean_ = function
    return scaler


def skops_schema(node, **changes):
    """Return a skops file whose pipeline's scaler has `node` for its mean."""
    estimator = build(get_model("svm")).fit(X, CODES)
    estimator[0].mean_ = "here"
    members = module._zip_members(skops.io.dumps(estimator))
    schema = json.loads(members.pop("schema.json"))

    def put(place):
        if isinstance(place, dict):
            return {key: node if key == "mean_" else put(value) for key, value in place.items()}
        return [put(item) for item in place] if isinstance(place, list) else place

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr("schema.json", json.dumps(put(schema) | changes))
    return buffer.getvalue()


def plain(value):
    return {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "content": json.dumps(value)}


def tuple_of(*nodes):
    return {"__class__": "tuple", "__module__": "builtins", "__loader__": "TupleNode", "content": list(nodes)}


def node(loader, module, name, content):
    return {"__class__": name, "__module__": module, "__loader__": loader, "content": content, "__id__": 1}


MALICIOUS_SKOPS = {
    "function": lambda path: skops.io.dumps(with_function(os.system)),
    "ufunc": lambda path: skops.io.dumps(with_function(np.add)),
    "transformer": lambda path: skops.io.dumps(FunctionTransformer(os.mkdir)),
    "function-node": lambda path: skops_schema(node("FunctionNode", "posix", "mkdir", "posix.mkdir")),
    "type-node": lambda path: skops_schema(node("TypeNode", "subprocess", "Popen", None)),
    "operator": lambda path: skops_schema(
        node("OperatorFuncNode", "operator", "methodcaller", tuple_of(plain("mkdir"), plain(str(path))))
    ),
    "method": lambda path: skops_schema(
        node("MethodNode", "builtins", "str", {"func": "mkdir", "obj": plain(str(path))})
    ),
    "reduce": lambda path: skops_schema(
        node("ConstructorFromReduceNode", "posix", "mkdir", tuple_of(plain(str(path))))
    ),
    "object": lambda path: skops_schema(
        node("ObjectNode", "posix", "mkdir", tuple_of(plain(str(path)))) | {"__reduce__": tuple_of(plain(str(path)))}
    ),
    "old-protocol": lambda path: skops_schema(plain(1), protocol=0),
    "not-a-pipeline": lambda path: skops.io.dumps({"steps": []}),
    "subclass-of-steps": lambda path: skops.io.dumps(Pipeline([("scale", StandardScaler())]).fit(X)),
}


@pytest.mark.parametrize("make", MALICIOUS_SKOPS.values(), ids=MALICIOUS_SKOPS.keys())
def test_skops_file_beyond_the_allow_list_is_refused(copy_of, sentinel, make):
    folder = copy_of("svm")
    (folder / "model.skops").write_bytes(make(sentinel))
    reseal(folder)
    with pytest.raises(BundleError, match=f"^{folder}: "):
        load_bundle(folder)


def test_crafted_skops_file_is_refused_for_its_content_only(copy_of):
    """The crafting itself makes a file that is built, or the test above could not fail."""
    folder = copy_of("svm")
    (folder / "model.skops").write_bytes(skops_schema(plain("harmless")))
    reseal(folder)
    with pytest.raises(BundleError, match="must answer. It does not .* 'harmless'"):
        load_bundle(folder)


def test_bombs_are_refused_before_memory_is_asked_for(copy_of):
    bomb = npy_header((10**6, 10**6), payload=bytes(64))
    for file, members in (
        ("weights.npz", {"conv1_kernel": bomb}),
        ("weights.npz", {"conv1_kernel": npy_header((-1, -16), payload=bytes(64))}),
        ("scaler.npz", {"mean_": npy_header((10**15,), payload=bytes(64))}),
        ("scaler.npz", {"mean_": npy_bytes(np.array([{}]))}),
        ("scaler.npz", {"mean_": npy_header((), descr="|O")}),
        ("scaler.npz", {"mean_": npy_header((10**9,), descr="|S0")}),
    ):
        folder = copy_of("cnn")
        (folder / file).write_bytes(npz_bytes(**members))
        reseal(folder)
        with pytest.raises(BundleError, match="size its header says|Python objects|finite numbers"):
            load_bundle(folder)
    folder = copy_of("svm")
    members = module._zip_members((folder / "model.skops").read_bytes())
    for compression, replaced in ((zipfile.ZIP_STORED, bomb), (zipfile.ZIP_DEFLATED, bytes(5_000_000))):
        with zipfile.ZipFile(folder / "model.skops", "w", compression) as archive:
            for name, data in members.items():
                archive.writestr(name, replaced if name.endswith(".npy") else data)
        reseal(folder)
        with pytest.raises(BundleError, match="size its header says|stored uncompressed"):
            load_bundle(folder)


@pytest.mark.parametrize("field", ["left_child", "right_child", "feature"])
@pytest.mark.parametrize("value", [-7, 10**9])
def test_trees_that_point_out_of_memory_are_refused(monkeypatch, bundles, tmp_path, field, value):
    forest = RandomForestClassifier(n_estimators=2, random_state=0)
    target = "sklearn.ensemble:RandomForestClassifier"
    monkeypatch.setitem(MODELS, "forest", ModelSpec(name="forest", title="", estimator=target, is_scaled=False))
    fitted = Pipeline([("model", forest)]).fit(X, CODES)
    tree = forest.estimators_[1].tree_
    state = tree.__getstate__()
    state["nodes"] = state["nodes"].copy()
    state["nodes"][field][0] = value
    tree.__setstate__(state)
    with pytest.raises(BundleError, match="Nodes of a decision tree"):
        save_bundle(tmp_path / "forest", replace(bundles["dummy"], model="forest", estimator=fitted))


def test_members_with_paths_or_twice_are_refused(copy_of):
    for names in (["../mean_.npy"], ["/mean_.npy"], ["a\\b.npy"], ["mean_.npy", "mean_.npy"]):
        folder = copy_of("cnn")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with zipfile.ZipFile(folder / "scaler.npz", "w") as archive:
                for name in names:
                    archive.writestr(name, npy_bytes(np.ones(N_FEATURES)))
        reseal(folder)
        with pytest.raises(BundleError, match="plain names, each once"):
            load_bundle(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_must_be_finite(copy_of, value):
    folder = copy_of("cnn")
    with np.load(folder / "scaler.npz") as arrays:
        np.savez(folder / "scaler.npz", **dict(arrays) | {"mean_": np.full(N_FEATURES, value)})
    reseal(folder)
    with pytest.raises(BundleError, match="mean_.npy must hold finite numbers"):
        load_bundle(folder)


@pytest.mark.parametrize("changes", [{"scale_": np.ones(3)}, {"scale_": np.zeros(N_FEATURES)}, {"new": np.ones(1)}])
def test_scaler_must_fit(copy_of, changes):
    folder = copy_of("cnn")
    with np.load(folder / "scaler.npz") as arrays:
        np.savez(folder / "scaler.npz", **dict(arrays) | changes)
    reseal(folder)
    with pytest.raises(BundleError, match="must hold a scaler of 40 features"):
        load_bundle(folder)


# -- what may be saved


def refit(bundle, y):
    return replace(bundle, estimator=build(get_model(bundle.model)).fit(X, y))


UNSAVEABLE = {
    "labels": (lambda b: refit(b, np.array(CLASSES)[CODES]), "integer codes"),
    "codes-beyond": (lambda b: refit(b, CODES + 1), "codes 0 to 4 of its classes"),
    "unfitted": (lambda b: replace(b, estimator=build(get_model(b.model))), "must be fitted"),
    "bare": (lambda b: replace(b, estimator=b.estimator[-1]), "StandardScaler → SVC. Got SVC"),
    "other-model": (lambda b: replace(b, model="mlp"), "StandardScaler → MLPClassifier. Got StandardScaler → SVC"),
    "unknown-model": (lambda b: replace(b, model="svn"), "Did you mean 'svm'"),
    "params": (lambda b: replace(b, params={"C": 3.0}), r"params .* must be those of the estimator, {'C': 10.0}"),
    "classes": (lambda b: replace(b, classes=CLASSES[::-1]), "sorted"),
    "nan": (lambda b: replace(b, trained_on={"n": float("nan")}), r"trained_on\.n .* Got nan"),
    "object": (lambda b: replace(b, features={"name": object()}), r"features\.name .* plain"),
    "sr": (lambda b: replace(b, sr=22050.5), "sr: "),
}


@pytest.mark.parametrize(("change", "message"), UNSAVEABLE.values(), ids=UNSAVEABLE.keys())
def test_save_refuses_what_could_not_be_loaded(bundles, tmp_path, change, message):
    with pytest.raises(BundleError, match=f"(?s){tmp_path / 'svm'}: .*{message}"):
        save_bundle(tmp_path / "svm", change(bundles["svm"]))
    assert os.listdir(tmp_path) == []


def test_estimator_that_does_not_say_how_many_features_it_takes_is_refused(monkeypatch, bundles, tmp_path):
    target = f"{__name__}:Forgetful"
    monkeypatch.setitem(MODELS, "forgetful", ModelSpec(name="forgetful", title="", estimator=target, is_scaled=False))
    fitted = Pipeline([("model", Forgetful().fit(X, CODES))])
    with pytest.raises(BundleError, match="must know how many features it takes"):
        save_bundle(tmp_path / "x", replace(bundles["dummy"], model="forgetful", estimator=fitted))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("support_vectors_", np.ones((3, 40))),
        ("support_vectors_", np.ones((1, 40), np.float32)),
        ("_n_support", np.array([10**6, 1, 1, 1], np.int32)),
        ("_n_support", np.array([-5, 1, 1, 1], np.int32)),
        ("_n_support", np.ones(1, np.int32)),
        ("_dual_coef_", np.ones((3, 1))),
        ("_intercept_", np.ones(1)),
        ("_probA", np.ones(1)),
        ("_gamma", float("nan")),
        ("kernel", "precomputed"),
        ("_sparse", True),
    ],
)
def test_support_vectors_that_lead_out_of_memory_are_refused(bundles, tmp_path, name, value):
    bundle = make_bundle("svm")
    setattr(bundle.estimator[-1], name, value)
    with pytest.raises(BundleError, match="must"):
        save_bundle(tmp_path / "svm", bundle)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("model", ["svm", "mlp"])
def test_weights_that_are_not_finite_are_refused(tmp_path, model, value):
    bundle = make_bundle(model)
    weights = bundle.estimator[-1].support_vectors_ if model == "svm" else bundle.estimator[-1].coefs_[0]
    weights[0, 0] = value
    with pytest.raises(BundleError, match="must hold finite numbers"):
        save_bundle(tmp_path / model, bundle)


def test_model_that_has_not_all_its_parts_is_refused(tmp_path):
    bundle = make_bundle("mlp")
    del bundle.estimator[-1].intercepts_
    with pytest.raises(BundleError, match="must answer. It does not .*intercepts_"):
        save_bundle(tmp_path / "mlp", bundle)


def test_loaded_bundle_knows_its_checksum(saved):
    assert load_bundle(saved / "svm").checksum == json.loads((saved / "svm" / "bundle.json").read_bytes())["checksum"]


def test_save_replaces_bundles_only(bundles, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("Once")
    with pytest.raises(BundleError, match="folder for itself. It holds .'chapter1.tex'."):
        save_bundle(tmp_path / "thesis", bundles["dummy"])
    with pytest.raises(BundleError, match="must be saved as a folder"):
        save_bundle(tmp_path / "thesis" / "chapter1.tex", bundles["dummy"])
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "Once"


# -- whole or not at all


def fail_at(call, function, kind):
    """Return a stand-in that raises at one call and counts them."""

    def stand_in(*arguments, **options):
        stand_in.n_calls += 1
        if stand_in.n_calls == call:
            raise kind(28, "No space left on device")
        return function(*arguments, **options)

    stand_in.n_calls = 0
    return stand_in


@pytest.mark.parametrize("is_replaced", [True, False], ids=["old", "none"])
@pytest.mark.parametrize("name", ["fsync", "replace", "mkdir"])
def test_failed_save_leaves_the_old_bundle_and_nothing_else(monkeypatch, bundles, tmp_path, name, is_replaced):
    target = tmp_path / "models" / "entry"
    target.parent.mkdir()
    old = bundles["dummy"]
    for call in range(1, 100):
        if is_replaced:
            save_bundle(target, old)
        before = os.listdir(target.parent)
        with monkeypatch.context() as patch:
            stand_in = fail_at(call, getattr(os, name), OSError)
            patch.setattr(os, name, stand_in)
            try:
                save_bundle(target, bundles["svm"])
            except StorageError as error:
                assert str(target) in str(error)
        if stand_in.n_calls < call:
            break
        loaded = load_bundle(target) if target.exists() else None
        # The last fsync, of the parent folder, comes when the new bundle is in place.
        if loaded and loaded.model == "svm":
            shutil.rmtree(target)
        else:
            assert os.listdir(target.parent) == before
            assert not is_replaced or loaded.model == "dummy"
    assert call > 1
    assert load_bundle(target).model == "svm"


def test_interrupted_save_leaves_the_old_bundle(monkeypatch, bundles, tmp_path):
    save_bundle(tmp_path / "entry", bundles["dummy"])

    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_bundle(tmp_path / "entry", bundles["svm"])
    assert load_bundle(tmp_path / "entry").model == "dummy"
    assert os.listdir(tmp_path) == ["entry"]


def test_killed_save_is_cleared_up_by_the_next(monkeypatch, bundles, tmp_path):
    """The worst place: the old bundle is away, the new one not yet there."""
    save_bundle(tmp_path / "entry", bundles["dummy"])
    save_bundle(tmp_path / "entry2", bundles["dummy"])
    (tmp_path / "entry").rename(tmp_path / ".entry.old-1")
    (tmp_path / ".entry.new-1").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail_at(1, os.fsync, OSError))
        with pytest.raises(StorageError):
            save_bundle(tmp_path / "entry", bundles["svm"])
    assert load_bundle(tmp_path / "entry").model == "dummy"
    save_bundle(tmp_path / "entry", bundles["svm"])
    assert load_bundle(tmp_path / "entry").model == "svm"
    assert sorted(os.listdir(tmp_path)) == ["entry", "entry2"]


def test_reader_never_sees_a_half(bundles, tmp_path):
    target, is_over = tmp_path / "entry", threading.Event()
    contents = [module._encode(replace(bundles["dummy"], entry=entry)) for entry in ("one", "two")]
    contents.append(module._encode(bundles["svm"]))
    module._publish(target, contents[0])

    def replace_all_the_time():
        while not is_over.is_set():
            for files in contents:
                module._publish(target, files)

    writer = threading.Thread(target=replace_all_the_time)
    writer.start()
    try:
        seen = {load_bundle(target).entry for _ in range(150)}
    finally:
        is_over.set()
        writer.join()
    assert seen <= {"one", "two", "svm"}
    assert len(seen) > 1


def test_saved_files_have_usual_permissions(saved):
    assert (saved / "svm").stat().st_mode & 0o055 == 0o055
    assert (saved / "svm" / "bundle.json").stat().st_mode & 0o044 == 0o044


def test_loading_imports_only_what_the_model_needs(saved):
    code = f"""
import sys
from emobench.bundles.bundle import load_bundle
for name in ("svm", "mlp", "cnn"):
    load_bundle({str(saved)!r} + "/" + name).estimator.predict([[0.0] * {N_FEATURES}])
    print(name, sorted({{"tensorflow", "keras", "xgboost", "librosa"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["svm []", "mlp []", "cnn []"], done.stderr


def test_verify_bundle_checks_sums_without_building_the_model(copy_of, monkeypatch):
    monkeypatch.setattr(module, "_decode_estimator", lambda *args: pytest.fail("the model was built"))
    folder = copy_of("svm")
    assert verify_bundle(folder)["entry"] == "svm"
    content = bytearray((folder / "model.skops").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.skops").write_bytes(content)
    with pytest.raises(BundleError, match="model.skops"):
        verify_bundle(folder)
