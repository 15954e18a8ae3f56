"""Commands for corpora: list, check, make, sample or download them."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from emobench.cli.console import printable
from emobench.cli.frame import (
    Jobs,
    Manner,
    add_group,
    complain,
    print_columns,
    print_json,
    takes_manner,
)
from emobench.errors import ConfigError

data_app = add_group("data", "List, check, describe, make, sample or download corpora.")


class Kind(StrEnum):
    """What a manifest is made from."""

    regex = "regex"
    audformat = "audformat"
    emobox = "emobox"


@data_app.command("list")
@takes_manner
def data_list(*, manner: Manner) -> None:
    """List the corpora, where they are and how to get them."""
    from emobench.corpora import CORPORA
    from emobench.corpora.location import locate
    from emobench.registry import rows

    listed = [(row, locate(row)) for row in rows("corpus", CORPORA)]
    if manner.as_json:
        about = ("name", "title", "licence", "size_mb", "source")
        return print_json(
            [{**{key: getattr(row, key) for key in about}, "folder": folder and str(folder)} for row, folder in listed]
        )
    shown = []
    for row, folder in listed:
        facts = (row.licence, f"{row.size_mb} MB" if row.size_mb else "", "" if folder else row.source)
        shown.append((row.name, str(folder or row.where), row.title))
        shown.append(("", "", "; ".join(filter(None, facts))))
    print_columns(shown)


@data_app.command("verify")
@takes_manner
def data_verify(
    name: Annotated[str, typer.Argument(metavar="CORPUS", help="A corpus, as `emobench data list` names it.")],
    *,
    root: Annotated[Path | None, typer.Option("--root", metavar="DIR", help="Its folder.")] = None,
    path: Annotated[Path | None, typer.Option("--path", metavar="CSV", help="The CSV of a manifest.")] = None,
    manner: Manner,
) -> None:
    """Check every recording of a corpus.

    Decodes each file to its end, counts by emotion, sex and speaker, and lists what is missing, damaged, present
    twice, or contradictory: identical audio with two labels.
    """
    from emobench.cli.console import ConsoleReporter
    from emobench.errors import MAX_LISTED, listing
    from emobench.running.verification import verify

    found = verify(name, root=root, path=path, reporter=ConsoleReporter(quiet=manner.quiet))
    if manner.as_json:
        print_json(found.summary())
    else:
        print_columns([(key, str(value)) for key, value in found.summary(short=True).items()])
    problems = [*map(str, found.faults), *(f"missing: {stem}" for stem in found.missing)]
    if problems:
        limit = len(problems) if manner.verbose else MAX_LISTED
        complain(
            f"Corpus {name!r}: {len(problems)} recordings are missing or damaged:\n"
            f"{listing(problems, limit=limit)}\nCopy or download them again."
        )
    if found.conflicts:
        limit = len(found.conflicts) if manner.verbose else MAX_LISTED
        complain(
            f"Corpus {name!r}: identical audio must have one speaker and one emotion. {len(found.conflicts)} times it "
            f"has not:\n{listing(list(found.conflicts), limit=limit)}\n"
            "Correct the labels, or leave recordings out in the config: `on_conflict: drop`, `exclude: [PATH]`."
        )
    if problems or found.conflicts:
        raise typer.Exit(3)


@data_app.command("manifest")
@takes_manner
def data_manifest(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="The folder of recordings; tables; or lists of EmoBox.")
    ],
    *,
    kind: Annotated[Kind, typer.Option("--from", help="What SOURCE is.")],
    pattern: Annotated[
        str, typer.Option("--pattern", metavar="REGEX", help="Groups named speaker, emotion, sex … of a path or name.")
    ] = "",
    label: Annotated[
        list[str], typer.Option("--label", metavar="CODE=EMOTION", help="Name a label; may be repeated.")
    ] = [],  # noqa: B006  (typer reads the default, nobody changes it)
    root: Annotated[Path | None, typer.Option("--root", metavar="DIR", help="Folder of the recordings.")] = None,
    manner: Manner,
) -> None:
    """Write a manifest from what there is.

    `regex` reads names of files by a pattern with named groups, `audformat` the tables of a database (CSV or Parquet),
    `emobox` lists of JSON lines. Writes manifest.csv into the folder of the recordings.
    """
    from emobench.corpora import drafts
    from emobench.corpora.manifest import scan
    from emobench.files import write_bytes

    home = root or (sources[0] if kind is Kind.regex else sources[0].parent)
    path, labels = home / "manifest.csv", dict(drafts.pairs(label))
    if path.exists():
        raise ConfigError(f"{path} exists. Remove or rename it.")
    if kind is Kind.regex:
        draft = drafts.from_names(home, pattern, labels=labels)
    elif kind is Kind.emobox:
        draft = drafts.from_emobox(sources, home, pattern=pattern, labels=labels)
    else:
        draft = drafts.from_audformat(sources, home, labels=labels)
    write_bytes(path, draft.text().encode())
    scan(path=path)
    if manner.as_json:
        return print_json({"manifest": str(path), "recordings": len(draft.rows), "remarks": list(draft.remarks)})
    for remark in draft.remarks:
        print(printable(remark))
    print(printable(f"Wrote {path}: {len(draft.rows)} recordings"))


@data_app.command("hashes")
@takes_manner
def data_hashes(
    name: Annotated[str, typer.Argument(metavar="CORPUS", help="A corpus, as `emobench data list` names it.")],
    *,
    root: Annotated[Path | None, typer.Option("--root", metavar="DIR", help="Its folder.")] = None,
    path: Annotated[Path | None, typer.Option("--path", metavar="CSV", help="The CSV of a manifest.")] = None,
    manner: Manner,
) -> None:
    """Print the keys of every recording, for a file of embeddings.

    A CSV of path, audio_id (hash of the samples) and clip_id (hash of the file).
    """
    import pandas as pd

    from emobench.cli.console import ConsoleReporter
    from emobench.errors import listing
    from emobench.results.tables import csv_bytes
    from emobench.running.verification import hashes

    rows, found = hashes(name, root=root, path=path, reporter=ConsoleReporter(quiet=manner.quiet))
    if manner.as_json:
        print_json([{"path": path, "audio_id": audio, "clip_id": clip} for path, audio, clip in rows])
    else:
        frame = pd.DataFrame(rows, columns=["path", "audio_id", "clip_id"])
        print(csv_bytes(frame).decode(), end="")
    if found.faults:
        complain(
            f"Corpus {name!r}: {len(found.faults)} recordings have no keys:\n{listing(list(map(str, found.faults)))}"
        )
        raise typer.Exit(3)


@data_app.command("make")
@takes_manner
def data_make(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Where to write; default: the user's cache.")
    ] = None,
    *,
    n_jobs: Jobs = -1,
    speakers: Annotated[int, typer.Option("--speakers", help="Number of speakers.", min=1, max=24)] = 24,
    manner: Manner,
) -> None:
    """Make the synthetic corpus.

    Computer-generated speech of RAVDESS's design, the same bytes every time.
    """
    from emobench.cli.console import ConsoleReporter
    from emobench.corpora import get_corpus
    from emobench.execution.workers import count_workers
    from emobench.running.datasets import make

    if folder is None and speakers != 24:
        raise ConfigError(f"--speakers {speakers} needs a folder of its own, as the cache holds 24. Name a DIR.")
    reporter, n_workers = ConsoleReporter(quiet=manner.quiet), count_workers(n_jobs)
    made = make(get_corpus("synthetic"), n_jobs=n_workers, reporter=reporter, folder=folder, n_speakers=speakers)
    print_json({"folder": str(made)}) if manner.as_json else print(made)


@data_app.command("sample")
@takes_manner
def data_sample(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    *,
    manner: Manner,
) -> None:
    """Write a few recordings to try things with.

    Computer-generated speech: six speakers, five emotions, and a manifest.csv that lists them. The speakers are not in
    the synthetic corpus, so no model trained on it has heard them.
    """
    from emobench.corpora.synthetic.samples import write_samples

    paths = write_samples(folder)
    if manner.as_json:
        return print_json({"folder": str(folder), "manifest": str(paths[-1]), "recordings": len(paths) - 1})
    print(printable(f"Wrote {len(paths) - 1} recordings and {paths[-1]}"))


@data_app.command("fetch")
@takes_manner
def data_fetch(
    name: Annotated[str, typer.Argument(metavar="CORPUS", help="A corpus that can be downloaded.")],
    *,
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="DIR", help="Where to write; default: the user's cache.")
    ] = None,
    mirror: Annotated[
        str | None, typer.Option("--mirror", metavar="URL", help="Another server with the same archives.")
    ] = None,
    manner: Manner,
) -> None:
    """Download a corpus.

    The archive is checked against its hash before it is unpacked, and the recordings are counted.
    """
    from emobench.corpora import get_corpus
    from emobench.corpora.fetch import fetch
    from emobench.corpora.location import cached_corpus

    row = get_corpus(name)
    if not manner.quiet:
        print(f"{row.title}. Licence: {row.licence}. Cite: {row.citation}", file=sys.stderr)
    is_shown = not manner.quiet and sys.stderr.isatty()
    got = fetch(row, folder or cached_corpus(name), base_url=mirror, progress=is_shown)
    print_json({"folder": str(got)}) if manner.as_json else print(got)
