"""The leaderboard ranks what is whole, takes its figures from one description, and says what it does not know."""

import pandas as pd
import pytest
from recorded import fail, record

from emobench.reports.leaderboard import complete, describe, leaderboard, to_markdown
from emobench.results.tables import LEADERBOARD, read_leaderboard, write_csv


def latency(**p50_ms):
    rows = [
        {"corpus": "tiny", "features": "mfcc40", "entry": entry, "latency_p50_ms": value, "latency_p95_ms": 2 * value}
        for entry, value in p50_ms.items()
    ]
    return pd.DataFrame(rows).assign(model_bytes=1000)


def of(frame):
    return frame.set_index("entry")


def test_figures_are_those_of_the_description():
    scores, predictions, run = record(repeats=3)
    found = describe(predictions, run).intervals.set_index(["entry", "metric"])
    board = of(leaderboard(scores, predictions, run))
    for entry in ("svm", "mlp"):
        for metric in ("uar", "war", "macro_f1", "log_loss", "brier", "ece", "auroc"):
            assert board.loc[entry, metric] == pytest.approx(found.loc[(entry, metric), "value"], abs=5e-7, nan_ok=True)
        bounds = found.loc[(entry, "uar")]
        assert tuple(board.loc[entry, ["uar_low", "uar_high", "seed_sd"]]) == pytest.approx(
            tuple(bounds[["low", "high", "seed_sd"]]), abs=5e-7
        )
    assert board.loc["svm", ["log_loss", "brier", "ece", "auroc"]].isna().all()
    assert board.loc["mlp", ["log_loss", "brier", "ece", "auroc"]].notna().all()


@pytest.mark.parametrize("n_speakers", [4, 12])
def test_leaderboard_has_its_columns_and_types_and_comes_back_from_its_csv(tmp_path, n_speakers):
    scores, predictions, run = record(n_speakers=n_speakers)
    for board in (leaderboard(scores, predictions, run), leaderboard(scores[:0], predictions[:0], run)):
        assert list(board.columns) == list(LEADERBOARD)
        for name, kind in LEADERBOARD.items():
            assert kind == "string" or str(board[name].dtype) == kind, name
        write_csv(tmp_path / "leaderboard.csv", board)
        read = read_leaderboard(tmp_path / "leaderboard.csv")
        pd.testing.assert_frame_equal(read, board, check_dtype=False)


def test_entry_with_a_failed_fold_has_no_quality_and_stands_last():
    scores, predictions, run = record(right={"best": 0.9, "svm": 0.6})
    board = leaderboard(*fail(scores, predictions, "best"), run)
    assert list(board["entry"]) == ["svm", "best"]
    assert list(board["n_failed"]) == [0, 1]
    assert board.loc[1, ["rank", "rank_group", "uar", "uar_low", "war", "log_loss", "worst_speaker_uar"]].isna().all()
    assert board.loc[0, "rank"] == 1


def test_entry_that_lacks_a_fold_is_not_ranked_either():
    """After a run that was stopped, another one with --only finds some folds of the other entries."""
    scores, predictions, run = record(right={"best": 0.9, "svm": 0.6})
    stopped = [table[(table["entry"] == "svm") | (table["fold"] == 0)] for table in (scores, predictions)]
    assert set(complete(*stopped, run)["entry"]) == {"svm"}
    board = of(leaderboard(*stopped, run))
    assert pd.isna(board.loc["best", "uar"])
    assert board.loc["svm", "rank"] == 1


def test_all_failed_is_a_leaderboard_without_ranks():
    """X21."""
    scores, predictions, run = record(right={"svm": 0.6})
    scores = scores.assign(fit_s=float("nan"), value=float("nan"), error="ValueError: no")
    board = leaderboard(scores, predictions[:0], run)
    assert len(board) == 1
    assert board[["rank", "rank_group", "uar", "pareto"]].isna().all(axis=None)
    assert list(board["n_failed"]) == [2]


@pytest.mark.parametrize(
    "said, expected",
    [([True, True], True), ([True, False], False), ([None, None], None), ([None, False], False)],
)
def test_converged_is_false_where_one_fold_is_not(said, expected):
    """X23."""
    scores, predictions, run = record(right={"svm": 0.6})
    board = leaderboard(scores.assign(converged=pd.Series(said, dtype=object)), predictions, run)
    found = board["converged"].iloc[0]
    assert (None if pd.isna(found) else found) == expected


def test_pareto_marks_what_nothing_dominates():
    scores, predictions, run = record(right={"best": 0.95, "quick": 0.6, "slow": 0.4, "unknown": 0.5}, n_clips=6)
    board = of(leaderboard(scores, predictions, run, None, latency(best=10.0, quick=2.0, slow=3.0)))
    assert board["pareto"].drop("unknown").to_dict() == {"best": True, "quick": True, "slow": False}
    assert pd.isna(board.loc["unknown", "pareto"])
    assert board.loc["quick", ["latency_p50_ms", "latency_p95_ms", "model_bytes"]].tolist() == [2.0, 4.0, 1000]
    assert leaderboard(scores, predictions, run)["pareto"].isna().all()


def test_equals_in_both_are_on_the_front_together():
    scores, predictions, run = record(right={"svm": 0.6})
    twin = [table.assign(entry="twin") for table in (scores, predictions)]
    run["entries"]["twin"] = run["entries"]["svm"]
    both = [
        pd.concat([table, copy], ignore_index=True) for table, copy in zip((scores, predictions), twin, strict=True)
    ]
    board = leaderboard(*both, run, None, latency(svm=1.0, twin=1.0))
    assert board["pareto"].tolist() == [True, True]
    assert board["rank"].tolist() == [1, 1]


def test_boards_are_in_the_order_of_the_config_and_entries_best_first():
    scores, predictions, run = record(protocols=("loso", "group-kfold"), right={"a": 0.5, "z": 0.9})
    board = leaderboard(scores, predictions, run)
    assert board[["protocol", "entry"]].to_numpy().tolist() == [
        *(["loso", "z"], ["loso", "a"]),
        *(["group-kfold", "z"], ["group-kfold", "a"]),
    ]


def test_optimism_is_what_tuning_thought_minus_what_is_so():
    scores, predictions, run = record(right={"svm": 0.6})
    board = leaderboard(scores.assign(n_trials=8, tuning_s=2.0, inner_score=0.9), predictions, run)
    assert board.loc[0, "optimism"] == pytest.approx(0.9 - board.loc[0, "uar"])
    assert board.loc[0, ["n_trials", "tuning_s"]].tolist() == [8, 2.0]


def test_worst_speaker_is_the_one_of_the_slices():
    from emobench.reports import slices

    scores, predictions, run = record()
    sliced = slices.describe(predictions, {"tiny": run["corpora"]["tiny"]["classes"]})
    worst = sliced[sliced["statistic"] == "minimum"].set_index("entry")["uar"]
    for entry, value in of(leaderboard(scores, predictions, run))["worst_speaker_uar"].items():
        assert value == pytest.approx(worst[entry], abs=5e-7)


def test_markdown_says_what_is_shared_and_escapes_names():
    scores, predictions, run = record(protocols=("random-kfold",), right={"a|<b>": 0.5})
    text = to_markdown(leaderboard(scores, predictions, run), run)
    assert "**Training and test share: speaker.** Not a figure for new speakers." in text
    assert "a\\|&lt;b>" in text
