"""The store can be listed, checked and cleaned, by functions and by commands, and nothing that is in use is touched."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import write_corpus

from emobench.cli.main import main
from emobench.features import FEATURES, feature_key, inventory
from emobench.features.shards import describe_shard, encode_shard, name_of, read_shard
from emobench.features.store import FeatureStore

KEYS = [feature_key(FEATURES[name]) for name in ("mfcc40", "mfcc40_stats")]
CONFIG = """\
corpora: [{{name: manifest, id: tiny, path: {corpus}/manifest.csv}}]
features: [mfcc40, mfcc40_stats]
models: [dummy]
protocols: [loso]
"""


@pytest.fixture
def emobench(capsys):
    """Run a command line in this process; return exit code, stdout and stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main(list(map(str, arguments)))
        return caught.value.code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A config, its corpus, and a store that `emobench features` has filled, in a folder."""
    folder = tmp_path_factory.mktemp("filled")
    (folder / "corpus").mkdir()
    (folder / "tiny.yaml").write_text(CONFIG.format(corpus=write_corpus(folder / "corpus")))
    command = [sys.executable, "-m", "emobench", "features", "tiny.yaml", "--n-jobs", "1", "--json"]
    environment = os.environ | {"EMOBENCH_STORE": str(folder / "store")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    (folder / "stdout").write_text(done.stdout)
    return folder


@pytest.fixture
def store(filled, tmp_path, monkeypatch):
    """A copy of that store, which the commands of this test use."""
    shutil.copytree(filled / "store", tmp_path / "store")
    monkeypatch.setenv("EMOBENCH_STORE", str(tmp_path / "store"))
    return FeatureStore(tmp_path / "store")


@pytest.fixture
def old(store, monkeypatch):
    """Features that another version of librosa made."""
    versions = {"librosa": "0.0.1"}
    with monkeypatch.context() as patch:
        patch.setattr("emobench.features.library_versions", lambda: versions)
        key = feature_key(FEATURES["mfcc40"])
        shard = inventory.read_shard(store.shards(KEYS[0])[0])
        store._write_shard(key, shard, {**inventory.describe_shard(store.shards(KEYS[0])[0])[0], "libraries": versions})
    return key


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def tree(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


# --- features -------------------------------------------------------------------------------------------------------


def test_features_says_what_it_did(filled):
    rows = json.loads((filled / "stdout").read_text())
    assert [(row["corpus"], row["features"], row["feature_key"]) for row in rows] == [
        ("tiny", "mfcc40", KEYS[0]),
        ("tiny", "mfcc40_stats", KEYS[1]),
    ]
    assert [(row["n_clips"], row["n_computed"], row["n_excluded"]) for row in rows] == [(24, 24, 0)] * 2


def test_features_again_computes_nothing(emobench, filled, store):
    code, out, err = emobench("features", filled / "tiny.yaml")
    assert (code, err) == (0, "")
    header, *rows = (line.split() for line in out.splitlines())
    assert [dict(zip(header, row, strict=True))["computed"] for row in rows] == ["0", "0"]
    assert [dict(zip(header, row, strict=True))["key"] for row in rows] == KEYS


def test_features_names_bad_recordings(emobench, filled, store, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    write_corpus(corpus)
    (corpus / "s0" / "sad-0.wav").write_bytes(b"")
    (tmp_path / "bad.yaml").write_text(CONFIG.format(corpus=corpus))
    code, out, err = emobench("features", tmp_path / "bad.yaml")
    assert (code, out) == (3, "")
    assert "sad-0.wav: must hold a recording. The file is empty" in err
    (tmp_path / "bad.yaml").write_text(CONFIG.format(corpus=corpus) + "on_bad_audio: skip\n")
    code, out, _ = emobench("features", tmp_path / "bad.yaml", "--json")
    assert (code, [(row["n_clips"], row["n_excluded"]) for row in json.loads(out)]) == (0, [(23, 1)] * 2)


def test_run_uses_what_features_extracted(emobench, filled, store, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "emobench.features.extraction.read_clip", lambda *_, **__: pytest.fail("no audio must be decoded")
    )
    code, out, _ = emobench("plan", filled / "tiny.yaml", "--json")
    assert (code, json.loads(out)["n_to_extract"]) == (0, 0)


# --- ls -------------------------------------------------------------------------------------------------------------


def test_ls_describes_every_key(emobench, store, old):
    code, out, _ = emobench("store", "ls", "--json")
    holdings = {row["key"]: row for row in json.loads(out)}
    assert (code, set(holdings)) == (0, {*KEYS, old})
    for key, spec in zip(KEYS, ("mfcc40", "mfcc40_stats"), strict=True):
        row = holdings[key]
        assert row["identity"]["spec"] == FEATURES[spec].specification()
        assert row["n_bytes"] == sum(path.stat().st_size for path in store.shards(key))
        assert (row["n_clips"], row["is_current"]) == (24, True)
    assert (holdings[old]["identity"]["libraries"], holdings[old]["is_current"]) == ({"librosa": "0.0.1"}, False)


def test_ls_is_a_table_for_people(emobench, store, old):
    code, out, err = emobench("store", "ls")
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert "mfcc40 v1, 22050 Hz, mono mean, n_mfcc=40" in lines[KEYS[0]]
    assert lines[old].endswith(f"librosa 0.0.1, Python {sys.version_info.major}.{sys.version_info.minor}")
    assert lines[old].split()[1] == "no"


def test_ls_of_damaged_shards_and_of_no_store_is_no_error(emobench, store, monkeypatch, tmp_path):
    for path in store.shards(KEYS[0]):
        path.write_bytes(b"")
    code, out, _ = emobench("store", "ls")
    assert (code, out.splitlines()[1].split()[-6:]) == (0, ["unknown", "its", "shards", "do", "not", "say"])
    monkeypatch.setenv("EMOBENCH_STORE", str(tmp_path / "nowhere"))
    assert emobench("store", "ls", "--json") == (0, "[]\n", "")
    assert not (tmp_path / "nowhere").exists()


# --- verify ---------------------------------------------------------------------------------------------------------


def test_verify_of_a_sound_store_finds_nothing(emobench, store):
    assert emobench("store", "verify") == (0, "2 shards checked, 0 damaged, about 0 clips to extract again\n", "")


def test_verify_moves_damaged_shards_away_and_the_next_extraction_mends(emobench, filled, store):
    (bad,) = store.shards(KEYS[0])
    damage(bad)
    code, out, err = emobench("store", "verify")
    assert (code, out) == (0, "2 shards checked, 1 damaged, about 24 clips to extract again\n")
    assert str(bad) in err
    assert (store.root / "quarantine" / f"{KEYS[0]}-{bad.name}").exists()
    assert json.loads(emobench("store", "verify", "--json")[1]) == {
        "n_shards": 1,
        "mended": [],
        "unmended": [],
        "n_clips": 0,
    }
    code, out, _ = emobench("features", filled / "tiny.yaml", "--json", "-j", "1")
    assert [row["n_computed"] for row in json.loads(out)] == [24, 0]
    assert [path.name for path in store.shards(KEYS[0])] == [bad.name]


def test_verify_ends_with_5_where_a_shard_cannot_be_moved(emobench, store, monkeypatch):
    damage(store.shards(KEYS[0])[0])

    def fail(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("emobench.features.store.os.replace", fail)
    code, out, err = emobench("store", "verify", "--json")
    assert code == 5
    assert len(json.loads(out)["unmended"]) == 1
    assert "1 damaged shards could not be moved to quarantine:" in err


def test_verify_leaves_a_key_alone_that_another_process_holds(emobench, store):
    (bad,) = store.shards(KEYS[0])
    damage(bad)
    with store.hold(KEYS[0], timeout_s=0):
        code, _, err = emobench("store", "verify")
    assert (code, "another emobench uses it" in err) == (5, True)
    assert bad.exists()


# --- gc -------------------------------------------------------------------------------------------------------------


def litter(store):
    """Leave in the store what may be left there; return the names."""
    (store.root / KEYS[0] / ".x.parquet.abc.part").write_bytes(b"half a sh")
    (store.root / "quarantine").mkdir()
    (store.root / "quarantine" / "x.parquet").write_bytes(b"12345")
    return [f"{KEYS[0]}/.x.parquet.abc.part", "quarantine"]


def test_gc_removes_what_this_installation_cannot_use(emobench, store, old):
    n_bytes = sum(path.stat().st_size for path in store.shards(old)) + 9 + 5
    waste = {old, *litter(store)}
    before = tree(store.root)
    code, out, _ = emobench("store", "gc", "--dry-run", "--json")
    planned = json.loads(out)
    assert (code, set(planned["removed"]), planned["n_bytes"], planned["dry_run"]) == (0, waste, n_bytes, True)
    assert tree(store.root) == before
    code, out, _ = emobench("store", "gc", "--json")
    assert (code, json.loads(out) | {"dry_run": True}) == (0, planned)
    assert {path for path in tree(store.root) if not path.endswith((".lock", "folders.json"))} == {
        path.relative_to(store.root).as_posix() for key in KEYS for path in (store.root / key, *store.shards(key))
    }
    assert not store.lock(old).exists()
    assert json.loads(emobench("store", "gc", "--json")[1])["removed"] == []


def test_gc_leaves_foreign_files_alone(emobench, store):
    (store.root / "notes-of-mine").mkdir()
    (store.root / "notes-of-mine" / "x.txt").write_text("x")
    (store.root / "README").write_text("x")
    before = tree(store.root)
    assert emobench("store", "gc")[0] == 0
    assert tree(store.root) == before


HOLDER = """
import sys
from emobench.features.store import FeatureStore
with FeatureStore(sys.argv[1]).hold(sys.argv[2], timeout_s=0):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_gc_never_touches_a_key_that_another_process_holds(emobench, store, old):
    before = tree(store.root / old)
    command = [sys.executable, "-c", HOLDER, str(store.root), old]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        for options in ([], ["--dry-run"]):
            code, out, _ = emobench("store", "gc", "--json", *options)
            assert (code, json.loads(out)["held"], json.loads(out)["removed"]) == (0, [old], [])
        assert f"in use  {old}" in emobench("store", "gc")[1]
        holder.stdin.close()
    assert tree(store.root / old) == before
    assert json.loads(emobench("store", "gc", "--json")[1])["removed"] == [old]


def test_gc_of_no_store_makes_none(emobench, monkeypatch, tmp_path):
    monkeypatch.setenv("EMOBENCH_STORE", str(tmp_path / "nowhere"))
    assert json.loads(emobench("store", "gc", "--json")[1])["removed"] == []
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("command", ["store", "store ls", "store verify", "store gc", "features"])
def test_commands_have_help(emobench, command):
    code, out, _ = emobench(*command.split(), "--help")
    assert (code, "--json" in out) == (0, True)


# --- vectors that were never computed from their recordings ---------------------------------------------------------


def forge(store, key):
    """Change every vector of a key a little and give the shards the names that their new content has."""
    for path in store.shards(key):
        shard, (identity, _) = read_shard(path), describe_shard(path)
        content = encode_shard(replace(shard, X=shard.X + 0.5), identity)
        path.unlink()
        (path.parent / name_of(content)).write_bytes(content)


def test_verify_recomputes_a_sample_and_finds_nothing_in_an_honest_store(store, emobench):
    code, out, err = emobench("store", "verify", "--recompute", "3")
    assert (code, err) == (0, "")
    assert "3 recordings extracted again, 0 shards differ" in out
    assert json.loads(emobench("store", "verify", "--recompute", "100", "--json")[1])["n_recomputed"] == 24


def test_verify_recomputes_and_sets_replaced_vectors_aside(store, emobench, filled):
    """N52."""
    forge(store, KEYS[0])
    assert "0 damaged" in emobench("store", "verify")[1]
    code, out, err = emobench("store", "verify", "--recompute", "2")
    assert (code, "1 damaged" in out, "2 recordings extracted again, 1 shards differ" in out) == (0, True, True)
    assert f"not what {filled}" in err
    assert store.shards(KEYS[0]) == []
    assert len(store.shards(KEYS[1])) > 0


def test_verify_recomputes_other_recordings_each_time(store, monkeypatch):
    seen = []
    real = inventory.extract_clips
    monkeypatch.setattr(inventory, "extract_clips", lambda s, clips, p: seen.append(clips[0][0]) or real(s, clips, p))
    for seed in range(3):
        inventory.recompute(store, 2, rng=np.random.default_rng(seed))
    assert len(set(seen)) > 2


def test_verify_says_where_recordings_are_gone(store, emobench):
    for path in store.root.glob("*/folders.json"):
        path.unlink()
    code, out, err = emobench("store", "verify", "--recompute", "2")
    assert (code, "0 recordings extracted again" in out) == (0, True)
    assert "24 recordings of the store are not where they were" in err


def test_another_processor_architecture_is_another_key(monkeypatch):
    """N53."""
    monkeypatch.setattr("platform.machine", lambda: "another")
    assert feature_key(FEATURES["mfcc40"]) != KEYS[0]
