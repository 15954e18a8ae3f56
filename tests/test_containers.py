"""Ordinary files of other programs are recordings, whatever a decoder remarks; a length that is missing is found.

The files are built by hand, byte by byte as ffmpeg and sox write them, and by these programs where they are installed.
"""

import contextlib
import io
import shutil
import struct
import subprocess

import numpy as np
import pytest
import soundfile

from emobench.audio import AudioPolicy, decoding
from emobench.audio.containers import Source, ogg_checksum, read_frames
from emobench.audio.decoding import decode, read_audio
from emobench.audio.streaming import open_stream
from emobench.errors import AudioError

SR = 22_050
PCM, FLOAT, A_LAW, MU_LAW = 1, 3, 6, 7


def make_sound(n_samples=SR, n_channels=1, sr=SR):
    rng = np.random.default_rng(0)
    tone = 0.3 * np.sin(2 * np.pi * 220 * np.arange(n_samples) / sr)
    return (tone[:, None] + rng.normal(scale=0.05, size=(n_samples, n_channels))).astype(np.float32)


def encode(signal, container, *, sr=SR, **options):
    buffer = io.BytesIO()
    soundfile.write(buffer, signal, sr, format=container, **options)
    return buffer.getvalue()


def samples_of(data):
    """Return what libsndfile decodes, all of it."""
    samples, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return samples


def body_of(signal, subtype):
    """Return the bytes of samples in a WAV."""
    data = encode(signal, "WAV", subtype=subtype)
    start = data.index(b"data") + 8
    (size,) = struct.unpack("<I", data[start - 4 : start])
    return data[start : start + size]


def make_wav(body, *, tag=PCM, n_bits=16, n_channels=1, sr=SR, extensible=False, riff=None, data=None, behind=b""):
    """Return a WAV as ffmpeg writes it: without a `fact` chunk, with a LIST before the samples."""
    align = n_channels * n_bits // 8
    form = struct.pack("<HHIIHH", 0xFFFE if extensible else tag, n_channels, sr, sr * align, align, n_bits)
    if extensible:
        guid = struct.pack("<IHH", tag, 0, 16) + b"\x80\x00\x00\xaa\x00\x38\x9b\x71"
        form += struct.pack("<HHI", 22, n_bits, 0) + guid
    elif tag != PCM:
        form += struct.pack("<H", 0)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form
    chunks += b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf59.27.100\0"
    pad = bytes(len(body) % 2) if data is None else b""
    size = 4 + len(chunks) + 8 + len(body) + len(pad)
    head = b"RIFF" + struct.pack("<I", size if riff is None else riff) + b"WAVE" + chunks
    return head + b"data" + struct.pack("<I", len(body) if data is None else data) + body + pad + behind


SOUND = make_sound()
BODY = body_of(SOUND, "PCM_16")
WAV = make_wav(BODY)


def read_stream(path):
    with open_stream(path, AudioPolicy()) as stream:
        return np.concatenate(list(stream.blocks)), stream.warnings


@pytest.fixture
def write(tmp_path):
    def write(data, name="x.wav"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


# --- what ffmpeg writes ---------------------------------------------------------------------------------------------

ORDINARY = {
    "N1 24 bit": {"subtype": "PCM_24", "n_bits": 24, "extensible": True},
    "N1 32 bit": {"subtype": "PCM_32", "n_bits": 32, "extensible": True},
    "N1 16 bit": {"subtype": "PCM_16", "extensible": True},
    "N1 8 bit": {"subtype": "PCM_U8", "n_bits": 8, "extensible": True},
    "N1 above 48 kHz": {"subtype": "PCM_16", "sr": 96_000, "extensible": True},
    "N1 six channels": {"subtype": "PCM_16", "n_channels": 6, "extensible": True},
    "N1 24 bit, odd size": {"subtype": "PCM_24", "n_bits": 24, "extensible": True, "n_samples": 22_051},
    "N2 float": {"subtype": "FLOAT", "tag": FLOAT, "n_bits": 32},
    "N2 float, extensible": {"subtype": "FLOAT", "tag": FLOAT, "n_bits": 32, "extensible": True},
    "N2 double": {"subtype": "DOUBLE", "tag": FLOAT, "n_bits": 64},
    "N2 A-law": {"subtype": "ALAW", "tag": A_LAW, "n_bits": 8},
    "N2 mu-law": {"subtype": "ULAW", "tag": MU_LAW, "n_bits": 8},
}


@pytest.mark.parametrize("name", ORDINARY)
def test_wav_without_a_fact_chunk_is_ordinary(name, write):
    settings = dict(ORDINARY[name])
    subtype, n_samples = settings.pop("subtype"), settings.pop("n_samples", SR)
    sound = make_sound(n_samples, settings.get("n_channels", 1))
    data = make_wav(body_of(sound, subtype), **settings)
    recording = decode(data, path="x.wav")
    expected = samples_of(data)
    assert len(expected) == n_samples
    np.testing.assert_allclose(recording.signal, expected.mean(axis=1), atol=1e-7)
    assert recording.warnings == ()
    signal, warnings = read_stream(write(data))
    np.testing.assert_array_equal(signal, recording.signal)
    assert warnings == ()


# --- lengths that are not stated ------------------------------------------------------------------------------------

UNKNOWN = {
    "N3 sox": (0x7FFFF024, 0x7FFFF000),
    "N3 sox, both alike": (0x7FFFF000, 0x7FFFF000),
    "N4 F0": (0xFFFFFFFF, 0xFFFFFFF0),
    "N4 00": (0xFFFFFF24, 0xFFFFFF00),
    "N4 D3": (0xFFFFFFFF, 0xFFFFFFD3),
    "N4 least": (0x7FFF0024, 0x7FFF0000),
    "N5 ffmpeg": (0xFFFFFFFF, 0xFFFFFFFF),
    "N5 7F": (0x7FFFFFFF, 0x7FFFFFDB),
    "N5 data only": (len(WAV) - 8, 0xFFFFFFFF),
}
NEVER_CLOSED = {"N6 0": (0, 0), "N6 36": (36, 0), "N6 8": (8, 0), "N6 data only": (len(WAV) - 8, 0)}


@pytest.mark.parametrize("name", [*UNKNOWN, *NEVER_CLOSED])
def test_wav_of_unknown_length_is_read_to_its_end_with_one_warning(name, write):
    riff, data = {**UNKNOWN, **NEVER_CLOSED}[name]
    content = make_wav(BODY, riff=riff, data=data)
    cause = "its writer never closed the file" if name in NEVER_CLOSED else "length unknown"
    recording = decode(content, path="x.wav")
    np.testing.assert_array_equal(recording.signal, decode(WAV).signal)
    assert recording.content == decode(WAV).content
    assert recording.warnings == (f"{cause}: read to the end, 1 s",)
    signal, warnings = read_stream(write(content))
    np.testing.assert_array_equal(signal, recording.signal)
    assert warnings == (f"{cause}: read to the end",)


@pytest.mark.parametrize(
    ("body", "n_bits", "n_samples"),
    [
        (BODY[:-1], 16, None),
        (body_of(SOUND, "PCM_24")[:-1], 24, None),
        (body_of(SOUND[1:], "PCM_24") + b"\0", 24, 22_049),
    ],
    ids=["half a sample", "two thirds of one", "pad byte"],
)
@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_wav_of_unknown_length_must_end_with_a_whole_sample(body, n_bits, n_samples, size):
    content = make_wav(body, n_bits=n_bits, riff=size, data=size)
    if n_samples:
        assert len(decode(content).signal) == n_samples
    else:
        with pytest.raises(AudioError, match="its header must agree with its data"):
            decode(content)


@pytest.mark.parametrize("behind", [b"", b"LIST" + struct.pack("<I", 4) + b"abcd"], ids=["nothing", "a chunk"])
@pytest.mark.parametrize("riff", [0, 8, 36])
def test_wav_without_samples_was_not_merely_left_open(behind, riff):
    with pytest.raises(AudioError, match="there are no samples"):
        decode(make_wav(b"", riff=riff, data=0, behind=behind))


@pytest.mark.parametrize("both", [True, False], ids=["both sizes", "data only"])
@pytest.mark.parametrize("change", [-2, -1, 1, 2, 100, -len(BODY) // 2, 0x7FFEFFFF - len(BODY)])
def test_wav_whose_size_is_merely_wrong_is_refused(change, both, write):
    riff = len(WAV) - 8 + (change if both else 0)
    content = make_wav(BODY, riff=riff, data=len(BODY) + change)
    with pytest.raises(AudioError, match=r"truncated: its header \(data\)|its header must agree with its data"):
        decode(content)
    with pytest.raises(AudioError, match="truncated|agree"):
        read_stream(write(content))


def test_silence_that_was_never_closed_is_a_silent_recording():
    recording = decode(make_wav(bytes(2 * SR), riff=0, data=0))
    assert len(recording.signal) == SR
    assert recording.warnings == (
        "its writer never closed the file: read to the end, 1 s",
        "nothing but digital silence",
    )


def unknown_aiff(size, form):
    content = bytearray(encode(SOUND, "AIFF"))
    start = content.index(b"SSND")
    content[4:8], content[start + 4 : start + 8] = struct.pack(">I", form), struct.pack(">I", size)
    return bytes(content)


@pytest.mark.parametrize("size", [0, 0x7F000048, 0x7FFFFFFF], ids=["ffmpeg", "sox", "other"])
def test_aiff_of_unknown_length_is_read_to_its_end(size):
    recording = decode(unknown_aiff(size, size and size + 72))
    assert len(recording.signal) == SR
    assert "read to the end, 1 s" in recording.warnings[0]


def test_rf64_that_was_never_closed_is_read_to_its_end():
    content = bytearray(encode(SOUND, "RF64"))
    start = content.index(b"ds64") + 8
    content[start : start + 24] = bytes(24)
    start = content.index(b"data") + 4
    content[start : start + 4] = b"\xff" * 4
    recording = decode(bytes(content))
    assert len(recording.signal) == SR
    assert recording.warnings == ("its writer never closed the file: read to the end, 1 s",)


# --- what other programs append -------------------------------------------------------------------------------------

APE_TAG = b"APETAGEX" + struct.pack("<IIII", 2000, 32, 0, 1 << 31) + bytes(8)
BEHIND = {
    "N7 ID3v1": b"TAG" + b"a title".ljust(125, b"\0"),
    "N7 ID3v2": b"ID3\x03\x00\x00\x00\x00\x00\x14" + bytes(20),
    "N7 APE": APE_TAG,
    "N7 APE and ID3v1": APE_TAG + b"TAG" + bytes(125),
    "N7 lyrics": b"LYRICSBEGININD0000200LYRICS200",
    "N7 LIST too large": b"LIST" + struct.pack("<I", 1_633_771_873) + b"INFO",
    "N7 LIST too small": b"LIST" + struct.pack("<I", 4) + b"INFOISFT\x02\x00\x00\x00ab",
    "foreign chunk": b"xyz " + struct.pack("<I", 10) + bytes(10),
    "zeros": bytes(512),
}


@pytest.mark.parametrize("is_counted", [True, False], ids=["counted", "not counted"])
@pytest.mark.parametrize("name", BEHIND)
def test_what_other_programs_append_is_no_damage(name, is_counted, write):
    behind = BEHIND[name]
    content = make_wav(BODY, riff=len(WAV) - 8 + len(behind) * is_counted, behind=behind)
    recording = decode(content, path="x.wav")
    np.testing.assert_array_equal(recording.signal, decode(WAV).signal)
    assert recording.warnings == ()
    assert len(read_stream(write(content))[0]) == SR


@pytest.mark.parametrize("pad", [b"", b"\0"], ids=["without a pad byte", "with one"])
def test_chunk_behind_an_odd_number_of_bytes_is_no_damage(pad):
    body = body_of(SOUND[1:], "PCM_24")
    content = make_wav(body, n_bits=24, data=len(body), behind=pad + b"LIST" + struct.pack("<I", 4) + b"abcd")
    assert len(decode(content).signal) == SR - 1


@pytest.mark.parametrize("behind", [WAV, BODY, BODY[:2], b"data" + struct.pack("<I", len(BODY)) + BODY])
def test_more_samples_behind_the_samples_are_damage(behind):
    with pytest.raises(AudioError, match="agree with its data|valid header"):
        decode(make_wav(BODY, behind=behind))


# --- FLAC and Ogg ---------------------------------------------------------------------------------------------------

FLAC, OGG = encode(make_sound(3 * SR), "FLAC"), encode(SOUND, "OGG")


def of_unknown_length(flac):
    content = bytearray(flac)
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    return bytes(content)


def test_flac_of_unknown_length_is_read_to_its_end(write, monkeypatch):
    monkeypatch.setattr(decoding, "_UNKNOWN_BLOCK", 10_000)
    content = of_unknown_length(FLAC)
    recording = decode(content)
    np.testing.assert_array_equal(recording.signal, decode(FLAC).signal)
    assert recording.content == decode(FLAC).content
    assert recording.warnings == ("length unknown: read to the end, 3 s",)
    signal, warnings = read_stream(write(content, "x.flac"))
    np.testing.assert_array_equal(signal, recording.signal)
    assert warnings == ("length unknown: read to the end",)


def test_flac_of_unknown_length_is_held_to_the_limits_by_what_is_decoded(monkeypatch):
    monkeypatch.setattr(decoding, "_UNKNOWN_BLOCK", 10_000)
    content = of_unknown_length(FLAC)
    assert len(decode(content, policy=AudioPolicy(max_duration_s=3.0)).signal) == 3 * SR
    with pytest.raises(AudioError, match=r"must last at most 2\.9 s"):
        decode(content, policy=AudioPolicy(max_duration_s=2.9))
    with pytest.raises(AudioError, match="must last at least 4 s"):
        decode(content, policy=AudioPolicy(min_duration_s=4.0))
    for cut in (len(content) // 2, len(content) - 1):
        with pytest.raises(AudioError, match="must decode to its end"):
            decode(content[:cut])


def test_large_flac_of_unknown_length_is_read(write, monkeypatch):
    monkeypatch.setattr(decoding, "_READ_AT_ONCE", 1000)
    assert len(read_audio(write(of_unknown_length(FLAC), "x.flac")).signal) == 3 * SR


def with_granule(ogg, granule):
    """Return an Ogg file whose last page gives another number of samples."""
    page = bytearray(ogg[ogg.rindex(b"OggS") :])
    struct.pack_into("<q", page, 6, granule)
    page[22:26] = bytes(4)
    page[22:26] = struct.pack("<I", ogg_checksum(bytes(page)))
    return ogg[: ogg.rindex(b"OggS")] + bytes(page)


@pytest.mark.parametrize("granule", [0, -1])
def test_ogg_of_unknown_length_is_read_to_its_end(granule, write):
    content = with_granule(OGG, granule)
    whole = decode(OGG).signal
    recording = decode(content)
    assert SR <= len(recording.signal) < SR + 2048
    np.testing.assert_array_equal(recording.signal[:SR], whole)
    assert recording.warnings[0].startswith("length unknown: read to the end, 1.0")
    np.testing.assert_array_equal(read_stream(write(content))[0], recording.signal)


def test_ogg_of_several_recordings_is_not_read_as_its_first(write):
    with pytest.raises(AudioError, match="It is 2 one after another"):
        decode(OGG + OGG)
    with pytest.raises(AudioError, match="It is 2 one after another"):
        read_stream(write(OGG + OGG))


# --- MP3 ------------------------------------------------------------------------------------------------------------


def make_mp3(*, loud_first=True, sr=44_100, n_channels=1, mode="VARIABLE"):
    """Return an MP3 of variable bit rate without the first frame that describes it; and how many samples it has."""
    parts = [np.random.default_rng(0).uniform(-0.4, 0.4, sr), 0.01 * np.sin(np.arange(3 * sr) / 30)]
    sound = np.concatenate(parts if loud_first else parts[::-1])
    sound = np.stack([sound] * n_channels, axis=1)
    data = encode(sound, "MP3", sr=sr, bitrate_mode=mode, compression_level=0.5)
    info = max(data.find(b"Xing", 0, 64), data.find(b"Info", 0, 64))
    (n_frames,) = struct.unpack(">I", data[info + 8 : info + 12])
    return data[data.index(data[:2], 4) :], n_frames * (1152 if sr > 24_000 else 576)


@pytest.mark.parametrize("loud_first", [True, False], ids=["loud start", "quiet start"])
@pytest.mark.parametrize(
    ("sr", "n_channels", "mode"),
    [(44_100, 1, "VARIABLE"), (44_100, 2, "VARIABLE"), (16_000, 1, "VARIABLE"), (44_100, 1, "CONSTANT")],
)
def test_mp3_has_the_length_that_decoding_gives(loud_first, sr, n_channels, mode, write):
    data, n_samples = make_mp3(loud_first=loud_first, sr=sr, n_channels=n_channels, mode=mode)
    recording = decode(data, path="x.mp3")
    assert len(recording.signal) == n_samples
    assert recording.warnings == ()
    tone = recording.signal[int(1.5 * sr) : int(2.5 * sr)]
    assert np.abs(tone).max() > 0.005  # not padded with silence
    signal, warnings = read_stream(write(data, "x.mp3"))
    np.testing.assert_array_equal(signal, recording.signal)
    assert warnings == ()


def test_mp3_of_several_files_is_read_to_its_end():
    data = encode(SOUND, "MP3")
    assert len(decode(data).signal) == SR
    assert len(decode(data + data).signal) > 2 * SR


def test_mp3_with_junk_between_its_frames_is_read_without_a_word(capfd, write):
    data, _n_samples = make_mp3()
    (start, stop), *_ = read_frames(io.BytesIO(data)).spans
    assert (start, stop) == (0, len(data))
    cut = data.index(data[:2], len(data) // 2)
    junk = bytes(np.random.default_rng(0).integers(0, 255, 3000, dtype=np.uint8))  # no 0xFF, which could begin a frame
    content = data[:cut] + junk + data[cut:]
    recording = decode(content, path="x.mp3")
    assert recording.warnings == ("3000 B between its frames are no MPEG audio, and were left out",)
    np.testing.assert_array_equal(recording.signal, decode(data).signal)
    np.testing.assert_array_equal(read_stream(write(content, "x.mp3"))[0], recording.signal)
    assert capfd.readouterr() == ("", "")


def test_mp3_with_a_frame_overwritten_is_refused():
    data = bytearray(encode(SOUND, "MP3"))
    position = data.index(data[:2], len(data) // 2)
    data[position : position + 4] = bytes(4)
    with pytest.raises(AudioError, match="truncated: its first frame says [0-9]+ frames, the file has"):
        decode(bytes(data))


@pytest.mark.parametrize("seed", range(5))
def test_decoders_print_nothing_about_damaged_files(seed, capfd):
    rng = np.random.default_rng(seed)
    aiff = encode(SOUND, "AIFF")
    files = [aiff.replace(b"SSND", b"XSND"), encode(SOUND, "MP3"), make_mp3()[0], make_mp3()[0] + bytes(5000)]
    for data in files[1:3]:
        content = bytearray(data)
        for position in rng.integers(0, len(data), 20):
            content[position] = rng.integers(256)
        files.append(bytes(content))
    files.append(b"FORM\0\0\0\x04AIFF" + bytes(50))
    for data in files:
        with contextlib.suppress(AudioError):
            decode(data)
    assert capfd.readouterr() == ("", "")


def test_aiff_without_samples_is_named_as_that():
    with pytest.raises(AudioError, match="must hold samples. It has no chunk of them"):
        decode(encode(SOUND, "AIFF").replace(b"SSND", b"XSND"))


# --- files of the programs themselves -------------------------------------------------------------------------------

FFMPEG = {
    "24 bit": ["-c:a", "pcm_s24le", "x.wav"],
    "32 bit": ["-c:a", "pcm_s32le", "x.wav"],
    "96 kHz": ["-ar", "96000", "x.wav"],
    "six channels": ["-ac", "6", "x.wav"],
    "float": ["-c:a", "pcm_f32le", "x.wav"],
    "A-law": ["-c:a", "pcm_alaw", "x.wav"],
    "AIFF": ["-c:a", "pcm_s24be", "x.aiff"],
    "ADPCM in AIFF": ["-c:a", "adpcm_ima_qt", "x.aiff"],
    "W64": ["-c:a", "pcm_s16le", "x.w64"],
}
PIPED = {
    "WAV": ["ffmpeg", "-i", "in.wav", "-f", "wav", "-"],
    "float": ["ffmpeg", "-i", "in.wav", "-c:a", "pcm_f32le", "-f", "wav", "-"],
    "FLAC": ["ffmpeg", "-i", "in.wav", "-f", "flac", "-"],
    "AIFF": ["ffmpeg", "-i", "in.wav", "-f", "aiff", "-"],
    "sox": ["sox", "in.wav", "-t", "wav", "-", "trim", "0", "22050s"],
    "sox, 24 bit": ["sox", "in.wav", "-b", "24", "-t", "wav", "-", "trim", "0", "22050s"],
    "sox, AIFF": ["sox", "in.wav", "-t", "aiff", "-", "trim", "0", "22050s"],
}


@pytest.fixture
def program(write, tmp_path):
    """Run ffmpeg or sox beside `in.wav`; return what it writes to stdout."""

    def run(name, *arguments):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
        write(encode(SOUND, "WAV"), "in.wav")
        quiet = ["-nostdin", "-loglevel", "error", "-y"] if name == "ffmpeg" else ["-V1"]
        pipe = subprocess.PIPE if arguments[-1] == "-" or name == "sox" else None
        done = subprocess.Popen([name, *quiet, *arguments], cwd=tmp_path, stdout=pipe)
        content = done.communicate()[0]
        assert done.returncode == 0
        return content

    return run


@pytest.mark.parametrize("name", FFMPEG)
def test_files_of_ffmpeg_are_ordinary(name, program, tmp_path):
    program("ffmpeg", "-i", "in.wav", *FFMPEG[name])
    recording = read_audio(tmp_path / FFMPEG[name][-1])
    assert recording.duration_s == pytest.approx(1, abs=0.01)
    assert recording.warnings == ()


@pytest.mark.parametrize("codec", ["pcm_f32le", "pcm_alaw"])
def test_what_libsndfile_misreads_is_refused(codec, program, tmp_path):
    """Of a W64 above 48 kHz, or of floating point, it takes everything for PCM."""
    program("ffmpeg", "-i", "in.wav", "-ar", "96000", "-c:a", codec, "x.w64")
    with pytest.raises(AudioError, match="which libsndfile misreads. Convert it: `ffmpeg -i '"):
        read_audio(tmp_path / "x.w64")


@pytest.mark.parametrize("name", PIPED)
def test_files_from_a_pipe_are_read_to_their_end(name, program):
    recording = decode(program(*PIPED[name]))
    assert len(recording.signal) == SR
    (warning,) = recording.warnings
    assert "read to the end, 1 s" in warning


# --- the file that libsndfile is given ------------------------------------------------------------------------------


def test_source_is_its_pieces_in_order():
    source = Source(io.BytesIO(b"0123456789"), [(2, 4), b"ab", (7, 9)])
    assert source.read(3) == b"23a"
    assert (source.tell(), source.read(100), source.read(1)) == (3, b"b78", b"")
    assert source.seek(-2, 2) == 4
    assert source.read(100) == b"78"
    assert source.seek(-9, 1) == 0  # from C, where an exception could only be printed
    assert source.read(100) == b"23ab78"


def test_failing_disk_in_the_middle_is_an_audio_error(write, monkeypatch):
    path = write(encode(make_sound(20 * SR), "WAV", subtype="PCM_24"))

    class Broken(io.FileIO):
        def readinto(self, buffer):
            if self.tell() > 500_000:
                raise OSError(5, "Input/output error")
            return super().readinto(buffer)

    monkeypatch.setattr("emobench.audio.streaming.open_regular", lambda path: io.BufferedReader(Broken(path)))
    with pytest.raises(AudioError, match="The system says: Input/output error. Check the disk"):
        read_stream(path)
