"""Commands that use a saved model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from emobench.commands.frame import Manner, app, complain, one_line, print_json, takes_manner
from emobench.console import printable


@app.command()
@takes_manner
def predict(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Recordings: WAV, FLAC, OGG, MP3.")],
    *,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="NAME|PATH", help="An entry, a bundle or a run; else the best one."),
    ] = None,
    results: Annotated[Path, typer.Option("--results", metavar="DIR", help="Folder of runs.")] = Path("results"),
    manner: Manner,
) -> None:
    """Name the emotion of recordings, one line a file, with a model that a run fitted on everything."""
    from emobench.bundle import load_bundle
    from emobench.inference import find_bundle, predict_files

    folder = find_bundle(model, results)
    bundle = load_bundle(folder)
    if not manner.quiet:
        print(f"model: {bundle.entry} ({printable(str(folder))})", file=sys.stderr)
    n_bad = 0
    for answer in predict_files(bundle, files):
        n_bad += bool(answer.error)
        if manner.as_json:
            shown = {"path": answer.path, "emotion": answer.emotion or None, "probabilities": answer.probabilities}
            shown |= {"entry": answer.entry} | ({"warning": answer.warning} if answer.warning else {})
            print_json(shown | ({"error": answer.error} if answer.error else {}), indent=None)
        elif answer.error:
            complain(f"{one_line(answer.path)}: {answer.error}")
        else:
            print("\t".join([one_line(answer.path), answer.emotion, _probabilities(answer.probabilities)]).rstrip())
        if answer.warning and not manner.quiet:
            complain(f"{one_line(answer.path)}: {answer.warning}")
    if n_bad:
        raise typer.Exit(3 if n_bad == len(files) else 4)


def _probabilities(probabilities: dict[str, float] | None) -> str:
    ranked = sorted((probabilities or {}).items(), key=lambda item: (-item[1], item[0]))
    return " ".join(f"{label}={value:.3f}" for label, value in ranked)
