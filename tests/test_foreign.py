"""Recordings of phones and browsers: through ffmpeg where it is there, and never beyond the file's own bytes."""

import io
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from emobench.audio import AudioPolicy, foreign
from emobench.audio.damage import conversion_line
from emobench.audio.decoding import clip_of, decode, hash_file, read_audio
from emobench.audio.foreign import recognise
from emobench.audio.streaming import open_stream
from emobench.errors import AudioError, StorageError
from emobench.features import get_features
from emobench.features.extraction import Extracted, extract_clips
from emobench.files import hash_bytes

SR = 16_000

# The beginnings of files, enough to know them by, and what they hold.
M4A = (
    b"\0\0\0\x1cftypM4A \0\0\2\0M4A isomiso2"
    + bytes(300)
    + b"\0\0\0\x6astsd\0\0\0\0\0\0\0\1\0\0\0\x5amp4a"
    + bytes(200)
)
AMR = b"#!AMR\n" + (b"\x3c" + bytes(range(31))) * 50  # one second, 20 ms a frame
HEADS = {
    "x.m4a": (M4A, "mov", r"AAC \(MPEG-4\)"),
    "x.3gp": (M4A.replace(b"ftypM4A ", b"ftyp3gp4").replace(b"mp4a", b"samr"), "mov", r"AMR-NB \(MPEG-4\)"),
    "x.webm": (b"\x1a\x45\xdf\xa3" + bytes(100) + b"\x86\x86A_OPUS" + bytes(100), "matroska", r"Opus \(WebM\)"),
    "x.amr": (AMR, "amr", r"AMR-NB \(AMR\)"),
    "x.aac": (b"\xff\xf1\x50\x80\x02\x1f\xfc" + bytes(100), "aac", "AAC"),
    "tagged.aac": (b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + b"\xff\xf1\x50\x80" + bytes(100), "aac", "AAC"),
    "x.wma": (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(100), "asf", "WMA"),
}


def make_sound(duration_s=2.0):
    rng = np.random.default_rng(0)
    n_samples = int(duration_s * SR)
    return 0.3 * np.sin(2 * np.pi * 220 * np.arange(n_samples) / SR) + rng.normal(scale=0.05, size=n_samples)


@pytest.fixture
def write(tmp_path):
    def write(data, name):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


@pytest.fixture
def no_ffmpeg(monkeypatch, tmp_path):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


@pytest.fixture
def fake_ffmpeg(monkeypatch, tmp_path):
    """Put a program called ffmpeg first on the path: a Python script that finds `sound`, the way to a W64 file."""
    if os.name != "posix":
        pytest.skip("needs a script that can be executed")
    folder = tmp_path / "programs"
    folder.mkdir()
    soundfile.write(folder / "sound.w64", make_sound(), SR, subtype="FLOAT", format="W64")

    def install(body, version="9.1"):
        script = folder / "ffmpeg"
        script.write_text(
            f"#!{sys.executable}\nimport json, os, pathlib, shutil, sys, time\nsound = {str(folder / 'sound.w64')!r}\n"
            f"if '-version' in sys.argv:\n    print('ffmpeg version {version} Copyright'); sys.exit()\n{body}\n"
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        foreign._version.cache_clear()
        return folder

    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    yield install
    foreign._version.cache_clear()


# --- without ffmpeg -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HEADS)
def test_without_ffmpeg_the_codec_is_named_and_the_line_that_converts(name, write, no_ffmpeg):
    data, demuxer, title = HEADS[name]
    path = write(data, name)
    assert recognise(io.BytesIO(data)).demuxer == demuxer
    with pytest.raises(AudioError, match=f"holds {title}, which needs ffmpeg, and ffmpeg is not installed") as caught:
        read_audio(path)
    assert caught.value.exit_code == 3
    assert f"`ffmpeg -i '{path}' '{path.with_suffix('.wav')}'`" in caught.value.reason
    with pytest.raises(AudioError, match="ffmpeg is not installed"), open_stream(path, AudioPolicy()):
        pass


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("x.m4a", "ffmpeg -i 'x.m4a' 'x.wav'"),
        ("a b/it's.m4a", "ffmpeg -i 'a b/it'\\''s.m4a' 'a b/it'\\''s.wav'"),
        ("$(touch x).m4a", "ffmpeg -i '$(touch x).m4a' '$(touch x).wav'"),
        ("-y.m4a", "ffmpeg -i './-y.m4a' './-y.wav'"),
        ("http://x.m4a", "ffmpeg -i './http://x.m4a' './http://x.wav'"),
        ("x.wav", "ffmpeg -i 'x.wav' 'x-converted.wav'"),
        ("new\nline.m4a", "ffmpeg -i $'new\\x0aline.m4a' $'new\\x0aline.wav'"),
        ("größe.m4a", "ffmpeg -i 'größe.m4a' 'größe.wav'"),
        ("not-utf8-\udcff.m4a", "ffmpeg -i $'not-utf8-\\xff.m4a' $'not-utf8-\\xff.wav'"),
    ],
)
def test_line_that_converts_can_be_pasted(path, line):
    assert conversion_line(path) == line
    if shutil.which("bash"):
        done = subprocess.run(["bash", "-c", f"ffmpeg() {{ printf '%s\\0' \"$2\"; }}; {line}"], capture_output=True)
        assert os.path.normpath(os.fsdecode(done.stdout[:-1])) == os.path.normpath(path)


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXTINF:1,\n/etc/passwd\n",
        "ffconcat version 1.0\nfile /etc/passwd\n",
        "concat:a.wav|b.wav\n",
        "http://h/x",
    ],
)
def test_playlist_is_text_and_never_reaches_ffmpeg(text, write, fake_ffmpeg):
    fake_ffmpeg("pathlib.Path(sound + '.called').touch()")
    with pytest.raises(AudioError, match="It is text"):
        read_audio(write(text.encode(), "x.m4a"))
    assert not list(write(b"", "x").parent.rglob("*.called"))


# --- what ffmpeg is asked, and may answer ---------------------------------------------------------------------------


def test_ffmpeg_is_given_a_copy_of_the_bytes_and_the_name_of_their_format(write, fake_ffmpeg):
    folder = fake_ffmpeg(
        "json.dump([sys.argv[1:], os.getcwd(), os.listdir(), pathlib.Path('recording').read_bytes().hex(),"
        " sys.stdin.read()], open(sound + '.json', 'w'))\nshutil.copy(sound, 'decoded')"
    )
    path = write(M4A, "x.m4a")
    recording = read_audio(path)
    arguments, at, there, content, typed = json.loads((folder / "sound.w64.json").read_text())
    asked = " ".join(arguments)
    assert "-nostdin" in arguments
    assert "-protocol_whitelist file -f mov -i recording" in asked
    assert "-t 3601" in asked
    assert str(path) not in asked
    assert (bytes.fromhex(content), typed) == (M4A, "")
    assert {"recording", "log"} == set(there)
    assert not os.path.exists(at)
    np.testing.assert_allclose(recording.signal, make_sound(), atol=1e-6)
    assert recording.warnings == ()


def test_windows_are_read_through_ffmpeg_without_a_limit_of_length(write, fake_ffmpeg):
    folder = fake_ffmpeg("open(sound + '.asked', 'w').write(' '.join(sys.argv))\nshutil.copy(sound, 'decoded')")
    with open_stream(write(M4A, "x.m4a"), AudioPolicy(max_duration_s=1.0)) as stream:
        assert sum(map(len, stream.blocks)) == 2 * SR
    assert " -t " not in (folder / "sound.w64.asked").read_text()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("sys.exit('first line\\n[mov @ 0x55d2] moov atom not found')", "ffmpeg says: mov: moov atom not found. Copy"),
        ("sys.exit(1)", "must decode to its end. ffmpeg says: nothing"),
        ("", "must decode to its end. ffmpeg says: nothing"),
        ("shutil.copy(sound, 'decoded'); print('x: partial file', file=sys.stderr)", "ffmpeg says: x: partial file"),
        ("sys.exit('Output file #0 does not contain any stream')", "must hold sound. ffmpeg says: Output file #0"),
        ("sys.exit('bad \\x1b[31mred')", r"ffmpeg says: bad  \[31mred\."),
        ("open('decoded', 'w').write('hello')", "It is text"),
        ("shutil.copy(sound, 'decoded'); os.truncate('decoded', 50000)", "truncated|agree|valid header"),
    ],
)
def test_ffmpeg_that_fails_is_an_error_with_its_last_line(body, reason, write, fake_ffmpeg):
    fake_ffmpeg(body)
    path = write(M4A, "x.m4a")
    with pytest.raises(AudioError, match=reason) as caught:
        read_audio(path)
    assert (caught.value.path, caught.value.exit_code) == (str(path), 3)


@pytest.mark.timeout(30)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ffmpeg_that_hangs_is_ended_with_all_that_it_started(write, fake_ffmpeg, monkeypatch):
    folder = fake_ffmpeg(
        "import subprocess\nchild = subprocess.Popen(['sleep', '600'])\n"
        "open(sound + '.pid', 'w').write(str(child.pid))\ntime.sleep(600)"
    )
    monkeypatch.setattr(foreign, "TIME_LIMIT_S", 1.0)
    with pytest.raises(AudioError, match="ffmpeg did not decode it in 1 s and was ended. Convert it: `ffmpeg -i"):
        read_audio(write(M4A, "x.m4a"))
    pid = int((folder / "sound.w64.pid").read_text())
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return
        if state in "ZX":
            return
        time.sleep(0.05)
    pytest.fail(f"still there: {state}")


def test_file_that_is_too_large_for_ffmpeg_is_refused_before_it_is_read(write, monkeypatch):
    monkeypatch.setattr("emobench.audio.decoding._READ_AT_ONCE", 1000)
    path = write(M4A, "x.m4a")
    os.truncate(path, 3 * 2**30)  # sparse
    with pytest.raises(AudioError, match="It has 3221225472 B"):
        read_audio(path)


def test_folder_for_the_copy_that_is_full_is_no_fault_of_the_recording(write, fake_ffmpeg, monkeypatch):
    fake_ffmpeg("")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(foreign.shutil, "copyfileobj", full)
    with pytest.raises(StorageError, match="No space left on device. Free some space, or set TMPDIR"):
        read_audio(write(M4A, "x.m4a"))


# --- identity -------------------------------------------------------------------------------------------------------


def test_version_of_ffmpeg_enters_the_ids_of_what_it_decodes_and_of_no_other(write, fake_ffmpeg, tmp_path):
    soundfile.write(tmp_path / "x.wav", make_sound(), SR)
    paths = [tmp_path / "x.wav", write(M4A, "x.m4a")]
    ids = {}
    for version in ("9.1", "9.2"):
        fake_ffmpeg("shutil.copy(sound, 'decoded')", version)
        ids[version] = [hash_file(path) for path in paths]
        assert (
            ids[version] == [clip_of(path.read_bytes()) for path in paths] == [read_audio(path).clip for path in paths]
        )
    wav, m4a = zip(*ids.values(), strict=True)
    assert set(wav) == {hash_bytes(paths[0].read_bytes())}
    assert len({*m4a, hash_bytes(M4A)}) == 3


def test_features_are_extracted_of_what_ffmpeg_decodes(write, fake_ffmpeg):
    fake_ffmpeg("shutil.copy(sound, 'decoded')")
    path = write(M4A, "x.m4a")
    (found,) = extract_clips([get_features("mfcc40")], [(hash_file(path), path)], AudioPolicy())
    assert isinstance(found, Extracted)
    assert found.duration_s == 2.0
    fake_ffmpeg("shutil.copy(sound, 'decoded')", "9.2")
    (fault,) = extract_clips([get_features("mfcc40")], [(hash_bytes(M4A), path)], AudioPolicy())
    assert "must not change during a run" in fault.reason


# --- ffmpeg itself --------------------------------------------------------------------------------------------------

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
FILES = {
    "x.m4a": ["-c:a", "aac"],
    "begins-with-index.m4a": ["-c:a", "aac", "-movflags", "faststart"],
    "lossless.m4a": ["-c:a", "alac"],
    "x.mp4": ["-f", "lavfi", "-i", "testsrc=d=2:s=64x64", "-c:v", "mpeg4", "-c:a", "aac"],
    "x.3gp": ["-c:a", "aac"],
    "x.aac": ["-c:a", "aac"],
    "x.webm": ["-c:a", "libopus"],
    "x.mkv": ["-c:a", "libvorbis"],
    "speex.ogg": ["-c:a", "libspeex"],
    "flac.ogg": ["-c:a", "flac"],
    "x.ogv": ["-f", "lavfi", "-i", "testsrc=d=2:s=64x64", "-c:v", "libtheora", "-c:a", "libvorbis"],
    "x.wma": ["-c:a", "wmav2"],
    "x.avi": ["-c:a", "libmp3lame"],
    "x.ts": ["-c:a", "aac"],
}


@pytest.fixture
def convert(tmp_path):
    def convert(name, *options):
        source = tmp_path / "in.wav"
        soundfile.write(source, make_sound(), SR)
        command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-y", "-i", source, *options, tmp_path / name]
        if subprocess.run(command, stderr=subprocess.DEVNULL).returncode:
            pytest.skip("this ffmpeg lacks an encoder")
        return tmp_path / name

    return convert


@needs_ffmpeg
@pytest.mark.parametrize("name", FILES)
def test_recording_of_a_phone_or_browser_is_read(name, convert):
    path = convert(name, *FILES[name])
    recording = read_audio(path)
    assert recording.duration_s == pytest.approx(2, abs=0.15)
    assert recording.warnings == ()
    spectrum = np.abs(np.fft.rfft(recording.signal[recording.sr // 2 : recording.sr // 2 * 3]))
    assert np.argmax(spectrum) == pytest.approx(220, abs=2)
    with open_stream(path, AudioPolicy()) as stream:
        np.testing.assert_array_equal(np.concatenate(list(stream.blocks)), recording.signal)


@needs_ffmpeg
def test_lossless_recording_has_the_audio_id_of_its_wav(convert):
    content = read_audio(convert("x.m4a", "-c:a", "alac")).content
    assert content == read_audio(convert("x.ogg", "-c:a", "flac")).content == read_audio(convert("x.wav")).content


@needs_ffmpeg
def test_amr_made_by_hand_is_read(write):
    assert read_audio(write(AMR, "x.amr")).duration_s == pytest.approx(1, abs=0.05)


@needs_ffmpeg
def test_video_without_sound_is_refused(convert):
    path = convert("x.mp4", "-f", "lavfi", "-i", "testsrc=d=1:s=64x64", "-c:v", "mpeg4", "-map", "1:v")
    with pytest.raises(AudioError, match="must hold sound. ffmpeg says: "):
        read_audio(path)


@needs_ffmpeg
@pytest.mark.parametrize("name", [name for name in FILES if name not in ("lossless.m4a",)])
def test_recording_that_is_cut_is_refused(name, convert):
    data = convert(name, *FILES[name]).read_bytes()
    with pytest.raises(AudioError):
        decode(data[: len(data) * 2 // 3], path=name)


@needs_ffmpeg
def test_recording_beyond_the_limit_is_refused(convert):
    with pytest.raises(AudioError, match=r"must last at most 0\.5 s"):
        decode(convert("x.m4a", "-c:a", "aac").read_bytes(), policy=AudioPolicy(max_duration_s=0.5))


@needs_ffmpeg
def test_name_that_belies_the_content_is_remarked(convert, tmp_path):
    path = convert("x.m4a", "-c:a", "aac").rename(tmp_path / "x.wav")
    assert read_audio(path).warnings == ("its name says wav, its content is MPEG-4",)
