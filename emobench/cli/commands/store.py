"""Commands for the feature store: fill it, list it, check it, clean it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from emobench.cli.console import warn
from emobench.cli.frame import (
    Config,
    Dask,
    Jobs,
    Manner,
    add_group,
    app,
    complain,
    print_columns,
    print_json,
    takes_manner,
)


@app.command()
@takes_manner
def features(config: Config, *, n_jobs: Jobs = -1, dask: Dask = None, manner: Manner) -> None:
    """Extract the features of a config, and nothing else."""
    from emobench.cli.console import ConsoleReporter
    from emobench.running import runner

    done = runner.extract(config, n_jobs=n_jobs, dask=dask, reporter=ConsoleReporter(quiet=manner.quiet))
    if manner.as_json:
        return print_json([asdict(row) for row in done])
    header = ("corpus", "features", "clips", "computed", "excluded", "key")
    rows = [
        (row.corpus, row.features, str(row.n_clips), str(row.n_computed), str(row.n_excluded), row.feature_key)
        for row in done
    ]
    print_columns([header, *rows])


store_app = add_group("store", "List, check or clean the feature store.")


@store_app.command("ls")
@takes_manner
def store_ls(*, manner: Manner) -> None:
    """List what the store holds and what is current."""
    from emobench.corpora.location import store_folder
    from emobench.features.inventory import list_holdings
    from emobench.features.store import FeatureStore

    holdings = list_holdings(FeatureStore(store_folder()))
    if manner.as_json:
        return print_json([asdict(holding) for holding in holdings])
    rows = [("key", "current", "clips", "size", "features", "made with")]
    for one in holdings:
        current = "yes" if one.is_current else "no"
        rows.append((one.key, current, str(one.n_clips), _in_mb(one.n_bytes), *_describe(one.identity)))
    print_columns(rows)


@store_app.command("verify")
@takes_manner
def store_verify(
    *,
    recompute: Annotated[
        int, typer.Option("--recompute", metavar="N", help="Also extract N recordings again, others each time.", min=0)
    ] = 0,
    manner: Manner,
) -> None:
    """Check every shard.

    Damaged ones are moved to quarantine and their clips are extracted again by the next run. A shard's name proves that
    it is whole, not that it was computed from its recordings: --recompute holds some of them to what they give now.
    """
    import numpy as np

    from emobench.corpora.location import store_folder
    from emobench.errors import MAX_LISTED, listing
    from emobench.features import inventory
    from emobench.features.store import FeatureStore

    store = FeatureStore(store_folder())
    found, again = inventory.check(store), None
    if recompute:
        again = inventory.recompute(store, recompute, rng=np.random.default_rng())
        found.mended += again.mended
        found.unmended += again.unmended
    if manner.as_json:
        n_again = {"n_recomputed": again.n_clips, "n_not_found": again.n_not_found} if again else {}
        print_json(asdict(found) | n_again)
    else:
        n_bad = len(found.mended) + len(found.unmended)
        print(f"{found.n_shards} shards checked, {n_bad} damaged, about {found.n_clips} clips to extract again")
        if again:
            print(
                f"{again.n_clips} recordings extracted again, {len(again.mended) + len(again.unmended)} shards differ"
            )
    if again and again.n_clips < recompute and not manner.quiet:
        warn(
            f"{again.n_not_found} recordings of the store are not where they were; run their config again to find them"
        )
    limit = found.n_shards if manner.verbose else MAX_LISTED
    if found.mended and not manner.quiet:
        warn(f"damaged shards were moved to quarantine:\n{listing(found.mended, limit=limit)}")
    if found.unmended:
        complain(
            f"{len(found.unmended)} damaged shards could not be moved to quarantine:\n"
            f"{listing(found.unmended, limit=limit)}\nFix what is named there and run the same command again."
        )
        raise typer.Exit(5)


@store_app.command("gc")
@takes_manner
def store_gc(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    manner: Manner,
) -> None:
    """Remove what this installation cannot use.

    That is features of other versions, quarantined shards and half-written files.
    """
    from emobench.corpora.location import store_folder
    from emobench.features.inventory import collect
    from emobench.features.store import FeatureStore

    found = collect(FeatureStore(store_folder()), dry_run=dry_run)
    if manner.as_json:
        return print_json(asdict(found) | {"dry_run": dry_run})
    done = "would remove" if dry_run else "removed"
    rows = [*((done, name) for name in found.removed), *(("in use", name) for name in found.held)]
    print_columns([*rows, ("would free" if dry_run else "freed", _in_mb(found.n_bytes))])


def _describe(identity: Mapping[str, Any]) -> tuple[str, str]:
    """Return a feature set with its parameters, and the libraries that it was computed with."""
    try:
        spec = identity["spec"]
        params = "".join(f", {name}={value}" for name, value in spec["params"].items())
        versions = {**identity["libraries"], "Python": identity["python"]}
        made_with = ", ".join(f"{name} {version}" for name, version in versions.items())
        return f"{spec['name']} v{spec['version']}, {spec['sr']} Hz, mono {identity['mono']}{params}", made_with
    except (KeyError, TypeError, AttributeError):
        return "unknown", "its shards do not say"


def _in_mb(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB"
