import copy
import io
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from emobench.config import yaml
from emobench.config.yaml import load_config, parse_config, validate_config
from emobench.corpora import CORPORA
from emobench.errors import ConfigError
from emobench.features import FEATURES
from emobench.metrics import METRICS
from emobench.models import MODELS
from emobench.protocols import PROTOCOLS

CONFIGS = Path(__file__).parent.parent / "configs"
BASE = "corpora: [ravdess]\nmodels: [svm]\n"


def refusal(text, source="c.yaml"):
    """Return the message that a config is refused with."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text, source)
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert message.startswith(source)
    return message


# --- what is accepted -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_load_config_reads_every_config_of_the_repository(path):
    loaded = load_config(path)
    assert (loaded.name, loaded.remarks) == (path.stem, ())


def test_load_config_is_quick():
    load_config(CONFIGS / "all.yaml")  # imports the models' classes
    start = time.perf_counter()
    load_config(CONFIGS / "all.yaml")
    assert time.perf_counter() - start < 0.5


def test_parse_config_of_a_minimal_text_fills_in_documented_defaults():
    config = parse_config(BASE)
    assert config.remarks == ()
    assert [row.label for row in config.features] == ["mfcc40"]
    assert [(row.name, row.options) for row in config.protocols] == [("group-kfold", {"n_splits": 6})]
    assert config.metrics == ["uar", "war", "macro_f1"]
    assert (config.schema_version, config.repeats, config.seed, config.on_bad_audio) == (1, 1, 0, "fail")
    assert config.job_timeout_s is None
    assert config.corpora[0].when_missing == "error"


def test_parse_config_takes_a_name_for_a_row():
    short = parse_config("corpora: [ravdess]\nmodels: [svm]\nprotocols: [loso]\n")
    long = parse_config("corpora: [{name: ravdess}]\nmodels: [{name: svm}]\nprotocols: [{name: loso}]\n")
    assert short == long


def test_parse_config_reads_yaml_1_2():
    text = (
        "corpora: [{name: manifest, path: x.csv, emotions: [no, on, 12:30, 'y']}]\n"
        "models: [{name: cnn, params: {learning_rate: 1e-3}}]\njob_timeout_s: 1e2\n"
    )
    config = parse_config(text)
    assert config.corpora[0].emotions == ["no", "on", "12:30", "y"]
    assert config.models[0].params == {"learning_rate": 0.001}
    assert config.job_timeout_s == 100.0


def test_parse_config_takes_windows_line_ends_and_comments():
    assert parse_config(b"# mine\r\ncorpora: [ravdess]\r\nmodels: [svm]  # one\r\n") == parse_config(BASE)


def test_parse_config_takes_a_byte_order_mark():
    assert parse_config(b"\xef\xbb\xbf" + BASE.encode()) == parse_config(BASE)


def test_parse_config_takes_null_for_what_is_left_out():
    text = "corpora: [{name: ravdess, root: null}]\nmodels: [svm]\njob_timeout_s: null\n"
    text += "protocols: [{name: loso, n_splits: null}]\n"
    config = parse_config(text)
    assert config.protocols[0].options == {}


@pytest.mark.parametrize("table", [CORPORA, FEATURES, METRICS, MODELS, PROTOCOLS], ids=lambda table: next(iter(table)))
def test_parse_config_knows_every_row_of_a_registry(table):
    key = {id(CORPORA): "corpora", id(FEATURES): "features", id(METRICS): "metrics", id(MODELS): "models"}
    needs = {"manifest": {"path": "x.csv"}, "file": {"path": "folds.csv"}}
    needs["embeddings"] = {"path": "x.parquet", "trained_on": "unknown"}
    data = {"corpora": ["ravdess"], "models": ["svm"]}
    kind = key.get(id(table), "protocols")
    is_row = kind in ("corpora", "features", "models", "protocols")
    data[kind] = [{"name": name, **needs.get(name, {})} if is_row else name for name in table]
    config = validate_config(data)
    assert len(getattr(config, kind)) == len(table)


# --- C1: unknown keys -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, key, line, near",
    [
        (BASE + "modles: [svm]\n", "modles", 3, "models"),
        (BASE + "audio:\n  mon: mean\n", "audio.mon", 4, "mono"),
        ("corpora:\n- name: ravdess\n  rot: x\nmodels: [svm]\n", "corpora[0].rot", 3, "root"),
        ("corpora: [ravdess]\nmodels:\n  - svm\n  - {name: mlp,\n     parms: {}}\n", "models[1].parms", 5, "params"),
        (BASE + "protocols: [{name: group-kfold, nsplits: 3}]\n", "protocols[0].nsplits", 3, "n_splits"),
        ("corpora: [ravdess]\nmodels: [{name: svm, params: {c: 1}}]\n", "models[0].params.c", 2, "C"),
    ],
    ids=["top", "audio", "corpus", "model", "protocol", "parameter"],
)  # fmt: skip
def test_unknown_key_is_named_with_its_line_and_the_nearest_known(text, key, line, near):
    message = refusal(text)
    assert message.startswith(f"c.yaml: {key} (line {line}): ")
    if near != "C":  # one letter is never near enough
        assert f"Did you mean {near!r}?" in message
    assert near in message.partition("Known ")[2]


def test_parameter_beside_params_is_told_where_parameters_stand():
    assert "below `params:`" in refusal("corpora: [ravdess]\nmodels: [{name: svm, C: 1}]\n")


# --- C2, C3: types and ranges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, says",
    [
        ("seed: true", "seed (line 3): input should be a valid integer. Got True"),
        ("seed: '1'", "input should be a valid integer. Got '1' (text)."),
        ("seed: 1.0", "input should be a valid integer. Got 1.0"),
        ("seed: -1", "input should be greater than or equal to 0. Got -1"),
        ("seed: 4294967296", "input should be less than 4294967296"),
        ("seed: 2026-01-01", "input should be a valid integer. Got"),
        ("repeats: 0", "input should be greater than or equal to 1. Got 0"),
        ("repeats: null", "Got nothing."),
        ("job_timeout_s: .nan", "input should be a finite number. Got nan"),
        ("job_timeout_s: .inf", "input should be a finite number. Got inf"),
        ("job_timeout_s: 1e999", "input should be a finite number. Got inf"),
        ("job_timeout_s: 0", "input should be greater than 0. Got 0"),
        ("job_timeout_s: 12:30", "input should be a valid number. Got '12:30' (text)."),
        ("allow_missing_class: no", "input should be a valid boolean. Got 'no' (text)."),
        ("allow_missing_class: 1", "input should be a valid boolean. Got 1"),
        ("on_bad_audio: skipp", "input should be 'fail' or 'skip'. Got 'skipp' (text). Did you mean 'skip'?"),
        ("audio: {min_duration_s: -0.1}", "audio.min_duration_s (line 3): input should be greater than 0. Got -0.1"),
        ("audio: [mono]", "audio (line 3): input should be a valid dictionary"),
        ("metrics: []", "metrics (line 3): list should have at least 1 item after validation, not 0"),
        ("metrics: uar", "input should be a valid list. Got 'uar' (text)."),
        ("metrics: {uar: 1}", "input should be a valid list. Got a mapping."),
        ("metrics: [uar, uar]", "metrics[1] (line 3): names must be different. 'uar' stands twice. Remove one."),
        ("features: [mfcc40, 1]", "features[1] (line 3): input should be a valid dictionary"),
        ("protocols: [3]", "protocols[0] (line 3): input should be a valid dictionary"),
        ("protocols: [loso, loso]", "protocols[1] (line 3): names in results must be different. 'loso' stands twice."),
        ("protocols: [{n_splits: 3}]", "protocols[0].name (line 3): this key is required"),
        ("protocols: [{name: loso, n_splits: 3}]", "(line 3): unknown key. Known keys of protocol 'loso': id, name."),
        ("protocols: [{name: group-kfold, n_splits: 1}]", "n_splits (line 3): must be at least 2. Got 1."),
        ("protocols: [file]", "protocols[0] (line 3): protocol 'file' must have `path:`. It is absent. Add it."),
        ("tuning: {n_trials: 0}", "tuning.n_trials (line 3): input should be greater than or equal to 1. Got 0."),
        ("tuning: {inner_splits: 1}", "tuning.inner_splits (line 3): input should be greater than or equal to 2. Got 1."),  # noqa: E501
        ("tuning: {n_trails: 3}", "tuning.n_trails (line 3): unknown key. Did you mean 'n_tr"),
        ("tuning: {per_model: {svn: 3}}", "tuning.per_model.svn (line 3): must be a model or an entry of this config."),
        ("tuning: {per_model: {svm: -1}}", "tuning.per_model.svm (line 3): input should be greater than or equal to 0."),  # noqa: E501
        ("tuning: 8", "tuning (line 3): input should be a valid dictionary"),
        ("protocols: [{name: loso, id: a/b}]", "id (line 3): string should match pattern"),
    ],
)  # fmt: skip
def test_wrong_value_is_refused_with_key_line_and_what_to_do(line, says):
    assert says in refusal(BASE + line + "\n")


@pytest.mark.parametrize(
    "params, says",
    [
        (
            '{name: cnn, params: {learning_rate: "1e-3"}}',
            "params.learning_rate (line 3): Model 'cnn': The 'learning_rate'",
        ),
        ("{name: cnn, params: {epochs: true}}", "params.epochs (line 3)"),
        ("{name: svm, params: {C: .nan}}", "params.C (line 3): Model 'svm': C must be finite. Got nan."),
        ("{name: svm, params: {C: -1}}", "params.C (line 3)"),
        ("{name: svm, params: {C: true}}", "C must not be a bool."),
        ("{name: svm, params: {kernel: no}}", "params.kernel (line 3)"),
        ("{name: svm, params: {gama: 1}}", "Unknown parameter 'gama' of model 'svm'. Did you mean 'gamma'?"),
        ("{name: svm, params: {probability: true}}", "probability of model 'svm' cannot be set"),
        ("{name: svm, params: {random_state: 1}}", "Set `seed` instead"),
        ("{name: svm, params: [1]}", "models[0].params (line 3): input should be a valid dictionary. Got a list."),
        ("{name: svm, params: {1: 2}}", "models[0].params (line 3): a key is not text: '1'. Quote it"),
        ("{name: xgboost, params: {max_depth: 0}}", "params.max_depth (line 3)"),
    ],
)
def test_wrong_model_parameter_is_refused_at_its_line(params, says):
    assert says in refusal(f"corpora: [ravdess]\nmodels:\n  - {params}\n")


@pytest.mark.parametrize(
    "corpus, says",
    [
        ("{name: ravdess, emotions: [01, sad]}", "emotions[0] (line 1): input should be a valid string. Got 1."),
        ("{name: ravdess, emotions: [sadd, calm]}", "emotions[0] (line 1): must be an emotion of ravdess. Got 'sadd'."),
        ("{name: ravdess, emotions: [sad, sad]}", "emotions[1] (line 1): emotions must be different."),
        ("{name: ravdess, emotions: [sad]}", "list should have at least 2 items after validation, not 1"),
        ("{name: ravdess, emotions: no}", "input should be a valid list. Got 'no' (text)."),
        ("{name: ravdess, when_missing: synthetc}", "Did you mean 'synthetic'?"),
        ("{name: ravdess, path: x.csv}", "corpora[0].path (line 1): unknown key. Known keys of corpus 'ravdess': "),
        ("{name: manifest}", "corpora[0] (line 1): corpus 'manifest' must have `path:`"),
        ('{name: ravdess, root: ""}', "root (line 1): string should have at least 1 character"),
        ('{name: ravdess, root: "a\\0b"}', "holds a NUL character"),
        ('{name: ravdess, root: "\\ud800"}', "corpora[0].root (line 1): "),
        ("{name: ravdess, root: ~nobody-of-this-name/x}", "begins with an unknown user."),
        ("{name: ravdess, root: 3}", "root (line 1): input should be a valid string. Got 3."),
        ("ravdess, ravdess", "corpora[1] (line 1): names in results must be different. 'ravdess' stands twice."),
    ],
)  # fmt: skip
def test_wrong_corpus_is_refused_at_its_line(corpus, says):
    assert says in refusal(f"corpora: [{corpus}]\nmodels: [svm]\n")


# --- C4, C5, C6: text that is not one plain mapping -----------------------------------------------------------------


def test_duplicate_keys_are_refused_with_both_lines():
    message = refusal("corpora: [ravdess]\nseed: 1\nmodels:\n- {name: svm, name: mlp}\nseed: 2\nseed: 3\n")
    assert message.splitlines() == [
        "c.yaml: models[0].name (line 4): the key is on line 4 too. Remove one.",
        "c.yaml: seed (line 5): the key is on line 2 too. Remove one.",
        "c.yaml: seed (line 6): the key is on line 2 too. Remove one.",
    ]


LAUGHS = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi"))  # noqa: B905


@pytest.mark.parametrize(
    "text, says",
    [
        (LAUGHS, "(line 1): anchors and aliases (& and *) are not read."),
        ("a: &a [*a]\n", "(line 1): anchors and aliases"),
        (BASE + "b: *nowhere\n", "(line 3): anchors and aliases"),
        ("[" * 100_000, "(line 1): nested more than 12 deep. Flatten it."),
        ("[" * 10_000, "nested more than 12 deep"),
        ("".join(" " * depth + "a:\n" for depth in range(100)), "(line 13): nested more than 12 deep."),
        ("? " * 5_000 + "a", "nested more than 12 deep"),
        ("corpora: ravdess\0\n", "not valid YAML"),
        ("corpora:\n\t- ravdess\n", "(line 2): not valid YAML: found character '\\t'"),
        ("a: \x07\n", "not valid YAML: "),
        (BASE + "---\n" + BASE, "not valid YAML: "),
        ("", "this is empty."),
        ("# nothing\n", "this is empty."),
        ("---\n...\n", "is a mapping of keys"),
        ("null\n", "this is nothing."),
        ("- svm\n", "this is a list."),
        ("svm\n", "this is 'svm' (text). Begin from configs/all.yaml."),
        ("3\n", "this is 3."),
        ("corpora: [ravdess]\nmodels [svm]\n", "(line 3): not valid YAML: "),
        ("a: b: c\n", "(line 1): not valid YAML: "),
        ("a: 'b\n", "not valid YAML: "),
        ("a: ]\n", "not valid YAML: "),
        (BASE + "1: 2\n", "(line 3): a key is not text: '1'."),
        (BASE + "~: 2\n", "(line 3): a key is not text"),
        (BASE + "[a]: 2\n", "(line 3): a key is not text: a list or a mapping."),
        (BASE + "<<: {seed: 1}\n", "(line 3): a key is not text: '<<'."),
        (BASE + "seed: " + "9" * 5_000 + "\n", "not valid YAML: "),
        ("!!python/object/apply:os.system ['touch {}']\n", "(line 1): not valid YAML: could not determine a constructor"),  # noqa: E501
        (BASE + "seed: !!python/object/apply:os.system ['touch {}']\n", "(line 3): not valid YAML: "),
        (BASE + "seed: !own 3\n", "for the tag '!own'"),
    ],
    ids=range(30),
)  # fmt: skip
def test_text_that_is_no_plain_mapping_is_refused(text, says, tmp_path):
    sentinel = tmp_path / "sentinel"
    start = time.perf_counter()
    assert says in refusal(text.replace("{}", str(sentinel)).encode())
    assert time.perf_counter() - start < 10
    assert not sentinel.exists()


@pytest.mark.parametrize(
    "content, says",
    [
        (BASE.encode("utf-16"), "byte 0 is not UTF-8"),
        (BASE.encode("utf-16-le"), "not valid YAML"),
        ("corpora: [é]\n".encode("latin-1"), "byte 10 is not UTF-8."),
    ],
    ids=["utf-16", "utf-16-le", "latin-1"],
)
def test_bytes_that_are_not_plain_utf8_are_refused(content, says):
    assert says in refusal(content)


# --- C9: entries that are the same ----------------------------------------------------------------------------------


def test_entries_of_one_id_with_different_parameters_are_refused():
    message = refusal("corpora: [ravdess]\nmodels:\n- svm\n- {name: svm, params: {C: 1}}\n- {name: mlp, id: svm}\n")
    first, second = message.splitlines()
    assert first.startswith("c.yaml: models[1] (line 4): two entries are called 'svm'")
    assert second.startswith("c.yaml: models[2] (line 5): two entries are called 'svm'")


@pytest.mark.parametrize(
    "second",
    [
        "svm",
        "{name: svm, id: other}",
        "{name: svm, params: {C: 10.0}}",  # the default
        "{name: svm, params: {C: 10}}",
    ],
)
def test_entry_that_repeats_another_is_dropped_with_a_remark(second):
    config = parse_config(f"corpora: [ravdess]\nmodels:\n- svm\n- {second}\n", "c.yaml")
    assert [model.entry for model in config.models] == ["svm"]
    assert len(config.remarks) == 1
    assert config.remarks[0].startswith("c.yaml: models[1] (line 4): ")


def test_entries_that_differ_in_kind_alone_are_both_kept():
    rows = [
        f"- {{name: mlp, id: e{number}, params: {{hidden_layer_sizes: {value}}}}}"
        for number, value in enumerate(("[64]", "64", "[64, 64]"))
    ]
    config = parse_config("corpora: [ravdess]\nmodels:\n" + "\n".join(rows))
    assert ([model.entry for model in config.models], config.remarks) == (["e0", "e1", "e2"], ())


def test_name_of_a_tuned_entry_must_be_free():
    models = "models:\n- svm\n- {name: mlp, id: svm-tuned}\n"
    assert parse_config("corpora: [ravdess]\n" + models)
    message = refusal("corpora: [ravdess]\n" + models + "tuning: {}\n")
    assert message.startswith("c.yaml: models[1].id (line 4): 'svm-tuned' must stay free for 'svm' tuned.")


def test_list_for_a_tuple_is_the_same_parameter():
    text = "corpora: [ravdess]\nmodels: [mlp, {name: mlp, id: wide, params: {hidden_layer_sizes: [256, 128]}}]\n"
    config = parse_config(text)
    assert ([model.entry for model in config.models], len(config.remarks)) == (["mlp"], 1)


# --- C11, C13 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, says",
    [
        (
            "corpora: [ravdess]\nmodels: [svn]\n",
            "models[0].name (line 2): Unknown model 'svn'. Did you mean 'svm'? Known models: cnn, ",
        ),
        ("corpora: [ravdes]\nmodels: [svm]\n", "Unknown corpus 'ravdes'. Did you mean 'ravdess'? Known corpora: "),
        (
            BASE + "features: [mfcc4]\n",
            "features[0].name (line 3): Unknown feature set 'mfcc4'. Did you mean 'mfcc40'? Known features: ",
        ),
        (BASE + "metrics: [war, uarr]\n", "metrics[1] (line 3): Unknown metric 'uarr'. Did you mean 'uar'?"),
        (BASE + "protocols: [losso]\n", "protocols[0].name (line 3): Unknown protocol 'losso'. Did you mean 'loso'?"),
    ],
    ids=["model", "corpus", "features", "metric", "protocol"],
)
def test_unknown_name_is_answered_with_the_nearest_and_all(text, says):
    assert says in refusal(text)


def test_newer_schema_is_answered_with_upgrade_and_nothing_else():
    message = refusal(BASE + "schema_version: 2\nnovelty: 3\n")
    assert message == "c.yaml: schema_version (line 3): this emobench reads up to version 1. Got 2. Upgrade emobench."


@pytest.mark.parametrize("version", ["true", "1.0", "'1'", "0", "null"])
def test_schema_version_is_one_whole_number(version):
    assert "schema_version (line 3): " in refusal(f"{BASE}schema_version: {version}\n")


# --- all faults, right lines ----------------------------------------------------------------------------------------


def test_all_faults_are_listed_at_once_in_the_order_of_the_file():
    message = refusal(
        """\
corpora:
  - name: ravdes
models:
  - svm
  - name: mlp
    params:
      alpha: -1
      solvr: adam
features: [mfcc4, mfcc41]
protocols:
  - {name: group-kfold,
     n_splits: 1}
seed: yes
modles: []
"""
    )
    places = [line.split(": ")[1] for line in message.splitlines()]
    assert places == [
        "corpora[0].name (line 2)",
        "models[1].params.alpha (line 7)",
        "models[1].params.solvr (line 8)",
        "features[0].name (line 9)",
        "features[1].name (line 9)",
        "protocols[0].n_splits (line 12)",
        "seed (line 13)",
        "modles (line 14)",
    ]


def test_missing_keys_are_named():
    message = refusal("seed: 1\n")
    assert "c.yaml: corpora: this key is required, and it is missing. Add it." in message
    assert "c.yaml: models: this key is required, and it is missing. Add it." in message


def test_many_faults_are_capped_with_a_count():
    message = refusal(BASE + "".join(f"k{i}: 1\n" for i in range(50)))
    assert len(message.splitlines()) == 21
    assert message.endswith("… and 30 more")


def test_long_values_are_shortened():
    assert len(refusal(BASE + f"seed: {'x' * 5_000}\n")) < 300


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["missing", "folder", "device", "below a file", "loop", "large", "nul", "long"])
def test_load_config_of_what_is_no_config_file_names_the_path(kind, tmp_path):
    path = tmp_path / "c.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/null")
    elif kind == "below a file":
        path.write_text(BASE)
        path = path / "d.yaml"
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "large":
        path.write_text("#" * (yaml.MAX_BYTES + 1))
    elif kind == "nul":
        path = tmp_path / "c\0.yaml"
    elif kind == "long":
        path = tmp_path / ("c" * 300)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_load_config_of_an_unreadable_file_says_permission_denied(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(BASE)
    path.chmod(0)
    script = f"""
import os
from emobench.config.yaml import load_config
from emobench.errors import ConfigError
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    load_config({str(path)!r})
except ConfigError as error:
    print(error)
"""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder not in (Path("/"), Path("/tmp")):
            folder.chmod(stat.S_IMODE(folder.stat().st_mode) | 0o111)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Permission denied." in done.stdout


def test_paths_are_absolute_when_a_config_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/of/me")
    path = tmp_path / "c.yaml"
    roots = ["x/../data", "/else", "~/data"]
    rows = [f"{{name: ravdess, root: {root}}}" for root in roots]
    found = []
    for row in rows:
        path.write_text(f"corpora: [{row}]\nmodels: [svm]\nprotocols: [{{name: file, path: folds.csv}}]\n")
        config = load_config(path)
        found.append(config.corpora[0].root)
        assert config.protocols[0].path == str(tmp_path.resolve() / "folds.csv")
    assert found == [str(tmp_path.resolve() / "data"), "/else", "/home/of/me/data"]


def test_validate_config_of_plain_data_names_keys_without_lines():
    with pytest.raises(ConfigError, match=r"^here: models\[0\]\.name: Unknown model 'svn'\."):
        validate_config({"corpora": ["ravdess"], "models": ["svn"]}, "here")
    with pytest.raises(ConfigError, match="^config: a config is a mapping"):
        validate_config([])
    with pytest.raises(ConfigError, match=r"^config: \[1\]: keys should be strings\. Got 1\."):
        validate_config({"corpora": ["ravdess"], "models": ["svm"], 1: 2})


# --- any text is a config or a ConfigError --------------------------------------------------------------------------

VALID = {
    "schema_version": 1,
    "corpora": [{"name": "ravdess", "when_missing": "synthetic", "emotions": ["calm", "sad"]}, {"name": "synthetic"}],
    "features": ["mfcc40"],
    "models": ["cnn", {"name": "svm", "id": "svm-c1", "params": {"C": 1.0, "kernel": "rbf"}}, {"name": "xgboost"}],
    "protocols": ["loso", {"name": "group-kfold", "n_splits": 3}],
    "metrics": ["uar", "war"],
    "audio": {"mono": "mean", "min_duration_s": 0.2},
    "tuning": {"n_trials": 4, "per_model": {"svm-c1": 2, "cnn": 0}},
    "seed": 3,
    "job_timeout_s": 60.0,
}
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["svm", "loso", "manifest", "1e-3", "no", "", "~x", "0", "=", "<<", "12:30", "2026-01-01"]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def places(node, path=()):
    """Return the path of every key and item."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    found = []
    for key, child in children:
        found += [(*path, key), *places(child, (*path, key))]
    return found


@st.composite
def mutated(draw):
    data = copy.deepcopy(VALID)
    for _ in range(draw(st.integers(1, 3))):
        options = places(data)
        if not options:
            break
        *above, last = draw(st.sampled_from(options))
        parent = data
        for part in above:
            parent = parent[part]
        match draw(st.sampled_from(["drop", "set", "rename", "repeat"])):
            case "drop":
                del parent[last]
            case "set":
                parent[last] = draw(VALUES)
            case "rename" if isinstance(parent, dict):
                parent[draw(st.text(max_size=5) | SCALARS.filter(lambda s: s == s))] = parent.pop(last)
            case "repeat" if isinstance(parent, list):
                parent.append(copy.deepcopy(parent[last]))
    return data


def refusal_of(check, content):
    """Return what a config is refused with, empty for a valid one; any other exception is a failure."""
    try:
        check(content, "c.yaml")
    except ConfigError as error:
        return str(error)
    return ""


def assert_valid_or_refused(content):
    lines = refusal_of(parse_config, content).split("\n")
    assert lines == [""] or all(line.startswith(("c.yaml", "…")) for line in lines), lines


@given(mutated())
@settings(max_examples=250, deadline=None)
def test_mutated_config_is_valid_or_refused_with_the_file(data):
    assert (refusal_of(validate_config, data) or "c.yaml: ").startswith("c.yaml: ")


@given(mutated(), st.data())
@settings(max_examples=100, deadline=None)
def test_mutated_text_is_valid_or_refused_with_the_file(data, draw):
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    try:
        yaml.dump(data, stream)
    except Exception:  # the writer has faults of its own
        return
    text = stream.getvalue()
    lines = text.splitlines(keepends=True)
    at = draw.draw(st.integers(0, len(lines)))
    lines[at:at] = draw.draw(st.sampled_from([[], lines[at : at + 1], ["\t\n"], ["---\n"], ["? x\n"], ["a: &a b\n"]]))
    cut = draw.draw(st.integers(0, len(text) + 5))
    assert_valid_or_refused("".join(lines)[:cut].encode(errors="replace"))


@given(st.text(alphabet=st.characters() | st.sampled_from("{}[]:,&*!|>'\"%@`#-?\n\t 1e.~<"), max_size=60))
@example("\ufeff" + BASE)
@example("{a: b, ")
@example("=: =\n")
@example("- !!set {}\n")
@example("a: 0b2\n")
@example("a: 1_\n")
@example("a: .e1\n")
@example("a: 2026-13-45\n")
@example("a: 2001-12-14t21:59:43.10-99:99\n")
@example("a: 0o9\n")
@example("a: |9\n b\n")
@settings(max_examples=300, deadline=None)
def test_random_text_is_refused_with_the_file(text):
    assert_valid_or_refused(text.encode(errors="replace"))


@given(st.binary(max_size=40))
@settings(max_examples=100, deadline=None)
def test_random_bytes_are_refused_with_the_file(content):
    assert_valid_or_refused(content)


@given(st.sampled_from(sorted(MODELS)), st.data())
@settings(max_examples=150, deadline=None)
def test_random_parameter_is_valid_or_refused_with_its_key(model, draw):
    from emobench.models import get_model, parameters

    name = draw.draw(st.sampled_from(sorted(parameters(get_model(model)))))
    data = {"corpora": ["ravdess"], "models": [{"name": model, "params": {name: draw.draw(VALUES)}}]}
    place = f"c.yaml: models[0].params.{name}: "
    assert (refusal_of(validate_config, data) or place).startswith(place)


def test_paths_are_found_however_their_accents_are_encoded(tmp_path):
    (tmp_path / "cafe\u0301").mkdir()
    (tmp_path / "cafe\u0301/mine.csv").touch()
    row = {"name": "manifest", "path": str(tmp_path / "caf\u00e9" / "mine.csv")}
    config = load_config({"corpora": [row], "models": ["dummy"]})
    assert config.corpora[0].path == str(tmp_path / "cafe\u0301" / "mine.csv")
