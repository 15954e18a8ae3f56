"""`data verify` over whole corpora of generated tones: exact counts, and what is wrong with each."""

import numpy as np
import pytest
from corpus_trees import (
    CREMA_SAME_AUDIO,
    CREMA_SILENT,
    SR,
    emodb_names,
    ravdess_names,
    savee_names,
    tess_names,
    tone,
    wav,
    write_crema_d,
    write_tree,
)

from emobench.cli.main import main
from emobench.config.yaml import validate_config
from emobench.errors import CorpusError
from emobench.reporter import Reporter
from emobench.running.experiment import prepare
from emobench.running.verification import verify

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 82260\n"


@pytest.fixture(scope="module")
def crema_d(tmp_path_factory):
    return write_crema_d(tmp_path_factory.mktemp("crema-d"))


def print_verification(capsys, *arguments):
    """Return the lines that `data verify` prints, by their first word, and its exit code."""
    with pytest.raises(SystemExit) as left:
        main(["data", "verify", *arguments])
    return dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines()), left.value.code


def test_crema_d_is_counted_with_its_defects(crema_d, capsys):
    shown, code = print_verification(capsys, "crema-d", "--root", str(crema_d))
    assert code == 0
    assert (shown["recordings"], shown["missing"], shown["bad"]) == ("7442", "0", "0")
    assert shown["used_with_exclude"] == "none 7442, known 7435, tfds 7438"
    assert shown["emotions"] == "angry 1271, disgust 1271, fearful 1271, happy 1271, neutral 1087, sad 1271"
    assert shown["sexes"] == "female 3512, male 3930"
    assert shown["by_speaker"] == "82 each, except 1002 81, 1008 76, 1009 76, 1019 76, 1076 81"
    for pair in CREMA_SAME_AUDIO:
        assert " = ".join(f"crema-d/AudioWAV/{stem}.wav" for stem in pair) in shown["identical_audio"]
        assert all(f"{stem}.wav: one audio for " in shown["known_defects"] for stem in pair)
    assert f"{CREMA_SILENT}.wav: no voice" in shown["known_defects"]


@pytest.mark.parametrize(
    ("name", "names", "n", "by_speaker", "sexes"),
    [
        ("tess", tess_names, 2800, "1400 each", "female 2800"),
        ("savee", savee_names, 480, "120 each", "male 480"),
        (
            "emodb",
            emodb_names,
            535,
            "03 49, 08 58, 09 43, 10 38, 11 55, 12 35, 13 61, 14 69, 15 56, 16 71",
            "female 302, male 233",
        ),
        ("ravdess", ravdess_names, 1440, "60 each", "female 720, male 720"),
    ],
    ids=["tess", "savee", "emodb", "ravdess"],
)
def test_corpus_is_counted(tmp_path, capsys, name, names, n, by_speaker, sexes):
    write_tree(tmp_path, [f"{stem}.wav" for stem in names()])
    shown, code = print_verification(capsys, name, "--root", str(tmp_path))
    assert code == 0
    assert (shown["recordings"], shown["missing"], shown["bad"], shown["identical_audio"]) == (str(n), "0", "0", "none")
    assert (shown["by_speaker"], shown["sexes"]) == (by_speaker, sexes)
    assert shown["used_with_exclude"] == f"none {n}, known {n}"


@pytest.mark.parametrize(("rule", "n"), [("none", 7442), ("known", 7435), ("tfds", 7438)])
def test_rule_of_exclusion_is_carried_out_and_certified(crema_d, rule, n):
    corpus = {"name": "crema-d", "root": str(crema_d), "exclude": rule}
    config = {"corpora": [corpus], "models": ["dummy"], "on_conflict": "drop"}
    experiment = prepare(validate_config(config, folder=crema_d), reporter=Reporter())
    [dataset], [certificate] = experiment.datasets, experiment.certificates
    by_rule = [path for path, reason in dataset.dropped if f"(exclude: {rule})" in reason]
    assert 7442 - len(by_rule) == n
    assert certificate["exclude"] == rule
    assert {row["utterance"] for row in certificate["dropped"]} == {f"crema-d/{path}" for path, _ in dataset.dropped}
    in_conflict = len(dataset.dropped) - len(by_rule)
    assert in_conflict == (2 * len(CREMA_SAME_AUDIO) if rule == "none" else 0)


def test_conflicts_of_crema_d_end_a_run_that_excludes_none(crema_d):
    corpus = {"name": "crema-d", "root": str(crema_d), "exclude": "none"}
    config = validate_config({"corpora": [corpus], "models": ["dummy"]}, folder=crema_d)
    with pytest.raises(CorpusError, match="1006_TIE_HAP_XX"):
        prepare(config, reporter=Reporter())


def test_git_lfs_pointers_are_refused_with_what_to_do(tmp_path, capsys):
    write_tree(tmp_path, ["AudioWAV/1001_IEO_ANG_HI.wav"])
    (tmp_path / "AudioWAV/1001_IEO_SAD_HI.wav").write_bytes(LFS_POINTER)
    with pytest.raises(SystemExit) as left:
        main(["data", "verify", "crema-d", "--root", str(tmp_path)])
    assert left.value.code == 3
    assert "1001_IEO_SAD_HI.wav: must hold a recording. It is a Git LFS pointer. Run `git lfs pull`" in (
        capsys.readouterr().err
    )


def test_one_recording_at_another_rate_is_read(tmp_path):
    write_tree(tmp_path, [f"{word}_{emotion}.wav" for word in ("OAF_food", "YAF_food") for emotion in ("sad", "ps")])
    (tmp_path / "OAF_food_fear.wav").write_bytes(wav(np.arange(12 * SR, dtype="<i2"), sr=96_000))
    found = verify("tess", root=tmp_path)
    assert (len(found.scan.utterances), found.faults) == (5, ())
    assert found.duration_s == pytest.approx(4 * 0.12 + 1)


def test_tones_of_a_tree_are_all_different():
    assert len({tone(index) for index in range(7442)}) == 7442
