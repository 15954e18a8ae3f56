"""Where a corpus is found, what stands in for it, and what is said of an incomplete one."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile

from emobench.config.yaml import validate_config
from emobench.corpora import CORPORA, Generator, Scan
from emobench.corpora.location import cache_folder, cached_corpus, locate, places, store_folder
from emobench.corpora.synthetic.design import Design, plan
from emobench.corpora.synthetic.writing import write
from emobench.errors import ConfigError, CorpusError
from emobench.reporter import Reporter
from emobench.running.datasets import find, make, open_dataset, plan_dataset


def loaded(tmp_path, **corpus):
    """Return the row of a config in `tmp_path`."""
    return validate_config({"corpora": [corpus], "models": ["dummy"]}, folder=tmp_path).corpora[0]


def write_ravdess(folder, actors=("01", "02"), emotions=("03", "04")):
    """Write short tones under RAVDESS's names; return the folder."""
    rng = np.random.default_rng(0)
    for actor in actors:
        (folder / f"Actor_{actor}").mkdir(parents=True)
        for emotion in emotions:
            path = folder / f"Actor_{actor}" / f"03-01-{emotion}-01-01-01-{actor}.wav"
            soundfile.write(path, rng.uniform(-0.1, 0.1, 8000), 22050)
    return folder


def test_corpus_is_looked_for_in_root_then_data_then_cache(monkeypatch, tmp_path):
    cached, data, root = cached_corpus("ravdess"), tmp_path / "data" / "ravdess", tmp_path / "root"
    monkeypatch.setenv("EMOBENCH_DATA", str(tmp_path / "data"))
    assert locate(CORPORA["ravdess"]) is None
    cached.mkdir(parents=True)
    assert locate(CORPORA["ravdess"]) == cached.resolve()
    data.mkdir(parents=True)
    assert locate(CORPORA["ravdess"]) == data
    root.mkdir()
    assert locate(CORPORA["ravdess"], root) == root
    with pytest.raises(CorpusError, match="is not there, as this is no folder"):
        locate(CORPORA["ravdess"], tmp_path / "none")


def test_root_is_relative_to_the_config(tmp_path):
    write_ravdess(tmp_path / "here")
    corpus = loaded(tmp_path, name="ravdess", root="here")
    dataset = open_dataset(corpus, n_jobs=1, reporter=Reporter())
    assert (dataset.name, len(dataset.utterances), dataset.classes) == ("ravdess", 4, ("happy", "sad"))
    assert dataset.n_missing == 1436
    assert any("incomplete, 1436 recordings are missing" in remark for remark in dataset.remarks)


def test_unreadable_recording_is_collected_and_not_raised(tmp_path):
    folder = write_ravdess(tmp_path / "here")
    bad = folder / "Actor_01" / "03-01-03-01-01-01-01.wav"
    bad.unlink()
    bad.mkdir()
    corpus = loaded(tmp_path, name="ravdess", root="here")
    dataset = open_dataset(corpus, n_jobs=1, reporter=Reporter())
    assert [fault.path for fault in dataset.excluded] == [str(bad)]
    assert len(dataset.utterances) == 3


def test_fingerprint_follows_content_and_labels_but_not_the_place(tmp_path):
    def fingerprint(folder):
        corpus = loaded(tmp_path, name="ravdess", root=str(folder))
        return open_dataset(corpus, n_jobs=1, reporter=Reporter()).fingerprint

    one, two = write_ravdess(tmp_path / "one"), write_ravdess(tmp_path / "two")
    assert fingerprint(one) == fingerprint(two)
    clip = two / "Actor_01" / "03-01-03-01-01-01-01.wav"
    clip.rename(clip.with_name("03-01-05-01-01-01-01.wav"))
    assert fingerprint(one) != fingerprint(two)


@pytest.mark.parametrize("name", ["synthetic", "ravdess"])
def test_plan_of_a_corpus_to_be_made_makes_nothing(tmp_path, isolated, name):
    corpus = loaded(tmp_path, name=name, when_missing="synthetic")
    assert (find(corpus)[0].name, find(corpus)[1]) == ("synthetic", None)
    planned = plan_dataset(corpus)
    assert (planned.name, len(planned.utterances), planned.n_speakers) == ("synthetic", 960, 24)
    assert not any(isolated.iterdir())


def test_stand_in_is_announced_and_every_row_says_synthetic(tmp_path, monkeypatch):
    design = Design(n_speakers=2, n_repetitions=1)
    small = Generator(
        home=lambda: cached_corpus("small"),
        plan=lambda: Scan(plan(design), generator=design.fingerprint()),
        make=lambda folder, **options: write(folder, design, **options),
    )
    monkeypatch.setattr("emobench.corpora.synthetic.writing.GENERATOR", small)
    corpus = loaded(tmp_path, name="ravdess", when_missing="synthetic")
    dataset = open_dataset(corpus, n_jobs=1, reporter=Reporter())
    assert dataset.name == "synthetic"
    assert dataset.remarks[0].startswith("Corpus 'ravdess' is not on this machine, so the synthetic corpus stands in")
    assert {utterance.corpus for utterance in dataset.utterances} == {"synthetic"}
    assert find(corpus)[1] == dataset.root


def test_synthetic_corpora_of_two_sizes_have_two_folders(isolated):
    small = make(CORPORA["synthetic"], n_jobs=1, reporter=Reporter(), n_speakers=1)
    assert small not in places(CORPORA["synthetic"])
    assert len(list(small.rglob("*.wav"))) == 40


@pytest.mark.parametrize("variable", ["EMOBENCH_STORE", "EMOBENCH_DATA"])
def test_folder_of_an_unknown_user_is_a_config_error(monkeypatch, variable):
    monkeypatch.setenv(variable, "~nobody-of-this-name/x")
    with pytest.raises(ConfigError, match=f"{variable} must be a folder of a known user"):
        store_folder() if variable == "EMOBENCH_STORE" else locate(CORPORA["ravdess"])


def test_cache_without_a_home_is_a_config_error(monkeypatch):
    import platformdirs

    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_, **__: "~/.cache/emobench")
    with pytest.raises(ConfigError, match="There is no home folder"):
        cache_folder()


def test_scanning_a_manifest_imports_no_audio_library(tiny_corpus):
    code = (
        "import sys; from pathlib import Path; from emobench.corpora.manifest import scan; "
        f"scan(path=Path({str(tiny_corpus / 'manifest.csv')!r})); print({{'soundfile', 'librosa'}} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
