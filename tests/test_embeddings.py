"""Vectors of other programs: what is read, what is refused, and the whole way to a bundle."""

import io
import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import emobench
from emobench.cli.main import main
from emobench.config.yaml import parse_config
from emobench.errors import BundleError, ConfigError, DataError
from emobench.features.embeddings import read_vectors
from emobench.prediction.latency import read_subject
from emobench.prediction.probe import probe
from emobench.running.planning import plan
from emobench.running.runner import run
from emobench.running.verification import hashes

DOCS = Path(__file__).parents[1] / "docs" / "embeddings.md"
N_FEATURES = 6


def command(*arguments):
    """Return the exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code or 0


@pytest.fixture(scope="module")
def keys(tiny_corpus):
    """The keys of the tiny corpus: a DataFrame of path, audio_id and clip_id."""
    rows, found = hashes("manifest", path=tiny_corpus / "manifest.csv")
    assert not found.faults
    return pd.DataFrame(rows, columns=["path", "audio_id", "clip_id"])


def vectors_of(keys, n_features=N_FEATURES):
    """Return a table of keys and vectors: the emotion is in them, and noise."""
    rng = np.random.default_rng(0)
    emotion = keys["path"].str.extract(r"/(\w+)-")[0].astype("category").cat.codes.to_numpy()
    X = np.eye(n_features)[emotion] + 0.1 * rng.normal(size=(len(keys), n_features))
    return pd.concat([keys, pd.DataFrame(X).add_prefix("x")], axis=1)


def config_of(corpus, path, **changes):
    return {
        "corpora": [{"name": "manifest", "path": str(corpus / "manifest.csv")}],
        "features": [{"name": "embeddings", "id": "wavlm", "path": str(path), "trained_on": "unknown"}],
        "models": ["logistic"],
        "protocols": [{"name": "group-kfold", "n_splits": 2}],
        **changes,
    }


@pytest.fixture(scope="module")
def finished(tiny_corpus, keys, tmp_path_factory):
    folder = tmp_path_factory.mktemp("embeddings")
    vectors_of(keys).to_parquet(folder / "wavlm.parquet", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOBENCH_STORE", str(folder / "store"))
        return run(config_of(tiny_corpus, folder / "wavlm.parquet"), output=folder / "results", n_jobs=1)


# --- reading --------------------------------------------------------------------------------------------------------


def written(frame, folder, name="v.parquet"):
    path = folder / name
    frame.to_csv(path, index=False) if name.endswith(".csv") else frame.to_parquet(path)
    return path


FRAME = pd.DataFrame({"path": ["a.wav", "b.wav"], "x0": [1.0, 2.0], "x1": [3.0, 4.0]})
X = np.array([[1, 3], [2, 4]], np.float32)
FORMS = {
    "columns": FRAME,
    "index": FRAME.set_index("path"),
    "lists": pd.DataFrame({"path": FRAME["path"], "vector": [[1.0, 3.0], [2.0, 4.0]]}),
    "integers": FRAME.astype({"x0": "int16", "x1": "float16"}),
    "copies": pd.concat([FRAME, FRAME.iloc[:1]]),
}


@pytest.mark.parametrize("frame", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("name", ["v.parquet", "v.csv"])
def test_vectors_are_read_in_every_form(frame, name, tmp_path):
    if name == "v.csv" and ("vector" in frame or frame.index.name):
        pytest.skip("a CSV has neither lists nor an index")
    found = read_vectors(written(frame, tmp_path, name))
    names = [{"path": ("a.wav", "c/a.wav")}, {"path": ("b.wav", "c/b.wav")}]
    np.testing.assert_array_equal(found.take(names, corpus="c"), X)
    assert found.X.dtype == np.float32


def test_corpus_may_stand_before_the_path(tmp_path):
    found = read_vectors(written(FRAME.assign(path=["c/a.wav", "c/b.wav"]), tmp_path))
    np.testing.assert_array_equal(found.take([{"path": ("b.wav", "c/b.wav")}], corpus="c"), X[1:])


def test_key_of_digits_stays_text(tmp_path):
    found = read_vectors(
        written(FRAME.rename(columns={"path": "clip_id"}).assign(clip_id=["007", "1e3"]), tmp_path, "v.csv")
    )
    assert set(found.rows) == {"007", "1e3"}


REFUSED = {
    "no key": (FRAME.drop(columns="path"), "must have a column audio_id, clip_id or path"),
    "empty key": (FRAME.assign(path=["a.wav", None]), "path is empty in 1 rows"),
    "no numbers": (FRAME[["path"]], "must have rows and columns of numbers"),
    "no rows": (FRAME.iloc[:0], "must have rows and columns of numbers"),
    "text": (FRAME.assign(x1=["loud", "low"]), "column 'x1' does not hold numbers"),
    "truth": (FRAME.assign(x1=[True, False]), "column 'x1' does not hold numbers"),
    "not finite": (FRAME.assign(x1=[np.nan, 1]), "every number must be finite.* 1 recordings are not: a.wav"),
    "beyond float32": (FRAME.assign(x1=[1, 1e300]), "finite in float32.*: b.wav"),
    "lengths": (pd.DataFrame({"path": ["a", "b"], "v": [[1.0], [1.0, 2.0]]}), "That of b has 2 numbers, that of a 1"),
    "doubled": (FRAME.assign(path="a.wav"), "1 have several that differ, by path: a.wav"),
}


@pytest.mark.parametrize("frame, message", REFUSED.values(), ids=REFUSED)
def test_what_is_no_table_of_vectors_is_refused(frame, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read_vectors(written(frame, tmp_path))


def test_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_vectors(tmp_path / "absent.parquet")
    (tmp_path / "v.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"v\.parquet is not a Parquet file, or is damaged"):
        read_vectors(tmp_path / "v.parquet")


# --- in a config ----------------------------------------------------------------------------------------------------

CONFIG = "corpora: [ravdess]\nmodels: [svm]\nfeatures: [{name: embeddings, path: v.parquet, trained_on: unknown}]\n"


@pytest.mark.parametrize(
    "text, message",
    [
        (CONFIG.replace(", trained_on: unknown", ""), r"features\[0\] \(line 3\).*must have `trained_on:`"),
        (CONFIG.replace("path: v.parquet, ", ""), "must have `path:`"),
        (CONFIG.replace("path", "pth"), "Did you mean 'path'"),
        (CONFIG.replace("name: embeddings, path", "name: mfcc40, path"), "Known keys of feature set 'mfcc40'"),
        ("corpora: [ravdess]\nmodels: [svm]\nfeatures: [{name: mfcc40, id: m}]", "cannot have another name"),
        ("corpora: [ravdess]\nmodels: [svm]\nfeatures: [mfcc40, mfcc40]", "'mfcc40' stands twice"),
    ],
)
def test_config_of_embeddings_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(text)


def test_trained_on_must_not_be_empty(tiny_corpus, tmp_path):
    config = config_of(tiny_corpus, tmp_path / "v.parquet")
    config["features"][0]["trained_on"] = " "
    with pytest.raises(ConfigError, match="trained_on must say what the encoder has heard, or be `unknown`"):
        plan(config, output=tmp_path)


def test_features_of_a_name_are_written_as_they_were():
    assert parse_config("corpora: [ravdess]\nmodels: [svm]").model_dump(mode="json")["features"] == ["mfcc40"]


# --- the whole way --------------------------------------------------------------------------------------------------


def test_run_of_embeddings_says_in_every_row_what_the_encoder_heard(finished):
    row = finished.leaderboard.iloc[0]
    assert (row["features"], row["uar"]) == ("wavlm", 1.0)
    assert "trained_on=unknown" in row["feature_spec"]
    assert "trained_on=unknown" in (finished.folder / "report.html").read_text()


@pytest.mark.parametrize("key", ["audio_id", "clip_id", "path"])
def test_order_and_kind_of_keys_change_no_answer(finished, tiny_corpus, keys, key, tmp_path):
    shuffled = vectors_of(keys).sample(frac=1, random_state=1)
    path = written(shuffled.drop(columns=[name for name in keys if name != key]), tmp_path, "w.parquet")
    again = run(config_of(tiny_corpus, path), output=tmp_path / "results", n_jobs=1)
    pd.testing.assert_frame_equal(
        again.leaderboard[["uar", "uar_low", "folds"]], finished.leaderboard[["uar", "uar_low", "folds"]]
    )
    assert again.leaderboard["feature_key"][0] != finished.leaderboard["feature_key"][0]


def test_missing_and_foreign_recordings_are_named(tiny_corpus, keys, tmp_path):
    frame = vectors_of(keys)
    path = written(frame.iloc[2:], tmp_path)
    with pytest.raises(
        DataError, match=r"no vector for 2 of the 24 recordings of manifest: s0/\S+, s0/\S+\."
    ) as caught:
        run(config_of(tiny_corpus, path), output=tmp_path / "results", n_jobs=1)
    assert caught.value.exit_code == 3
    more = pd.concat([frame, frame.iloc[:1].assign(audio_id="f00")])
    found = run(config_of(tiny_corpus, written(more, tmp_path)), output=tmp_path / "results", n_jobs=1)
    assert "v.parquet: 1 rows belong to no recording of this run: f00" in found.remarks


def test_embeddings_stand_beside_features_of_the_sound(tiny_corpus, keys, tmp_path):
    config = config_of(tiny_corpus, written(vectors_of(keys), tmp_path))
    config["features"] = ["mfcc40", *config["features"]]
    planned = plan(config, output=tmp_path / "results")
    assert planned.n_to_extract == 24
    found = run(config, output=tmp_path / "results", n_jobs=1)
    assert set(found.leaderboard["features"]) == {"mfcc40", "wavlm"}


def test_another_file_is_another_run(tiny_corpus, keys, tmp_path):
    config = config_of(tiny_corpus, written(vectors_of(keys), tmp_path))
    before = plan(config, output=tmp_path / "results")
    written(vectors_of(keys).assign(x0=0.0), tmp_path)
    after = plan(config, output=tmp_path / "results")
    assert before.run != after.run
    assert not {job.key for job in before.jobs} & {job.key for job in after.jobs}


def test_bundle_takes_vectors_and_refuses_recordings_in_one_sentence(finished, tiny_corpus, keys, capsys):
    [bundle] = (finished.folder / "models").iterdir()
    predictor = emobench.load(bundle)
    X = vectors_of(keys).filter(like="x").to_numpy()
    assert predictor.labels(X[:6]) == [name.split("/")[1].split("-")[0] for name in keys["path"][:6]]
    clip = tiny_corpus / keys["path"][0]
    for call in (predictor.predict, predictor.features, lambda file: list(predictor.predict_files([file]))):
        with pytest.raises(
            BundleError, match=r"'logistic' takes vectors that another program makes .*\(wavlm, trained on: unknown\)"
        ):
            call(clip)
    assert command("predict", str(clip), "--model", str(bundle), "--quiet") == BundleError("").exit_code
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: 'logistic' takes vectors")


def test_latency_of_vectors_is_measured_from_vector_to_label(finished):
    [bundle] = (finished.folder / "models").iterdir()
    assert read_subject(bundle).features == "wavlm"
    answer = probe(bundle=str(bundle), clip="absent.wav", batches=[1, 2], block_s=0.01, core=None)
    assert [(block["stage"], block["batch"]) for block in answer["blocks"]] == [
        ("features_to_label", 1),
        ("features_to_label", 2),
    ]


# --- keys and the worked example ------------------------------------------------------------------------------------


def test_data_hashes_prints_the_keys(tiny_corpus, keys, capsys):
    assert command("data", "hashes", "manifest", "--path", str(tiny_corpus / "manifest.csv"), "--quiet") == 0
    printed = pd.read_csv(io.StringIO(capsys.readouterr().out), dtype=str)
    pd.testing.assert_frame_equal(printed, keys, check_dtype=False)


def test_data_hashes_names_what_has_no_key(tiny_corpus, tmp_path, capsys):
    shutil.copytree(tiny_corpus, tmp_path / "c")
    (tmp_path / "c/s0/angry-0.wav").write_bytes(b"RIFF")
    assert command("data", "hashes", "manifest", "--path", str(tmp_path / "c/manifest.csv"), "--quiet") == 3
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 24
    assert "1 recordings have no keys" in said.err


def test_worked_example_makes_a_file_that_runs(tiny_corpus, keys, tmp_path):
    """A random network plays the encoder: transformers and its weights are no part of this project."""
    script = tmp_path / "embed.py"
    script.write_text(re.search(r"```python\n(.*?)```", DOCS.read_text(), re.S)[1])
    example = runpy.run_path(str(script))
    weights = np.random.default_rng(0).normal(size=(400, 12))

    def encode(signal):
        return np.tanh(signal[: len(signal) // 400 * 400].reshape(-1, 400) @ weights)

    example["embed"](keys, tiny_corpus, encode).to_parquet(tmp_path / "wavlm.parquet", index=False)
    found = run(config_of(tiny_corpus, tmp_path / "wavlm.parquet"), output=tmp_path / "results", n_jobs=1)
    assert found.leaderboard["uar"].notna().all()


def test_config_of_the_docs_is_valid():
    text = re.search(r"```yaml\n(.*?)```", DOCS.read_text(), re.S)[1]
    assert [row.label for row in parse_config(text).features] == ["mfcc40", "wavlm"]
