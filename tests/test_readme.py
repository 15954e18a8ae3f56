"""The README tells the truth: its figures are those of the committed leaderboards, its commands exist."""

import re
import subprocess

import pandas as pd
import pytest
from typer.main import get_command

from emobench.cli.main import app
from emobench.config.yaml import validate_config


@pytest.fixture(scope="module")
def readme(pytestconfig):
    return (pytestconfig.rootpath / "README.md").read_text()


@pytest.fixture(scope="module")
def boards(pytestconfig):
    """Read what is committed of real speech: runs of one's own lie in the same folder, the gate's baseline below it."""
    root = pytestconfig.rootpath
    listed = subprocess.run(["git", "ls-files", "results"], cwd=root, capture_output=True, text=True)
    paths = [root / line for line in listed.stdout.splitlines() if re.fullmatch("results/[^/]*/leaderboard.csv", line)]
    if not paths:
        pytest.skip("not a git checkout")
    return {path.parent.name.rpartition("-")[0]: pd.read_csv(path) for path in paths}


def cells(readme, heading):
    """Return the rows of the table whose first line begins with `heading`, as lists of text."""
    table = readme[readme.index(heading) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in table]


def test_readme_shows_the_committed_leaderboard(readme, boards):
    shown = cells(readme, "| rank | group | entry |")
    expected = boards["all"]
    assert [row[2] for row in shown] == list(expected["entry"])
    assert [row[3] for row in shown] == [f"{value:.3f}" for value in expected["uar"]]
    assert [row[4] for row in shown] == [
        f"{low:.3f}–{high:.3f}" for low, high in zip(expected["uar_low"], expected["uar_high"], strict=True)
    ]


def test_readme_shows_what_richer_features_bring(readme, boards):
    board = boards["ravdess-5"].query("protocol == 'group-kfold'").set_index(["features", "entry"])
    shown = cells(readme, "| entry | `mfcc40` |")
    assert [row[0] for row in shown] == list(board.loc["mfcc40_stats"].index)
    for entry, *figures in shown:
        expected = [board.loc[features, entry] for features in ("mfcc40", "mfcc40_stats")]
        assert figures == [
            text for row in expected for text in (f"{row['uar']:.3f}", f"{row['uar_low']:.3f}–{row['uar_high']:.3f}")
        ]


def test_readme_shows_the_leakage_premium_of_every_model(readme, boards, pytestconfig):
    path = next((pytestconfig.rootpath / "results").glob("ravdess-5-*/premium.csv"))
    premium = pd.read_csv(path).query("protocol == 'group-kfold'").set_index(["features", "entry"])
    shown = cells(readme, "| features | model | unheard")
    assert {tuple(row[:2]) for row in shown} == {key for key in premium.index if key[1] != "dummy"}
    for features, entry, *figures in shown:
        row = premium.loc[(features, entry)]
        scores = [f"{row['unheard']:.3f}", f"{row['shared']:.3f}", f"+{row['premium']:.3f}"]
        assert figures == [*scores, f"{row['low']:.3f}–{row['high']:.3f}"]


def test_committed_leaderboards_hold_the_reference_models_on_real_speech(boards):
    assert set(boards) == {"all", "ravdess-5", "ravdess-8"}
    for board in boards.values():
        assert set(board["corpus"]) == {"ravdess"}
        assert {"cnn", "mlp", "svm", "xgboost", "dummy"} <= set(board["entry"])
        assert (board["n_failed"] == 0).all()
        assert board["uar_low"].notna().all()


def test_readme_names_the_commands_that_there_are(readme):
    commands = get_command(app).commands
    line = re.search(r"^`run`, .*?;", readme, re.MULTILINE)[0]
    named = {word.split("|")[0] for word in re.findall(r"`([a-z |]+)`", line)}
    assert {word.split()[0] for word in named} == set(commands)
    for group in ("data", "store"):
        assert set(re.search(rf"`{group} ([a-z|]+)`", line)[1].split("|")) == set(commands[group].commands)
    for command in re.findall(r"(?:`|\$ )emobench ([a-z]+)", readme):
        assert command in commands, command


def test_config_of_the_readme_is_valid(readme):
    from ruamel.yaml import YAML

    text = re.search(r"```yaml\n(.*?)```", readme, re.DOTALL)[1]
    config = validate_config(YAML(typ="safe").load(text), "README.md")
    assert len(config.models) == 2
    assert config.remarks == ()


def test_configs_that_the_readme_names_exist(readme, pytestconfig):
    for name in set(re.findall(r"configs/[a-z0-9-]+\.yaml", readme)):
        assert (pytestconfig.rootpath / name).is_file(), name
