import numpy as np
import pytest

from amodal.data.recordings import read_noises, read_spoken_digits, read_wav
from amodal.errors import DataError

from .sounds import noise_files, spoken_files, wav_bytes, write_tar


def test_samples_are_fractions_of_full_scale():
    samples = np.array([0, 16384, -32768, 32767])
    assert read_wav(wav_bytes(samples), "a").tolist() == [0.0, 0.5, -1.0, 32767 / 32768]
    stereo = np.stack([samples, np.zeros(4)], axis=1)
    assert read_wav(wav_bytes(stereo, channels=2), "a").tolist() == [0.0, 0.25, -0.5, 32767 / 65536]


def test_another_rate_is_resampled():
    """A tone far below both limits of frequency stays what it is."""
    tone = lambda rate: 8000 * np.sin(2 * np.pi * 440 * np.arange(rate // 2) / rate)  # noqa: E731
    expected, found = tone(8000) / 32768, read_wav(wav_bytes(tone(44100), rate=44100), "a")
    assert len(found) == len(expected)
    np.testing.assert_allclose(found[100:-100], expected[100:-100], atol=2e-3)


def test_truncated_files_are_named():
    whole = wav_bytes(np.zeros(100))
    with pytest.raises(DataError, match=r"3_theo_1\.wav is truncated \(expected 100 samples, got 60\)"):
        read_wav(whole[:-80], "3_theo_1.wav")
    for content in (whole[:20], b"", b"RIFF????"):
        with pytest.raises(DataError, match=r"3_theo_1\.wav cannot be read"):
            read_wav(content, "3_theo_1.wav")


def test_all_recordings_of_the_speakers(tmp_path):
    files = spoken_files(("theo", "lucas"), length=300)
    found = read_spoken_digits(write_tar(tmp_path / "recordings.tar", files), speakers=["theo"])
    assert len(found) == 500
    assert [recording.name for recording in found[3, 7]] == ["3_theo_7.wav"]
    both = read_spoken_digits(tmp_path, speakers=["theo", "lucas"])  # the archive lies in the folder
    assert [recording.name for recording in both[0, 49]] == ["0_lucas_49.wav", "0_theo_49.wav"]
    np.testing.assert_array_equal(both[3, 7][1].samples, found[3, 7][0].samples)


def test_missing_recordings_are_named(tmp_path):
    files = spoken_files(("theo",), length=300)
    del files["3_theo_7.wav"], files["9_theo_49.wav"]
    with pytest.raises(DataError, match=r"lacks 2 recordings.*3_theo_7\.wav, 9_theo_49\.wav.*50 of each digit by theo"):
        read_spoken_digits(write_tar(tmp_path / "recordings.tar", files), speakers=["theo"])
    with pytest.raises(DataError, match="there is no"):
        read_spoken_digits(tmp_path / "nowhere")


def test_truncated_archives_are_named(tmp_path):
    path = write_tar(tmp_path / "recordings.tar", spoken_files(("theo",), length=300))
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(DataError, match=r"recordings\.tar"):
        read_spoken_digits(path, speakers=["theo"])


def test_one_noise_a_category_however_they_are_packed(tmp_path):
    files = noise_files(copies=4, length=50)
    write_tar(tmp_path / "packed" / "a.tar", dict(list(files.items())[:90]))
    write_tar(tmp_path / "packed" / "b.tar", dict(list(files.items())[90:]))
    (tmp_path / "loose").mkdir()
    for name, content in files.items():
        (tmp_path / "loose" / name).write_bytes(content)
    found = [[r.name for r in read_noises(tmp_path / folder, seed=3)] for folder in ("packed", "loose")]
    assert found[0] == found[1]
    assert [int(name.rpartition("-")[2][:-4]) for name in found[0]] == list(range(50))
    assert len({name[0] for name in found[0]}) == 4
    assert found[0] != [r.name for r in read_noises(tmp_path / "loose", seed=4)]


def test_missing_categories_are_named(tmp_path):
    files = {name: content for name, content in noise_files(length=50).items() if not name.endswith("-17.wav")}
    with pytest.raises(DataError, match="no recording of 1 categories of ESC-50: 17"):
        read_noises(write_tar(tmp_path / "a.tar", files))
