"""Sound as a square grey picture: short-time spectra in decibels, scaled for each sound by itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from amodal.errors import ConfigurationError

__all__ = ["SIDE", "Frames", "plan_frames", "spectrogram"]

SIDE = 112
"""Frames, and frequencies, of a picture."""

SHORTEST, LONGEST = 2 * SIDE, SIDE * (2 * SIDE - 1)
"""Numbers of samples that a picture is made of: shorter sounds are padded with silence, longer ones cut."""


class Frames(NamedTuple):
    """Frames: a sound cut into `SIDE` pieces.

    Attributes:
        length: Samples of a frame.
        step: Samples from the beginning of one to that of the next.
    """

    length: int
    step: int


def plan_frames(n: int) -> Frames:
    r"""The shortest frames such that exactly `SIDE` fit into a sound.

    With frames of i samples that overlap by j, :math:`113 i - 112 j > n \ge 112 i - 111 j`.

    Args:
        n: Samples of the sound, more than 112.

    Returns:
        Length and step.

    Raises:
        ConfigurationError: If the sound is too short.

    Example:
        >>> plan_frames(3450)
        Frames(length=91, step=30)
    """
    step = (n - 1) // SIDE
    if step < 1:
        raise ConfigurationError("a sound is too short for a picture", expected=f"more than {SIDE} samples", got=n)
    return Frames(step + max(0, n - (SIDE + 1) * step + 1), step)


def spectrogram(samples: np.ndarray) -> np.ndarray:
    """A sound as a picture of `SIDE` frequencies (the highest first) by `SIDE` times; 255 is quiet, 0 is loud.

    Power spectra of frames under a Hann window, in decibels, brought to 0 … 255 by their own lowest and highest value.
    Powers of exactly zero count as the lowest of the others; a silent sound is 255 everywhere.

    Args:
        samples: The sound, of shape (n,), finite.

    Returns:
        uint8, of shape (112, 112).

    Source:
        The generator of AV-MNIST (:cite:`perezrua2019mfas`), which draws it as an inverted grey picture; greys are
        linear here.
    """
    import scipy.fft

    sound = np.zeros(max(len(samples), SHORTEST))
    sound[: len(samples)] = samples
    sound = sound[:LONGEST]
    length, step = plan_frames(len(sound))
    frames = np.lib.stride_tricks.sliding_window_view(sound, length)[::step][:SIDE]  # (112, length)
    window = np.hanning(length)
    spectra = np.asarray(scipy.fft.rfft(frames * window, n=2 * SIDE - 1, axis=1))  # (112 times, 112 frequencies)
    power = np.abs(spectra) ** 2
    power[:, 1:] *= 2  # of both signs of a frequency
    heard = power > 0
    if not heard.any():
        return np.full((SIDE, SIDE), 255, np.uint8)
    decibels = 10 * np.log10(np.where(heard, power, power[heard].min()))
    low, high = decibels.min(), decibels.max()
    grey = (high - decibels) / (high - low) if high > low else np.ones_like(decibels)
    return np.rint(255 * grey).astype(np.uint8).T[::-1]
