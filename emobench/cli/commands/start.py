"""The command that begins with what somebody has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emobench.cli.console import printable, warn
from emobench.cli.frame import Manner, app, print_json, takes_manner


@app.command()
@takes_manner
def init(
    place: Annotated[
        Path, typer.Argument(metavar="[FOLDER|CSV]", help="Recordings, or a list of them; default: this folder.")
    ] = Path("."),
    *,
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="The config to write.")] = Path(
        "emobench.yaml"
    ),
    manner: Manner,
) -> None:
    """Write a config for recordings that you have.

    Looks at a folder or a CSV: known corpora, a manifest, audformat tables, or names that tell emotion and speaker.
    Writes a config that runs, and a manifest where one is needed.
    """
    from emobench.running.init import init as begin

    started = begin(place, config)
    if manner.as_json:
        return print_json(
            {
                "config": str(started.config),
                "manifest": started.manifest and str(started.manifest),
                "found": list(started.found),
                "next": started.command,
                "problem": started.problem,
            }
        )
    for sentence in started.found:
        print(printable(sentence))
    print(printable(f"wrote {started.config}\nnext: {started.command}"))
    if started.problem:
        warn(f"it would not run yet: {started.problem}")
