"""Every way in which a recording can be bad, and that a good one is what `librosa.load` says it is."""

import io
import os
import re
import socket
import struct
import subprocess
import sys
import warnings
from dataclasses import replace

import hypothesis
import hypothesis.strategies as st
import librosa
import numpy as np
import pytest
import soundfile

from emobench.audio import AudioPolicy
from emobench.audio import decoding as module
from emobench.audio.decoding import check_signal, decode, hash_file, read_audio, read_bytes, resample
from emobench.audio.streaming import open_stream
from emobench.errors import AudioError
from emobench.files import hash_bytes

SR = 22_050
DATA_SIZE = 2 * SR  # bytes of one second, 16 bit


def make_tone(n_samples=SR, sr=SR, *, n_channels=1, seed=0):
    """Return a tone with noise, another one in each channel: float32 of shape (n_samples, n_channels)."""
    time_s = np.arange(n_samples) / sr
    tones = [np.sin(2 * np.pi * 220 * (channel + 1) * time_s) for channel in range(n_channels)]
    noise = np.random.default_rng(seed).normal(size=(n_samples, n_channels))
    return (0.4 * np.stack(tones, axis=1) + 0.02 * noise).astype(np.float32)


def encode(signal=None, sr=SR, *, container="WAV", subtype=None):
    buffer = io.BytesIO()
    soundfile.write(buffer, make_tone() if signal is None else signal, sr, format=container, subtype=subtype)
    return buffer.getvalue()


WAV = encode()
TONE = make_tone()


def patched(fmt, offset, value, data=WAV):
    content = bytearray(data)
    struct.pack_into(fmt, content, offset, value)
    return bytes(content)


def resized(riff, data):
    return patched("<I", 4, riff, patched("<I", 40, data))


def with_nan(index, value):
    signal = TONE.copy()
    signal[index] = value
    return encode(signal, subtype="FLOAT")


def id3(size):
    return b"ID3\x03\x00\x00" + bytes((size >> shift) & 127 for shift in (21, 14, 7, 0))


def flipped(data, position):
    content = bytearray(data)
    content[position] ^= 0x10
    return bytes(content)


FLAC, OGG, MP3, AIFF = (encode(container=container) for container in ("FLAC", "OGG", "MP3", "AIFF"))

REFUSED = {
    "A1 empty": (b"", "The file is empty"),
    "A2 no samples": (encode(TONE[:0]), "there are no samples"),
    "A3 one sample": (encode(TONE[:1]), r"must last at least 0\.1 s"),
    "A3 too short": (encode(TONE[:2000]), r"must last at least 0\.1 s. It lasts 0\.0907 s. Remove it or lower"),
    "A4 header cut at 12": (WAV[:12], "must have a whole, valid header"),
    "A4 header cut at 20": (WAV[:20], "must have a whole, valid header.* Malformed 'fmt ' chunk"),
    "A5 header cut at 43": (WAV[:43], "truncated: its header"),
    "A5 header cut at 44": (WAV[:44], "truncated: its header .* says 44100 B, the file has 0"),
    "A6 half the samples": (WAV[:10_044], r"truncated: its header \(data\) says 44100 B, the file has 10000"),
    "A6 one byte less": (WAV[:-1], r"truncated: its header \(data\) says 44100 B, the file has 44099"),
    "A6 AIFF cut": (AIFF[:9000], "truncated: its header"),
    "A9 data size odd": (patched("<I", 40, 101), "agree with its data .* even number of bytes"),
    "A9 data size too small": (patched("<I", 40, 100), "agree with its data .* Unknown chunk marker"),
    "A9 data size too large": (patched("<I", 40, 99_999), "truncated: its header .* says 99999 B, the file has 44100"),
    "A10 rate 0": (patched("<I", 24, 0), "valid header"),
    "A10 rate 1": (patched("<I", 24, 1), r"sampling rate must be within 1000–768000 Hz. The header says 1\."),
    "A10 rate 4e9": (patched("<I", 24, 4_000_000_000), "valid header"),
    "A10 no channels": (patched("<H", 22, 0), "valid header.* Channel count is zero"),
    "A10 3 of 1 channels": (patched("<H", 22, 3), "3 channels of 16 bit take 6 B a sample, it says 2"),
    "A10 65535 channels": (patched("<H", 22, 65_535), "valid header.* Too many channels"),
    "A10 no bits": (patched("<H", 34, 0), "valid header"),
    "A10 8 of 16 bits": (patched("<H", 34, 8), "1 channels of 8 bit take 1 B a sample, it says 2"),
    "A11 NaN": (with_nan(7, np.nan), "must be finite. 1 are NaN or infinite, the first at index 7"),
    "A11 infinity": (with_nan(SR - 1, -np.inf), "the first at index 22049"),
    "A11 beyond float32": (encode(np.full(SR, 1e300), subtype="DOUBLE"), "22050 are NaN or infinite"),
    "A11 mean beyond float32": (encode(np.full((SR, 6), 3e38), subtype="FLOAT"), "must be finite"),
    "A21 text": (b"The recording will follow.\n" * 9, "It is text"),
    "A21 PNG": (b"\x89PNG\r\n\x1a\n" + bytes(200), "It is a picture"),
    "A21 JPEG": (b"\xff\xd8\xff\xe0" + bytes(200), "It is a picture"),
    "A21 HTML": (b"\n<!DOCTYPE html><title>404</title>", "It is a web page.* Download it again"),
    "A21 Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Run `git lfs pull`"),
    "A21 zeros": (bytes(5000), "in a format that libsndfile reads"),
    "A22 random bytes": (np.random.default_rng(5).bytes(3000), "in a format that libsndfile reads"),
    "A23 FLAC bit flip": (flipped(FLAC, len(FLAC) // 2), "must decode to its end"),
    "A23 FLAC truncated": (FLAC[: len(FLAC) // 2], "must decode to its end"),
    "A23 FLAC almost whole": (FLAC[:-1], "must decode to its end"),
    "A25 OGG almost whole": (OGG[:-10], "truncated: the stream ends before its last page"),
    "A25 OGG cut": (OGG[: len(OGG) // 2], "truncated: the stream ends before its last page"),
    "A25 OGG cut between pages": (OGG[: OGG.rindex(b"OggS")], "truncated: the stream ends before its last page"),
    "A25 OGG bit flip": (flipped(OGG, len(OGG) // 2), "damaged: the page at byte .* has another checksum"),
    "A26 MP3 with a lying ID3 size": (id3(2**27) + bytes(100) + MP3, "size of its ID3 tag is wrong"),
    "MP3 almost whole": (MP3[:-100], "truncated: its first frame says .* B, the file has"),
    "MP3 behind ID3, cut": (id3(100) + bytes(100) + MP3[:-300], "truncated: its first frame says"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_recording_is_refused_with_its_reason(name, tmp_path):
    data, reason = REFUSED[name]
    path = tmp_path / "x.wav"
    path.write_bytes(data)
    with pytest.raises(AudioError, match=reason) as caught:
        read_audio(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.reason.rstrip().endswith(".")
    assert "BytesIO" not in caught.value.reason
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("name", ["x.raw", "x.wav", "x", "x.mp3"])
def test_random_bytes_are_refused_alike_whatever_their_name(name, tmp_path):
    (tmp_path / name).write_bytes(REFUSED["A22 random bytes"][0])
    with pytest.raises(AudioError, match="in a format that libsndfile reads"):
        read_audio(tmp_path / name)


# --- what is accepted -----------------------------------------------------------------------------------------------

CONTAINERS = ("WAV", "WAVEX", "FLAC", "OGG", "MP3", "AIFF", "W64", "RF64", "AU", "CAF", "VOC", "NIST", "XI")


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_is_read(container, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(encode(container=container))
    recording = read_audio(path)
    assert len(recording.signal) == SR
    assert np.corrcoef(recording.signal, TONE[:, 0])[0, 1] > 0.98


@pytest.mark.parametrize(
    "subtype, tolerance",
    [
        ("PCM_U8", 1e-2),
        ("PCM_16", 4e-5),
        ("PCM_24", 2e-7),
        ("PCM_32", 1e-7),
        ("FLOAT", 0),
        ("DOUBLE", 0),
        ("ALAW", 2e-2),
        ("ULAW", 2e-2),
    ],
)
@pytest.mark.parametrize("n_samples", [5000, 5001], ids=["even", "odd"])
def test_every_linear_subtype_is_read_to_scale(subtype, tolerance, n_samples):
    recording = decode(encode(TONE[:n_samples], subtype=subtype))
    np.testing.assert_allclose(recording.signal, TONE[:n_samples, 0], atol=tolerance, rtol=0)
    assert recording.warnings == ()


@pytest.mark.parametrize("container", ["WAV", "FLAC", "AIFF"])
@pytest.mark.parametrize("n_channels", [1, 2])
def test_samples_of_16_bit_are_those_of_libsndfile(container, n_channels):
    """They are read as integers, for speed; the numbers must be the same to the last bit."""
    extremes = np.array([-1, 32767 / 32768, -32767 / 32768, 0, 1 / 32768, -1 / 32768])
    tone = np.concatenate([np.resize(extremes, 6000), make_tone(6000)[:, 0]])
    data = encode(np.stack([tone, tone[::-1]], axis=1)[:, :n_channels], container=container)
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    np.testing.assert_array_equal(decode(data).signal, expected.mean(axis=1))


@pytest.mark.parametrize("n_channels", [1, 2, 3])
@pytest.mark.parametrize("sr", [8_000, 48_000])
def test_plain_wav_is_read_as_libsndfile_reads_it(n_channels, sr, monkeypatch):
    data = encode(np.random.default_rng(0).uniform(-1, 1, (5000, n_channels)), sr)
    assert (module._view_plain_wav(data) is not None) == (n_channels < 3)
    quick = decode(data)
    monkeypatch.setattr(module, "_view_plain_wav", lambda data: None)
    slow = decode(data)
    np.testing.assert_array_equal(quick.signal, slow.signal)
    assert replace(quick, signal=None) == replace(slow, signal=None)


@pytest.mark.parametrize("position", range(44))
def test_wav_is_plain_only_if_every_byte_of_its_header_is(position):
    samples, sr, _ = module._view_plain_wav(WAV)
    assert module._wav_header(samples, sr) == WAV[:44]
    assert module._view_plain_wav(flipped(WAV, position)) is None
    assert module._view_plain_wav(WAV[:-2]) is module._view_plain_wav(WAV + bytes(2)) is None


def test_content_is_that_of_the_samples_however_they_are_kept():
    steps = np.random.default_rng(0).integers(-(2**15), 2**15, size=(SR, 2))
    signal = steps / 2**15
    same = [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("AIFF", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT")]
    contents = {decode(encode(signal, container=container, subtype=subtype)).content for container, subtype in same}
    assert len(contents) == 1
    for other in (signal + 2**-17, -signal, signal * 0.5, np.where(steps == steps.min(), 1.0, signal)):
        assert decode(encode(other, subtype="FLOAT")).content not in contents


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM", "GSM610", "G721_32", "NMS_ADPCM_32"])
def test_blockwise_subtypes_are_read_with_their_padding(subtype):
    recording = decode(encode(subtype=subtype))
    assert SR <= len(recording.signal) < SR + 1500


@pytest.mark.parametrize(
    "data",
    [
        resized(0xFFFFFFFF, 0xFFFFFFFF),
        resized(0x7FFFFFFF, 0x7FFFFFFF - 36),
        resized(len(WAV), DATA_SIZE),
        WAV + b"xyz " + struct.pack("<I", 10) + bytes(10),
        WAV + b"LIST" + struct.pack("<I", 4) + b"abcd",
        id3(100) + bytes(100) + MP3,
        MP3 + b"TAG" + bytes(125),
    ],
    ids=["ffmpeg-pipe", "sox-pipe", "size-of-whole-file", "foreign-chunk", "list-chunk", "id3v2", "id3v1"],
)
def test_harmless_oddities_are_accepted(data):
    assert len(decode(data).signal) == SR


RATES = {container: [8_000, 16_000, 22_050, 44_100, 48_000] for container in ("WAV", "FLAC", "OGG", "MP3")}
for container in ("WAV", "FLAC", "OGG"):  # MPEG audio ends at 48 kHz
    RATES[container] += [96_000, 192_000]


@pytest.mark.parametrize("container, sr", [(container, sr) for container, rates in RATES.items() for sr in rates])
@pytest.mark.parametrize("n_channels", [1, 2])
def test_signal_equals_librosa_load(container, sr, n_channels):
    data = encode(make_tone(sr // 4 + 7, sr, n_channels=n_channels), sr, container=container)
    expected, _ = librosa.load(io.BytesIO(data))
    recording = decode(data)
    assert recording.sr == sr
    assert recording.signal.dtype == np.float32
    np.testing.assert_allclose(resample(recording.signal, sr, SR), expected, atol=1e-6, rtol=0)


def test_six_channels_are_averaged_before_resampling_as_librosa_does():
    data = encode(make_tone(12_001, 48_000, n_channels=6), 48_000, subtype="FLOAT")
    recording = decode(data)
    np.testing.assert_allclose(resample(recording.signal, 48_000, SR), librosa.load(io.BytesIO(data))[0], atol=1e-6)


def test_mono_policy_first_takes_the_first_channel():
    signal = make_tone(n_channels=2)
    recording = decode(encode(signal, subtype="FLOAT"), policy=AudioPolicy(mono="first"))
    np.testing.assert_array_equal(recording.signal, signal[:, 0])


def test_mono_policy_error_refuses_two_channels_and_takes_one():
    policy = AudioPolicy(mono="error")
    with pytest.raises(AudioError, match="must be mono .* It has 2 channels"):
        decode(encode(make_tone(n_channels=2)), policy=policy)
    assert len(decode(WAV, policy=policy).signal) == SR


@hypothesis.given(st.integers(1, 5000), st.sampled_from([8_000, 11_025, 16_000, 22_050, 37_800, 44_100, 48_000]))
@hypothesis.example(108, 37_800)  # where the order of operations decides on the length
@hypothesis.settings(max_examples=60, deadline=None)
def test_resample_equals_librosa_for_every_length(n_samples, sr):
    signal = make_tone(n_samples, sr)[:, 0]
    expected = librosa.resample(signal, orig_sr=sr, target_sr=SR)
    np.testing.assert_array_equal(resample(signal, sr, SR), expected)


# --- remarks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data, name, remark",
    [
        (encode(np.zeros(SR)), "x.wav", "nothing but digital silence"),
        (encode(np.full(SR, 0.5)), "x.wav", "a constant value"),
        (encode(np.clip(10 * TONE, -1, 1)), "x.wav", "clipped"),
        (MP3, "x.wav", "its name says wav, its content is MP3"),
        (WAV, "x.flac", "its name says flac, its content is WAV"),
    ],
    ids=["A13 silence", "A14 constant", "A14 clipped", "A20 mp3 called wav", "A20 wav called flac"],
)
def test_odd_recording_is_accepted_with_a_remark(data, name, remark):
    (warning,) = decode(data, path=name).warnings
    assert remark in warning


@pytest.mark.parametrize("name", ["x.wav", "X.WAV", "x", "x.bin"])
def test_ordinary_recording_has_no_remark(name):
    assert decode(WAV, path=name).warnings == ()


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("n_channels", [1, 2])
@pytest.mark.parametrize(
    "peak, reason",
    [
        (29_000, r"They reach 29,000\. Are these integers saved as float\? Divide by 32,768\."),
        (-32_768, r"They reach 32,768\. .* Divide by 32,768\."),
        (5_000_000, r"They reach 5e\+06\. .* Divide by 8,388,608\."),
        (8, r"They reach 8\. Scale it to ±1\."),
        (-8.5, r"They reach 8\.5\. Scale it to ±1\."),
        (100, r"They reach 100\. Scale it to ±1\."),
        (1e30, r"They reach 1e\+30\. Scale it to ±1\."),
    ],
    ids=["N14 16 bit", "N14 least", "N14 24 bit", "N15 8", "N15 8.5", "N15 100", "N15 1e30"],
)
def test_samples_far_beyond_full_scale_are_refused_with_their_peak(peak, reason, n_channels, subtype, tmp_path):
    """Also where two channels cancel each other in the mean."""
    signal = np.repeat(peak * TONE / np.abs(TONE).max(), n_channels, axis=1) * [1, -1][:n_channels]
    signal[np.abs(TONE).argmax()] = np.array([peak, -peak][:n_channels]) if n_channels == 2 else peak
    path = tmp_path / "x.wav"
    path.write_bytes(encode(signal, subtype=subtype))
    with pytest.raises(AudioError, match="samples must be within full scale ±1. " + reason):
        read_audio(path)
    with pytest.raises(AudioError, match="samples must be within full scale ±1. They reach"):
        check_signal(signal, SR)
    with open_stream(path, AudioPolicy()) as stream, pytest.raises(AudioError, match="They reach"):
        list(stream.blocks)


@pytest.mark.parametrize("peak", [1.0, 2.0, 7.99])
def test_samples_somewhat_beyond_full_scale_are_a_remark(peak):
    signal = np.clip(10 * peak * TONE, -peak, peak)
    assert decode(encode(signal, subtype="FLOAT")).warnings == ("clipped (more than 1 in 1000 samples at full scale)",)
    check_signal(signal, SR)


def test_duration_bounds_are_those_of_the_policy():
    assert len(decode(encode(TONE[:10]), policy=AudioPolicy(min_duration_s=0)).signal) == 10
    with pytest.raises(AudioError, match=r"must last at most 0\.5 s. Its header says 1 s"):
        decode(WAV, policy=AudioPolicy(max_duration_s=0.5))


def test_header_that_promises_more_than_memory_is_refused(monkeypatch):
    monkeypatch.setattr("emobench.audio.damage.MOST_SAMPLES", SR - 1)
    with pytest.raises(AudioError, match="must decode to at most 22049 samples over all channels"):
        decode(WAV)


# --- identity -------------------------------------------------------------------------------------------------------


def test_clip_is_the_hash_of_the_bytes_and_content_of_the_samples(tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(WAV)
    recording = read_audio(path)
    assert recording.clip == hash_file(path) == hash_bytes(WAV) == hash_bytes(read_bytes(path))
    other = decode(encode(recording.signal, container="FLAC"))
    assert recording.content == other.content != decode(encode(-TONE)).content
    assert recording.clip != other.clip


def test_content_tells_rates_and_channels_apart():
    contents = {decode(encode(TONE, sr)).content for sr in (SR, 2 * SR)}
    contents.add(decode(encode(np.repeat(TONE, 2, axis=1))).content)
    assert len(contents) == 3


# --- the file system ------------------------------------------------------------------------------------------------


@pytest.fixture(params=[read_audio, hash_file], ids=["read_audio", "hash_file"])
def reader(request):
    return request.param


def test_missing_file_is_refused(reader, tmp_path):
    with pytest.raises(AudioError, match="must exist. There is no such file"):
        reader(tmp_path / "x.wav")


def test_path_through_a_file_is_refused(reader, tmp_path):
    (tmp_path / "a").write_bytes(WAV)
    with pytest.raises(AudioError, match="A part of the path is not a folder"):
        reader(tmp_path / "a" / "x.wav")


def test_symlink_loop_is_refused(reader, tmp_path):
    (tmp_path / "a.wav").symlink_to(tmp_path / "b.wav")
    (tmp_path / "b.wav").symlink_to(tmp_path / "a.wav")
    with pytest.raises(AudioError, match="symbolic link that leads to itself"):
        reader(tmp_path / "a.wav")


def test_symlink_to_a_recording_is_read(reader, tmp_path):
    (tmp_path / "a.wav").write_bytes(WAV)
    (tmp_path / "b.wav").symlink_to(tmp_path / "a.wav")
    reader(tmp_path / "b.wav")


def test_folder_is_refused(reader, tmp_path):
    (tmp_path / "x.wav").mkdir()
    with pytest.raises(AudioError, match="must be a regular file. It is a folder"):
        reader(tmp_path / "x.wav")


@pytest.mark.timeout(10)
def test_pipe_is_refused_without_waiting_for_a_writer(reader, tmp_path):
    os.mkfifo(tmp_path / "x.wav")
    with pytest.raises(AudioError, match="It is a named pipe"):
        reader(tmp_path / "x.wav")


@pytest.mark.timeout(10)
def test_device_is_refused(reader):
    with pytest.raises(AudioError, match="It is a device"):
        reader("/dev/zero")


def test_socket_is_refused(reader, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("x.wav")
        with pytest.raises(AudioError, match="It is a socket"):
            reader("x.wav")


@pytest.mark.timeout(10)
def test_file_swapped_for_a_pipe_while_it_is_opened_is_refused(reader, tmp_path, monkeypatch):
    path = tmp_path / "x.wav"
    path.write_bytes(WAV)
    regular = os.stat(path)
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr(module.os, "stat", lambda _: regular)
    with pytest.raises(AudioError, match="replaced by something else"):
        reader(path)


def test_embedded_nul_is_refused(reader):
    with pytest.raises(AudioError, match="NUL"):
        reader("x\0.wav")


def test_name_too_long_is_refused(reader, tmp_path):
    with pytest.raises(AudioError, match="name is too long"):
        reader(tmp_path / ("x" * 300))


def test_failing_disk_is_an_audio_error(reader, tmp_path, monkeypatch):
    path = tmp_path / "x.wav"
    path.write_bytes(WAV)

    class Broken(io.FileIO):
        def readinto(self, buffer):
            raise OSError(5, "Input/output error")

        def readall(self):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(module, "open_regular", lambda path: io.BufferedReader(Broken(path)))
    with pytest.raises(AudioError, match="The system says: Input/output error. Check the disk"):
        reader(path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="must be root to become somebody else")
def test_unreadable_file_is_refused(reader, tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(WAV)
    path.chmod(0)
    child = os.fork()
    if child == 0:  # only system calls between here and the exit
        status = 1
        try:
            os.seteuid(65_534)
            reader(path)
        except AudioError as error:
            status = 0 if error.reason.startswith("must be readable. Permission denied. Change its perm") else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


NAMES = ["größe 聲音.wav", "two words.wav", 'it\'s "x".wav', "new\nline.wav", "=cmd|x.wav", "not-utf8-\udcff.wav"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_read_and_named(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(WAV)
    assert len(read_audio(path).signal) == SR
    path.write_bytes(b"")
    with pytest.raises(AudioError, match="empty") as caught:
        read_audio(path)
    assert name in str(caught.value)


SPARSE = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30, 2 * 2**30))
from emobench.audio.decoding import read_audio
from emobench.errors import AudioError
try:
    read_audio(sys.argv[1])
except AudioError as error:
    print(error.reason)
"""


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "data_size, reason",
    [(3_000_000_000, r"must last at most 3600 s. Its header says 6\.803e\+04 s"), (DATA_SIZE, "little else|trunc")],
    ids=["26 hours", "one second and 3 GB of nothing"],
)
def test_huge_sparse_file_is_refused_by_its_header_in_little_memory(tmp_path, data_size, reason):
    path = tmp_path / "x.wav"
    path.write_bytes(resized(min(data_size + 36, 0xFFFFFFFF), data_size)[:44])
    os.truncate(path, 3_000_000_044)
    done = subprocess.run([sys.executable, "-c", SPARSE, str(path)], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert re.search(reason, done.stdout)


# --- signals in memory ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_check_signal_takes_the_mean_of_channels(dtype):
    signal = make_tone(n_channels=2).astype(dtype)
    checked = check_signal(signal, SR)
    assert checked.dtype == np.float32
    assert checked.flags.c_contiguous
    np.testing.assert_allclose(checked, signal.mean(axis=1), atol=1e-3)


@pytest.mark.parametrize(
    "signal, sr, reason",
    [
        (TONE, None, "sr must be the sampling rate in Hz, a whole number. Got None"),
        (TONE, 22_050.0, "a whole number"),
        (TONE, True, "a whole number"),
        (TONE, 0, "a whole number"),
        ((TONE * 32_767).astype(np.int16), SR, "must be floating point.* Got int16"),
        (["a"], SR, "must be floating point"),
        ([[0.1], [0.1, 0.2]], SR, "rows of different lengths"),
        (TONE.T, SR, r"Got \(1, 22050\).* Transpose it"),
        (TONE[:0], SR, "must have shape"),
        (np.zeros((5, 0)), SR, "must have shape"),
        (np.zeros((2, 2, 2)), SR, "must have shape"),
        (np.float32(0.5), SR, "must have shape"),
        (np.array([0.0, np.nan]), SR, "the first at index 1"),
        (np.array([0.0, 1e300]), SR, "the first at index 1"),
        (np.full((9, 2), 1e308), SR, "must be finite"),
    ],
)
def test_check_signal_refuses(signal, sr, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AudioError, match=reason):
            check_signal(signal, sr)


# --- any bytes at all -----------------------------------------------------------------------------------------------


def check_any_bytes(data):
    try:
        recording = decode(data)
    except AudioError:
        return
    assert len(recording.signal)
    assert np.isfinite(recording.signal).all()
    assert 1000 <= recording.sr <= 768_000


STARTS = [b"", WAV[:12], WAV[:36], WAV[:44], FLAC[:42], OGG[:60], MP3[:40], AIFF[:54], b"ID3\x03", b"RF64", b"\xff\xfb"]


@hypothesis.given(st.sampled_from(STARTS), st.binary(max_size=3000))
@hypothesis.settings(max_examples=300, deadline=None)
def test_no_bytes_raise_anything_but_an_audio_error(start, rest):
    check_any_bytes(start + rest)


@hypothesis.given(
    st.sampled_from([WAV, encode(subtype="PCM_24"), encode(subtype="FLOAT"), encode(make_tone(n_channels=2))]),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), min_size=1, max_size=4),
    st.one_of(st.none(), st.integers(0, len(WAV))),
)
@hypothesis.settings(max_examples=300, deadline=None)
def test_no_damage_to_a_wav_header_raises_anything_but_an_audio_error(data, changes, length):
    content = bytearray(data)
    for position, value in changes:
        content[position] = value
    check_any_bytes(bytes(content[:length]))


@hypothesis.given(
    st.sampled_from([FLAC, OGG, MP3, AIFF]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=3),
    st.floats(0, 1),
)
@hypothesis.settings(max_examples=150, deadline=None)
def test_no_damage_to_another_format_raises_anything_but_an_audio_error(data, changes, length):
    content = bytearray(data)
    for position, value in changes:
        content[int(position * len(content))] = value
    check_any_bytes(bytes(content[: int(length * len(content))]))


@pytest.mark.parametrize("container", ["WAV", "AIFF", "W64", "RF64", "FLAC", "OGG", "MP3", "AU"])
def test_every_truncation_is_refused(container):
    data = encode(container=container)
    for length in {*range(0, len(data), len(data) // 50), *range(len(data) - 50, len(data))}:
        with pytest.raises(AudioError):
            decode(data[:length])
