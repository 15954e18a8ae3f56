import pytest

from emobench import errors
from emobench.corpora import get_corpus
from emobench.errors import (
    MAX_LISTED,
    AudioError,
    BundleError,
    ConfigError,
    CorpusError,
    DataError,
    EmobenchError,
    HeldError,
    LeakageError,
    SplitError,
    StorageError,
    UnknownNameError,
    did_you_mean,
    listing,
    on_one_line,
)
from emobench.features import get_features
from emobench.metrics import get_metric
from emobench.models import get_model
from emobench.protocols import get_protocol
from emobench.registry import lookup

TABLE = {"svm": 1, "mlp": 2, "xgboost": 3}


@pytest.mark.parametrize(
    "kind, exit_code, builtin",
    [
        (EmobenchError, 1, Exception),
        (ConfigError, 2, ValueError),
        (UnknownNameError, 2, KeyError),
        (SplitError, 2, ValueError),
        (LeakageError, 2, ValueError),
        (BundleError, 2, ValueError),
        (DataError, 3, ValueError),
        (CorpusError, 3, ValueError),
        (StorageError, 5, OSError),
        (HeldError, 5, OSError),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_error_has_its_exit_code_is_its_builtin_and_shows_its_message(kind, exit_code, builtin):
    error = kind("must be so. Got 'x'. Do that.")
    assert (error.exit_code, isinstance(error, EmobenchError), isinstance(error, builtin)) == (exit_code, True, True)
    assert str(error) == "must be so. Got 'x'. Do that."


def test_every_error_of_the_module_has_an_exit_code_of_the_catalogue():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EmobenchError)]
    assert len(kinds) >= 11
    assert {kind.exit_code for kind in kinds if kind is not EmobenchError} == {2, 3, 5}


def test_audio_error_keeps_path_and_reason_apart():
    error = AudioError("a.wav", "must exist.")
    assert (error.path, error.reason, str(error), error.exit_code) == ("a.wav", "must exist.", "a.wav: must exist.", 3)


def test_lookup_returns_the_row():
    assert lookup("model", TABLE, "mlp") == 2


def test_lookup_answers_a_typo_with_the_nearest_and_all_known():
    with pytest.raises(UnknownNameError) as caught:
        lookup("model", TABLE, "svn")
    assert str(caught.value) == "Unknown model 'svn'. Did you mean 'svm'? Known models: mlp, svm, xgboost."


def test_lookup_of_a_name_near_nothing_lists_all_known():
    with pytest.raises(UnknownNameError, match=r"^Unknown model 'zzz'\. Known models: mlp, svm, xgboost\.$"):
        lookup("model", TABLE, "zzz")


@pytest.mark.parametrize("name", [None, 3, ("svm",)])
def test_lookup_of_what_is_no_name_is_refused_in_plain_words(name):
    with pytest.raises(UnknownNameError, match="Unknown model"):
        lookup("model", TABLE, name)


@pytest.mark.parametrize("get", [get_corpus, get_features, get_metric, get_model, get_protocol])
def test_every_registry_answers_a_typo(get):
    with pytest.raises(UnknownNameError, match=r"Unknown [a-z ]+ 'no-such-name'\. Known [a-z]+: "):
        get("no-such-name")


@pytest.mark.parametrize("name, says", [("lern", " Did you mean 'learn'?"), ("quite other", ""), ("", ""), (3, "")])
def test_did_you_mean_names_what_is_near_or_nothing(name, says):
    assert did_you_mean(name, ["learn", "epochs"]) == says


@pytest.mark.parametrize("n, n_lines", [(0, 0), (1, 1), (MAX_LISTED, MAX_LISTED), (MAX_LISTED + 1, MAX_LISTED + 1)])
def test_listing_shows_each_problem_up_to_the_cap(n, n_lines):
    assert len(listing([f"p{i}" for i in range(n)]).splitlines()) == n_lines


def test_listing_counts_what_it_does_not_show():
    lines = listing([f"p{i}" for i in range(50)]).splitlines()
    assert lines[0] == "  p0"
    assert lines[-2:] == ["  p19", "  … and 30 more"]
    assert listing(["a", "b", "c"], limit=1).splitlines() == ["  a", "  … and 2 more"]


def test_listing_keeps_each_problem_on_its_line():
    assert listing(["two\nlines", "\x1b[31mred"]).splitlines() == ["  two\\nlines", "  \\x1b[31mred"]


@pytest.mark.parametrize("text", ["a\nb", "a\r\n", "\x1b[2J", "\u2028", "\udc80"], ids=repr)
def test_on_one_line_spells_out_what_steers_a_terminal(text):
    assert on_one_line(text).isprintable()
    assert on_one_line("plain – text") == "plain – text"
