"""Commands that use a saved model: predict with it, copy it, look into it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emobench.cli.console import printable, warn
from emobench.cli.frame import Manner, app, complain, one_line, print_columns, print_json, takes_manner
from emobench.errors import ConfigError, DataError, listing

if TYPE_CHECKING:
    from emobench.bundles.manifest import Tensor
    from emobench.bundles.storage import Bundle
    from emobench.cli.commands.answers import Row
    from emobench.prediction.predictor import Predictor

_GENERATED = (
    "warning: the model was trained on the corpus {!r}, which is computer-generated. "
    "Do not rely on its answers about people."
)

Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="Folder of runs.")]


@app.command()
@takes_manner
def predict(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Recordings (WAV, FLAC, OGG, MP3) and folders of them; - for standard input: a recording, or names.",
        ),
    ],
    *,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="NAME|PATH", help="An entry, a saved model or a run; default: the best."),
    ] = None,
    results: Results = Path("results"),
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", metavar="P", help="Answer `uncertain` below this probability."),
    ] = None,
    window: Annotated[
        float | None, typer.Option("--window", metavar="S", help="One answer for each window of S seconds.")
    ] = None,
    hop: Annotated[
        float | None, typer.Option("--hop", metavar="S", help="Seconds from one window to the next; default: 1.")
    ] = None,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Print one JSON object per line.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    null: Annotated[
        bool, typer.Option("--null", "-0", help="Names on standard input end with NUL (find -print0).")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="JSONL",
            help="Append answers to this file; files already answered are skipped, so the same command continues.",
        ),
    ] = None,
    manner: Manner,
) -> None:
    """Predict the emotion of recordings.

    Prints a line for each file or window: path, emotion, probabilities. Uses the best model of your runs unless --model
    names another.
    """
    from threadpoolctl import threadpool_limits

    from emobench.bundles.storage import read_bundle
    from emobench.cli.commands import answers
    from emobench.prediction.predictor import Predictor
    from emobench.prediction.selection import find_bundle

    if sum([manner.as_json, jsonl, csv, output is not None]) > 1:
        raise ConfigError("--json, --jsonl, --csv and --output must stand alone. Got several. Leave out all but one.")
    if hop is not None and window is None:
        raise ConfigError("--hop must stand beside --window. Got --hop alone. Add --window.")
    if output and window is not None:
        raise ConfigError("--output must be used without --window. Got both. Write `--jsonl > FILE` instead.")
    if null and "-" not in files:
        raise ConfigError("--null must stand beside -, names on standard input. Got no -. Add it.")
    folder = find_bundle(model, results)
    predictor = Predictor(read_bundle(folder))
    if threshold is not None and not predictor.has_probabilities:
        raise ConfigError(_no_probabilities(predictor.entry, folder, results))
    identity: dict[str, Any] = {"entry": predictor.entry, "bundle": predictor.bundle.checksum[:16]}
    identity |= {"threshold": threshold} if threshold is not None else {}
    finished = answers.answered(output, identity) if output else set()
    if not manner.quiet:
        print(f"model: {predictor.entry} ({printable(str(folder))})", file=sys.stderr)
        if predictor.bundle.manifest.trained_on.get("is_generated"):
            print(_GENERATED.format(predictor.bundle.manifest.trained_on.get("corpus")), file=sys.stderr)
        if finished:
            print(f"{len(finished)} files have their answer in {printable(str(output))}", file=sys.stderr)
    recordings, is_single = answers.recordings(files, null=null)
    if output:
        recordings = _first_times(recordings, finished)
    if window is None:
        found = predictor.predict_files(recordings, threshold=threshold)
    else:
        settings = {"window_s": window, "hop_s": 1.0 if hop is None else hop, "threshold": threshold}
        found = _tracks(predictor, recordings, settings)
    rows = (answers.to_row(answer, identity) for answer in found)
    with contextlib.ExitStack() as stack:
        stack.enter_context(threadpool_limits(1))  # the matrices of a clip are too small for more
        if output:
            write = stack.enter_context(answers.appended(output))
        elif manner.as_json:
            write = stack.enter_context(answers.as_document(is_single=is_single and window is None))
        elif csv:
            write = answers.as_csv(predictor.classes, has_windows=window is not None)
        else:
            write = answers.as_lines if jsonl else answers.as_text
        n_good, n_bad = _write_all(rows, write, manner, is_shown=bool(output))
    n_good += len(finished)
    if not n_good + n_bad:
        raise DataError("FILE must name at least one recording. Standard input names none. Check what writes to it.")
    if n_bad:
        raise typer.Exit(4 if n_good else 3)


def _write_all(rows: Iterable[Row], write: Any, manner: Manner, *, is_shown: bool) -> tuple[int, int]:
    """Write answers as they come; return how many are good and bad."""
    n_good = n_bad = 0
    for row in rows:
        write(row)
        is_bad = "error" in row
        n_good, n_bad = n_good + (not is_bad), n_bad + is_bad
        if manner.quiet:
            continue
        if is_bad and is_shown:
            complain(f"{one_line(row['path'])}: {row['error']}")
        elif row.get("warning"):
            warn(f"{one_line(row['path'])}: {row['warning']}")
    return n_good, n_bad


def _first_times(recordings: Iterable[str | bytes], finished: set[str]) -> Iterator[str | bytes]:
    seen = set(finished)
    for recording in recordings:
        name = recording if isinstance(recording, str) else "-"
        if name not in seen:
            seen.add(name)
            yield recording


def _no_probabilities(entry: str, bundle: Path, results: Path) -> str:
    from emobench.prediction.selection import with_probabilities

    others = with_probabilities(bundle, results)
    advice = f"These do:\n{listing(others)}" if others else "No other saved model does either; leave it out."
    return f"--threshold needs probabilities, and {entry!r} gives none. {advice}"


def _tracks(predictor: Predictor, recordings: Iterable[str | bytes], settings: dict[str, Any]) -> Iterator[Any]:
    """Yield the answer for each window of each file, and for a file that cannot be used (any further) its error."""
    from emobench.errors import AudioError
    from emobench.prediction.predictor import failed

    for recording in recordings:
        try:
            yield from predictor.predict_windows(recording, **settings)
        except (AudioError, OSError) as error:
            yield failed(recording, error, predictor.entry)


@app.command()
@takes_manner
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or its name in --results.")],
    entry: Annotated[str, typer.Argument(metavar="ENTRY", help="An entry of its leaderboard.")],
    *,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="PATH", help="Where to write; default: ./ENTRY or ./ENTRY.zip."),
    ] = None,
    as_zip: Annotated[bool, typer.Option("--zip", help="Write a zip; implied if PATH ends in .zip.")] = False,
    results: Results = Path("results"),
    manner: Manner,
) -> None:
    """Copy a trained model out of a run.

    The copy, a folder or a zip, predicts on any machine that has emobench.
    """
    from emobench.bundles.storage import read_bundle, write_bundle
    from emobench.prediction.selection import find_entry

    source = find_entry(run, entry, results)
    as_zip = as_zip or (output is not None and output.suffix == ".zip")
    target = output or Path(f"{source.name}.zip" if as_zip else source.name)
    write_bundle(target, read_bundle(source), as_zip=as_zip)
    print_json({"bundle": str(target)}) if manner.as_json else print(printable(str(target)))


@app.command()
@takes_manner
def inspect(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="A folder, a zip, a run, or the name of an entry.")],
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Also try the model in a process with limits of memory and time.")
    ] = False,
    results: Results = Path("results"),
    manner: Manner,
) -> None:
    """Show what a saved model is and how good it was.

    Checks every checksum first.
    """
    from emobench.bundles.storage import read_bundle
    from emobench.prediction.selection import find_bundle

    path = find_bundle(bundle, results)
    found = read_bundle(path)
    trial = vars(found.trial()) if check else {}
    if manner.as_json:
        content = {"path": str(path), **found.manifest.model_dump(), "sums": found.sums}
        return print_json({**content, "check": trial} if check else content)
    print_columns(_described(path, found, trial))


def _described(path: Path, bundle: Bundle, trial: dict[str, Any]) -> list[tuple[str, str]]:
    manifest = bundle.manifest
    features, trained_on, scores = manifest.features, manifest.trained_on, manifest.scores
    fitted = {**trained_on, "speakers": trained_on.get("n_speakers"), "clips": trained_on.get("n_utterances")}
    about = ("corpus", "clips", "speakers", "mono", "licence", "is_generated")
    rows = [
        ("path", str(path)),
        ("entry", manifest.entry),
        ("model", f"{manifest.model}, version {manifest.model_version}"),
        ("parameters", _pairs(manifest.params) or "the model's own"),
        ("classes", ", ".join(manifest.classes)),
        (
            "features",
            f"{features.get('name')}, version {features.get('version')}: {manifest.n_features} numbers"
            f"{_frames(features.get('shape'))} at {manifest.sr} Hz; {_pairs(features.get('params'))}",
        ),
        ("input", _tensor(manifest.input)),
        *(("output", _tensor(tensor)) for tensor in manifest.outputs),
        ("trained on", _pairs({name: fitted[name] for name in about if name in fitted})),
        ("corpus fingerprint", str(trained_on.get("fingerprint", "unknown"))),
        ("run", str(trained_on.get("run", "unknown"))),
        *(("score", _score(row)) for row in (scores if isinstance(scores, list) else [scores])),
        ("parity", _pairs(manifest.parity)),
        ("versions", _pairs(manifest.versions)),
        *((name, f"{len(bundle.files[name])} bytes, sum is right: {value}") for name, value in bundle.sums.items()),
    ]
    if trial:
        times = f"loaded in {trial['load_ms']:.0f} ms, a row takes {trial['predict_ms']:.3g} ms"
        rows.append(("check", f"the model answers: {times}"))
    return rows


def _frames(shape: Any) -> str:
    return " ({} frames of {} channels)".format(*shape) if isinstance(shape, list) and len(shape) == 2 else ""


def _tensor(tensor: Tensor) -> str:
    shape = ", ".join("n" if size is None else str(size) for size in tensor.shape)
    return f"{tensor.name}: {tensor.dtype} ({shape})"


def _score(row: Any) -> str:
    """Return a score on one protocol as a person reads it."""
    from emobench.reports.leaderboard import shared

    if not isinstance(row, dict) or not row:
        return "unknown"

    def figure(name: str) -> str:
        value = row.get(name)
        return f"{value:.3f}" if isinstance(value, int | float) else "–"

    waives = f" ({shared(row['waives'])})" if row.get("waives") else ""
    interval = f" [{figure('uar_low')}, {figure('uar_high')}]"
    return (
        f"{row.get('protocol', '')}{waives}: UAR {figure('uar')}{interval}, WAR {figure('war')}, "
        f"macro F1 {figure('macro_f1')}"
    )


def _pairs(content: Any) -> str:
    return ", ".join(f"{name}={value}" for name, value in content.items()) if isinstance(content, dict) else ""
