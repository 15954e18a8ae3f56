import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import write_corpus
from filelock import FileLock

import emobench as emobench_package
from emobench import __version__
from emobench.cli.commands import registries
from emobench.cli.console import MAX_LINES, print_table
from emobench.cli.main import main
from emobench.corpora.synthetic.design import plan

EMOBENCH = [sys.executable, "-m", "emobench"]
HEAVY = ("keras", "librosa", "numpy", "optuna", "pandas", "pyarrow", "scipy", "sklearn", "tensorflow", "xgboost")
GROUPS = {"data": ["list", "hashes", "verify", "manifest", "make", "sample", "fetch"], "store": ["ls", "verify", "gc"]}
COMMANDS = [
    *(
        "init",
        "run",
        "plan",
        "premium",
        "compare",
        "report",
        "predict",
        "export",
        "inspect",
        "latency",
        "stress",
        "list",
        "features",
    ),
    *GROUPS,
    *(f"{group} {name}" for group, names in GROUPS.items() for name in names),
]
MANNER = ("--json", "--quiet", "-v", "--debug")
CONFIG = """\
corpora: [{{name: manifest, id: tiny, path: {corpus}/manifest.csv}}]
models: [svm, dummy]
protocols: [loso]
"""


@pytest.fixture
def emobench(capsys):
    """Run a command line in this process; return exit code, stdout and stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main(list(map(str, arguments)))
        out, err = capsys.readouterr()
        assert "Traceback" not in out
        assert "Traceback" not in err or "--debug" in arguments
        return caught.value.code, out, err

    return run


@pytest.fixture
def config(tmp_path, tiny_corpus):
    """Write a config of the tiny corpus in a folder of its own; return its path."""
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG.format(corpus=tiny_corpus))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_corpus):
    """Folder with the config, the results and the store of a run that is finished."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(CONFIG.format(corpus=tiny_corpus))
    environment = os.environ | {"EMOBENCH_STORE": str(folder / "store")}
    command = [*EMOBENCH, "run", "tiny.yaml", "--n-jobs", "1"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    (folder / "stdout").write_text(done.stdout)
    (folder / "stderr").write_text(done.stderr)
    return folder


@pytest.fixture
def with_store(finished, monkeypatch):
    """Let this test find every feature, so that no worker has to start."""
    monkeypatch.setenv("EMOBENCH_STORE", str(finished / "store"))
    return finished


def subprocess_of(*arguments, **options):
    options = {"capture_output": True, "text": True, "timeout": 120, **options}
    return subprocess.run([*EMOBENCH, *map(str, arguments)], **options)


def tree(*folders):
    """Return every path below folders, with size and time of change."""
    paths = [path for folder in folders if folder.exists() for path in [folder, *folder.rglob("*")]]
    return {path: (path.lstat().st_size, path.lstat().st_mtime_ns) for path in paths}


# --- help and options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", *COMMANDS])
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_of_every_command_is_on_stdout(emobench, command, option):
    code, out, err = emobench(*command.split(), option)
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: emobench {command}".strip())


def test_commands_of_this_test_are_all_there_are(emobench):
    def names(*above):
        listed = emobench(*above, "--help")[1].partition("Commands:\n")[2]
        return [line.split()[0] for line in listed.splitlines() if line.startswith("  ") and line[2] != " "]

    assert {*names(), *(f"{group} {name}" for group in GROUPS for name in names(group))} == set(COMMANDS)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_takes_the_four_options(emobench, command):
    out = emobench(*command.split(), "--help")[1]
    assert all(option in out for option in MANNER)


def test_help_imports_nothing_heavy():
    script = (
        "import sys\nfrom emobench.cli import main as cli\n"
        "try: cli.main(['run', '--help'])\nexcept SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("command", ["", "data"])
def test_group_without_a_command_shows_help_and_ends_with_2(emobench, command):
    code, out, err = emobench(*command.split())
    assert (code, out) == (2, "")
    assert err.startswith("Usage: emobench")


@pytest.mark.parametrize("group", ["", *GROUPS])
def test_no_summary_of_a_command_is_cut_at_80_columns(emobench, monkeypatch, group):
    monkeypatch.setenv("COLUMNS", "80")
    listed = emobench(*group.split(), "--help")[1].partition("Commands:\n")[2]
    assert len(listed.splitlines()) == len(GROUPS.get(group, COMMANDS)) - (
        0 if group else sum(map(len, GROUPS.values()))
    )
    assert "..." not in listed
    assert all(line.endswith(".") for line in listed.splitlines())


# --- tables ---------------------------------------------------------------------------------------------------------

HEADINGS = ["rank", "group", "entry", "UAR", "95 % interval", "WAR", "macro F1", "worst speaker", "fit (s)"]
ROW = ["1", "1", "xgboost-tuned", "0.502", "0.458–0.547", "0.512", "0.497", "0.275", "2.11"]


def printed(capsys, **options):
    first = ("entry", "UAR", "95 % interval", "rank", "group")
    print_table(HEADINGS, [ROW, ROW], first=first, names=("entry",), whole="See leaderboard.csv.", **options)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [44, 60, 80, 100, 200])
def test_table_leaves_columns_out_rather_than_cut_them(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    out = printed(capsys)
    assert "…" not in out
    assert all(len(line) <= width for line in out.splitlines())
    for kept in (0, 2, 3, 4):
        assert out.count(ROW[kept]) >= 2
    words = " ".join(out.split())
    left_out = words.partition("Columns left out: ")[2].removesuffix(". See leaderboard.csv.").split(", ")
    shown = [heading for heading in HEADINGS if heading in out.splitlines()[1]]
    assert sorted([*shown, *filter(None, left_out)]) == sorted(HEADINGS)
    assert (left_out == [""]) == (width == 200 or width == 100)


def test_table_into_a_file_has_every_column(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    out = printed(capsys, title="one " * 30)
    assert "left out" not in out
    assert all(text in out for text in (*HEADINGS, *ROW))


def test_long_table_is_cut_on_a_terminal_and_says_so(capsys, monkeypatch):
    rows = [[f"e{number}", "0.5"] for number in range(1500)]
    for columns, n_shown in (("80", MAX_LINES), (None, 1500)):
        monkeypatch.setenv("COLUMNS", columns) if columns else monkeypatch.delenv("COLUMNS", raising=False)
        print_table(["entry", "UAR"], rows, first=("entry", "UAR"), names=("entry",), whole="See leaderboard.csv.")
        out = capsys.readouterr().out
        assert out.count("0.5") == n_shown
        assert ("Rows left out: 1,460 of 1,500. See leaderboard.csv." in out) == (n_shown < 1500)


def test_plan_of_many_entries_is_cut_on_a_terminal_and_says_so(emobench, tmp_path, tiny_corpus, isolated, monkeypatch):
    models = [{"name": "svm", "id": f"e{number}", "params": {"C": number + 1}} for number in range(100)]
    corpora = [{"name": "manifest", "path": str(tiny_corpus / "manifest.csv")}]
    path = tmp_path / "many.yaml"
    path.write_text(json.dumps({"corpora": corpora, "models": models, "protocols": ["loso"]}))
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = emobench("plan", path, "--output", tmp_path / "results")
    assert (code, out.count(" × ")) == (0, MAX_LINES), err
    assert "and 160 more lines; use -v for every job" in out
    monkeypatch.delenv("COLUMNS")
    assert emobench("plan", path, "--output", tmp_path / "results")[1].count(" × ") == 200


def test_table_breaks_a_name_that_is_longer_than_the_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    print_table(["entry", "UAR"], [["x" * 50, "0.5"]], first=("entry", "UAR"), names=("entry",))
    out = capsys.readouterr().out
    assert out.count("x") == 50
    assert "0.5" in out


def test_run_at_80_columns_shows_every_score_and_says_what_to_do_next(emobench, with_store, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(with_store)
    code, out, err = emobench("run", "tiny.yaml")
    assert (code, "…" in out) == (0, False)
    assert all(len(line) <= 80 for line in out.splitlines())
    [folder] = (with_store / "results").glob("*-*")
    name = folder.relative_to(with_store)
    assert err.endswith(f"Next: open {name}/report.html\n      emobench predict FILE... --model {name}\n")


def test_sample_writes_recordings_that_the_synthetic_corpus_does_not_have(emobench, tmp_path):
    code, out, err = emobench("data", "sample", tmp_path / "sample")
    assert (code, out, err) == (0, f"Wrote 30 recordings and {tmp_path}/sample/manifest.csv\n", "")
    before = tree(tmp_path / "sample")
    found = json.loads(emobench("data", "verify", "manifest", "--path", tmp_path / "sample/manifest.csv", "--json")[1])
    assert (found["recordings"], found["speakers"], found["bad"]) == (30, 6, [])
    speakers = {path.name.removeprefix("speaker-") for path in (tmp_path / "sample").glob("speaker-*")}
    assert not speakers & {clip.speaker for clip in plan()}
    assert json.loads(emobench("data", "sample", tmp_path / "sample", "--json")[1])["recordings"] == 30
    assert tree(tmp_path / "sample").keys() == before.keys()


def test_sample_leaves_a_folder_of_other_files_alone(emobench, tmp_path):
    (tmp_path / "mine.txt").touch()
    before = tree(tmp_path)
    code, out, err = emobench("data", "sample", tmp_path)
    assert (code, out, err) == (2, "", f"error: {tmp_path} is not empty. Name a new folder.\n")
    assert tree(tmp_path) == before


def test_import_offers_the_public_names_to_completion():
    assert {"compare", "load", "load_results", "predict", "run"} <= set(dir(emobench_package))
    assert all(callable(getattr(emobench_package, name)) for name in emobench_package.__all__)
    assert (Path(emobench_package.__file__).parent / "py.typed").is_file()


def test_version_is_printed(emobench):
    assert emobench("--version") == (0, f"emobench {__version__}\n", "")
    assert json.loads(emobench("--version", "--json")[1]) == {"version": __version__}


@pytest.mark.parametrize(
    "arguments",
    [["list", "metrics", "--json"], ["list", "--json", "metrics"], ["--json", "list", "metrics"]],
    ids=["last", "first", "before"],
)
def test_options_count_before_and_after_the_command(emobench, arguments):
    code, out, _ = emobench(*arguments)
    assert (code, json.loads(out)[0]["name"]) == (0, "uar")


def test_options_count_before_a_group_and_its_command(emobench):
    for arguments in (["--json", "data", "list"], ["data", "--json", "list"], ["data", "list", "--json"]):
        assert json.loads(emobench(*arguments)[1])[0]["name"] == "ravdess"


# --- exit code 2: usage and config ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["runn"], "No such command 'runn'. Did you mean 'run'? Try `emobench --help`."),
        (["data", "lst"], "No such command 'lst'. Did you mean 'list'? Try `emobench data --help`."),
        (["run"], "Missing argument 'CONFIG'. Try `emobench run --help`."),
        (["run", "c.yaml", "--outptu", "x"], "No such option: --outptu (Possible options: --output). Try"),
        (["run", "c.yaml", "--output"], "requires an argument"),
        (["run", "c.yaml", "more"], "unexpected extra argument"),
        (["run", "c.yaml", "--n-jobs", "two"], "Invalid value for '--n-jobs'"),
        (["run", "c.yaml", "--n-jobs", "0"], "--n-jobs must be at least 1, or -1 for every core. Got 0."),
        (["plan", "c.yaml", "-j", "-2"], "--n-jobs must be at least 1, or -1 for every core. Got -2."),
        (["run", "none.yaml"], "none.yaml: the config is not there."),
        (["run", "--dry-run", "none.yaml"], "none.yaml: the config is not there."),
        (["plan", "."], ".: the config is a folder."),
        (["list", "modles"], "Unknown table 'modles'. Did you mean 'models'?"),
        (["data", "verify", "ravdes"], "Unknown corpus 'ravdes'. Did you mean 'ravdess'?"),
        (["data", "verify", "manifest"], "Corpus 'manifest' needs --path"),
        (["data", "verify", "ravdess", "--path", "x.csv"], "unknown key. Known keys of corpus 'ravdess': "),
        (["data", "fetch", "ravdes"], "Unknown corpus 'ravdes'. Did you mean 'ravdess'?"),
        (["data", "make", "--speakers", "4"], "--speakers 4 needs a folder of its own"),
        (["data", "make", "x", "--speakers", "25"], "Invalid value for '--speakers'"),
        (["predict"], "Missing argument 'FILE...'."),
        (["predict", "x.wav"], "No saved model to predict with"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_ends_with_2_and_one_message(emobench, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    code, out, err = emobench(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert says in err
    code, out, _ = emobench("--json", *arguments)
    assert (code, json.loads(out)["exit_code"], says in json.loads(out)["message"]) == (2, 2, True)


@pytest.mark.parametrize("command", [["run"], ["plan"], ["run", "--dry-run"]], ids=" ".join)
def test_bad_config_ends_with_2_and_every_fault(emobench, tmp_path, command):
    path = tmp_path / "bad.yaml"
    path.write_text("corpora: [ravdes]\nmodels:\n- {name: cnn, params: {learning_rate: '1e-3'}}\nseed: no\n")
    code, out, err = emobench(*command, path)
    assert (code, out, len(err.splitlines())) == (2, "", 3)
    assert err.startswith("error: bad.yaml: corpora[0].name (line 1): Unknown corpus 'ravdes'.")


@pytest.mark.parametrize("command", ["run", "plan"])
def test_only_must_name_an_entry(emobench, config, command):
    code, _, err = emobench(command, config, "--only", "svm", "--only", "dumy")
    assert code == 2
    assert "--only must name an entry of the config. Got 'dumy'. Did you mean 'dummy'? Entries: svm, dummy." in err


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "text"])
def test_debug_shows_the_traceback_on_stderr(emobench, as_json):
    code, out, err = emobench("run", "none.yaml", "--debug", *["--json"] * as_json)
    assert (code, "Traceback (most recent call last)" in err) == (2, True)
    assert err.splitlines()[-1].startswith("error: none.yaml: the config")
    assert (json.loads(out)["error"] if as_json else out) == ("ConfigError" if as_json else "")


def test_bug_is_the_only_1_and_says_so(emobench, monkeypatch):
    def fail(*_):
        raise KeyError("whatever")

    monkeypatch.setattr(registries, "print_columns", fail)
    code, out, err = emobench("list", "metrics")
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "internal error, a bug in emobench: KeyError: 'whatever'" in err
    assert "Traceback" in emobench("list", "metrics", "--debug")[2]


def test_memory_and_disk_are_no_bugs(emobench, monkeypatch):
    for error in (MemoryError(), OSError(28, "No space left on device", "/x"), PermissionError(13, "no", "/x")):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(registries, "print_columns", fail)
        code, out, err = emobench("list", "metrics")
        assert (code, out, len(err.splitlines())) == (5, "", 1)


# --- C8: where results and store may be -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "plan"])
def test_output_may_not_be_where_it_would_be_read_as_data(
    emobench, tmp_path, tiny_corpus, config, monkeypatch, command
):
    corpus = shutil.copytree(tiny_corpus, tmp_path / "corpus")
    config.write_text(CONFIG.format(corpus=corpus))
    (tmp_path / "link").symlink_to(corpus / "s0")
    monkeypatch.setenv("HOME", str(corpus))
    monkeypatch.chdir(tmp_path)
    before = tree(corpus)
    for output in (corpus, corpus / "s0", "link", "~", "x/../corpus"):
        code, out, err = emobench(command, config, "--output", output)
        assert (code, out, "--output must not be inside a corpus" in err) == (2, "", True), (output, err)
    assert tree(corpus) == before


@pytest.mark.parametrize("command", ["run", "plan"])
def test_output_may_not_be_in_the_store_or_a_file(emobench, tmp_path, config, monkeypatch, command):
    store = tmp_path / "store"
    store.mkdir()
    (tmp_path / "link").symlink_to(store)
    (tmp_path / "file").touch()
    monkeypatch.setenv("EMOBENCH_STORE", str(tmp_path / "x" / ".." / "store"))
    monkeypatch.chdir(tmp_path)
    for output in (store, store / "results", "link", "link/a", "store/../store"):
        code, _, err = emobench(command, config, "--output", output)
        assert (code, "--output must not be in the feature store" in err) == (2, True), (output, err)
    code, _, err = emobench(command, config, "--output", "file")
    assert (code, "--output must be a folder." in err) == (2, True)
    code, _, err = emobench(command, config, "--output", "~nobody-of-this-name/x")
    assert (code, "begins with an unknown user" in err) == (2, True)


@pytest.mark.parametrize("command", ["run", "plan"])
def test_nothing_may_be_written_into_a_corpus_that_is_read_as_a_folder(emobench, tmp_path, monkeypatch, command):
    corpus = tmp_path / "ravdess"
    for actor in ("01", "02"):
        (corpus / f"Actor_{actor}").mkdir(parents=True)
        for emotion in ("03", "04"):
            (corpus / f"Actor_{actor}" / f"03-01-{emotion}-01-01-01-{actor}.wav").touch()
    config = tmp_path / "c.yaml"
    config.write_text(f"corpora: [{{name: ravdess, root: {corpus}}}]\nmodels: [dummy]\nprotocols: [loso]\n")
    for output in (corpus, corpus / "results", corpus / "Actor_01" / "x"):
        code, _, err = emobench(command, config, "--output", output)
        assert (code, "--output must not be inside a corpus" in err) == (2, True)
    monkeypatch.setenv("EMOBENCH_STORE", str(corpus / "store"))
    code, _, err = emobench(command, config, "--output", tmp_path / "results")
    assert (code, "The feature store must not be inside a corpus" in err) == (2, True)


# --- exit code 3: data ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["run"], ["plan"], ["data", "verify"]], ids=" ".join)
def test_missing_corpus_ends_with_3_and_says_what_to_do(emobench, tmp_path, command):
    path = tmp_path / "c.yaml"
    path.write_text("corpora: [ravdess]\nmodels: [svm]\n")
    code, out, err = emobench(*command, "ravdess" if command[0] == "data" else path)
    assert (code, out) == (3, "")
    assert "emobench data fetch ravdess" in err
    code, out, _ = emobench(*command, "ravdess" if command[0] == "data" else path, "--json")
    assert json.loads(out)["error"] == "CorpusError"


def test_bad_audio_ends_with_3_lists_20_and_writes_all(emobench, tmp_path, config):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    write_corpus(corpus)
    recordings = sorted(corpus.glob("*/*.wav"))
    for path in recordings[:23]:
        path.write_text(f"I am no sound but {path}")
    config.write_text(CONFIG.format(corpus=corpus))
    code, out, err = emobench("run", config, "--output", tmp_path / "results", "-j", "1")
    assert (code, out) == (3, "")
    assert "23 recordings cannot be used:" in err
    assert err.count("must hold a recording. It is text.") == 20
    assert "… and 3 more" in err
    [excluded] = (tmp_path / "results").glob("*/excluded.csv")
    assert str(excluded) in err
    assert len(excluded.read_text().splitlines()) == 24


def test_verify_finds_bad_audio_and_prints_one_json(emobench, tmp_path):
    write_corpus(tmp_path)
    bad = tmp_path / "s1" / "sad-0.wav"
    bad.write_bytes(bad.read_bytes()[:1000])
    code, out, err = emobench("data", "verify", "manifest", "--path", tmp_path / "manifest.csv", "--json")
    found = json.loads(out)
    assert (code, len(found["bad"]), found["recordings"], found["speakers"]) == (3, 1, 24, 4)
    assert "sad-0.wav: truncated" in err


def test_verify_of_a_good_corpus_ends_with_0(emobench, tiny_corpus):
    code, out, err = emobench("data", "verify", "manifest", "--path", tiny_corpus / "manifest.csv", "-q")
    assert (code, err) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert (rows["recordings"], rows["bad"], rows["emotions"]) == ("24", "0", "angry 8, happy 8, sad 8")


def test_verify_does_not_make_the_synthetic_corpus(emobench, isolated):
    code, _, err = emobench("data", "verify", "synthetic")
    assert (code, "emobench data make" in err) == (3, True)
    assert tree(isolated) == {isolated: tree(isolated)[isolated]}


def test_verify_of_a_folder_that_is_not_there_ends_with_3(emobench, tmp_path):
    code, _, err = emobench("data", "verify", "ravdess", "--root", tmp_path / "none")
    assert (code, str(tmp_path / "none") in err) == (3, True)


# --- what is printed ------------------------------------------------------------------------------------------------


def test_run_prints_the_leaderboard_on_stdout_and_the_rest_on_stderr(finished):
    out, err = (finished / "stdout").read_text(), (finished / "stderr").read_text()
    assert "tiny · mfcc40 · loso (unheard speakers)" in out
    assert [word for word in out.split() if word in ("svm", "dummy")] == ["svm", "dummy"]
    assert "note" not in out
    assert "10 jobs (2 of them final fits on everything) to run, 0 finished before" in err
    assert "10 jobs computed, 0 reused, 0 failed." in err


def test_run_again_computes_nothing_and_says_the_same(emobench, with_store):
    code, out, err = emobench("run", with_store / "tiny.yaml", "--output", with_store / "results")
    assert (code, out) == (0, (with_store / "stdout").read_text())
    assert "0 jobs computed, 10 reused, 0 failed." in err
    assert emobench("run", with_store / "tiny.yaml", "--output", with_store / "results", "-q") == (0, out, "")


def test_run_as_json_is_one_document(emobench, with_store):
    code, out, _ = emobench("run", with_store / "tiny.yaml", "--output", with_store / "results", "--json")
    found = json.loads(out, parse_constant=pytest.fail)
    assert (code, found["reused"], found["failed"]) == (0, 10, 0)
    assert [row["entry"] for row in found["leaderboard"]] == ["svm", "dummy"]
    assert Path(found["folder"]).is_dir()


def test_plan_and_dry_run_say_the_same_and_write_nothing(emobench, tmp_path, config, isolated, tiny_corpus):
    before = tree(tmp_path, isolated, tiny_corpus)
    planned = emobench("plan", config, "--output", tmp_path / "results", "-j", "1")
    assert emobench("run", config, "--dry-run", "--output", tmp_path / "results", "-j", "1") == planned
    assert planned[0] == 0
    assert "jobs      10 jobs (2 of them final fits on everything) to run, 0 finished before" in planned[1]
    assert "24 clips to extract" in planned[1]
    found = json.loads(emobench("plan", config, "--output", tmp_path / "results", "--json")[1])
    assert (len(found["jobs"]), found["n_to_extract"], found["estimate_s"] > 0) == (10, 24, True)
    assert len(emobench("plan", config, "-v", "-q")[1].splitlines()) == 14
    assert tree(tmp_path, isolated, tiny_corpus) == before


def test_plan_of_a_stand_in_writes_nothing_and_says_it_on_stderr(emobench, tmp_path, isolated, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Path(__file__).parent.parent / "configs" / "all.yaml"
    before = tree(tmp_path, isolated)
    code, out, err = emobench("plan", config)
    assert (code, "stands in" in err, "stands in" in out) == (0, True, False)
    assert "synthetic" in out
    assert emobench("plan", config, "--quiet")[2] == ""
    assert tree(tmp_path, isolated) == before


def test_plan_of_a_finished_run_says_so(emobench, with_store):
    found = json.loads(
        emobench("plan", with_store / "tiny.yaml", "--output", with_store / "results", "--json", "--only", "svm")[1]
    )
    folds = [job for job in found["jobs"] if "fold" in job["title"]]
    assert found["n_to_extract"] == 0
    assert folds == [] or all(job["is_finished"] for job in folds)


@pytest.mark.parametrize("what", ["models", "features", "corpora", "protocols", "metrics", "stresses"])
def test_list_prints_a_registry(emobench, what):
    code, out, err = emobench("list", what)
    rows = json.loads(emobench("list", what, "--json")[1])
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == [row["name"] for row in rows]
    assert all(row["title"] for row in rows)


def test_data_list_says_where_corpora_are(emobench, isolated):
    (isolated / "data" / "ravdess").mkdir(parents=True)
    code, out, err = emobench("data", "list")
    assert (code, err) == (0, "")
    assert str(isolated / "data" / "ravdess") in out
    assert "made when it is needed" in out
    folders = {row["name"]: row["folder"] for row in json.loads(emobench("data", "list", "--json")[1])}
    assert {"ravdess", "synthetic", "manifest"} <= set(folders)
    assert folders["synthetic"] is None


def test_data_make_prints_the_folder_and_makes_it_once(emobench, tmp_path):
    folder = tmp_path / "made"
    code, out, _ = emobench("data", "make", folder, "--speakers", "2", "-j", "1", "-q")
    assert (code, out) == (0, f"{folder}\n")
    before = tree(folder)
    assert len([path for path in before if path.suffix == ".wav"]) == 80
    code, out, err = emobench("data", "make", folder, "--speakers", "2", "-j", "1", "-q", "--json")
    assert (code, json.loads(out), err) == (0, {"folder": str(folder)}, "")
    assert tree(folder) == before


@pytest.mark.slow  # it tries several times
def test_data_fetch_without_a_server_ends_with_an_error_and_no_traceback(emobench, tmp_path):
    folder = tmp_path / "ravdess"
    code, out, err = emobench("data", "fetch", "ravdess", "--folder", folder, "--mirror", "http://127.0.0.1:9/")
    assert (code in (3, 5), out) == (True, "")
    assert "Licence: CC BY-NC-SA 4.0" in err
    assert not folder.exists()


@pytest.mark.parametrize("name", ["synthetic", "manifest"])
def test_data_fetch_of_what_has_no_archive_is_refused(emobench, name):
    code, out, _ = emobench("data", "fetch", name)
    assert (code in (2, 3), out) == (True, "")


# --- exit code 4: some jobs failed ----------------------------------------------------------------------------------


def test_failed_jobs_end_with_4_and_the_rest_is_kept(emobench, tmp_path, with_store):
    config = tmp_path / "c.yaml"
    broken = "{name: dummy, id: broken, params: {strategy: constant}}"
    config.write_text((with_store / "tiny.yaml").read_text().replace("dummy", broken))
    code, out, _ = emobench("run", config, "--output", tmp_path / "results", "-j", "1", "--json")
    found = json.loads(out, parse_constant=pytest.fail)
    assert (code, found["failed"]) == (4, 5)
    assert [(row["entry"], row["rank"], row["n_failed"]) for row in found["leaderboard"]] == [
        ("svm", 1, 0),
        ("broken", None, 4),
    ]


# --- exit code 5: environment ---------------------------------------------------------------------------------------


def test_output_below_a_file_ends_with_5(emobench, tmp_path, with_store):
    (tmp_path / "file").touch()
    code, out, err = emobench("run", with_store / "tiny.yaml", "--output", tmp_path / "file" / "results")
    assert (code, out) == (5, "")
    assert str(tmp_path / "file" / "results") in err


def test_run_folder_that_another_process_holds_ends_with_5(emobench, with_store):
    [folder] = (with_store / "results").iterdir()
    (folder / ".holder").write_text("process 123 on host h")
    with FileLock(folder / ".lock"):
        code, out, err = emobench("run", with_store / "tiny.yaml", "--output", with_store / "results")
    assert (code, out) == (5, "")
    assert f"{folder}: in use by process 123 on host h." in err


def test_file_size_limit_ends_with_5_and_leaves_no_part(tmp_path, with_store):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    # A limit that small would cut Python's own cache of bytecode as well, for everybody.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "NUMBA_CACHE_DIR": str(tmp_path / "numba")}
    command = ["run", with_store / "tiny.yaml", "--output", tmp_path / "r", "-j", "1"]
    done = subprocess_of(*command, preexec_fn=limit, env=environment)
    assert (done.returncode, "Traceback" in done.stderr) == (5, False), done.stderr
    assert "limit (ulimit -f)" in done.stderr
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
def test_read_only_output_ends_with_5(tmp_path, with_store):
    (tmp_path / "results").mkdir()
    inner = (
        f'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" || exit 77; exec {sys.executable} -m emobench "$@"'
    )
    arguments = ["run", with_store / "tiny.yaml", "--output", tmp_path / "results"]
    command = ["unshare", "-m", "sh", "-c", inner, tmp_path / "results", *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    if done.returncode in (77, 1) and "emobench" not in done.stderr:
        pytest.skip("mounting is not allowed here")
    assert (done.returncode, "read-only" in done.stderr, "Traceback" in done.stderr) == (5, True, False), done.stderr


# --- X3, X4: signals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "send, number, code",
    [
        pytest.param(os.killpg, signal.SIGINT, 130, id="Ctrl-C"),  # a terminal sends it to the workers too
        pytest.param(os.kill, signal.SIGINT, 130, id="SIGINT", marks=pytest.mark.slow),
        pytest.param(os.kill, signal.SIGTERM, 143, id="SIGTERM"),
        pytest.param(os.kill, signal.SIGHUP, 129, id="SIGHUP", marks=pytest.mark.slow),
    ],
)
def test_signal_stops_a_run_with_its_code_and_the_command_to_continue(tmp_path, with_store, send, number, code):
    config = tmp_path / "long.yaml"
    text = (with_store / "tiny.yaml").read_text().replace("dummy", "{name: mlp, params: {max_iter: 5000}}")
    config.write_text(text + "repeats: 1000\n")
    command = [*EMOBENCH, "run", str(config), "--output", str(tmp_path / "results"), "-j", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **pipes) as process:
        try:
            wait_until(lambda: list(tmp_path.glob("results/*/jobs/*.json")) or process.poll() is not None)
            send(process.pid, number)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out) == (code, ""), err
    assert "Traceback" not in err, err
    assert err.splitlines()[-1].startswith("Stopped. Finished work is kept. To continue: emobench run ")
    assert not list(tmp_path.rglob("*.part"))
    assert not list(tmp_path.rglob(".holder"))


def wait_until(is_so, timeout_s=90):
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_main_puts_signal_handlers_back(emobench):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    emobench("list", "metrics")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


# --- X32: odd terminals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", ["list models", "data list --json", "--help", "list none --json"])
def test_stdout_whose_reader_has_left_is_quiet(arguments):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stdout:
        done = subprocess.run([*EMOBENCH, *arguments.split()], stdout=stdout, stderr=subprocess.PIPE, text=True)
    assert done.returncode in ({2, 141} if "none" in arguments else {0, 141})
    assert "none" in arguments or done.stderr == ""
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("n_lines", [1, 100_000], ids=["short", "long"])
def test_head_is_quiet(n_lines):
    script = (
        "from emobench.cli import main as cli\n"
        f"cli._print_columns = lambda rows: print('x\\n' * {n_lines}, flush=True)\n"
        "cli.main(['list', 'models'])"
    )
    command = ["bash", "-c", 'set -o pipefail; "$0" -c "$1" | head -1', sys.executable, script]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode in (0, 141), done.stdout.count("\n"), done.stderr) == (True, 1, "")


@pytest.mark.parametrize("redirect", [">&-", "2>&-", ">&- 2>&-", "<&-"])
def test_closed_streams_are_no_fault(redirect):
    done = subprocess.run(["bash", "-c", f"{sys.executable} -m emobench list models {redirect}"], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    done = subprocess.run(["bash", "-c", f"{sys.executable} -m emobench list modles {redirect}"], capture_output=True)
    assert (done.returncode, b"Traceback" in done.stderr) == (2, False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_full_stdout_ends_with_5():
    with open("/dev/full", "w") as full:
        done = subprocess.run([*EMOBENCH, "list", "models"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.count("\n"), "disk is full" in done.stderr) == (5, 1, True)


@pytest.mark.parametrize(
    "environment",
    [{}, {"LC_ALL": "C", "LANG": "C", "NO_COLOR": "1", "TERM": "dumb"}, {"PYTHONIOENCODING": "ascii"}],
    ids=["empty", "C", "ascii"],
)
def test_run_works_without_an_environment(finished, environment):
    environment = environment | {"EMOBENCH_STORE": str(finished / "store")}
    done = subprocess_of("run", "tiny.yaml", cwd=finished, env=environment)
    assert (done.returncode, "svm" in done.stdout, "\x1b" in done.stdout) == (0, True, False), done.stderr
    assert "Traceback" not in done.stderr


def test_odd_names_are_spelled_out_on_a_terminal(emobench, tmp_path):
    code, _, err = emobench("run", tmp_path / "\x1b[31mred\r.yaml")
    assert (code, "\x1b" in err, "\\x1b[31mred\\r.yaml" in err) == (2, False, True)


@pytest.mark.parametrize("command", [["plan"], ["run", "--dry-run"]], ids=" ".join)
def test_odd_name_of_a_config_is_spelled_out_in_a_plan(emobench, config, command):
    """N44."""
    odd = config.rename(config.with_name("ev\x1b[31mil.yaml"))
    code, out, err = emobench(*command, odd, "-v")
    assert (code, "\x1b" in out + err) == (0, False)
    assert "ev\\x1b[31mil" in out


def test_main_without_arguments_reads_those_of_the_process(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["emobench", "--version"])
    with contextlib.suppress(SystemExit):
        main()
    assert capsys.readouterr().out == f"emobench {__version__}\n"
