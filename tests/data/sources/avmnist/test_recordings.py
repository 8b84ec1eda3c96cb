import numpy as np
import pytest

from amodal.data.sources.avmnist.recordings import read_noises, read_spoken_digits, read_wav
from amodal.errors import ConfigurationError, DataError

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
    files = noise_files(length=50)
    write_tar(tmp_path / "packed" / "a.tar", dict(list(files.items())[:90]))
    write_tar(tmp_path / "packed" / "b.tar", dict(list(files.items())[90:]))
    (tmp_path / "loose").mkdir()
    for name, content in files.items():
        (tmp_path / "loose" / name).write_bytes(content)
    found = [[r.name for r in read_noises(tmp_path / folder, seed=3)] for folder in ("packed", "loose")]
    assert found[0] == found[1]
    assert [int(name.rpartition("-")[2][:-4]) for name in found[0]] == list(range(50))
    assert len({name[0] for name in found[0]}) == 5
    assert {r.name[0] for r in read_noises(tmp_path / "loose", folds=[2, 4], seed=3)} == {"2", "4"}
    assert found[0] != [r.name for r in read_noises(tmp_path / "loose", seed=4)]


def test_missing_surroundings_are_named(tmp_path):
    files = noise_files(length=50)
    no_fold = write_tar(tmp_path / "a.tar", {name: part for name, part in files.items() if name[0] != "3"})
    words = (
        r"a\.tar lacks 400 recordings of ESC-50: all of fold 3 \(expected 2,000: 8 of each of 50 categories in each of "
        r"folds \[1, 2, 3, 4, 5\], got 1,600\)\. .*complete folds only: \[1, 2, 4, 5\]"
    )
    with pytest.raises(DataError, match=words):
        read_noises(no_fold)
    assert len(read_noises(no_fold, folds=[1, 2, 4, 5])) == 50
    no_category = {name: part for name, part in files.items() if not name.endswith("-17.wav")}
    del no_category["2-1100-A-0.wav"]
    with pytest.raises(DataError, match=r"lacks 41 .*: 8 of category 17 in fold 1, 1 of category 0 in fold 2, 8 of"):
        read_noises(write_tar(tmp_path / "b.tar", no_category))
    with pytest.raises(DataError, match=r"b\.tar has no recordings of folds \[1\] of ESC-50.*1-100032-A-0\.wav"):
        read_noises(write_tar(tmp_path / "b.tar", {"3_theo_1.wav": b""}), folds=[1])
    with pytest.raises(ConfigurationError, match=r"no such folds of ESC-50 \(expected some of 1 to 5, got \[0\]\)"):
        read_noises(no_fold, folds=[0])
