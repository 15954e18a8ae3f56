"""The command that lists the rows of the registries."""

from __future__ import annotations

from typing import Annotated

import typer

from emobench.cli.frame import Manner, app, print_columns, print_json, takes_manner


@app.command("list")
@takes_manner
def list_rows(
    what: Annotated[str, typer.Argument(metavar="models|features|corpora|protocols|metrics")], *, manner: Manner
) -> None:
    """List models, features, corpora, protocols or metrics."""
    from emobench import corpora, features, metrics, models, protocols
    from emobench.registry import lookup, rows

    tables = {
        "models": ("model", models.MODELS),
        "features": ("feature set", features.FEATURES),
        "corpora": ("corpus", corpora.CORPORA),
        "protocols": ("protocol", protocols.PROTOCOLS),
        "metrics": ("metric", metrics.METRICS),
    }
    listed = [(row.name, row.title) for row in rows(*lookup("table", tables, what))]
    if manner.as_json:
        return print_json([{"name": name, "title": title} for name, title in listed])
    print_columns(listed)
