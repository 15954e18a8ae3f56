"""The leakage premium: what it is computed from, what it leaves out, and the run that it takes."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from emobench.cli.main import main
from emobench.config.schema import RunConfig
from emobench.config.yaml import parse_config, validate_config
from emobench.errors import ConfigError
from emobench.reports import premium
from emobench.statistics.counts import count_entries, score
from emobench.statistics.differences import difference, holm

CLASSES = ["angry", "calm", "sad"]
PLAIN = {"corpora": ["synthetic"], "models": ["svm"]}


def predictions(entry, protocol, skill, *, corpus="c", n_speakers=12, seed=0):
    """Return the tidy predictions of an entry under a protocol, right with some probability."""
    y_true = np.tile(np.arange(3), 8 * n_speakers)
    rng = np.random.default_rng([seed, int(100 * skill)])
    y_pred = np.where(rng.random(len(y_true)) < skill, y_true, rng.integers(0, 3, len(y_true)))
    return pd.DataFrame(
        {
            **{"corpus": corpus, "features": "mfcc40", "entry": entry, "protocol": protocol, "repeat": 0, "fold": 0},
            "utterance": [f"{corpus}/{number}" for number in range(len(y_true))],
            "speaker": np.repeat([f"s{number:02d}" for number in range(n_speakers)], 24),
            "y_true": np.array(CLASSES)[y_true],
            "y_pred": np.array(CLASSES)[y_pred],
        }
    )


def run_of(*protocols, corpora=("c",), entries=("svm", "mlp")):
    """Return what the premium needs of a run.json."""
    rows = [{"id": None, **({"name": row} if isinstance(row, str) else row)} for row in protocols]
    return {
        "run": "all-12345678",
        "config": {"protocols": rows},
        "corpora": {name: {"classes": CLASSES} for name in corpora},
        "features": {"mfcc40": {}},
        "entries": {name: {} for name in entries},
    }


def test_premium_is_the_paired_difference_of_both_scores():
    table = pd.concat(
        [
            predictions("svm", "loso", 0.4),
            predictions("svm", "random-kfold", 0.8),
            predictions("mlp", "loso", 0.5),
            predictions("mlp", "random-kfold", 0.55),
        ]
    )
    found = premium.describe(table, run_of("loso", "random-kfold"))
    assert list(found.columns) == list(premium.COLUMNS)
    assert found["entry"].tolist() == ["svm", "mlp"]
    first = found.iloc[0]
    boards = table[table["entry"] == "svm"].groupby("protocol")
    counts = {name: count_entries(part, tuple(CLASSES))["svm"] for name, part in boards}
    expected = difference(counts["random-kfold"], counts["loso"])
    assert (first["premium"], first["low"], first["high"], first["p_value"]) == (
        expected.value,
        expected.low,
        expected.high,
        expected.p_value,
    )
    assert first["premium"] == pytest.approx(first["shared"] - first["unheard"])
    assert first["unheard"] == score(counts["loso"]) < 0.7 < first["shared"]
    assert 0 < first["low"] < first["premium"] < first["high"]
    assert found["p_holm"].to_numpy() == pytest.approx(holm(found["p_value"]))
    assert (first["n_speakers"], first["n_utterances"], first["reason"]) == (12, 288, "")


def test_premium_is_between_every_leaky_and_every_honest_protocol_and_no_other():
    protocols = ["statement-out", "loso", {"name": "random-kfold", "id": "clips"}, "sex-out", "group-kfold"]
    labels = ["statement-out", "loso", "clips", "sex-out", "group-kfold"]
    table = pd.concat([predictions("svm", label, 0.4 + 0.1 * number) for number, label in enumerate(labels)])
    found = premium.describe(table, run_of(*protocols, entries=["svm"]))
    assert found[["shared_protocol", "protocol"]].to_numpy().tolist() == [["clips", "loso"], ["clips", "group-kfold"]]


def test_premium_leaves_out_an_entry_that_is_whole_under_one_protocol_only():
    table = pd.concat(
        [
            predictions("svm", "loso", 0.4),
            predictions("svm", "random-kfold", 0.8),
            predictions("mlp", "loso", 0.5),
            predictions("dummy", "random-kfold", 0.5),
        ]
    )
    found = premium.describe(table, run_of("loso", "random-kfold", entries=["mlp", "svm", "dummy"]))
    assert found["entry"].tolist() == ["svm"]


@pytest.mark.parametrize(
    "protocols",
    [["loso", "group-kfold"], ["random-kfold"], ["random-kfold", "sex-out"]],
    ids=["honest", "leaky", "sex"],
)
def test_premium_of_one_kind_of_protocol_is_empty(protocols):
    table = pd.concat([predictions("svm", name, 0.5) for name in protocols])
    found = premium.describe(table, run_of(*protocols))
    assert found.empty
    assert list(found.columns) == list(premium.COLUMNS)
    assert premium.to_markdown(found, run_of(*protocols)).startswith("# Leakage premium of all-12345678")


def test_premium_of_few_speakers_says_why_it_has_no_interval():
    run = run_of("loso", "random-kfold", corpora=["c", "d|e"], entries=["svm"])
    parts = [("c", 12), ("d|e", 3)]
    table = pd.concat(
        [predictions("svm", name, 0.5, corpus=c, n_speakers=n) for c, n in parts for name in ("loso", "random-kfold")]
    )
    found = premium.describe(table, run)
    assert found["corpus"].tolist() == ["c", "d|e"]
    assert found.loc[0, ["premium", "low", "high", "p_value"]].tolist() == [0, 0, 0, 1]  # the same predictions
    table["y_pred"] = np.where(table["protocol"] == "loso", "sad", table["y_pred"])
    found = premium.describe(table, run)
    assert math.isnan(found.loc[1, "low"])
    assert found.loc[1, "reason"] == "an interval at 95% takes at least 6 speakers, there are 3"
    text = premium.to_markdown(found, run)
    assert "## d\\|e · mfcc40 · random-kfold against loso" in text
    assert "| an interval at 95% takes" in text
    assert "nan" not in text
    assert [len(row) for row in premium.to_columns(found)] == [len(premium.HEADINGS)] * 3


# --- in a config ----------------------------------------------------------------------------------------------------


def protocols_of(**changes):
    config = validate_config({**PLAIN, **changes})
    return [(row.label, row.options.get("n_splits")) for row in config.protocols]


@pytest.mark.parametrize(
    "changes, expected",
    [
        pytest.param({}, [("group-kfold", 6), ("random-kfold", 6)], id="default"),
        pytest.param(
            {"protocols": ["loso", {"name": "group-kfold", "n_splits": 4}]},
            [("loso", None), ("group-kfold", 4), ("random-kfold", 4)],
            id="as-many-folds",
        ),
        pytest.param({"protocols": ["luna-5fold"]}, [("luna-5fold", None), ("random-kfold", 6)], id="no-n_splits"),
        pytest.param(
            {"protocols": [{"name": "random-kfold", "n_splits": 3}, "loso"]},
            [("random-kfold", 3), ("loso", None)],
            id="its-own",
        ),
        pytest.param(
            {"premium": {"random": {"name": "random-kfold", "n_splits": 3, "id": "clips"}}},
            [("group-kfold", 6), ("clips", 3)],
            id="given",
        ),
        pytest.param({"premium": {"random": "random-kfold"}}, [("group-kfold", 6), ("random-kfold", 6)], id="name"),
    ],
)
def test_premium_block_adds_the_protocol_that_shares_speakers(changes, expected):
    assert protocols_of(**{"premium": {}, **changes}) == expected


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "premium: {random: loso}",
            "premium.random.name (line 3): must be a protocol that shares speakers. Got 'loso'",
        ),
        ("premium: {random: statement-out}", "must be a protocol that shares speakers. Got 'statement-out'"),
        ("premium: {randm: loso}", "premium.randm (line 3): unknown key. Did you mean 'random'?"),
        ("premium: yes", "premium (line 3): input should be a valid dictionary"),
        ("premium: {}\nprotocols: [random-kfold]", "premium (line 3): A premium must have a protocol under which only"),
        ("premium: {}\nprotocols: [sex-out]", "Got sex-out. Add group-kfold to `protocols`"),
        (
            "premium: {random: random-kfold}\nprotocols: [loso, {name: random-kfold, n_splits: 3}]",
            "`protocols` has 'random-kfold' with other options",
        ),
    ],
)
def test_premium_block_that_cannot_be_is_refused(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_config(f"corpora: [synthetic]\nmodels: [svm]\n{text}", "all.yaml")
    assert message in str(caught.value)


def test_resolved_premium_reads_back_as_itself():
    config = validate_config({**PLAIN, "premium": {}})
    assert validate_config(config.model_dump(mode="json")) == config
    assert config.with_premium() == config
    assert config == validate_config(PLAIN).with_premium()


def test_config_that_has_both_kinds_of_protocols_needs_no_block():
    """`emobench premium` is then the run that it always was, with all that is finished."""
    config = validate_config({**PLAIN, "protocols": ["group-kfold", "random-kfold"]})
    assert config.with_premium() is config


def test_config_without_premium_is_what_it_was_before_there_was_one():
    """Its resolved form is hashed into the run's name, which must not change."""
    assert (
        "premium"
        not in RunConfig.model_validate(
            {**PLAIN, "corpora": [{"name": "synthetic"}], "models": [{"name": "svm"}]}
        ).model_dump()
    )


# --- the command ----------------------------------------------------------------------------------------------------


def emobench(*arguments):
    with pytest.raises(SystemExit) as caught:
        main(list(map(str, arguments)))
    return caught.value.code


def test_premium_command_takes_over_what_a_plain_run_has_finished(tiny_corpus, tmp_path, capsys):
    config = tmp_path / "tiny.yaml"
    corpora = f"corpora: [{{name: manifest, id: tiny, path: {tiny_corpus}/manifest.csv}}]"
    config.write_text(f"{corpora}\nmodels: [svm, dummy]\nprotocols: [{{name: group-kfold, n_splits: 2}}]\n")
    output = ("--output", tmp_path / "results", "--n-jobs", 1)
    assert emobench("run", config, *output) == 0
    assert len(list((tmp_path / "results").glob("*/jobs/*.json"))) == 4
    capsys.readouterr()
    assert emobench("premium", config, *output) == 0
    out, err = capsys.readouterr()
    assert "jobs (2 of them final fits on everything) to run, 4 finished before" in err
    assert "tiny · mfcc40 · random-kfold against group-kfold" in out
    assert "at least 6 speakers, there are 4" in out
    assert emobench("premium", config, "--json", "--quiet", *output) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["entry"] for row in found["premium"]] == ["svm", "dummy"]
    assert found["premium"][1]["unheard"] == pytest.approx(1 / 3)
    assert found["premium"][0]["low"] is None
    run_json = json.loads((tmp_path / "results" / found["folder"] / "run.json").read_text())
    assert [row["waives"] for row in run_json["leakage_certificates"]] == [[], ["speaker"]]
    config.write_text(config.read_text() + "premium: {}\n")  # the same run by another way
    assert emobench("run", config, "--quiet", *output) == 0
    assert len(list((tmp_path / "results").iterdir())) == 2


def test_premium_command_refuses_a_config_without_new_speakers(tmp_path, capsys):
    (tmp_path / "all.yaml").write_text("corpora: [synthetic]\nmodels: [svm]\nprotocols: [random-kfold]\n")
    assert emobench("premium", tmp_path / "all.yaml", "--output", tmp_path) == 2
    assert "must have a protocol under which only speakers are new" in capsys.readouterr().err
