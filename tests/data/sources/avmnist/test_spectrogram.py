import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amodal.data.sources.avmnist.spectrogram import LONGEST, plan_frames, spectrogram
from amodal.errors import ConfigurationError


@given(st.integers(113, 30_000))
def test_the_shortest_frames_that_are_exactly_112(n):
    length, step = plan_frames(n)
    overlap = length - step
    assert 0 <= overlap < length
    assert 113 * length - 112 * overlap > n >= 112 * length - 111 * overlap
    assert 1 + (n - length) // step == 112


@pytest.mark.parametrize("n", [230, 1148, 3119, 3361])
def test_by_search(n):
    """As the generator of AV-MNIST searches: the first length for which some overlap fits."""
    length = next(
        (i, j) for i in range(-(-n // 112) - 1, n) for j in range(i) if 113 * i - 112 * j > n >= 112 * i - 111 * j
    )
    assert plan_frames(n) == (length[0], length[0] - length[1])


def test_too_short():
    with pytest.raises(ConfigurationError, match="more than 112 samples, got 112"):
        plan_frames(112)


@pytest.mark.parametrize("n", [1200, 3450, 9001])
def test_against_matplotlib(n):
    mlab = pytest.importorskip("matplotlib.mlab")
    sound = np.random.default_rng(n).normal(size=n) * np.linspace(0, 1, n)
    length, step = plan_frames(n)
    power, _, _ = mlab.specgram(sound, NFFT=length, noverlap=length - step, pad_to=223, Fs=8000)
    if length % 2 == 0:
        power[-1] *= 2  # matplotlib goes by the frame's length here, but of 223 frequencies none is Nyquist's
    decibels = 10 * np.log10(power)
    grey = 255 * (decibels.max() - decibels[::-1]) / np.ptp(decibels)
    assert np.abs(spectrogram(sound) - grey).max() <= 0.5 + 1e-6


def test_a_tone_is_a_dark_line_at_its_frequency():
    tone = np.sin(2 * np.pi * 1000 * np.arange(4000) / 8000)
    picture = spectrogram(tone)
    assert set(111 - picture.argmin(0)) == {28}  # 1000 Hz of 4000, in 112 steps of 35.9 Hz


def test_silence_and_short_and_long_sounds():
    assert (spectrogram(np.zeros(2000)) == 255).all()
    assert spectrogram(np.ones(3)).shape == (112, 112)
    long = np.random.default_rng(0).normal(size=LONGEST + 5000)
    np.testing.assert_array_equal(spectrogram(long), spectrogram(long[:LONGEST]))
    half = np.concatenate([np.zeros(2000), np.random.default_rng(0).normal(size=2000)])
    assert (spectrogram(half)[:, :50] == 255).all()  # exact zeros count as the quietest of the rest
