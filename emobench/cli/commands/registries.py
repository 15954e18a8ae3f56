"""The command that lists the rows of the registries."""

from __future__ import annotations

from typing import Annotated

import typer

from emobench.cli.frame import Manner, app, print_columns, print_json, takes_manner


@app.command("list")
@takes_manner
def list_rows(
    what: Annotated[str, typer.Argument(metavar="models|networks|features|corpora|protocols|metrics|stresses")],
    *,
    manner: Manner,
) -> None:
    """List models, features and other rows, and where they come from."""
    from emobench.registry import TABLES, listed, lookup, plural, resolve

    kind = lookup("table", {plural(kind): kind for kind in TABLES}, what)
    found = [(row.name, origin, row.title) for row, origin in listed(kind, resolve(TABLES[kind]))]
    if manner.as_json:
        return print_json([{"name": name, "title": title, "origin": origin} for name, origin, title in found])
    print_columns(found)
