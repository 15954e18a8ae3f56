import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fitted import bundle_of
from pytest_benchmark.stats import Stats

from emobench import models
from emobench.bundles.storage import write_bundle
from emobench.cli.main import main
from emobench.config.schema import LatencyConfig
from emobench.config.yaml import validate_config
from emobench.errors import AudioError, BundleError, ConfigError
from emobench.prediction import latency, probe
from emobench.running import planning, runner

SETTINGS = LatencyConfig(rounds=6, block_s=0.01, batches=[1, 8])
CLASSES = ("angry", "happy", "sad")
N_CALLS = 20  # of a fake block, each 1 % of the first slower than the one before


def save(folder, *, entry="svm", seed=0):
    """Save a small SVM that is fitted on noise; return its folder."""
    rng = np.random.default_rng(seed)
    y = np.arange(30) % 3
    X = (rng.standard_normal((30, 40)) + y[:, np.newaxis]).astype(np.float32)
    estimator = models.build(models.get_model("svm")).fit(X, y)
    about = {"entry": entry, "trained_on": {"corpus": "noise"}, "identity": f"key of {entry}"}
    write_bundle(folder, bundle_of(estimator, X, model="svm", classes=CLASSES, **about))
    return folder


class FakeMachine:
    """Stands for `start_probe`: bundles have speeds, the machine has noise, and every task is written down."""

    def __init__(self, speeds_ms, *, noise=0.0, drift=0.0, seed=0):
        self.speeds_ms, self.noise, self.drift = speeds_ms, noise, drift
        self.rng, self.tasks = np.random.default_rng(seed), []

    def __call__(self, task):
        speed = self.speeds_ms[Path(task["bundle"]).name]
        self.tasks.append(task)
        if isinstance(speed, str):
            return {"error": speed}
        luck = 1 + self.noise * abs(self.rng.standard_normal()) + self.drift * len(self.tasks)
        blocks = [
            {"stage": stage, "batch": batch, "durations_ns": self._durations_ns(speed * share * batch * luck)}
            for stage, share, batches in (
                ("features_to_label", 0.1, task["batches"]),
                ("wav_to_label", 1.0, task["batches"] and [1]),
            )
            for batch in batches
        ]
        memory = {"peak_memory_bytes": 100_000_000}
        blocks = [{**block, **memory} for block in blocks]
        return {"cold_ns": speed * luck * 1e8, "emotion": "sad", **memory, "blocks": blocks}

    def _durations_ns(self, milliseconds):
        return [milliseconds * 1e6 * (1 + 0.01 * call) for call in range(N_CALLS)]


def subject(name, *, entry=None):
    return latency.Subject(Path(name), "noise", "mfcc40", entry or name, 1000, f"checksum of {name}")


# --- figures --------------------------------------------------------------------------------------------------------


def test_measure_gives_a_row_per_bundle_stage_and_batch():
    table = latency.measure(
        [subject("fast"), subject("slow")], SETTINGS, probe=FakeMachine({"fast": 1, "slow": 3})
    ).table
    assert list(table.columns) == list(latency.LATENCY)
    rows = {(row["entry"], row["stage"], row["batch"]) for row in table.to_dict("records")}
    stages = [("cold_start", 1), ("wav_to_label", 1), ("features_to_label", 1), ("features_to_label", 8)]
    assert rows == {(entry, *stage) for entry in ("fast", "slow") for stage in stages}
    assert len(table) == len(rows)


def test_figures_are_medians_over_rounds_of_quantiles_of_calls():
    table = latency.measure([subject("a")], SETTINGS, probe=FakeMachine({"a": 2})).table
    row = table[(table["stage"] == "features_to_label") & (table["batch"] == 8)].iloc[0]
    calls_ms = 1.6 * (1 + 0.01 * np.arange(N_CALLS))
    assert row["p50_ms"] == pytest.approx(np.median(calls_ms))
    assert row["p95_ms"] == pytest.approx(np.percentile(calls_ms, 95))
    assert row["p99_ms"] == pytest.approx(np.percentile(calls_ms, 99))
    assert row["throughput_per_s"] == pytest.approx(8 * 1000 / calls_ms.mean(), rel=1e-4)
    assert row["n_calls"] == 6 * N_CALLS
    assert row["model_bytes"] == 1000
    assert row["peak_memory_bytes"] == 100_000_000


def test_one_cold_start_a_round_has_no_tail():
    table = latency.measure([subject("a")], SETTINGS, probe=FakeMachine({"a": 2})).table
    row = table[table["stage"] == "cold_start"].iloc[0]
    assert row["p50_ms"] == 200
    assert math.isnan(row["p95_ms"])
    assert row["n_calls"] == 6


@pytest.mark.parametrize("rounds, has_p99", [(4, False), (5, True)])
def test_a_p99_of_fewer_than_100_calls_is_none(rounds, has_p99):
    settings = LatencyConfig(rounds=rounds, batches=[1])
    table = latency.measure([subject("a")], settings, probe=FakeMachine({"a": 2})).table
    warm = table[table["stage"] != "cold_start"]
    assert warm["p95_ms"].notna().all()
    assert (warm["p99_ms"].notna() == has_p99).all()
    assert (warm["noise_p99_ms"].notna() == has_p99).all()


def test_bundles_are_measured_in_turn_after_a_start_that_does_not_count():
    machine = FakeMachine({"a": 1, "b": 1, "c": 1})
    latency.measure([subject("a"), subject("b"), subject("c")], SETTINGS, probe=machine)
    assert [Path(task["bundle"]).name for task in machine.tasks] == ["a", *["a", "b", "c"] * 6]
    assert [task["batches"] for task in machine.tasks] == [[]] + [[1, 8]] * 18


def test_a_bundle_that_fails_leaves_the_others_alone():
    machine = FakeMachine({"good": 1, "bad": "it crashed"})
    measured = latency.measure([subject("bad"), subject("good")], SETTINGS, probe=machine)
    assert set(measured.table["entry"]) == {"good"}
    assert list(measured.failures.values()) == ["it crashed"]
    assert sum(Path(task["bundle"]).name == "bad" for task in machine.tasks) == 1


def test_a_clip_that_is_none_is_refused_before_anything_starts(tmp_path):
    (tmp_path / "clip.wav").write_text("no sound")
    machine = FakeMachine({"a": 1})
    with pytest.raises(AudioError, match="must hold a recording"):
        latency.measure([subject("a")], SETTINGS, clip=tmp_path / "clip.wav", probe=machine)
    assert machine.tasks == []


def test_what_the_fitted_model_itself_takes_stands_beside(tmp_path):
    path = save(tmp_path / "run" / "models" / "svm")
    latency.write_native(tmp_path / "run", {"another": 1.0})
    latency.write_native(tmp_path / "run", {"key of svm": 2.5})
    assert latency.read_native(tmp_path / "run") == {"another": 1.0, "key of svm": 2.5}
    subjects = [latency.read_subject(path), subject("b")]
    table = latency.measure(subjects, SETTINGS, probe=FakeMachine({"svm": 1, "b": 1})).table
    shown = table[table["native_p50_ms"].notna()]
    assert shown[["entry", "stage", "batch", "native_p50_ms"]].to_numpy().tolist() == [
        ["svm", "features_to_label", 1, 2.5]
    ]
    assert "2.5" in next(line for line in latency.to_columns(table) if line[:3] == ("svm", "features → label", "1"))
    (tmp_path / "run" / latency.NATIVE).write_text("[1]")
    assert latency.read_native(tmp_path / "run") == {}


# --- noise ----------------------------------------------------------------------------------------------------------


def test_the_noise_floor_holds_for_two_runs_nine_times_in_ten():
    """The promise that `emobench compare` builds on, with noise that has a long tail on one side."""
    rng = np.random.default_rng(0)
    n_held = 0
    for _ in range(300):
        first, second = (5 * (1 + rng.lognormal(-3, 1, 10)) for _ in range(2))
        difference = abs(np.median(first) - np.median(second))
        n_held += difference < min(latency.noise_floor(first), latency.noise_floor(second))
    assert n_held >= 270


def test_the_noise_floor_is_not_wider_than_it_must_be():
    rng = np.random.default_rng(0)
    floors = [latency.noise_floor(rng.normal(100, 10, 10)) for _ in range(100)]
    spread_of_differences = 10 * math.sqrt(math.pi / 2) * math.sqrt(2 / 10)  # of the medians of two runs
    assert np.median(floors) < 5 * spread_of_differences


def test_a_drift_counts_in_full():
    assert latency.noise_floor(np.array([1, 1, 1, 1, 2, 2, 2, 2.0])) >= 1
    assert latency.noise_floor(np.linspace(1, 2, 30)) >= 0.5  # two random halves of it hardly differ


def test_the_noise_floor_of_a_silent_machine_is_not_zero():
    assert latency.noise_floor(np.full(10, 50.0)) == 50 * latency.DRIFT


def test_one_round_with_bad_luck_moves_no_figure():
    values = np.array([5.0, 5.1, 5.05, 50.0, 5.02, 5.07, 5.03, 5.01])
    assert latency.noise_floor(values) < 0.2


def test_a_noisy_machine_is_said_to_be_one():
    quiet = latency.measure([subject("a")], SETTINGS, probe=FakeMachine({"a": 1})).table
    noisy = latency.measure([subject("a")], SETTINGS, probe=FakeMachine({"a": 1}, noise=0.8)).table
    assert latency.remarks(quiet) == []
    assert noisy["is_noisy"].all()
    (remark,) = latency.remarks(noisy)
    assert "too noisy to tell 4 of 4 latencies" in remark


# --- the process that is measured -----------------------------------------------------------------------------------


class FakeClock:
    """Nanoseconds that pass only in calls, a million each."""

    def __init__(self):
        self.now_ns = 0
        self.n_calls = 0

    def __call__(self):
        return self.now_ns

    def call(self, cost_ns=1_000_000):
        self.n_calls += 1
        self.now_ns += cost_ns


def test_time_calls_times_each_call_and_no_warm_up():
    clock = FakeClock()
    assert probe.time_calls(clock.call, 0.02, clock_ns=clock) == [1_000_000] * 20
    assert clock.n_calls == 20 + probe.WARM_UP_CALLS


def test_time_calls_times_one_call_that_takes_longer_than_the_block():
    clock = FakeClock()
    assert probe.time_calls(lambda: clock.call(10**9), 0.02, clock_ns=clock) == [10**9] * probe.MIN_CALLS


def test_time_calls_stops_at_its_limit():
    clock = FakeClock()
    assert len(probe.time_calls(lambda: clock.call(1000), 60, clock_ns=clock)) == probe.MAX_CALLS


def test_time_calls_lets_the_garbage_collector_wait():
    import gc

    states = []
    clock = FakeClock()
    probe.time_calls(lambda: (clock.call(), states.append(gc.isenabled())), 0.003, clock_ns=clock)
    assert states[-3:] == [False] * 3
    assert gc.isenabled()


def test_a_process_that_dies_has_an_error_for_an_answer(monkeypatch):
    monkeypatch.setattr(latency.sys, "executable", "/bin/false")
    assert "ended with exit code 1 and said: nothing" in latency.start_probe({})["error"]


def test_a_bundle_is_measured_in_a_fresh_process_of_one_thread(tmp_path):
    clip = latency.write_clip(tmp_path / "clip.wav")
    task = {"bundle": str(save(tmp_path / "svm")), "clip": str(clip), "batches": [1, 8], "block_s": 0.01, "core": None}
    answer = latency.start_probe(task)
    assert answer.get("error") is None
    assert answer["emotion"] in CLASSES
    assert 0.05e9 < answer["cold_ns"] < 300e9
    assert [(block["stage"], block["batch"]) for block in answer["blocks"]] == [
        ("features_to_label", 1),
        ("features_to_label", 8),
        ("wav_to_label", 1),
    ]
    assert all(min(block["durations_ns"]) > 0 for block in answer["blocks"])
    assert 20e6 < answer["peak_memory_bytes"] < 2e9


def test_a_bundle_that_is_gone_has_an_error_for_an_answer(tmp_path):
    clip = latency.write_clip(tmp_path / "clip.wav")
    task = {"bundle": str(tmp_path / "none"), "clip": str(clip), "batches": [], "block_s": 0.01, "core": None}
    assert "none" in latency.start_probe(task)["error"]


def test_the_clip_is_the_same_bytes_every_time(tmp_path):
    first, second = (latency.write_clip(tmp_path / name).read_bytes() for name in ("a.wav", "b.wav"))
    assert first == second
    assert len(first) == 44 + 2 * round(3.5 * 48_000)


# --- names and files ------------------------------------------------------------------------------------------------


def test_a_subject_is_called_as_its_bundle_says(tmp_path):
    found = latency.read_subject(save(tmp_path / "svm", entry="svm-c10"))
    assert (found.corpus, found.features, found.entry) == ("noise", "mfcc40", "svm-c10")
    assert found.n_bytes == sum(path.stat().st_size for path in (tmp_path / "svm").iterdir())


def test_a_damaged_bundle_is_refused_before_it_is_measured(tmp_path):
    save(tmp_path / "svm")
    (tmp_path / "svm" / "model.onnx").write_bytes(b"\x80pickle")
    with pytest.raises(BundleError, match=r"model\.onnx: damaged"):
        latency.read_subject(tmp_path / "svm")


def test_bundles_of_one_name_are_called_by_their_paths():
    found = latency.distinct([subject("a", entry="svm"), subject("b", entry="svm"), subject("c")])
    assert [item.entry for item in found] == ["a", "b", "c"]
    assert [item.entry for item in latency.distinct([subject("a", entry="svm")] * 2)] == ["svm"]


def test_statistics_are_those_of_pytest_benchmark():
    for n in range(4, 14):
        data = np.random.default_rng(n).lognormal(0, 1, n)
        oracle = Stats()
        for value in data.tolist():
            oracle.update(value)
        found = latency.statistics_of(data)
        for name in Stats.fields:
            expected = getattr(oracle, name)
            assert found[name] == (expected if isinstance(expected, str) else pytest.approx(expected)), name


def test_pytest_benchmark_compares_two_files(tmp_path):
    for name, speed in (("0001_before", 1.0), ("0002_after", 2.0)):
        measured = latency.measure([subject("svm")], SETTINGS, probe=FakeMachine({"svm": speed}, noise=0.01))
        content = latency.to_pytest_benchmark(measured.benchmarks)
        (tmp_path / f"{name}.json").write_text(json.dumps(content, allow_nan=False))
    command = [Path(sys.executable).parent / "pytest-benchmark", "compare", "--columns=median", "--csv=both.csv"]
    done = subprocess.run(
        [*command, "0001_before.json", "0002_after.json"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "wav → label, batch 1" in done.stdout
    both = pd.read_csv(tmp_path / "both.csv")
    assert len(both) == 2 * 4
    cold = both[both["name"].str.contains("cold_start")]["median"]
    assert max(cold) / min(cold) == pytest.approx(2, rel=0.1)


# --- in a run -------------------------------------------------------------------------------------------------------


def test_a_second_run_measures_nothing_and_leaves_the_files_alone(tmp_path):
    paths = [save(tmp_path / "models" / name, entry=name) for name in ("a", "b")]
    machine = FakeMachine({"a": 1, "b": 2}, noise=0.1)
    assert latency.count_missing(tmp_path, paths, SETTINGS) == 2
    assert latency.measure_run(tmp_path, paths, SETTINGS, probe=machine)[0]
    before = {name: (tmp_path / name).read_bytes() for name in (latency.CSV, latency.JSON)}
    n_tasks = len(machine.tasks)
    assert latency.count_missing(tmp_path, paths, SETTINGS) == 0
    assert not latency.measure_run(tmp_path, paths, SETTINGS, probe=machine)[0]
    assert len(machine.tasks) == n_tasks
    assert before == {name: (tmp_path / name).read_bytes() for name in before}


def test_only_a_bundle_that_changed_is_measured_again(tmp_path):
    paths = [save(tmp_path / "models" / name, entry=name) for name in ("a", "b")]
    latency.measure_run(tmp_path, paths, SETTINGS, probe=FakeMachine({"a": 1, "b": 2}))
    save(paths[1], entry="b", seed=1)
    machine = FakeMachine({"b": 3})
    assert latency.measure_run(tmp_path, paths, SETTINGS, probe=machine)[0]
    table = pd.read_csv(tmp_path / latency.CSV)
    one = table[(table["stage"] == "wav_to_label") & (table["batch"] == 1)]
    assert list(one["entry"]) == ["a", "b"]
    assert list(one["p50_ms"]) == pytest.approx([1.095, 3 * 1.095])


@pytest.mark.parametrize("change", ["settings", "processor", "libraries"])
def test_what_the_figures_depend_on_makes_them_be_measured_again(tmp_path, monkeypatch, change):
    paths, settings = [save(tmp_path / "models" / "a", entry="a")], SETTINGS
    latency.measure_run(tmp_path, paths, settings, probe=FakeMachine({"a": 1}))
    if change == "settings":
        settings = LatencyConfig(rounds=7, block_s=0.01, batches=[1, 8])
    elif change == "processor":
        monkeypatch.setattr(latency, "cpu", lambda: "another")
    else:
        monkeypatch.setattr(latency, "versions", lambda: {"numpy": "9"})
    assert latency.count_missing(tmp_path, paths, settings) == 1


@pytest.mark.parametrize("damage", ["cut", "other keys", "gone"])
def test_a_damaged_record_is_measured_anew(tmp_path, damage):
    paths = [save(tmp_path / "models" / "a", entry="a")]
    latency.measure_run(tmp_path, paths, SETTINGS, probe=FakeMachine({"a": 1}))
    record = tmp_path / latency.JSON
    if damage == "gone":
        record.unlink()
    else:
        record.write_bytes(record.read_bytes()[:-100] if damage == "cut" else b'{"benchmarks": [{"extra_info": {}}]}')
    assert latency.count_missing(tmp_path, paths, SETTINGS) == 1


def test_a_table_that_was_changed_is_written_again_from_the_record(tmp_path):
    paths = [save(tmp_path / "models" / "a", entry="a")]
    latency.measure_run(tmp_path, paths, SETTINGS, probe=FakeMachine({"a": 1}))
    table = tmp_path / latency.CSV
    whole = table.read_bytes()
    table.write_bytes(whole[:50])
    latency.restore(tmp_path)
    assert table.read_bytes() == whole


def test_a_table_without_its_record_is_removed(tmp_path):
    paths = [save(tmp_path / "models" / "a", entry="a")]
    latency.measure_run(tmp_path, paths, SETTINGS, probe=FakeMachine({"a": 1}))
    (tmp_path / latency.JSON).unlink()
    latency.restore(tmp_path)
    assert not (tmp_path / latency.CSV).exists()


def test_a_bundle_that_fails_in_a_run_is_a_remark_and_tried_again(tmp_path):
    paths = [save(tmp_path / "models" / name, entry=name) for name in ("a", "b")]
    _, remarks = latency.measure_run(tmp_path, paths, SETTINGS, probe=FakeMachine({"a": 1, "b": "no memory"}))
    assert remarks == ["noise · mfcc40 · b: its latency could not be measured: no memory"]
    assert latency.count_missing(tmp_path, paths, SETTINGS) == 1
    assert set(pd.read_csv(tmp_path / latency.CSV)["entry"]) == {"a"}


# --- config ---------------------------------------------------------------------------------------------------------


def config(latency_block):
    return {"corpora": ["ravdess"], "models": ["svm"], "latency": latency_block}


def test_an_empty_block_measures_with_the_defaults_and_none_does_not():
    assert validate_config(config({})).latency == LatencyConfig(rounds=10, block_s=0.1, batches=[1, 8, 64])
    assert validate_config(config(None)).latency is None


@pytest.mark.parametrize(
    "block, match",
    [
        ({"round": 3}, "rounds"),
        ({"rounds": 2}, "latency.rounds"),
        ({"block_s": 0}, "latency.block_s"),
        ({"batches": [8, 64]}, "must hold 1"),
        ({"batches": [1, 1]}, "1"),
        ({"batches": [0, 1]}, "batches"),
    ],
    ids=str,
)
def test_the_block_is_closed(block, match):
    with pytest.raises(ConfigError, match=match):
        validate_config(config(block))


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def emobench(capsys, monkeypatch, tmp_path):
    """Run `emobench latency` in this process, in a folder of its own, on a machine that is a fake."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, machine):
        monkeypatch.setattr(latency, "start_probe", machine)
        with pytest.raises(SystemExit) as caught:
            main(["latency", *map(str, arguments)])
        return caught.value.code, *capsys.readouterr()

    return run


def test_latency_prints_every_figure_with_its_noise(tmp_path, emobench):
    save(tmp_path / "a", entry="svm-a")
    code, out, _ = emobench("a", "--rounds", 4, machine=FakeMachine({"a": 2}))
    assert code == 0
    lines = [re.split(r" {2,}", line) for line in out.splitlines()]
    assert lines[0][:4] == ["entry", "stage", "batch", "p50 (ms)"]
    assert ["svm-a", "wav → label", "1", "2.190 ± 0.044"] in [line[:4] for line in lines]
    assert len(lines) == 1 + 5


def test_latency_writes_what_it_is_asked_for(tmp_path, emobench):
    save(tmp_path / "a")
    options = ("--rounds", 4, "--output", "latency.csv", "--benchmark-json", "latency.json", "--json")
    code, out, _ = emobench("a", *options, machine=FakeMachine({"a": 2}))
    assert code == 0
    rows = json.loads(out)["latency"]
    table = pd.read_csv("latency.csv")
    assert [list(row) for row in rows] == [list(table.columns)] * len(table)
    assert rows[0]["p95_ms"] is None
    assert len(json.loads(Path("latency.json").read_text())["benchmarks"]) == len(table)


def test_latency_of_a_damaged_bundle_ends_with_2_before_anything_is_measured(tmp_path, emobench):
    save(tmp_path / "good")
    save(tmp_path / "bad")
    (tmp_path / "bad" / "model.onnx").write_bytes(b"")
    machine = FakeMachine({"good": 1, "bad": 1})
    code, out, err = emobench("good", "bad", machine=machine)
    assert (code, out, machine.tasks) == (2, "", [])
    assert "model.onnx" in err


def test_latency_of_a_bundle_that_crashes_says_so_and_shows_the_others(tmp_path, emobench):
    save(tmp_path / "good", entry="good")
    save(tmp_path / "bad", entry="bad")
    code, out, err = emobench("good", "bad", "--rounds", 4, machine=FakeMachine({"good": 1, "bad": "signal 9"}))
    assert code == 4
    assert "bad gave no answer: signal 9" in err
    assert "good" in out
    code, out, _ = emobench("bad", "--json", machine=FakeMachine({"bad": "signal 9"}))
    assert code == 2
    assert list(json.loads(out)["failures"].values()) == ["signal 9"]


def test_latency_of_a_noisy_machine_is_printed_with_a_note(tmp_path, emobench):
    save(tmp_path / "a")
    _, out, err = emobench("a", machine=FakeMachine({"a": 2}, noise=0.8))
    assert out.count("noisy") == 5
    assert "too noisy to tell 5 of 5 latencies" in err


@pytest.mark.parametrize("rounds", [3, 1001])
def test_latency_refuses_too_few_or_too_many_rounds(emobench, rounds):
    code, _, err = emobench("a", "--rounds", rounds, machine=FakeMachine({}))
    assert code == 2
    assert f"--rounds must be 4 to 1000. Got {rounds}" in err


# --- the whole run --------------------------------------------------------------------------------------------------


def test_a_run_measures_its_bundles_once_and_shows_them(tmp_path, tiny_corpus, monkeypatch):
    machine = FakeMachine({"svm": 3, "dummy": 1})
    monkeypatch.setattr(latency, "start_probe", machine)
    about = {
        "corpora": [{"name": "manifest", "id": "tiny", "path": str(tiny_corpus / "manifest.csv")}],
        "models": ["svm", "dummy"],
        "protocols": ["loso"],
    }
    plain = runner.run(about, output=tmp_path, n_jobs=1)
    assert plain.leaderboard["latency_p50_ms"].isna().all()
    about["latency"] = {"rounds": 4, "block_s": 0.01, "batches": [1]}
    before = planning.plan(about, output=tmp_path).estimate_s
    first = runner.run(about, output=tmp_path, n_jobs=1)
    assert first.folder == plain.folder  # it changes no result, so it is the same run
    assert (first.n_computed, len(machine.tasks)) == (0, 1 + 2 * 4)
    board = first.leaderboard.set_index("entry")
    assert board.loc["svm", "latency_p50_ms"] == pytest.approx(3 * 1.095)
    assert board.loc["dummy", "latency_p95_ms"] == pytest.approx(1 * 1.1805)
    assert (board["model_bytes"] > 0).all()
    names = ("leaderboard.csv", latency.CSV, latency.JSON, "run.json")
    content = {name: (first.folder / name).read_bytes() for name in names}
    assert planning.plan(about, output=tmp_path).estimate_s < before
    again = runner.run(about, output=tmp_path, n_jobs=1)
    assert len(machine.tasks) == 1 + 2 * 4
    table = pd.read_csv(first.folder / latency.CSV)
    is_native = (table["stage"] == "features_to_label") & (table["batch"] == 1)
    assert (table.loc[is_native, "native_p50_ms"] > 0).all()
    assert table.loc[~is_native, "native_p50_ms"].isna().all()
    assert again.leaderboard.equals(first.leaderboard)
    assert content == {name: (first.folder / name).read_bytes() for name in names}


def test_a_run_goes_on_when_a_bundle_cannot_be_measured(tmp_path, tiny_corpus, monkeypatch):
    monkeypatch.setattr(latency, "start_probe", FakeMachine({"svm": "signal 11"}))
    outcome = runner.run(
        {
            "corpora": [{"name": "manifest", "id": "tiny", "path": str(tiny_corpus / "manifest.csv")}],
            "models": ["svm"],
            "protocols": ["loso"],
            "latency": {},
        },
        output=tmp_path,
        n_jobs=1,
    )
    assert outcome.exit_code == 0
    assert any("could not be measured: signal 11" in remark for remark in outcome.remarks)
    assert outcome.leaderboard["latency_p50_ms"].isna().all()
