"""Corpora: which recordings there are, who speaks in them, and with which emotion.

A corpus is one row of `CORPORA`. Its scanner reads a folder into `Utterance` objects and reports every file it cannot
accept at once; it opens no audio, labels come from file names or from a CSV.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from emobench.registry import Option, Row, lookup


@dataclass(frozen=True)
class Utterance:
    """One recording of a corpus.

    Attributes
    ----------
    path : str
        Relative to the corpus folder, with forward slashes.
    corpus, speaker, emotion : str
        `speaker` is unique within the corpus; empty for all of it where speakers are unknown.
    sex : str
        ``"female"``, ``"male"`` or empty where unknown.
    statement, intensity, repetition : str
        Empty where the corpus does not say.
    line : int or None
        Where the corpus's list names it; None where its labels stand in its own name.
    text : str
        What is said, where the corpus tells.
    """

    path: str
    corpus: str
    speaker: str
    emotion: str
    sex: str = ""
    statement: str = ""
    intensity: str = ""
    repetition: str = ""
    line: int | None = field(default=None, compare=False)
    text: str = ""

    @property
    def id(self) -> str:
        """Utterance id: the corpus and the relative path."""
        return f"{self.corpus}/{self.path}"


@dataclass(frozen=True)
class Scan:
    """What a folder holds: accepted recordings, and what was passed over and why.

    Attributes
    ----------
    utterances : tuple of Utterance
        Sorted by path; every emotion of the corpus, before a config picks some.
    ignored : tuple of str
        Junk such as ``.DS_Store``, relative paths.
    left_out : mapping of str to int
        Reason → number of well-formed recordings that the options do not ask for.
    missing : tuple of str
        Recordings that a complete copy has and this folder has not.
    generator : str
        Fingerprint of what made a generated corpus; empty for recordings.
    defects : mapping of str to (mapping of str to str)
        What each rule of `exclude:` leaves out: rule → path → reason. The rule ``known`` is the default.
    remarks : tuple of str
        What the person should know.
    labels_before : mapping of str to int
        Labels of the corpus with their counts, where a config gives some of them another name.
    dropped : tuple of (str, str)
        Path and reason of recordings that the config leaves out.
    """

    utterances: tuple[Utterance, ...]
    ignored: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    defects: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    generator: str = ""
    remarks: tuple[str, ...] = ()
    labels_before: Mapping[str, int] = field(default_factory=dict)
    dropped: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Generator:
    """How a corpus that nobody recorded comes to be.

    Attributes
    ----------
    home : callable
        ``home(**options) -> Path``: where it is kept in the user's cache; it need not exist.
    plan : callable
        ``plan(**options) -> Scan``: what it will hold, with nothing made.
    make : callable
        ``make(folder, *, n_jobs, progress, **options)``: writes it; the folder appears whole or not at all.
    """

    home: Callable[..., Path]
    plan: Callable[..., Scan]
    make: Callable[..., None]


@dataclass(frozen=True)
class Archive:
    """A downloadable archive of a corpus: address, size in bytes and hash (``md5:…`` or ``sha256:…``)."""

    file: str
    url: str
    n_bytes: int
    known_hash: str


@dataclass(frozen=True)
class CorpusSpec(Row):
    """A row of `CORPORA`.

    Attributes
    ----------
    scan : "module:function" or function
        Called as ``scan(root, **options) -> Scan``.
    options : mapping of str to Option
        What a config may set.
    emotions : tuple of str
        Every label the corpus knows; empty where its files say (``manifest``).
    n_utterances, n_speakers : int or None
        Of a complete copy.
    archives : tuple of Archive
        What ``emobench data fetch`` downloads; empty where that is not possible.
    generator : "module:object" or object
        The `Generator` that makes it; empty for recordings.
    also_called : tuple of str
        Other names that its folder has in the wild; case, spaces and punctuation do not count.
    size_mb : int or None
        Of its recordings, roughly.
    source : str
        How to get it, where `archives` does not say.
    random_split : str
        What a random split of it tests, where that deserves a sentence on every page.
    where : str
        What stands for its folder in a list while it is not on the machine.
    exclusions : tuple of str
        Rules of `exclude:` that its scans tell beside ``known``; see `Scan.defects`.
    """

    kind: ClassVar[str] = "corpus"
    targets: ClassVar[tuple[str, ...]] = ("scan",)

    name: str
    title: str
    scan: str | Callable[..., Scan]
    emotions: tuple[str, ...] = ()
    n_utterances: int | None = None
    n_speakers: int | None = None
    archives: tuple[Archive, ...] = ()
    licence: str = ""
    citation: str = ""
    also_called: tuple[str, ...] = ()
    size_mb: int | None = None
    source: str = ""
    random_split: str = ""
    generator: str | Generator = ""
    options: Mapping[str, Option] = field(default_factory=dict)
    where: str = "not here"
    exclusions: tuple[str, ...] = ()

    @property
    def needs_path(self) -> bool:
        """Whether a config must name a file of it with `path:`."""
        return "path" in self.options


CORPORA: dict[str, CorpusSpec] = {
    row.name: row
    for row in (
        CorpusSpec(
            name="ravdess",
            title="RAVDESS, speech part: 24 actors, 8 emotions, 2 statements, English",
            scan="emobench.corpora.ravdess:scan",
            emotions=("angry", "calm", "disgust", "fearful", "happy", "neutral", "sad", "surprised"),
            n_utterances=1440,
            n_speakers=24,
            size_mb=510,
            source="emobench data fetch ravdess",
            archives=(
                Archive(
                    file="Audio_Speech_Actors_01-24.zip",
                    url="https://zenodo.org/records/1188976/files/Audio_Speech_Actors_01-24.zip",
                    n_bytes=208_468_073,
                    known_hash="md5:bc696df654c87fed845eb13823edef8a",
                ),
            ),
            licence="CC BY-NC-SA 4.0",
            citation="Livingstone & Russo (2018), PLoS ONE 13(5): e0196391, doi:10.1371/journal.pone.0196391",
        ),
        CorpusSpec(
            name="crema-d",
            title="CREMA-D: 91 actors, 6 emotions, 12 sentences, English",
            scan="emobench.corpora.crema_d:scan",
            emotions=("angry", "disgust", "fearful", "happy", "neutral", "sad"),
            n_utterances=7442,
            n_speakers=91,
            also_called=("crema",),
            exclusions=("tfds",),
            size_mb=606,
            source="git clone https://gitlab.com/cs-cooper-lab/crema-d-mirror (with Git LFS; a zip of it has no audio)",
            licence="ODbL 1.0",
            citation="Cao et al. (2014), IEEE Transactions on Affective Computing 5(4): 377-390, "
            "doi:10.1109/TAFFC.2014.2336244",
        ),
        CorpusSpec(
            name="tess",
            title="TESS: 2 women, 7 emotions, 200 words, English",
            scan="emobench.corpora.tess:scan",
            emotions=("angry", "disgust", "fearful", "happy", "neutral", "sad", "surprised"),
            n_utterances=2800,
            n_speakers=2,
            also_called=("tess toronto emotional speech set data", "toronto emotional speech set"),
            size_mb=280,
            source="download from https://doi.org/10.5683/SP2/E8H2MF",
            random_split="Both speakers say every word with every emotion, so a random split tests words and voices "
            "that were trained on: the 98 to 100 % that are published for it show how well recordings are learnt, not "
            "how well an emotion is recognised. With two speakers, loso tests each with a model of the other.",
            licence="CC BY-NC-ND 4.0",
            citation="Pichora-Fuller & Dupuis (2020), Toronto emotional speech set (TESS), doi:10.5683/SP2/E8H2MF",
        ),
        CorpusSpec(
            name="savee",
            title="SAVEE: 4 men, 7 emotions, sentences of TIMIT, English",
            scan="emobench.corpora.savee:scan",
            emotions=("angry", "disgust", "fearful", "happy", "neutral", "sad", "surprised"),
            n_utterances=480,
            n_speakers=4,
            size_mb=160,
            source="register at http://kahlan.eps.surrey.ac.uk/savee/",
            licence="research only, after registration",
            citation="Haq & Jackson (2010), Multimodal emotion recognition, in Machine Audition, IGI Global: 398-423",
        ),
        CorpusSpec(
            name="emodb",
            title="EMO-DB (Berlin): 10 actors, 7 emotions, 10 sentences, German",
            scan="emobench.corpora.emodb:scan",
            emotions=("angry", "boredom", "disgust", "fearful", "happy", "neutral", "sad"),
            n_utterances=535,
            n_speakers=10,
            also_called=("berlin database of emotional speech",),
            size_mb=47,
            source="download from http://emodb.bilderbar.info/download/download.zip",
            licence="CC0 1.0 (audEERING's release)",
            citation="Burkhardt et al. (2005), A database of German emotional speech, Interspeech: 1517-1520",
        ),
        CorpusSpec(
            name="synthetic",
            title="Synthesised speech of RAVDESS's design: 24 speakers, 5 emotions; made on this machine",
            scan="emobench.corpora.synthetic.writing:scan",
            generator="emobench.corpora.synthetic.writing:GENERATOR",
            where="made when it is needed",
            emotions=("angry", "calm", "fearful", "happy", "sad"),
            n_utterances=960,
            n_speakers=24,
            source="emobench data make",
            licence="CC0 1.0",
            citation="emobench; acoustic correlates after Banse & Scherer (1996) and Juslin & Laukka (2003)",
        ),
        CorpusSpec(
            name="manifest",
            title="Any corpus: a CSV with path, speaker, emotion and optional columns",
            scan="emobench.corpora.manifest:scan",
            options={"path": Option(Path)},
            source="emobench init FOLDER",
            where="any folder",
        ),
    )
}


def get_corpus(name: str) -> CorpusSpec:
    """Return the row of `CORPORA` called `name`, or raise `UnknownNameError`."""
    return lookup("corpus", CORPORA, name)
