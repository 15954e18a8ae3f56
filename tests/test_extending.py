"""Every file of docs/extending.md runs as it stands there, from nothing to a leaderboard."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import write_corpus

from emobench import testing
from emobench.registry import PluginFile

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"^`(\w+\.\w+)`:\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^\$ emobench (run .*)$", PAGE, re.MULTILINE)
CHECKS = {
    "model": testing.check_model,
    "network": testing.check_network,
    "feature set": testing.check_features,
    "protocol": testing.check_protocol,
    "metric": testing.check_metric,
    "stress": testing.check_stress,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("extending")
    (folder / "recordings").mkdir()
    write_corpus(folder / "recordings", n_speakers=6, n_repetitions=1)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


def test_page_has_a_file_of_each_kind():
    found = [kind for text in FILES.values() if "import" in text for kind, _ in PluginFile("x.py", text).rows]
    assert set(found) == {*CHECKS, "corpus"}
    assert len(COMMANDS) == sum(name.endswith(".py") for name in FILES)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[1])
def test_command_goes_from_nothing_to_the_leaderboard(folder, command):
    name = command.split()[1].removesuffix(".yaml")
    done = subprocess.run(
        [sys.executable, "-m", "emobench", *command.split()], cwd=folder, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert "cannot be used" not in done.stderr
    [board] = folder.glob(f"results/{name}-*/leaderboard.csv")
    assert pd.read_csv(board)["uar"].notna().all()


def test_network_of_the_page_listens_to_frames_and_is_tuned(folder):
    [run] = folder.glob("results/my_network-*")
    assert set(pd.read_csv(run / "leaderboard.csv")["entry"]) == {"cnn-lstm", "cnn-lstm-tuned"}
    trials = pd.read_csv(run / "trials.csv")
    assert trials["value"].notna().any()
    assert trials.query("trial == 1")["params"].str.contains("options.units").all()
    assert "cnn-lstm-tuned" in (run / "report.html").read_text()


@pytest.mark.parametrize("name", [name for name, text in FILES.items() if name.endswith(".py")])
def test_rows_keep_their_contract(folder, name):
    for (kind, _), row in PluginFile(name, FILES[name]).rows.items():
        if kind == "corpus":
            testing.check_corpus(row, folder / "recordings", skip="s0")
        else:
            CHECKS[kind](row)


def test_corpus_takes_under_40_lines():
    assert len(FILES["my_corpus.py"].splitlines()) < 40


def test_page_names_every_check():
    assert set(re.findall(r"`(check_\w+)\(", PAGE)) == set(testing.__all__)
