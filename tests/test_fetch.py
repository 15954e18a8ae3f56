import hashlib
import io
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import tarfile
import textwrap
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from emobench.corpora import CORPORA, Archive, CorpusSpec, ravdess
from emobench.corpora.fetch import fetch, unpack
from emobench.errors import CorpusError, StorageError

ACTORS = {
    actor: [f"Actor_{actor}/03-01-0{emotion}-01-01-01-{actor}.wav" for emotion in (2, 3)] for actor in ("01", "02")
}
NOISE = random.Random(0).randbytes(20_000)


def scan_tiny(root):
    """Scan four clips of RAVDESS that stand for a complete copy."""
    return replace(ravdess.scan(root), missing=())


def zipped(*names, data=NOISE):
    """Return the bytes of a zip with these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names:
            file.writestr(name, b"" if str(getattr(name, "filename", name)).endswith("/") else data)
    return buffer.getvalue()


def tarred(*members, mode="w"):
    """Return the bytes of a tar: a name stands for a file, a TarInfo for itself."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as file:
        for member in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            if isinstance(member, str):
                info.size = len(NOISE)
            file.addfile(info, io.BytesIO(NOISE) if info.isreg() else None)
    return buffer.getvalue()


def entry(name, kind, target=""):
    """Return a tar header of another kind than a file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def spec_for(files, address):
    """Return a row for archives given as {file name: bytes}."""
    archives = tuple(
        Archive(name, f"{address}/{name}", len(data), f"md5:{hashlib.md5(data).hexdigest()}")
        for name, data in files.items()
    )
    return CorpusSpec("tiny", "Four clips", f"{__name__}:scan_tiny", n_utterances=4, archives=archives)


class Server(ThreadingHTTPServer):
    """Serve bytes by path; `answers` maps a path to (status, body) or to (200, body, length it claims)."""

    daemon_threads = True

    def __init__(self):
        self.answers = {}
        self.asked = []
        self.address = ""
        self.half_sent = threading.Event()
        self.hold = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        answers = self.server.answers.get(self.path, (404, b"<html>no such page</html>"))
        status, body, *claimed = answers.pop(0) if isinstance(answers, list) else answers
        self.send_response(status)
        self.send_header("Content-Length", str(claimed[0] if claimed else len(body)))
        self.end_headers()
        self.wfile.write(body)
        if claimed:
            self.wfile.flush()
            self.server.half_sent.set()
            self.server.hold.wait(10)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    with Server() as server:
        server.hold.set()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.hold.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def tiny(server):
    """Offer the tiny corpus in two archives, one an actor; return its row."""
    files = {"one.zip": zipped(*ACTORS["01"]), "two.tar.gz": tarred(*ACTORS["02"], mode="w:gz")}
    server.answers = {f"/{name}": (200, data) for name, data in files.items()}
    return spec_for(files, server.address)


@contextmanager
def largest_file(n_bytes):
    """Let no file grow over a size: what a full disk does, without one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_fetch_makes_a_complete_corpus_and_leaves_nothing_else(tiny, tmp_path, capfd):
    dest = fetch(tiny, tmp_path / "new/tiny")
    assert dest == (tmp_path / "new/tiny").resolve()
    assert tree(dest) == sorted(["Actor_01", "Actor_02", *ACTORS["01"], *ACTORS["02"]])
    assert (dest / ACTORS["02"][0]).read_bytes() == NOISE
    assert os.listdir(dest.parent) == ["tiny"]
    assert stat.S_IMODE(dest.stat().st_mode) == stat.S_IMODE(dest.parent.stat().st_mode)
    assert capfd.readouterr() == ("", "")


def test_fetch_of_a_complete_corpus_asks_nobody(tiny, server, tmp_path):
    fetch(tiny, tmp_path / "tiny")
    server.asked.clear()
    fetch(tiny, tmp_path / "tiny")
    assert server.asked == []


def test_fetch_uses_a_mirror_and_keeps_archives_when_asked(tiny, server, tmp_path):
    server.answers = {f"/mirror{path}": answer for path, answer in server.answers.items()}
    fetch(tiny, tmp_path / "tiny", base_url=f"{server.address}/mirror/", keep_archive=True)
    assert {"one.zip", "two.tar.gz"} <= set(os.listdir(tmp_path / "tiny.fetch"))
    assert server.asked == ["/mirror/one.zip", "/mirror/two.tar.gz"]


def test_fetch_shows_progress_on_stderr_only(tiny, tmp_path, capfd):
    fetch(tiny, tmp_path / "tiny", progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "100%" in err


@pytest.mark.parametrize(
    "answer, received",
    [
        ((404, b"<html>gone</html>"), "Received 3 times: status 404 Not Found"),
        ((503, b""), "Received 3 times: status 503 Service Unavailable"),
        ((200, b"<!DOCTYPE html><html>log in</html>"), "Received 3 times: MD5 hash .* expected md5:"),
        ((200, b"PK half of it", 40_000), "Received 3 times: .*IncompleteRead"),
        ("other bytes", "Received 3 times: MD5 hash .* expected md5:[0-9a-f]{32} but got [0-9a-f]{32}"),
    ],
    ids=["404", "503", "html", "cut", "hash"],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pooch leaves refused answers open
def test_fetch_refuses_what_is_not_the_archive_and_a_rerun_fetches_the_rest_only(
    tiny, server, tmp_path, monkeypatch, answer, received
):
    good = server.answers["/two.tar.gz"]
    server.answers["/two.tar.gz"] = (200, bytes(len(good[1]))) if answer == "other bytes" else answer
    with pytest.raises(CorpusError, match=received) as caught:
        fetch(tiny, tmp_path / "tiny")
    assert f"{server.address}/two.tar.gz: not two.tar.gz of {len(good[1])} bytes, md5:" in str(caught.value)
    assert server.asked == ["/one.zip"] + ["/two.tar.gz"] * 3
    assert tree(tmp_path) == ["tiny.fetch", "tiny.fetch.lock", "tiny.fetch/one.zip"]
    server.answers["/two.tar.gz"] = good
    fetch(tiny, tmp_path / "tiny", keep_archive=True)
    assert server.asked.count("/one.zip") == 1
    assert tree(tmp_path / "tiny.fetch") == ["one.zip", "two.tar.gz"]
    assert len(scan_tiny(tmp_path / "tiny").utterances) == 4


def test_fetch_survives_a_connection_that_breaks_once(tiny, server, tmp_path):
    good = server.answers["/one.zip"]
    server.answers["/one.zip"] = [(200, good[1][:999], len(good[1])), (503, b""), good]
    fetch(tiny, tmp_path / "tiny")
    assert server.asked.count("/one.zip") == 3


def test_fetch_without_a_network_says_so(tiny, tmp_path):
    with pytest.raises(CorpusError, match="Received 3 times: .*Connection refused"):
        fetch(tiny, tmp_path / "tiny", base_url="http://127.0.0.1:9")


def test_fetch_replaces_an_archive_that_was_damaged_on_disk(tiny, server, tmp_path):
    (tmp_path / "tiny.fetch").mkdir()
    (tmp_path / "tiny.fetch/one.zip").write_bytes(b"damaged")
    fetch(tiny, tmp_path / "tiny")
    assert len(scan_tiny(tmp_path / "tiny").utterances) == 4


def test_fetch_fills_an_empty_folder_and_does_not_touch_another_one(tiny, server, tmp_path):
    (tmp_path / "empty").mkdir()
    fetch(tiny, tmp_path / "empty")
    mine = tmp_path / "mine" / ACTORS["01"][0]
    mine.parent.mkdir(parents=True)
    mine.touch()
    server.asked.clear()
    with pytest.raises(CorpusError, match="must be absent, empty or complete.*must have 4 recordings. Found 1"):
        fetch(tiny, tmp_path / "mine")
    assert server.asked == []
    assert mine.exists()


def test_fetch_refuses_an_archive_that_is_not_the_whole_corpus(tiny, server, tmp_path):
    with pytest.raises(CorpusError, match="must have 5 recordings. Found 4"):
        fetch(replace(tiny, n_utterances=5), tmp_path / "tiny")
    with pytest.raises(
        CorpusError, match="(?s)Missing are 1436 recordings:.*Actor_01/03-01-01-01-01-01-01\n.*and 1416 more"
    ):
        fetch(replace(tiny, scan="emobench.corpora.ravdess:scan"), tmp_path / "tiny")
    assert sorted(os.listdir(tmp_path)) == ["tiny.fetch", "tiny.fetch.lock"]


def test_fetch_refuses_a_recording_in_two_archives(server, tmp_path):
    files = {"one.zip": zipped(*ACTORS["01"]), "again.zip": zipped(*ACTORS["01"], *ACTORS["02"])}
    server.answers = {f"/{name}": (200, data) for name, data in files.items()}
    with pytest.raises(CorpusError, match="is in another archive of this corpus too"):
        fetch(spec_for(files, server.address), tmp_path / "tiny")


def test_fetch_refuses_a_corpus_without_archives(tmp_path):
    with pytest.raises(CorpusError, match="manifest has none"):
        fetch(CORPORA["manifest"], tmp_path / "x")


def test_fetch_on_a_full_disk_is_a_storage_error_and_a_rerun_succeeds(tiny, tmp_path):
    with largest_file(1000), pytest.raises(StorageError, match=r"larger than the limit"):
        fetch(tiny, tmp_path / "tiny")
    assert tree(tmp_path) == ["tiny.fetch", "tiny.fetch.lock"]
    fetch(tiny, tmp_path / "tiny")
    assert os.listdir(tmp_path) == ["tiny"]


def test_fetch_looks_for_room_before_it_downloads(tiny, server, tmp_path):
    huge = replace(tiny, archives=(replace(tiny.archives[0], n_bytes=2**60),))
    with pytest.raises(StorageError, match="not enough room for .* needs about"):
        fetch(huge, tmp_path / "tiny")
    assert server.asked == []


def test_fetch_into_a_folder_that_cannot_be_made_is_a_storage_error(tiny, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        fetch(tiny, tmp_path / "file/tiny")


def test_two_fetches_at_once_download_once(tiny, server, tmp_path):
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: fetch(tiny, tmp_path / "tiny"), range(3)))
    assert sorted(server.asked) == ["/one.zip", "/two.tar.gz"]
    assert os.listdir(tmp_path) == ["tiny"]


def fetch_elsewhere(spec, dest, scan):
    """Start a process that fetches, with the body of a scan of its own."""
    script = f"""
        import os, signal, sys, types
        from pathlib import Path
        from emobench.corpora import Archive, CorpusSpec
        from emobench.corpora.fetch import fetch
        def scan(root): {scan}
        sys.modules["row"] = types.SimpleNamespace(scan=scan)
        archives = {spec.archives!r}
        fetch(CorpusSpec("tiny", "", "row:scan", archives=archives), Path({str(dest)!r}))
    """
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], cwd=Path(__file__).parents[1])


@pytest.mark.parametrize("when", ["download", "unpack"])
def test_fetch_killed_leaves_nothing_visible_and_a_rerun_succeeds(tiny, server, tmp_path, when):
    good = server.answers["/two.tar.gz"]
    if when == "download":
        server.answers["/two.tar.gz"] = (200, good[1][:20_000], len(good[1]))
        server.hold.clear()
    process = fetch_elsewhere(tiny, tmp_path / "tiny", "os.kill(os.getpid(), signal.SIGKILL)")
    if when == "download":
        assert server.half_sent.wait(10)
        process.kill()
    assert process.wait(10) == -signal.SIGKILL
    visible = sorted(name for name in os.listdir(tmp_path) if not name.startswith("."))
    assert visible == ["tiny.fetch", "tiny.fetch.lock"]
    assert (len(os.listdir(tmp_path)) > 2) is (when == "unpack")
    server.hold.set()
    server.answers["/two.tar.gz"] = good
    fetch(tiny, tmp_path / "tiny", keep_archive=True)
    assert server.asked.count("/one.zip") == 1
    assert tree(tmp_path / "tiny.fetch") == ["one.zip", "two.tar.gz"]
    assert len(scan_tiny(tmp_path / "tiny").utterances) == 4


def special_zip(kind):
    info = zipfile.ZipInfo("a.wav")
    info.external_attr = (kind | 0o644) << 16
    return zipped(info, data=b"/etc/passwd")


BAD_ARCHIVES = {
    "zip-slip": (zipped("ok.wav", "../slip.wav"), r"'\.\./slip\.wav' is absolute or has '\.\.'"),
    "zip-deep-slip": (zipped("a/../../slip.wav"), r"has '\.\.'"),
    "zip-backslash": (zipped("..\\x.wav"), r"has '\.\.'"),
    "zip-absolute": (zipped("/etc/x.wav"), "'/etc/x.wav' is absolute"),
    "zip-drive": (zipped("C:x.wav"), "'C:x.wav' is absolute"),
    "zip-link": (special_zip(stat.S_IFLNK), "'a.wav' is a link or a device"),
    "zip-device": (special_zip(stat.S_IFCHR), "'a.wav' is a link or a device"),
    "zip-cut": (zipped("a.wav")[:-30], "not a whole zip or tar"),
    "tar-slip": (tarred("../slip.wav"), r"has '\.\.'"),
    "tar-absolute": (tarred("/tmp/slip.wav"), "is absolute"),
    "tar-link-escape": (tarred(entry("out", tarfile.SYMTYPE, ".."), "out/slip.wav"), "'out' is a link"),
    "tar-hard-link": (tarred(entry("out", tarfile.LNKTYPE, "/etc/passwd")), "'out' is a link"),
    "tar-device": (tarred(entry("null", tarfile.CHRTYPE)), "'null' is a link or a device"),
    "tar-fifo": (tarred("ok.wav", entry("pipe", tarfile.FIFOTYPE)), "'pipe' is a link or a device"),
    "tar-cut": (tarred("a.wav", mode="w:gz")[:10_000], "not a whole zip or tar"),
    "html": (b"<html>not an archive</html>", "not a whole zip or tar"),
    "empty": (b"", "not a whole zip or tar"),
}


@pytest.mark.parametrize(("data", "fault"), BAD_ARCHIVES.values(), ids=BAD_ARCHIVES)
def test_unpack_refuses_the_archive_before_anything_is_written(tmp_path, data, fault):
    archive, folder = tmp_path / "archive", tmp_path / "folder"
    archive.write_bytes(data)
    folder.mkdir()
    with pytest.raises(CorpusError, match=fault) as caught:
        unpack(archive, folder)
    assert str(archive) in str(caught.value)
    assert tree(tmp_path) == ["archive", "folder"]


@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_unpack_accepts_a_harmless_archive_of_any_kind(tmp_path, mode):
    names = ["./Actor_01/x.wav", "Actor_01/grün 日本.wav", "README"]
    archive, folder = tmp_path / "archive", tmp_path / "folder"
    archive.write_bytes(zipped("Actor_01/", *names) if mode == "zip" else tarred(*names, mode=mode))
    folder.mkdir()
    unpack(archive, folder)
    assert tree(folder) == sorted(["Actor_01", "Actor_01/x.wav", "Actor_01/grün 日本.wav", "README"])
    assert (folder / "README").read_bytes() == NOISE


@pytest.mark.parametrize(
    "archive", [archive for row in CORPORA.values() for archive in row.archives], ids=lambda row: row.file
)
def test_every_archive_has_a_hash_and_a_secure_address(archive):
    kind, _, digest = archive.known_hash.partition(":")
    assert {"md5": 32, "sha256": 64}[kind] == len(digest)
    assert set(digest) <= set("0123456789abcdef")
    assert archive.url.startswith("https://")
    assert archive.n_bytes > 0
    assert archive.file == Path(archive.file).name
