"""Rows of every kind from files outside the repository go the whole way, and a broken file beside them is a warning."""

import json
import subprocess
import sys

import pandas as pd
import pytest

import emobench
from emobench.errors import BundleError, ConfigError
from emobench.prediction import latency
from emobench.registry import PluginWarning, using
from emobench.running.planning import plan

EMOBENCH = [sys.executable, "-m", "emobench"]
FILES = {
    "models.py": '''
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression

from emobench.models import Float, ModelSpec


class Loud(ClassifierMixin, BaseEstimator):
    """Logistic regression that writes to stdout by every way."""

    def __init__(self, C=1.0):
        self.C = C

    def fit(self, X, y):
        import os
        print("by print")
        os.write(1, b"by descriptor\\n")
        os.system("echo by a child")
        self.model_ = LogisticRegression(C=self.C, max_iter=1000).fit(X, y)
        self.classes_ = self.model_.classes_
        return self

    def predict(self, X):
        return self.model_.predict(X)


LOGREG = ModelSpec(
    "my-logreg",
    "Logistic regression",
    "sklearn.linear_model:LogisticRegression",
    defaults={"max_iter": 1000},
    space={"C": Float(0.01, 10, log=True)},
)
LOUD = ModelSpec("my-loud", "Logistic regression, aloud", Loud)
''',
    "features.py": """
import numpy as np

from emobench.features import FeatureSpec


def log_mel(signal, *, sr, n_mels):
    import librosa

    power = librosa.feature.melspectrogram(y=signal, sr=sr, n_mels=n_mels)
    return librosa.power_to_db(power).astype(np.float32)


LOG_MEL = FeatureSpec(
    "my-logmel",
    "Mean over time of log-mel energies",
    frames=log_mel,
    summary=lambda frames: frames.mean(axis=1),
    n_features=20,
    sr=16_000,
    params={"n_mels": 20},
    libraries=("librosa",),
)
""",
    "corpus.py": """
from emobench.corpora import CorpusSpec, Scan, Utterance
from emobench.corpora.scanning import find_files
from emobench.registry import Option


def scan(root, *, suffix):
    files, ignored = find_files(root, [suffix])
    return Scan(tuple(map(describe, files)), tuple(ignored))


def describe(path):
    speaker, name = path.split("/")
    emotion, _, _ = name.partition("-")
    return Utterance(path, "my-corpus", speaker, emotion, sex="female" if int(speaker[1:]) % 2 else "male")


MINE = CorpusSpec("my-corpus", "My corpus", scan, options={"suffix": Option(str, ".wav", choices=(".wav", ".flac"))})
""",
    "protocol.py": """
import numpy as np

from emobench.protocols import ProtocolSpec
from emobench.registry import Option


def halves(labels, *, n_parts, seed):
    speakers = sorted(set(labels.speakers))
    return np.array([speakers.index(speaker) % n_parts for speaker in labels.speakers])


HALVES = ProtocolSpec("my-halves", "Speakers dealt by name", halves, options={"n_parts": Option(int, 2, ge=2)})
""",
    "metric.py": """
from emobench.metrics import MetricSpec


def kappa(tables):
    n = tables.sum(axis=(-2, -1))
    expected = (tables.sum(axis=-1) * tables.sum(axis=-2)).sum(axis=-1) / n**2
    return (tables.trace(axis1=-2, axis2=-1) / n - expected) / (1 - expected)


KAPPA = MetricSpec("my-kappa", "Cohen's kappa", kappa, range=(-1, 1))
""",
    "broken.py": "raise SystemExit('no luck')\n",
}
CONFIG = """
corpora:
  - {name: my-corpus, root: recordings, suffix: .wav}
  - {name: my-corpus, id: two-emotions, root: recordings, emotions: [angry, sad]}
features: [my-logmel]
models: [my-logreg, my-loud, dummy]
protocols: [{name: my-halves, n_parts: 3}]
metrics: [uar, my-kappa]
tuning: {n_trials: 2, inner_splits: 2, per_model: {my-loud: 0}}
"""


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A folder outside the repository: recordings, a config, plug-in files."""
    from conftest import write_corpus

    folder = tmp_path_factory.mktemp("outside")
    (folder / "recordings").mkdir()
    write_corpus(folder / "recordings", n_speakers=8)
    (folder / "mine.yaml").write_text(CONFIG)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def emobench_in(outside, monkeypatch):
    monkeypatch.setenv("EMOBENCH_STORE", str(outside / "store"))

    def call(*arguments, plugins=FILES):
        options = [option for name in plugins for option in ("--plugin", name)]
        command = [*EMOBENCH, *map(str, arguments), *options]
        return subprocess.run(command, cwd=outside, capture_output=True, text=True, timeout=240)

    return call


@pytest.fixture
def run(outside, emobench_in):
    """The folder of the run, carried out once."""
    if not list(outside.glob("results/*")):
        done = emobench_in("run", "mine.yaml", "-j", 2, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["failed"] == 0
        assert done.stderr.count("broken.py") == 1
        assert "the plug-in broken.py cannot be used: SystemExit: no luck (line 1)" in done.stderr
        assert "by print" not in done.stderr
    [folder] = outside.glob("results/mine-*")
    return folder


def kappas(predictions):
    """Return scikit-learn's kappa of each corpus and entry."""
    from sklearn.metrics import cohen_kappa_score

    parts = predictions.groupby(["corpus", "entry"], observed=True)
    return {key: cohen_kappa_score(part["y_true"], part["y_pred"]) for key, part in parts}


def test_files_go_to_the_leaderboard_with_intervals_slices_and_report(run):
    board = pd.read_csv(run / "leaderboard.csv")
    assert set(board["entry"]) == {"my-logreg", "my-logreg-tuned", "my-loud", "dummy"}
    assert set(board["corpus"]) == {"my-corpus", "two-emotions"}
    assert set(board["features"]) == {"my-logmel"}
    assert set(board["protocol"]) == {"my-halves"}
    assert (board.loc[board["entry"] == "my-logreg", "uar"] > 0.9).all()
    scores = pd.read_csv(run / "scores.csv")
    kappa = scores[(scores["metric"] == "my-kappa") & (scores["entry"] == "my-logreg")]
    assert (kappa["value"] > 0.85).all()
    intervals = pd.read_csv(run / "intervals.csv")
    assert intervals.loc[(intervals["entry"] == "my-logreg") & (intervals["metric"] == "uar"), "high"].notna().all()
    own = intervals.loc[(intervals["entry"] == "my-logreg") & (intervals["metric"] == "my-kappa")]
    assert own["high"].notna().all()
    assert (board.loc[board["entry"] == "my-logreg", "my-kappa"] > 0.85).all()
    recomputed = kappas(pd.read_parquet(run / "predictions.parquet"))
    found = board.set_index(["corpus", "entry"])["my-kappa"]
    for key, value in recomputed.items():
        assert found[key] == pytest.approx(value, abs=1e-6), key
    slices = pd.read_csv(run / "slices.csv")
    assert {"speaker", "sex"} <= set(slices["slice"])
    assert slices["my-kappa"].notna().any()
    page = (run / "report.html").read_text()
    assert "my-logreg" in page
    assert "my-kappa" in page


def test_record_says_which_files_its_rows_come_from(run):
    record = json.loads((run / "run.json").read_bytes())
    assert {item["file"]: item["rows"] for item in record["plugins"]} == {
        "corpus.py": ["corpus my-corpus"],
        "features.py": ["feature set my-logmel"],
        "models.py": ["model my-logreg", "model my-loud"],
        "protocol.py": ["protocol my-halves"],
        "metric.py": ["metric my-kappa"],
    }
    assert str(run.parent) not in json.dumps(record["config"])


def test_second_run_computes_nothing_and_another_metric_file_is_another_run(run, outside, emobench_in):
    # Not my-loud: a class of one's own has no bundle, so its fit on everything is tried again.
    done = emobench_in("run", "mine.yaml", "-j", 1, "--json", "--only", "my-logreg", "--only", "dummy")
    assert (done.returncode, json.loads(done.stdout)["computed"]) == (0, 0), done.stderr
    (outside / "metric2.py").write_text(FILES["metric.py"] + "# a comment\n")
    plugins = [name for name in FILES if name != "metric.py"] + ["metric2.py"]
    done = emobench_in("plan", "mine.yaml", "--json", plugins=plugins)
    planned = json.loads(done.stdout)
    assert planned["run"] != run.name
    assert planned["n_to_extract"] == 0
    keys = {job["key"] for job in planned["jobs"]}
    assert keys == {job["key"] for job in json.loads(emobench_in("plan", "mine.yaml", "--json").stdout)["jobs"]}


def test_bundle_says_that_it_needs_a_file_and_answers_with_it(run, outside, emobench_in):
    bundle, clip = run / "models" / "my-logreg@my-corpus+my-logmel", "recordings/s1/angry-0.wav"
    done = emobench_in("predict", "--model", bundle, clip)
    assert (done.returncode, done.stdout.split("\t")[1]) == (0, "angry"), done.stderr
    done = emobench_in("predict", "--model", bundle, clip, plugins=["models.py"])
    assert done.returncode == 2
    assert "The features 'my-logmel' of this model are not known here" in done.stderr
    assert "They are defined by the plug-in features.py. Give that file with --plugin." in done.stderr
    (outside / "features2.py").write_text(FILES["features.py"] + "# a comment\n")
    done = emobench_in("predict", "--model", bundle, clip, plugins=["models.py", "features2.py"])
    assert done.returncode == 2
    assert "were computed by another version of their plug-in features.py" in done.stderr


def test_processes_of_latency_get_the_files(run, outside):
    bundle, clip = run / "models" / "my-logreg@my-corpus+my-logmel", outside / "recordings/s1/angry-0.wav"
    task = {"bundle": str(bundle), "clip": str(clip), "batches": [1], "block_s": 0.01, "core": None}
    with using([outside / "models.py", outside / "features.py"]):
        answer = latency.start_probe(task)
    assert answer.get("error") is None
    assert answer["emotion"] == "angry"
    assert "are not known here" in latency.start_probe(task)["error"]


@pytest.mark.slow
def test_dask_workers_get_the_files(run, outside, emobench_in):
    done = emobench_in("run", "mine.yaml", "--dask", "local:1", "--output", "elsewhere", "--json")
    assert done.returncode == 0, done.stderr
    [folder] = outside.glob("elsewhere/mine-*")
    boards = [pd.read_csv(place / "leaderboard.csv") for place in (run, folder)]
    untimed = [board.drop(columns=[name for name in board if name.endswith(("_s", "_ms"))]) for board in boards]
    pd.testing.assert_frame_equal(*untimed)


def test_compare_gates_what_comes_from_files(run, outside, emobench_in):
    done = emobench_in("compare", run, run, "--fail", "uar:0.02", "--fail", "my-kappa:0.02")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unknown" not in done.stderr.lower()
    worse = outside / "worse.yaml"
    worse.write_text(
        CONFIG.partition("tuning")[0].replace("[my-logreg, my-loud, dummy]", "[{name: dummy, id: my-logreg}, my-loud]")
    )
    assert emobench_in("run", worse, "-j", 2, "--quiet").returncode == 0
    [candidate] = outside.glob("results/worse-*")
    for gate in ("uar:0.02", "my-kappa:0.02"):
        assert emobench_in("compare", run, candidate, "--fail", gate, "--allow-missing").returncode == 10


def test_report_is_written_again_with_the_files_and_says_which_it_lacks(run, emobench_in):
    assert emobench_in("report", run).returncode == 0
    done = emobench_in("report", run, plugins=[])
    assert done.returncode == 2
    assert "This run used corpus.py, features.py, models.py, protocol.py, metric.py. Give" in done.stderr


def test_lists_show_where_rows_come_from_whatever_is_broken(emobench_in):
    for what, name, file in (("models", "my-loud", "models.py"), ("metrics", "my-kappa", "metric.py")):
        done = emobench_in("list", what)
        assert done.returncode == 0
        assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith(name)] == [file]
        assert done.stderr.count("broken.py") == 1
    for command in (["data", "list"], ["store", "ls"], ["store", "gc", "--dry-run"]):
        done = emobench_in(*command)
        assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    assert "my-corpus " in emobench_in("data", "list").stdout
    assert "my-logmel-" in emobench_in("store", "ls").stdout


def test_store_keeps_the_features_of_a_file_that_is_named_and_collects_them_else(run, emobench_in):
    named, unnamed = (emobench_in("store", "gc", "--dry-run", plugins=files).stdout for files in (FILES, []))
    assert "would remove  my-logmel-" not in named
    assert "would remove  my-logmel-" in unnamed


def test_config_that_needs_the_broken_file_ends_with_2(outside, emobench_in):
    (outside / "wants.yaml").write_text(CONFIG.replace("my-loud,", "wanted,").replace("my-loud: 0", "wanted: 0"))
    done = emobench_in("run", "wants.yaml")
    assert done.returncode == 2
    assert "Unknown model 'wanted'." in done.stderr
    assert "broken.py could define more, but cannot be used: SystemExit: no luck (line 1)." in done.stderr


def test_python_takes_files_too(run, outside, tmp_path, monkeypatch):
    monkeypatch.chdir(outside)
    monkeypatch.setenv("EMOBENCH_STORE", str(outside / "store"))
    files = [name for name in FILES if name != "broken.py"]
    outcome = emobench.run("mine.yaml", plugins=files, only=["my-logreg", "dummy"])
    assert (outcome.n_computed, outcome.folder.name) == (0, run.name)
    assert plan("mine.yaml", plugins=files).run == run.name
    with pytest.warns(PluginWarning, match="broken.py"):
        assert plan("mine.yaml", plugins=FILES).run == run.name
    with pytest.raises(ConfigError, match="Unknown model 'my-logreg'"):
        plan("mine.yaml", plugins=[name for name in files if name != "models.py"])
    bundle = run / "models" / "my-logreg@my-corpus+my-logmel"
    predictor = emobench.load(bundle, plugins=files)
    assert predictor.predict("recordings/s1/sad-0.wav").emotion == "sad"
    assert emobench.predict("recordings/s1/sad-0.wav", model=bundle, plugins=files).emotion == "sad"
    with pytest.raises(BundleError):
        emobench.load(bundle)
    assert emobench.compare(run, run, plugins=files).exit_code == 0
