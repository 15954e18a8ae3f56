"""The command that writes the derived files of a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emobench.cli.frame import Manner, app, print_json, takes_manner


@app.command()
@takes_manner
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, as results/all-1a2b3c4d.")],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Where to write; default: the run's folder.")
    ] = None,
    manner: Manner,
) -> None:
    """Rebuild the leaderboards and the page of a run.

    Everything follows from the run's tables, byte for byte. If only its CSVs are kept, the pages are rebuilt from them.
    """
    from emobench.reports import derivation
    from emobench.results.run import run_folder

    folder = run_folder(run)
    names = derivation.rebuild(folder, output=output)
    if manner.as_json:
        return print_json({"folder": str(output or folder), "written": names})
    for name in names:
        print((output or folder) / name)
