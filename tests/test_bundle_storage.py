"""A bundle on disk: whole or not at all, checked before anything reads it."""

import contextlib
import io
import json
import os
import stat
import subprocess
import zipfile

import numpy as np
import pytest
from crafted_models import N_FEATURES, linear

from emobench.bundles import storage
from emobench.bundles.manifest import Manifest, describe
from emobench.bundles.storage import FILES, Bundle, read_bundle, write_bundle
from emobench.errors import BundleError, StorageError
from emobench.files import ASIDE

CLASSES = ("angry", "calm", "happy", "sad")
CONTENT = {
    "identity": "0123abcd",
    "entry": "svm-tuned",
    "model": "svm",
    "params": {"C": np.float64(3.0), "hidden_layer_sizes": (64, 32)},
    "features": {"name": "mfcc40", "version": 1},
    "sr": 22_050,
    "trained_on": {"corpus": "ravdess", "licence": "CC BY-NC-SA 4.0", "n_speakers": 24},
    "scores": [{"protocol": "loso", "uar": 0.47, "uar_low": 0.44, "uar_high": np.nan}],
    "versions": {"scikit-learn": "1.9.1"},
}


def manifest(**changes):
    content = CONTENT | {"audio_ids": ["ab" * 32, "cd" * 32], **changes}
    return describe(n_features=N_FEATURES, classes=CLASSES, has_probabilities=True, **content)


@pytest.fixture
def bundle():
    return Bundle.of(manifest(), linear().SerializeToString())


@pytest.fixture(params=[False, True], ids=["folder", "zip"])
def path(request, bundle, tmp_path):
    """A bundle on disk, as a folder and as a zip."""
    path = tmp_path / ("svm.zip" if request.param else "svm")
    write_bundle(path, bundle, as_zip=request.param)
    return path


def test_bundle_comes_back_as_it_was_written(path, bundle):
    found = read_bundle(path)
    assert found.manifest == bundle.manifest
    assert found.files == bundle.files
    assert found.checksum == bundle.checksum
    assert found.session().labels(np.zeros((2, N_FEATURES))).shape == (2,)


def test_manifest_says_what_the_file_takes_and_gives(bundle):
    content = json.loads(bundle.files["manifest.json"])
    assert content["input"] == {"name": "features", "dtype": "float32", "shape": [None, N_FEATURES]}
    assert [output["name"] for output in content["outputs"]] == ["label", "probabilities"]
    assert content["params"] == {"C": 3.0, "hidden_layer_sizes": [64, 32]}
    assert content["scores"][0]["uar_high"] is None
    assert content["audio_ids"] == ["ab" * 8, "cd" * 8]
    assert (bundle.manifest.n_features, bundle.manifest.has_probabilities) == (N_FEATURES, True)


def test_sums_are_those_of_sha256sum(tmp_path, bundle):
    write_bundle(tmp_path / "svm", bundle)
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path / "svm", check=True)


def test_equal_bundles_have_equal_bytes(bundle):
    again = Bundle.of(manifest(), linear().SerializeToString())
    assert again.files == bundle.files
    assert again.zipped() == bundle.zipped()


@pytest.mark.parametrize("name", sorted(FILES))
def test_any_changed_byte_is_noticed(tmp_path, bundle, name):
    rng = np.random.default_rng(0)
    write_bundle(tmp_path / "svm", bundle)
    for _ in range(40):
        data = bytearray(bundle.files[name])
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        (tmp_path / "svm" / name).write_bytes(data)
        with pytest.raises(BundleError, match=f"{name}: damaged" if name != "SHA256SUMS" else "damaged"):
            read_bundle(tmp_path / "svm")


@pytest.mark.parametrize("name", sorted(FILES))
def test_missing_and_additional_files_are_refused(tmp_path, bundle, name):
    write_bundle(tmp_path / "svm", bundle)
    (tmp_path / "svm" / name).rename(tmp_path / "svm" / "model.pkl")
    with pytest.raises(BundleError, match="and nothing else.*model.pkl"):
        read_bundle(tmp_path / "svm")


def test_old_bundle_is_refused_with_the_way_to_a_new_one(tmp_path):
    (tmp_path / "old").mkdir()
    for name in ("bundle.json", "model.skops"):
        (tmp_path / "old" / name).write_bytes(b"{}")
    with pytest.raises(BundleError, match="older emobench.*run its config again") as refusal:
        read_bundle(tmp_path / "old")
    assert "\n" not in str(refusal.value)
    write_bundle(tmp_path / "old", Bundle.of(manifest(), linear().SerializeToString()))
    assert set(os.listdir(tmp_path / "old")) == FILES


def test_bundle_of_a_newer_emobench_asks_for_it(tmp_path, bundle):
    content = json.loads(bundle.files["manifest.json"]) | {"schema_version": 99}
    newer = Bundle.of(bundle.manifest, bundle.files["model.onnx"])
    files = {"manifest.json": json.dumps(content).encode(), "model.onnx": newer.files["model.onnx"]}
    (tmp_path / "svm").mkdir()
    for name, data in {**files, "SHA256SUMS": storage._sums(files)}.items():
        (tmp_path / "svm" / name).write_bytes(data)
    with pytest.raises(BundleError, match="schema version 99.*Upgrade emobench"):
        read_bundle(tmp_path / "svm")


@pytest.mark.parametrize(
    "content",
    [b"\x80\x04K\x01.", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04 not a zip", b""],
    ids=["pickle", "hdf5", "broken zip", "empty"],
)
def test_other_files_are_not_opened(tmp_path, content):
    (tmp_path / "model").write_bytes(content)
    with pytest.raises(BundleError, match="neither a folder nor a whole zip.*can run code"):
        read_bundle(tmp_path / "model")


def test_nothing_there_is_said(tmp_path):
    with pytest.raises(BundleError, match="No such file"):
        read_bundle(tmp_path / "absent")


def test_links_and_pipes_in_a_folder_are_refused(tmp_path, bundle):
    write_bundle(tmp_path / "svm", bundle)
    model = tmp_path / "svm" / "model.onnx"
    model.rename(tmp_path / "elsewhere.onnx")
    model.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(BundleError, match="svm"):
        read_bundle(tmp_path / "svm")
    model.unlink()
    os.mkfifo(model)
    with pytest.raises(BundleError, match="model.onnx is not a file"):
        read_bundle(tmp_path / "svm")


def zipped(members):
    """Return a zip of (name or ZipInfo, content)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def _renamed(bundle, name):
    return zipped([(name if old == "model.onnx" else old, data) for old, data in bundle.files.items()])


def _linked(bundle):
    link = zipfile.ZipInfo("model.onnx")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    return zipped([(link if old == "model.onnx" else old, data) for old, data in bundle.files.items()])


def _bomb(bundle):
    return zipped((bundle.files | {"model.onnx": bytes(10**8)}).items())


HARMFUL = {
    "absolute": (lambda bundle: _renamed(bundle, "/etc/model.onnx"), "nothing else"),
    "upwards": (lambda bundle: _renamed(bundle, "../model.onnx"), "nothing else"),
    "in a folder": (lambda bundle: _renamed(bundle, "svm/model.onnx"), "nothing else"),
    "twice": (lambda bundle: zipped([*bundle.files.items(), ("model.onnx", b"")]), "nothing else"),
    "link": (_linked, "links"),
    "bomb": (_bomb, "unpacks to"),
    "truncated": (lambda bundle: bundle.zipped()[:-30], "neither a folder nor a whole zip"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("make, message", HARMFUL.values(), ids=HARMFUL)
def test_harmful_zips_are_refused(tmp_path, bundle, make, message):
    (tmp_path / "svm.zip").write_bytes(make(bundle))
    with pytest.raises(BundleError, match=message):
        read_bundle(tmp_path / "svm.zip")
    assert os.listdir(tmp_path) == ["svm.zip"]


def test_model_must_be_the_one_that_the_manifest_describes(bundle):
    other = describe(n_features=N_FEATURES, classes=CLASSES, has_probabilities=False, **CONTENT)
    with pytest.raises(BundleError, match="not the model that manifest.json describes"):
        Bundle.of(other, linear().SerializeToString()).session()


def test_writing_replaces_a_bundle_and_nothing_else(path, bundle, tmp_path):
    as_zip = path.suffix == ".zip"
    newer = Bundle.of(manifest(entry="svm"), bundle.files["model.onnx"])
    write_bundle(path, newer, as_zip=as_zip)
    assert read_bundle(path).manifest.entry == "svm"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("the only copy")
    with pytest.raises(BundleError, match="not replaced"):
        write_bundle(tmp_path / "mine", newer)
    with pytest.raises(BundleError, match="not replaced"):
        write_bundle(tmp_path / "mine" / "thesis.tex", newer, as_zip=True)
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, "mine"])


@pytest.mark.parametrize("n_calls", range(6))
def test_failure_at_any_step_leaves_the_old_bundle_or_the_new_one(tmp_path, bundle, monkeypatch, n_calls):
    write_bundle(tmp_path / "svm", bundle)
    newer = Bundle.of(manifest(entry="svm"), bundle.files["model.onnx"])
    replace, calls = os.replace, iter(range(100))

    def fails(source, target):
        if next(calls) == n_calls:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with contextlib.suppress(StorageError):
        write_bundle(tmp_path / "svm", newer)
    monkeypatch.undo()
    assert read_bundle(tmp_path / "svm").manifest.entry in ("svm-tuned", "svm")
    assert os.listdir(tmp_path) == ["svm"]


def test_what_a_killed_process_left_is_swept_or_put_back(tmp_path, bundle):
    """The worst place: the old bundle is away, the new one not yet there."""
    write_bundle(tmp_path / "svm", bundle)
    aside = tmp_path / f".svm{ASIDE}abc123"
    (aside / "new").mkdir(parents=True)
    (tmp_path / "svm").rename(aside / "old")
    aside.with_name(f"{aside.name}.lock").touch()
    write_bundle(tmp_path / "svm", bundle)
    assert os.listdir(tmp_path) == ["svm"]


@pytest.mark.parametrize("changes", [{"sr": 0}, {"entry": ""}, {"params": {"f": print}}, {"versions": {"numpy": 2}}])
def test_manifest_refuses_what_it_cannot_say(changes):
    with pytest.raises(BundleError, match=next(iter(changes))):
        manifest(**changes)


def test_classes_stand_in_the_order_of_the_label_encoder():
    with pytest.raises(BundleError, match="sorted"):
        describe(n_features=4, classes=("sad", "angry"), has_probabilities=True, **CONTENT)


def test_manifest_of_the_documentation_names_every_field():
    documented = Manifest.__doc__.split("Attributes")[1]
    assert [name for name in Manifest.model_fields if name not in documented and name != "schema_version"] == []
