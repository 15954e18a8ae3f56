"""README and docs tell the truth: figures are those of the committed runs, commands and links exist."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.main import get_command

from emobench.cli.main import app
from emobench.config.yaml import validate_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")])
TEXTS = {page: (ROOT / page).read_text() for page in PAGES}
TABLES = ["README.md", "docs/reading-results.md"]


@pytest.fixture(scope="module")
def boards():
    """Read what is committed of real speech."""
    paths = (ROOT / "results" / "ravdess").glob("*/leaderboard.csv")
    return {path.parent.name.rpartition("-")[0]: pd.read_csv(path) for path in paths}


def cells(text, heading):
    """Return the rows of the table whose first line begins with `heading`: a mapping of its headings to text."""
    top, _, *lines = text[text.index(heading) :].split("\n\n")[0].splitlines()
    split = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in [top, *lines]]
    return [dict(zip(split[0], row, strict=True)) for row in split[1:]]


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


# --- figures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", TABLES)
def test_leaderboard_is_the_committed_one(page, boards):
    shown = cells(TEXTS[page], "| rank | group | entry |")
    expected = boards["all"].to_dict("records")
    assert [row["entry"] for row in shown] == [row["entry"] for row in expected]
    for row, run in zip(shown, expected, strict=True):
        assert row["UAR"] == f"{run['uar']:.3f}"
        assert row["95 % interval"] == f"{run['uar_low']:.3f}–{run['uar_high']:.3f}"
        assert row["worst speaker"] == f"{run['worst_speaker_uar']:.3f}"
        assert row["answer (ms)"] == f"{run['latency_p50_ms']:.1f}"
        assert (row["rank"], row["group"]) == (str(run["rank"]), str(run["rank_group"]))
        assert row.get("macro F1", f"{run['macro_f1']:.3f}") == f"{run['macro_f1']:.3f}"


def test_richer_features_are_the_committed_ones(boards):
    board = boards["ravdess-5"].query("protocol == 'group-kfold'").set_index(["features", "entry"])
    shown = cells(
        TEXTS["docs/reading-results.md"].replace("| 95 % interval | `", "| low–high | `"), "| entry | `mfcc40` |"
    )
    assert [row["entry"] for row in shown] == list(board.loc["mfcc40_stats"].index)
    for row in shown:
        for features, bounds in (("mfcc40", "low–high"), ("mfcc40_stats", "95 % interval")):
            expected = board.loc[(features, row["entry"])]
            assert row[f"`{features}`"] == f"{expected['uar']:.3f}"
            assert row[bounds] == f"{expected['uar_low']:.3f}–{expected['uar_high']:.3f}"
    assert f"the same SVM reaches {board.loc[('mfcc40_stats', 'svm'), 'uar']:.3f}" in " ".join(
        TEXTS["README.md"].split()
    )


@pytest.mark.parametrize("page", ["README.md", "docs/networks.md", "docs/voice.md"])
def test_what_voice_reaches_is_what_is_committed(page, boards):
    board = boards["voice"].query("features == 'voice'").set_index("entry")
    assert f"{board.loc['logistic', 'uar']:.3f}" in TEXTS[page]


def test_what_networks_reach_is_what_is_committed(boards):
    shown = cells(TEXTS["docs/networks.md"], "| features | network | UAR |")
    expected = boards["networks"].sort_values("uar", ascending=False).to_dict("records")
    assert len(shown) == len(expected)
    for row, run in zip(shown, expected, strict=True):
        assert (row["features"].strip("`"), row["network"]) == (run["features"], run["entry"])
        assert row["UAR"] == f"{run['uar']:.3f}"
        assert row["95 % interval"] == f"{run['uar_low']:.3f}–{run['uar_high']:.3f}"
        assert row["SD over seeds"] == f"{run['seed_sd']:.3f}"
        assert row["worst speaker"] == f"{run['worst_speaker_uar']:.3f}"


def premiums():
    path = next((ROOT / "results" / "ravdess").glob("ravdess-5-*/premium.csv"))
    return pd.read_csv(path).query("protocol == 'group-kfold'").set_index(["features", "entry"])


def test_leakage_premium_is_the_committed_one():
    shown = cells(TEXTS["docs/reading-results.md"], "| features | model | unheard")
    assert {(row["features"], row["model"]) for row in shown} == {key for key in premiums().index if key[1] != "dummy"}
    for row in shown:
        expected = premiums().loc[(row["features"], row["model"])]
        names = ["unheard actors (`group-kfold`)", "speakers shared (`random-kfold`)", "premium", "95 % interval"]
        assert [row[name] for name in names] == [
            *(f"{expected['unheard']:.3f}", f"{expected['shared']:.3f}", f"+{expected['premium']:.3f}"),
            f"{expected['low']:.3f}–{expected['high']:.3f}",
        ]
    svm = premiums().loc[("mfcc40", "svm")]
    claim = f"UAR of {svm['shared']:.2f} when recordings are split at random and **{svm['unheard']:.2f} on"
    assert claim in " ".join(TEXTS["README.md"].split())


def test_picture_is_drawn_from_the_committed_runs(boards):
    """`make picture` draws it; another version of matplotlib may place things elsewhere, but says the same."""
    picture = (ROOT / "docs" / "leaderboard.svg").read_text()
    drawn = runpy.run_path(str(ROOT / "docs" / "picture.py"))["draw"]()

    def texts(svg):
        return re.findall(r"<text [^>]*>([^<]*)</text>", svg)

    assert texts(picture) == texts(drawn)
    for row in boards["all"].to_dict("records"):
        assert {row["entry"], f"{row['uar']:.3f}"} <= set(texts(picture))
    for (features, entry), row in premiums().iterrows():
        if features == "mfcc40" and entry != "dummy":
            assert f"+{row['premium']:.3f}" in texts(picture)


def test_committed_leaderboards_hold_the_reference_models_on_real_speech(boards):
    assert {"all", "networks", "ravdess-5", "ravdess-8", "stress", "voice", "voice-8"} <= set(boards)
    for name, board in boards.items():
        assert set(board["corpus"]) == {"ravdess"}
        if name in ("all", "ravdess-5", "ravdess-8"):
            assert {"cnn", "mlp", "svm", "xgboost", "dummy"} <= set(board["entry"])
        assert (board["n_failed"] == 0).all()
        assert board["uar_low"].notna().all()


# --- text -----------------------------------------------------------------------------------------------------------


def test_readme_is_short():
    assert len(TEXTS["README.md"].split()) < 1200


def test_commands_page_names_the_commands_that_there_are():
    commands = get_command(app).commands
    known = {name for name in commands if not hasattr(commands[name], "commands")}
    known |= {f"{group} {name}" for group in commands for name in getattr(commands[group], "commands", ())}
    named = {
        re.match("(?:data |store )?[a-z]+", row["command"].strip("`"))[0]
        for row in cells(TEXTS["docs/commands.md"], "| command |")
    }
    assert named == known


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page_exist_and_take_its_options(page):
    commands = get_command(app).commands
    fences = "".join(re.findall(r"```\w*\n(.*?)```", TEXTS[page], re.DOTALL))
    prose = re.sub(r"```.*?```", "", TEXTS[page], flags=re.DOTALL)
    found = re.findall(r"^(?:.*[|$] |- run: )?emobench ([a-z]+)([^#\n]*)", fences, re.MULTILINE)
    found += re.findall(r"`emobench ([a-z]+)([^`]*)`", prose)
    for name, rest in found:
        assert name in commands, name
        command, words = commands[name], rest.split()
        if hasattr(command, "commands"):
            command = command.commands[words[0].split("|")[0].strip(".,;")]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if re.fullmatch("--[a-z-]+", word)} <= options, (name, rest)


@pytest.mark.parametrize("page", PAGES)
def test_files_and_links_of_a_page_exist(page):
    folder = (ROOT / page).parent
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", TEXTS[page]):
        assert (folder / link).exists(), link
    for name in re.findall(r"\b(?:configs|tests|benchmarks)/[a-z0-9_-]+\.(?:yaml|py)\b", TEXTS[page]):
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("page", ["docs/index.md", "README.md"])
def test_every_page_is_listed(page):
    listed = {Path(link).name for link in re.findall(r"\]\(([^)#:]+\.md)\)", TEXTS[page])}
    assert {Path(other).name for other in PAGES} - {"README.md", "index.md"} <= listed


@pytest.mark.parametrize("page", [page for page in PAGES if page not in {"docs/ci.md", "docs/extending.md"}])
def test_configs_of_a_page_are_valid(page):
    from ruamel.yaml import YAML

    for text in blocks(TEXTS[page], "yaml"):
        assert validate_config(YAML(typ="safe").load(text), page).remarks == ()


def test_runs_of_ones_own_are_ignored_by_git_and_committed_ones_are_not():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    own = ["results/quick-1a2b3c4d/leaderboard.csv", "results/.journal/x.json", "results/ravdess/all-1/predictions.csv"]
    committed = [
        "results/README.md",
        "results/ravdess/all-1/leaderboard.csv",
        "results/baseline/ci-1/predictions.parquet",
    ]
    command = ["git", "check-ignore", "--no-index", *own, *committed]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split() == own


@pytest.mark.slow
def test_commands_of_the_readme_work_as_printed(tmp_path):
    """From the first recording to the CI gate and Python; what installs is left out."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shutil.copytree(ROOT / "results" / "baseline", tmp_path / "results" / "baseline")
    readme = TEXTS["README.md"]
    (tmp_path / "own.yaml").write_text(blocks(readme, "yaml")[0])
    (tmp_path / "python.py").write_text(blocks(readme, "python")[0])
    lines = "".join(blocks(readme, "sh")).splitlines()
    lines = [line for line in lines if not line.startswith(("make", "source"))]
    assert sum(line.startswith("emobench ") for line in lines) == len(lines) == 8
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for line in [*lines, "python python.py"]:
        done = subprocess.run(line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert (done.returncode, "error:" in done.stderr) == (0, False), (line, done.stdout, done.stderr)
    assert (tmp_path / "sample" / "manifest.csv").read_text().startswith(blocks(readme, "csv")[0])
    assert done.stdout.strip() in ("angry", "calm", "fearful", "happy", "sad")
