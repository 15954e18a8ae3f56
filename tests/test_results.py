"""Files appear whole or not at all; tables keep their types; nothing in them can hurt who opens them."""

import csv
import errno
import getpass
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import recorded

from emobench import files as module
from emobench.comparison.verdicts import compare
from emobench.errors import ConfigError, DataError, HeldError, StorageError
from emobench.files import storage_errors, write_bytes, write_json
from emobench.reports import derivation
from emobench.results import environment as about
from emobench.results.environment import environment, versions
from emobench.results.run import RUN_SCHEMA, hash_of, load_results, read_sums
from emobench.results.tables import (
    EXCLUDED,
    FOLDS,
    LEADERBOARD,
    PREDICTIONS,
    SCORES,
    csv_bytes,
    read_leaderboard,
    read_table,
    write_csv,
    write_table,
)


def failing(number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


# --- bytes ----------------------------------------------------------------------------------------------------------


def test_write_bytes_makes_folders_and_a_file_that_others_can_read(tmp_path):
    path = tmp_path / "a" / "b" / "x.csv"
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(path.parent) == ["x.csv"]


@pytest.mark.parametrize("name", ["x" * 250, "聲" * 80, ".hidden", "a b'c\"d"])
def test_write_bytes_takes_every_name_that_the_file_system_takes(tmp_path, name):
    write_bytes(tmp_path / name, b"new")
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("call", ["fsync", "replace", "fchmod"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call, number):
    path = tmp_path / "x.csv"
    write_bytes(path, b"old")
    monkeypatch.setattr(module.os, call, failing(number))
    with pytest.raises(StorageError, match=re.escape(str(path))):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.csv"]


def test_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x.csv"
    write_bytes(path, b"old")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.csv"]


def test_file_is_on_disk_before_it_has_its_name_and_the_folder_after(tmp_path, monkeypatch):
    path, events = tmp_path / "x.csv", []
    sync, replace = os.fsync, os.replace

    def log_sync(descriptor):
        events.append(f"sync {os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}')).rpartition('.')[2]}")
        sync(descriptor)

    def log_replace(old, new):
        events.append("replace")
        replace(old, new)

    monkeypatch.setattr(module.os, "fsync", log_sync)
    monkeypatch.setattr(module.os, "replace", log_replace)
    write_bytes(path, b"new")
    assert events == ["sync part", "replace", f"sync {tmp_path.name}"]


def test_file_beyond_the_size_limit_is_a_storage_error(tmp_path):
    code = (
        "import resource, signal, sys; from pathlib import Path; from emobench.files import write_bytes\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_bytes(Path(sys.argv[1]), bytes(5000))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True, text=True)
    assert "The file would be larger than the limit (ulimit -f). Raise the limit" in done.stderr
    assert os.listdir(tmp_path) == []


def test_folder_that_is_a_file_is_a_storage_error(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be written"):
        write_bytes(tmp_path / "a" / "x.csv", b"new")


@pytest.mark.parametrize(
    "number, advice",
    [
        (errno.ENOSPC, "The disk is full. Free some space"),
        (errno.EDQUOT, "The disk quota is used up. Free some space"),
        (errno.EROFS, "The file system is read-only. Choose another folder"),
        (errno.EACCES, "Permission denied. Choose another folder or change its permissions"),
        (errno.EPERM, "Permission denied. Choose another folder or change its permissions"),
        (errno.EFBIG, r"The file would be larger than the limit \(ulimit -f\). Raise the limit"),
        (errno.EIO, "The system says: Input/output error"),
        (None, "The system says: 8 requested and 0 written"),
    ],
    ids=lambda value: errno.errorcode.get(value) if isinstance(value, int) else None,
)
def test_storage_errors_say_what_to_do(number, advice):
    error = OSError("8 requested and 0 written") if number is None else OSError(number, os.strerror(number))
    message = f"^/a/b: cannot be written. {advice}.*; what is finished is kept"
    with pytest.raises(StorageError, match=message) as caught, storage_errors("/a/b"):
        raise error
    assert caught.value.exit_code == 5
    assert caught.value.__cause__ is error


def test_storage_errors_pass_on_what_is_said_already():
    with pytest.raises(HeldError, match="^held$"), storage_errors("/a"):
        raise HeldError("held")
    with pytest.raises(KeyError), storage_errors("/a"):
        raise KeyError


# --- JSON -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_refuses_what_is_no_number(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"uar": [value]})
    assert os.listdir(tmp_path) == []


def test_json_keeps_every_name(tmp_path):
    content = {"größe": ["new\nline", "</script>", "聲音", "not-utf8-\udcff"], "n": 1}
    write_json(tmp_path / "x.json", content)
    text = (tmp_path / "x.json").read_bytes().decode()
    assert json.loads(text) == content
    assert "größe" in text


# --- tables ---------------------------------------------------------------------------------------------------------

SCHEMAS = {"scores": SCORES, "predictions": PREDICTIONS, "folds": FOLDS, "excluded": EXCLUDED}
VALUES = {
    **{"string": ["a", "", None], "int64": [-1, 0, 2**40], "float64": [0.1, -2.5, np.nan]},
    "bool": [True, False, None],
}


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("n_rows", [0, 3])
def test_table_comes_back_with_the_types_of_its_schema(tmp_path, name, n_rows):
    schema = SCHEMAS[name]
    columns = {column: VALUES[kind][:n_rows] for column, kind in schema.items()}
    frame = pd.DataFrame(columns | {"p_angry": [0.5] * n_rows})
    write_table(tmp_path / name, frame, schema)
    read = read_table(tmp_path / name)
    assert list(read.columns) == [*schema, "p_angry"]
    assert len(read) == n_rows
    for column, kind in (schema | {"p_angry": "float64"}).items():
        if kind == "string":
            assert pd.api.types.is_string_dtype(read[column].dtype) or read[column].dtype == object
            assert [None if pd.isna(value) else value for value in read[column]] == columns[column]
        elif kind == "bool":
            assert read[column].tolist() == columns[column]
        else:
            assert str(read[column].dtype) == kind
            np.testing.assert_array_equal(read[column].to_numpy(), frame[column].to_numpy())


@pytest.mark.parametrize("n_rows", [0, 1])
def test_table_has_the_same_parquet_types_with_rows_and_without(tmp_path, n_rows):
    import pyarrow.parquet as pq

    frame = pd.DataFrame([[None] * len(SCORES)] * n_rows, columns=list(SCORES))
    frame[["repeat", "fold", "n_test"]] = 0
    write_table(tmp_path / "scores", frame, SCORES)
    schema = pq.read_schema(tmp_path / "scores.parquet")
    assert {field.name: str(field.type).replace("double", "float64") for field in schema} == SCORES


def test_table_refuses_a_text_where_a_number_belongs(tmp_path):
    frame = pd.DataFrame({column: ["x"] for column in FOLDS})
    with pytest.raises(Exception, match="repeat|int64"):
        write_table(tmp_path / "folds", frame, FOLDS)
    assert os.listdir(tmp_path) == []


def test_same_table_is_the_same_bytes(tmp_path):
    frame = pd.DataFrame({column: VALUES[kind] for column, kind in SCORES.items()})
    for stem in ("a", "b"):
        write_table(tmp_path / stem, frame, SCORES)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert csv_bytes(frame) == csv_bytes(read_table(tmp_path / "a"))


def test_table_that_is_absent_or_damaged_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"scores.parquet: must be there. It is not. Run the same config again"):
        read_table(tmp_path / "scores")
    frame = pd.DataFrame({column: VALUES[kind] * 50 for column, kind in SCORES.items()})
    write_table(tmp_path / "scores", frame, SCORES)
    good = (tmp_path / "scores.parquet").read_bytes()
    size = int.from_bytes(good[-8:-4], "little")  # of the footer, which has no checksum
    rng = np.random.default_rng(0)
    n_refused = 0
    for place in rng.integers(4, len(good) - 8 - size, 40):
        flipped = bytearray(good)
        flipped[place] ^= 1 << rng.integers(8)
        (tmp_path / "scores.parquet").write_bytes(flipped)
        try:
            read = read_table(tmp_path / "scores")
        except DataError:
            n_refused += 1
        else:  # a byte that nobody reads
            pd.testing.assert_frame_equal(read, frame, check_dtype=False)
    assert n_refused > 20
    (tmp_path / "scores.parquet").write_bytes(good[:-20])
    with pytest.raises(DataError, match=r"scores.parquet: must be a table that emobench wrote. It is damaged: .+ Run"):
        read_table(tmp_path / "scores")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
@pytest.mark.parametrize("dtype", ["object", "string", "str", "category"])
def test_csv_text_cannot_start_a_formula(tmp_path, start, dtype):
    text = f"{start}cmd|'/c calc'!A0"
    frame = pd.DataFrame({"speaker": pd.Series([text, "a", None], dtype=dtype), "value": [-1.5, 2.0, np.nan]})
    write_csv(tmp_path / "x.csv", frame)
    read = pd.read_csv(tmp_path / "x.csv", lineterminator="\n")
    assert read["speaker"].tolist()[:2] == ["'" + text.replace("\r", "\\r"), "a"]
    assert read["speaker"].isna().tolist() == [False, False, True]
    assert read["value"].tolist()[:2] == [-1.5, 2.0]
    assert frame["speaker"].iloc[0] == text


def test_csv_numbers_are_untouched_and_exact(tmp_path):
    frame = pd.DataFrame(
        {
            "f": [-0.1, 1 / 3, -1e-300],
            "i": [-1, 0, 5],
            "u": np.array([1, 2, 3], dtype=np.uint8),
            "n": pd.array([-1, None, 3], dtype="Int64"),
            "b": [True, False, True],
            "mixed": [-1.5, "", None],
        }
    )
    write_csv(tmp_path / "x.csv", frame)
    assert "'" not in (tmp_path / "x.csv").read_text()
    read = pd.read_csv(tmp_path / "x.csv")
    for column in ("f", "i", "u", "b"):
        assert read[column].tolist() == frame[column].tolist()


def test_csv_keeps_every_text(tmp_path):
    texts = ["größe 聲音", "two\nlines", 'it\'s "x"', "a,b", "<script>", " x "]
    write_csv(tmp_path / "x.csv", pd.DataFrame({"path": texts}))
    assert pd.read_csv(tmp_path / "x.csv")["path"].tolist() == texts
    write_csv(tmp_path / "y.csv", pd.DataFrame({"path": ["not-utf8-\udcff"]}, dtype=object))
    assert (tmp_path / "y.csv").read_bytes() == b"path\nnot-utf8-\\udcff\n"


@pytest.mark.parametrize(
    "text",
    ["s1\r=cmd|x!A1", "s1\n=cmd|x!A1", "s1\r\n@x", "a\x1b[31mb", "a\u2028=b", "a\u202eb", "\r", "a\x85=b"],
    ids=ascii,
)
def test_csv_has_no_line_that_is_a_formula_and_is_read_alike_by_all(tmp_path, text):
    """N42."""
    write_csv(tmp_path / "x.csv", pd.DataFrame({"speaker": [text, "b"], f"p_{text}": [1, 2]}))
    content = (tmp_path / "x.csv").read_text()
    with open(tmp_path / "x.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert [len(row) for row in rows] == [2, 2, 2]
    frame = pd.read_csv(tmp_path / "x.csv")
    assert [list(frame.columns), *frame.astype(str).to_numpy().tolist()] == rows
    assert not any(line.lstrip('"').startswith(tuple("=+-@")) for line in content.splitlines())
    assert not {"\r", "\x1b", "\u2028", "\u202e", "\x85"} & set(content)


def test_parquet_keeps_text_as_it_is(tmp_path):
    row = {column: "=1+1" if kind == "string" else 1 for column, kind in SCORES.items()}
    write_table(tmp_path / "scores", pd.DataFrame([row]), SCORES)
    assert read_table(tmp_path / "scores")["error"].tolist() == ["=1+1"]
    assert b"'=1+1" in csv_bytes(read_table(tmp_path / "scores"))


# --- the machine ----------------------------------------------------------------------------------------------------


def test_environment_is_reproducible_and_tells_nothing_private():
    record = environment()
    assert record == environment()
    text = json.dumps(record, allow_nan=False)
    assert socket.gethostname() not in re.findall(r"[\w.-]+", text)
    assert str(Path.home()) + "/" not in text
    assert str(Path(module.__file__).parents[1]) not in text
    assert not re.search(r"20\d\d-\d\d-\d\d|\d\d:\d\d", text)
    assert getpass.getuser() not in re.findall(r"\w+", text) or getpass.getuser() in platform.platform()
    assert record["versions"] == versions()
    assert record["versions"]["numpy"] == np.__version__


def test_environment_variables_are_not_recorded(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "s3cret-value")
    assert "s3cret" not in json.dumps(environment())


@pytest.mark.parametrize(
    "answers, commit",
    [(["abc", ""], "abc"), (["abc", " M audio.py"], "abc+"), (["", "?? audio.py"], "")],
    ids=["clean", "changed", "no-commit"],
)
def test_git_commit_says_whether_the_sources_were_changed(tmp_path, monkeypatch, answers, commit):
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(about, "__file__", str(tmp_path / "emobench" / "results" / "environment.py"))
    monkeypatch.setattr(about.shutil, "which", lambda _: "git")
    given = iter(answers)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, next(given)))
    assert environment()["git_commit"] == commit


@pytest.mark.parametrize("error", [OSError("no git"), subprocess.TimeoutExpired("git", 20)], ids=["broken", "hangs"])
def test_git_that_does_not_work_does_not_end_a_run(tmp_path, monkeypatch, error):
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(about, "__file__", str(tmp_path / "emobench" / "results" / "environment.py"))
    monkeypatch.setattr(about.shutil, "which", lambda _: "git")

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    assert environment()["git_commit"] == ""


# --- reading runs ----------------------------------------------------------------------------------------------------


def record(folder, *, schema_version=RUN_SCHEMA, rows=1):
    folder.mkdir(parents=True)
    frame = pd.DataFrame({name: ["x"] * rows for name in LEADERBOARD})
    numbers = {name: 1 for name, kind in LEADERBOARD.items() if kind not in ("string", "bool", "boolean")}
    frame.assign(**numbers, tuned=True, entry="=svm").pipe(lambda f: write_csv(folder / "leaderboard.csv", f))
    (folder / "run.json").write_text(json.dumps({"schema_version": schema_version, "run": folder.name}))
    return folder


def test_load_results_reads_a_run_the_folder_around_it_or_a_leaderboard(tmp_path):
    folder = record(tmp_path / "one")
    for path in (folder, tmp_path, folder / "run.json"):
        found = load_results(path)
        assert found.run["run"] == "one"
        assert found.leaderboard.loc[0, "entry"] == "=svm"
        assert found.predictions is None
    alone = load_results(folder / "leaderboard.csv")
    assert alone.run == {}
    pd.testing.assert_frame_equal(alone.leaderboard, found.leaderboard)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
def test_leaderboard_gives_back_names_without_their_guard(tmp_path, start):
    """S8."""
    name = f"{start}cmd|'/c calc'!A0"
    folder = record(tmp_path / "one")
    frame = read_leaderboard(folder / "leaderboard.csv").assign(corpus=name, waives=name, optimism=-0.25)
    write_csv(folder / "leaderboard.csv", frame)
    assert f"'{name}" in (folder / "leaderboard.csv").read_text()
    read = read_leaderboard(folder / "leaderboard.csv")
    assert read.loc[0, ["corpus", "waives", "optimism"]].tolist() == [name, name, -0.25]


@pytest.mark.parametrize("values", [[True, False, None], [None], [True], [False]])
def test_leaderboard_keeps_true_false_and_empty_apart(tmp_path, values):
    path = record(tmp_path / "one", rows=len(values)) / "leaderboard.csv"
    frame = read_leaderboard(path).assign(converged=pd.array(values, dtype="boolean"))
    write_csv(path, frame)
    assert [None if pd.isna(value) else value for value in read_leaderboard(path)["converged"]] == values


def test_load_results_reads_leaderboards_of_other_versions(tmp_path):
    path = record(tmp_path / "one") / "leaderboard.csv"
    frame = pd.read_csv(path).drop(columns=["optimism", "n_trials"]).assign(later="new")
    frame.to_csv(path, index=False)
    board = load_results(path).leaderboard
    assert list(board.columns) == [*LEADERBOARD, "later"]
    assert board["optimism"].isna().all()


@pytest.mark.parametrize(
    "spoil, kind, message",
    [
        (lambda run: (run / "run.json").unlink(), ConfigError, "There is no run.json"),
        (lambda run: (run / "run.json").write_text("{"), DataError, "must be JSON"),
        (lambda run: (run / "run.json").write_text("[]"), DataError, "no schema_version"),
        (lambda run: (run / "leaderboard.csv").unlink(), ConfigError, "leaderboard.csv: must be there"),
        (lambda run: (run / "leaderboard.csv").write_bytes(b"\xff\xfe\0"), DataError, "must be a CSV"),
        (lambda run: (run / "leaderboard.csv").write_text("a,b\n1,2\n"), DataError, "lacks the columns corpus, entry"),
        (lambda run: record(run.parent / "two"), ConfigError, "holds 2: one, two"),
    ],
    ids=["no record", "cut", "a list", "no leaderboard", "no text", "other columns", "two runs"],
)
def test_load_results_refuses(tmp_path, spoil, kind, message):
    folder = record(tmp_path / "runs" / "one")
    spoil(folder)
    with pytest.raises(kind, match=message):
        load_results(tmp_path / "runs" if "holds" in message else folder)


def test_load_results_refuses_what_a_newer_emobench_wrote(tmp_path):
    with pytest.raises(ConfigError, match=f"schema version {RUN_SCHEMA} at most. It has {RUN_SCHEMA + 1}.*Upgrade"):
        load_results(record(tmp_path / "one", schema_version=RUN_SCHEMA + 1))


# --- files that were changed since -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Folder of a run whose files are whole."""
    folder = recorded.write(tmp_path_factory.mktemp("run") / "r", *recorded.record())
    derivation.write_derived(folder, json.loads((folder / "run.json").read_text()))
    return folder


@pytest.fixture
def whole(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "run"))


@pytest.mark.parametrize("name", ["predictions.parquet", "scores.parquet", "run.json", "excluded.csv"])
def test_a_primary_file_that_was_changed_is_refused_by_name(whole, name):
    """N54."""
    load_results(whole)
    (whole / name).write_bytes((whole / name).read_bytes() + b"\n")
    for read in (load_results, lambda folder: compare(folder, folder)):
        with pytest.raises(DataError, match=rf"{name}: Restore it, or run the same config again"):
            read(whole)


def test_a_leaderboard_that_a_spreadsheet_saved_is_written_again_by_report(whole):
    """N57."""
    before = (whole / "leaderboard.csv").read_bytes()
    spoiled = before.decode().replace(",", ";").replace(".", ",")
    for is_summed in (True, False):
        (whole / "leaderboard.csv").write_text(spoiled)
        if not is_summed:
            (whole / "SHA256SUMS").unlink()
        with pytest.raises(DataError, match=rf"leaderboard.csv: .*`emobench report {whole}` writes it again"):
            compare(whole, whole)
        derivation.rebuild(whole)
        assert (whole / "leaderboard.csv").read_bytes() == before
        load_results(whole)


def test_what_is_not_kept_of_a_run_and_its_pages_are_no_fault(whole):
    for name in ("predictions.parquet", "scores.parquet", "intervals.csv"):
        (whole / name).unlink()
    (whole / "report.html").write_text("read with a browser that saved it")
    assert load_results(whole).predictions is None
    (whole / "leaderboard.csv").write_text("a\n")
    with pytest.raises(DataError, match="leaderboard.csv: Restore it, for example from version control"):
        load_results(whole)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("features", 3, "features: input should be a valid dictionary"),
        ("config", [], "config: "),
        ("corpora", {"tiny": {"classes": "angry"}}, "corpora.tiny.classes: input should be a valid list"),
        ("entries", {"svm": None}, "entries.svm: "),
        ("leakage_certificates", {"folds": 1}, "leakage_certificates: input should be a valid list"),
        ("environment", "a machine", "environment: "),
        ("run", 5, "run: input should be a valid string"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_record_with_a_value_of_another_type_is_refused_by_file_and_key(whole, key, value, says):
    """N56."""
    path = whole / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    (whole / "SHA256SUMS").unlink()
    for read in (load_results, derivation.rebuild):
        with pytest.raises(DataError, match=rf"{path}: not as a run writes it:\n  {says}"):
            read(whole)


def test_a_record_without_a_key_is_no_report(whole):
    path = whole / "run.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "corpora"}))
    (whole / "SHA256SUMS").unlink()
    with pytest.raises(DataError, match="corpora: field required"):
        derivation.rebuild(whole)


COMMITTED = sorted(path.parent for path in (Path(__file__).parents[1] / "results").glob("*/*/run.json"))


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_committed_runs_are_as_they_were_written(folder):
    listed = read_sums(folder)
    assert {path.name for path in folder.glob("*.*")} <= listed.keys()
    assert all(hash_of(folder / name) == value for name, value in listed.items() if (folder / name).is_file())
    load_results(folder)
