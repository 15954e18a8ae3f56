"""Derived files follow from the primary ones, byte for byte and anywhere; the page is whole, offline and harmless."""

import hashlib
import html.parser
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from recorded import fail, record, write
from sklearn.metrics import confusion_matrix

from emobench.cli.main import main
from emobench.errors import ConfigError, DataError
from emobench.reports import derivation, figures, timing
from emobench.reports.page import MAX_EXCLUDED
from emobench.reports.page import _summary as summary
from emobench.running.runner import run

NASTY = "<script>alert('x')</script>&\"$\\frac{$"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run with everything that a page can hold, written once; copy it to change it."""
    scores, predictions, record_ = record(repeats=2, protocols=("group-kfold", "random-kfold"))
    scores, predictions = fail(scores, predictions, "mlp", error="ValueError: no such luck")
    folder = write(tmp_path_factory.mktemp("run"), scores, predictions, record_)
    latency = {"corpus": "tiny", "features": "mfcc40", "entry": "svm", "stage": "wav_to_label", "batch": 1}
    pd.DataFrame([{**latency, "p50_ms": 4.5, "p95_ms": 6.0, "p99_ms": 7.0, "model_bytes": 2000}]).to_csv(
        folder / "latency.csv", index=False
    )
    derivation.write_derived(folder, record_)
    return folder


@pytest.fixture
def copy(written, tmp_path):
    return shutil.copytree(written, tmp_path / "copy")


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name[0] != "."}


def derived(folder):
    return [name for name in content(folder) if name not in derivation.PRIMARY]


# --- rebuilding -----------------------------------------------------------------------------------------------------


def test_report_rebuilds_every_derived_file_byte_for_byte_elsewhere(written, copy):
    names = derived(copy)
    assert set(names) == {
        *("scores.csv", "predictions.csv", "leaderboard.csv", "leaderboard.md", "pairs.csv", "intervals.csv"),
        *("slices.csv", "confusion.csv", "premium.csv", "premium.md", "report.html", "SHA256SUMS"),
    }
    for name in names:
        (copy / name).unlink()
    assert set(derivation.rebuild(copy)) == set(names)
    assert content(copy) == content(written)


@pytest.fixture(scope="module")
def ran(tiny_corpus, tmp_path_factory):
    """Config, output folder and run's folder of a real run."""
    config = {
        "corpora": [{"name": "manifest", "path": str(tiny_corpus / "manifest.csv")}],
        "models": ["svm", "dummy"],
        "protocols": [{"name": "group-kfold", "n_splits": 2}, {"name": "random-kfold", "n_splits": 2}],
    }
    output = tmp_path_factory.mktemp("ran")
    return config, output, run(config, output=output, n_jobs=1).folder


def test_report_rebuilds_what_a_run_wrote(ran, tmp_path):
    before = content(ran[2])
    assert {"premium.csv", "premium.md", "report.html"} <= before.keys()
    for name in derivation.PRIMARY:
        if name in before:
            (tmp_path / name).write_bytes(before[name])
    derivation.rebuild(tmp_path)
    assert content(tmp_path) == before


@pytest.mark.parametrize("name", ["pairs.csv", "report.html", "SHA256SUMS", "run.json", "scores.parquet"])
def test_run_that_died_between_two_files_is_written_again(ran, name):
    config, output, folder = ran
    before = content(folder)
    (folder / name).write_bytes(b"older")
    assert run(config, output=output, n_jobs=1).n_computed == 0
    assert content(folder) == before


def test_report_can_write_elsewhere_and_leaves_the_run_alone(copy, tmp_path):
    before = content(copy)
    names = derivation.rebuild(copy, output=tmp_path / "other")
    assert content(copy) == before
    assert content(tmp_path / "other") == {name: before[name] for name in names}
    assert "SHA256SUMS" not in names


def test_scores_without_convergence_are_of_an_older_emobench_and_can_be_reported(copy):
    path = copy / "scores.parquet"
    pd.read_parquet(path).drop(columns="converged").to_parquet(path)
    (copy / "SHA256SUMS").unlink()
    derivation.rebuild(copy)
    assert pd.read_csv(copy / "leaderboard.csv")["converged"].isna().all()


def test_sums_are_those_that_sha256sum_checks(written):
    assert set(derivation.read_sums(written)) == content(written).keys() - {"SHA256SUMS"}
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=written).returncode == 0


def test_run_is_current_until_a_file_is_lost_or_changed(copy):
    assert derivation.is_current(copy)
    for name in derived(copy) + ["predictions.parquet", "run.json"]:
        before = (copy / name).read_bytes()
        (copy / name).unlink()
        assert not derivation.is_current(copy)
        (copy / name).write_bytes(before[1:])
        assert not derivation.is_current(copy)
        (copy / name).write_bytes(before)
    assert derivation.is_current(copy)


def command(capsys, *arguments):
    """Run the command line; return exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as left:
        main(list(map(str, arguments)))
    return left.value.code, *capsys.readouterr()


def test_command_says_what_it_has_written(copy, tmp_path, capsys):
    names = derived(copy)
    (copy / "report.html").write_text("damaged")
    code, out, err = command(capsys, "report", copy)
    assert (code, err) == (0, "")
    assert sorted(out.split()) == sorted(str(copy / name) for name in names)
    assert derivation.is_current(copy)
    code, out, _ = command(capsys, "report", copy / "run.json", "--output", tmp_path / "o", "--json")
    found = json.loads(out)
    assert (code, found["folder"]) == (0, str(tmp_path / "o"))
    assert set(found["written"]) == content(tmp_path / "o").keys() == {*names} - {"SHA256SUMS"}


@pytest.mark.parametrize(
    "spoil, code, message",
    [
        (lambda run: (run / "run.json").write_text('{"schema_version": 99}'), 2, "Upgrade emobench to read it."),
        (lambda run: (run / "scores.parquet").write_bytes(b"PAR1"), 3, "scores.parquet: must be as the run wrote it."),
        (lambda run: (run / "predictions.parquet").unlink(), 2, "predictions.parquet: must be there."),
        (lambda run: shutil.rmtree(run), 2, "There is no run.json in it."),
    ],
    ids=["X34 newer", "damaged", "no table", "no run"],
)
def test_command_refuses(copy, capsys, spoil, code, message):
    spoil(copy)
    found, out, err = command(capsys, "report", copy)
    assert (found, out) == (code, "")
    assert message in err


# --- what is refused ------------------------------------------------------------------------------------------------


def test_record_of_a_newer_emobench_is_refused(copy):
    """X34."""
    record_ = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**record_, "schema_version": 2}))
    with pytest.raises(ConfigError, match=r"at most. It has 2: a newer emobench wrote it. Upgrade") as caught:
        derivation.rebuild(copy)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["scores.parquet", "predictions.parquet", "excluded.csv", "run.json"])
def test_primary_file_that_was_changed_is_refused(copy, name):
    path = copy / name
    text = path.read_bytes()
    path.write_bytes(text.replace(b'"repeats": 2', b'"repeats": 3') if name == "run.json" else text + b"\n")
    with pytest.raises(DataError, match=f"{name}: must be as the run wrote it. Its SHA-256"):
        derivation.rebuild(copy)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text"])
@pytest.mark.parametrize("name", ["scores", "predictions"])
def test_damaged_table_is_refused_also_without_sums(copy, name, damage):
    (copy / "SHA256SUMS").unlink()
    path = copy / f"{name}.parquet"
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 3] ^= 1
    path.write_bytes(
        {"flip": bytes(flipped), "cut": good[: len(good) // 2], "empty": b"", "text": b"a,b\n1,2\n"}[damage]
    )
    with pytest.raises(DataError, match=rf"{name}.parquet: must be a table that emobench wrote. It is damaged: .+ Run"):
        derivation.rebuild(copy)


def test_table_of_another_run_is_refused(copy, tmp_path):
    (copy / "SHA256SUMS").unlink()
    other = write(tmp_path / "other", *record(run="other-11111111"))
    shutil.copy(other / "predictions.parquet", copy)
    with pytest.raises(DataError, match="must be the table of the run fake-00000000. It has another run than run.json"):
        derivation.rebuild(copy)


def test_table_that_lacks_a_column_is_refused(copy):
    (copy / "SHA256SUMS").unlink()
    path = copy / "predictions.parquet"
    pd.read_parquet(path).drop(columns="speaker").to_parquet(path)
    with pytest.raises(DataError, match="It lacks the columns speaker"):
        derivation.rebuild(copy)


def test_run_whose_tables_are_not_kept_is_refused(copy):
    (copy / "predictions.parquet").unlink()
    with pytest.raises(ConfigError, match=r"predictions.parquet: must be there. It is not. Run the same config again"):
        derivation.rebuild(copy)


def test_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"There is no run.json in it"):
        derivation.rebuild(tmp_path)


# --- tables ---------------------------------------------------------------------------------------------------------


def test_confusion_is_that_of_scikit_learn():
    _, predictions, record_ = record(repeats=2)
    table = derivation.confusion(predictions, record_)
    for entry, part in predictions.groupby("entry"):
        expected = confusion_matrix(part["y_true"], part["y_pred"], labels=["angry", "happy", "sad"])
        found = table[table["entry"] == entry]
        assert found["n"].to_numpy().reshape(3, 3).tolist() == expected.tolist()
        assert found["share"].to_numpy().reshape(3, 3) == pytest.approx(expected / expected.sum(axis=1, keepdims=True))
    assert list(table.columns) == derivation.CONFUSION


def test_confusion_of_a_class_without_utterances_has_no_share():
    _, predictions, record_ = record()
    table = derivation.confusion(predictions[predictions["y_true"] != "sad"], record_)
    assert table.loc[table["y_true"] == "sad", "share"].isna().all()
    assert table.loc[table["y_true"] != "sad", "share"].notna().all()


def test_derived_tables_are_rounded_to_six_decimals():
    files = derivation.derive(*record())
    for name in ("pairs", "intervals", "slices", "confusion"):
        table = pd.read_csv(io.BytesIO(files[f"{name}.csv"]))
        assert len(table)
        for column in table.select_dtypes(float):
            assert np.array_equal(table[column], table[column].round(6), equal_nan=True)


def test_latency_stands_on_the_leaderboard(written):
    board = pd.read_csv(written / "leaderboard.csv").set_index(["protocol", "entry"])
    found = board.loc[("group-kfold", "svm"), ["latency_p50_ms", "latency_p95_ms", "model_bytes", "pareto"]]
    assert found.tolist() == [4.5, 6.0, 2000, True]


def test_run_of_which_everything_failed_has_a_page():
    """X21."""
    scores, predictions, record_ = record()
    scores = scores.assign(fit_s=np.nan, value=np.nan, error="ValueError: no")
    files = derivation.derive(scores, predictions[:0], record_)
    assert b"Failed jobs" in files["report.html"]
    assert pd.read_csv(io.BytesIO(files["leaderboard.csv"]))["rank"].isna().all()


# --- the page -------------------------------------------------------------------------------------------------------


class Reader(html.parser.HTMLParser):
    """Collects the tags, attributes and text of a page, and checks that tags are closed."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = set(), [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes
        if tag not in ("meta", "br", "link", "img", "hr"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def page_of(*tables, **extra):
    return derivation.derive(*tables, **extra)["report.html"].decode()


def test_page_is_one_offline_file_that_says_what_there_is(written):
    page = (written / "report.html").read_text()
    read = Reader(page)
    assert read.open == []
    text = " ".join(read.text)
    for expected in (
        *("fake-00000000", "tiny · mfcc40 · group-kfold", "No speaker is in both training and test"),
        *("Training and test share: speaker.", "Failed jobs", "ValueError: no such luck", "Leakage premium"),
        *("Leakage certificates", "Recall of each emotion", "Latency", "difference female-male", "a processor"),
    ):
        assert expected in text
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert ("content", policy) in read.attributes
    assert page.index("Content-Security-Policy") < page.index("<style>")
    assert "svg" in read.tags
    assert not {"script", "link", "iframe", "img", "object"} & read.tags
    for name, value in read.attributes:
        assert name not in ("src", "srcset", "action")
        assert name not in ("href", "xlink:href") or value.startswith("#")
    assert not re.findall(r"@import|url\((?!#)", page)


def test_every_id_of_a_page_is_its_own(written):
    ids = [value for name, value in Reader((written / "report.html").read_text()).attributes if name == "id"]
    figures = [value for value in ids if not value.startswith(("board-", "failed"))]
    assert len(set(ids) - set(figures)) == len(ids) - len(figures)
    page = (written / "report.html").read_text()
    bodies = {}
    for found in re.finditer(r'<(\w+) id="([^"]+)"(.*?)</', page, re.DOTALL):
        if found[2] in figures:
            assert bodies.setdefault(found[2], found[3]) == found[3]  # equal ids of two figures mean the same


def test_names_are_escaped_on_the_page():
    """S7: entries, corpora, labels, speakers, protocols, features, errors, paths and the config."""
    scores, predictions, record_ = record(
        right={NASTY: 0.6, "mlp": 0.4},
        classes=("angry", NASTY, "sad"),
        corpus=f"corpus {NASTY}",
        run=f"run {NASTY}",
        protocols=("group-kfold", f"own {NASTY}"),
    )
    predictions = predictions.replace({"speaker": {"00": NASTY}, "sex": {"male": NASTY}, "statement": {"1": NASTY}})
    scores, predictions = fail(scores, predictions, "mlp", error=f"ValueError: {NASTY}")
    record_["config"] |= {"note": NASTY, "protocols": [{"name": "group-kfold", "id": None}]}
    record_["environment"]["cpu"] = NASTY
    record_["corpora"][f"corpus {NASTY}"]["asked_for"] = NASTY
    excluded = pd.DataFrame([{"corpus": NASTY, "path": f"{NASTY}/\n.wav", "reason": NASTY}])
    page = page_of(scores, predictions, record_, excluded=excluded)
    assert "<script" not in page
    read = Reader(page)
    assert read.open == []
    assert not {"script"} & read.tags
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    text = "".join(read.text)
    assert text.count("<script>alert('x')</script>") > 20
    assert text.count(NASTY) > 20


def test_names_beyond_the_font_and_dollars_are_drawn_without_a_word(recwarn, caplog):
    scores, predictions, record_ = record(right={"聲": 0.6, "a$b$_{": 0.5})
    page = page_of(scores, predictions.replace({"speaker": {"00": "說話者", "01": "x" * 60}}), record_)
    assert page.count("聲") > 5
    assert page.count("a$b$_{") > 5
    assert [str(warning.message) for warning in recwarn] + caplog.messages == []


def timed(*rows):
    """Return a latency table of rows (entry, p50_ms, noise_p50_ms) as a run writes it."""
    where = {"corpus": "tiny", "features": "mfcc40", "stage": "wav_to_label", "batch": 1, "p95_ms": 9.0, "p99_ms": 9.5}
    sizes = {"throughput_per_s": 400.0, "model_bytes": 2000, "peak_memory_bytes": 10**8, "is_noisy": False}
    return pd.DataFrame(
        [{**where, **sizes, "entry": entry, "p50_ms": p50, "noise_p50_ms": noise} for entry, p50, noise in rows]
    )


def test_page_shows_no_latency_without_its_noise_and_says_what_cannot_be_told():
    tables = record(right={"svm": 0.7, "mlp": 0.6, "slow": 0.3})
    page = page_of(*tables, latency=timed(("svm", 2.5, 0.2), ("mlp", 2.4, 0.1), ("slow", 30.0, 1.0)))
    text = " ".join(" ".join(Reader(page).text).split())
    for shown in ("2.50 ± 0.20", "2.40 ± 0.10", "30.0 ± 1.0"):
        assert text.count(shown) == 3  # leaderboard, latencies, all latencies
    assert "mlp has the lowest latency, but it cannot be told apart from svm." in text
    assert "2.50 " not in text.replace("2.50 ±", "")


def test_entries_within_the_noise_are_not_ordered_by_latency():
    board = derivation.leaderboard.leaderboard(*record(right={"a": 0.9, "b": 0.9, "c": 0.3}))
    board = board.assign(latency_p50_ms=board["entry"].map({"a": 2.0, "b": 2.1, "c": 2.0}))
    near = timing.add_noise(board, timed(("a", 2.0, 0.05), ("b", 2.1, 0.2), ("c", 2.0, 0.05)))
    assert timing.beaten(near) == ["c"]  # not slower, but of a worse group
    assert timing.tied_with_fastest(near) == ["a", "c", "b"]
    far = timing.add_noise(board, timed(("a", 2.0, 0.05), ("b", 2.1, 0.05), ("c", 2.0, 0.05)))
    assert timing.tied_with_fastest(far) == ["a", "c"]
    assert timing.add_noise(board, None)["noise_p50_ms"].isna().all()


@pytest.mark.parametrize("slowest_ms", [2.7, 300.0], ids=["linear", "logarithmic"])
def test_figures_have_no_formulas_and_no_covered_or_cut_names(slowest_ms):
    names = [f"a-long-name-{number}" for number in range(9)]
    tables = record(right=dict.fromkeys(names, 0.5), n_speakers=8)
    latency = timed(*((name, 2.4 + (slowest_ms - 2.4) * number / 8, 0.05) for number, name in enumerate(names)))
    page = page_of(*tables, latency=latency)
    assert "mathdefault" not in page
    figure = page[page.index('aria-label="UAR against latency"') :].partition("</svg>")[0]
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', figure)[1])
    places = {}
    for found in re.finditer(r'<text [^>]*?x="([\d.]+)" y="([\d.]+)"[^>]*>(a-long-name-\d)<', figure):
        places[found[3]] = (float(found[1]), float(found[2]))
    assert set(places) == set(names)
    heights = sorted(y for _, y in places.values())
    assert min(np.diff(heights)) > 11  # points; the letters have nine
    assert all(x + 6 * len(name) < width for name, (x, _) in places.items())


@pytest.mark.parametrize("highest", np.arange(0.50, 0.561, 0.005).round(3))
def test_last_tick_of_a_figure_is_not_cut(highest):
    board = pd.DataFrame([{"entry": "svm", "uar": 0.4, "uar_low": 0.3, "uar_high": highest, "rank_group": 1}])
    figure = figures.forest(board, chance=0.2)
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', figure)[1])
    ticks = re.findall(r'text-anchor: middle[^>]*? x="([\d.]+)"[^>]*>([\d.]+)<', figure)
    assert len(ticks) > 3
    assert all(float(x) + 2.8 * len(text) < width for x, text in ticks)  # points; half of the letters


def test_page_shows_what_tuning_chose_in_each_fold():
    scores, predictions, record_ = record(right={"svm-tuned": 0.7, "mlp": 0.5})
    space = {"C": {}, "gamma": {}}
    given = {"C": 10.0, "gamma": "scale", "kernel": "rbf"}
    record_["entries"]["svm-tuned"] |= {"params": given, "tuned": True, "tuning": {"space": space}}
    where = {"corpus": "tiny", "features": "mfcc40", "entry": "svm-tuned", "protocol": "group-kfold", "repeat": "0"}
    rows = [
        ("0", "0", "complete", "0.5", {}),
        ("0", "1", "complete", "0.5", {"C": 1.5, "gamma": 0.02}),  # no better than the defaults, which came first
        ("1", "0", "complete", "0.4", {}),
        ("1", "1", "pruned", "", {"C": 99.0, "gamma": 0.5}),
        ("1", "2", "complete", "0.6", {"C": 3.25, "gamma": 0.0123}),
    ]
    trials = pd.DataFrame(
        [
            {**where, "fold": fold, "trial": trial, "state": state, "value": value, "params": json.dumps(params)}
            for fold, trial, state, value, params in rows
        ]
    )
    page = page_of(scores, predictions, record_, trials=trials)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page[page.index("What tuning chose") :]))
    assert "svm-tuned C 3.25, 10 10 1 of 2" in text
    assert "svm-tuned gamma 0.0123, scale scale 1 of 2" in text
    assert "tuned: C, gamma; kernel=rbf" in text
    assert "C=10.0" not in text


def test_many_choices_are_summarised_by_their_range():
    assert summary([float(value) for value in range(1, 13)]) == "1 to 12, median 6.5"
    assert summary(["rbf", "rbf", "poly"]) == "rbf (×2), poly"
    assert summary([0.5, 0.5, "scale"]) == "0.5 (×2), scale"


def test_report_of_a_run_without_its_tables_writes_the_pages_from_the_csvs(copy, tmp_path):
    """As of the runs that are committed to this repository."""
    before = (copy / "report.html").read_text()
    for name in ("scores", "predictions"):
        (copy / f"{name}.parquet").unlink()
    assert derivation.rebuild(copy) == ["leaderboard.md", "report.html"]
    after = (copy / "report.html").read_text()
    for title in ("Recall of each emotion", "Leakage premium"):  # figures lack the sex of the speakers
        parts = [page[page.index(title) :].partition("<h2")[0] for page in (before, after)]
        assert parts[0] == parts[1]
    derivation.rebuild(copy, output=tmp_path / "other")
    assert (tmp_path / "other" / "report.html").read_text() == after


def test_page_of_many_speakers_has_quantiles_and_the_worst_by_name():
    """N35."""
    scores, predictions, run = record(n_speakers=600, right={"svm": 0.7})
    files = derivation.derive(scores, predictions, run)
    text = files["report.html"].decode()
    sliced = pd.read_csv(io.BytesIO(files["slices.csv"]), dtype={"value": str})
    uars = sliced[(sliced["slice"] == "speaker") & (sliced["statistic"] == "uar")].set_index("value")["uar"]
    assert len(text) < 100_000
    assert len(uars) == 600
    worst = uars.sort_values(kind="stable").index
    assert all(f'<td class="name">{name} (' in text for name in worst[:20])
    assert not any(f">{name} (" in text for name in worst[20:])
    quantiles = "".join(f"<td>{value:.3f}</td>" for value in uars.quantile([0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]))
    assert quantiles in text
    assert "median, 25 to 75 %" in text


def test_long_list_of_excluded_recordings_is_cut():
    excluded = pd.DataFrame({"corpus": "tiny", "path": [f"{i}.wav" for i in range(250)], "reason": "empty"})
    text = " ".join(Reader(page_of(*record(), excluded=excluded)).text)
    assert f"{MAX_EXCLUDED - 1}.wav" in text
    assert "249.wav" not in text
    assert "… and 50 more in" in text


def test_corpus_that_stands_in_for_another_is_said():
    scores, predictions, record_ = record(corpus="synthetic")
    record_["corpora"]["synthetic"]["asked_for"] = "ravdess"
    text = " ".join(Reader(page_of(scores, predictions, record_)).text)
    assert "These are not results on ravdess. It was not found, so the computer-generated corpus synthetic" in " ".join(
        text.split()
    )


def test_page_is_small_and_the_same_bytes_again():
    tables = record(right={f"entry-{i}": 0.3 + 0.05 * i for i in range(10)}, n_speakers=24)
    page = page_of(*tables)
    assert len(page) < 400_000
    assert hashlib.sha256(page.encode()).digest() == hashlib.sha256(page_of(*tables).encode()).digest()
