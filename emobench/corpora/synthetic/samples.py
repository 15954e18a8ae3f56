"""A few recordings to try things with, by speakers that the synthetic corpus does not have."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from emobench.corpora.synthetic.design import EMOTIONS, SAMPLE_RATE_HZ, sex_of
from emobench.corpora.synthetic.speech import synthesise
from emobench.errors import ConfigError
from emobench.files import storage_errors, write_bytes

SPEAKERS = ("25", "26", "27", "28", "29", "30")  # the corpus ends with 24: no model of it has heard these
MANIFEST = "manifest.csv"


def write_samples(folder: Path) -> list[Path]:
    """Write a recording of each speaker and emotion, and a manifest of them; return their paths, the manifest last.

    Raises
    ------
    ConfigError
        If the folder holds anything else.
    StorageError
        If it cannot be written.
    """
    import soundfile

    rows = [
        {"path": f"speaker-{speaker}/{emotion}.wav", "speaker": speaker, "emotion": emotion, "sex": sex_of(speaker)}
        for speaker in SPEAKERS
        for emotion in sorted(EMOTIONS)
    ]
    with storage_errors(folder):
        strange = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if strange - {MANIFEST, *(row["path"] for row in rows)}:
        raise ConfigError(f"{folder} is not empty. Name a new folder.")
    for row in rows:
        signal = synthesise(row["speaker"], row["emotion"], "1", "strong", "1")
        encoded = io.BytesIO()
        soundfile.write(encoded, signal, SAMPLE_RATE_HZ, subtype="PCM_16", format="WAV")
        write_bytes(folder / row["path"], encoded.getvalue())
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(folder / MANIFEST, text.getvalue().encode())
    return [folder / name for name in (*(row["path"] for row in rows), MANIFEST)]
