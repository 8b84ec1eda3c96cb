r"""AV-MNIST: written digits with most of their pixels' variance removed, each with a spoken digit in noise.

**vision** (1, 28, 28): MNIST's images projected on their leading principal components, without the mean image, divided
by 255. The components are those of the training rows, kept until they explain more than a given share of the variance
(`energy`), or a given number of them. At the default share of a quarter these are four: the generator behind the
published files keeps three or four, depending on how its code is read, and four is what its published accuracies fit.

**audio** (1, 112, 112): the picture of a spoken digit mixed with a recording of surroundings, uint8; see
`amodal.data.sources.avmnist.spectrogram`. Recordings of a digit are used in turn, and so are those of surroundings.
Every row of training, validation and test has the recording of its own digit: rows are made by their position, in any
order, so that neither the number of workers nor a failure can shift sounds against labels. No recording, of digits or
of surroundings, serves more than one split.

Differences from the generator behind the published files, which is not documented in full: components of the training
rows instead of each file's own; validation rows have recordings of their own instead of those of training
(`valid_sounds="shared"` restores this); the order of sounds is that of the labels (there, workers append rows as they
finish). :cite:`vielzeuf2018centralnet,perezrua2019mfas,liang2021multibench`
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from amodal.data.cohort import Cohort
from amodal.data.sources.avmnist.idx import read_mnist
from amodal.data.sources.avmnist.recordings import FOLDS, SPEAKERS, TAKES, Recording, read_noises, read_spoken_digits
from amodal.data.sources.avmnist.spectrogram import SIDE, spectrogram
from amodal.errors import ConfigurationError, DataError, UnknownNameError
from amodal.schema import Task

__all__ = ["TASK", "Pairing", "pair_sounds", "prepare", "project_images", "read_multibench"]

TASK = Task("multiclass", name="digit", classes=tuple(range(10)))
"""What is predicted."""

SPLITS = ("train", "valid", "test")

# Takes of a digit, and categories of surroundings, that each split may use: of 50 each.
_TAKES = {"train": range(36), "valid": range(36, 40), "test": range(40, TAKES)}
_NOISES = {"train": range(36), "valid": range(36, 40), "test": range(40, 50)}
_SHARED = {"train": range(40), "valid": range(40), "test": range(40, 50)}
_CHUNK = 256


class Pairing(NamedTuple):
    """The recordings that each row is made of.

    Attributes:
        spoken: The spoken digits that are used.
        noises: The surroundings that are used.
        spoken_of: Position of each row's spoken digit in `spoken`, int64, of shape (N,).
        noise_of: Position of each row's surroundings in `noises`, int64, of shape (N,).
    """

    spoken: list[Recording]
    noises: list[Recording]
    spoken_of: np.ndarray
    noise_of: np.ndarray


def prepare(
    mnist: str | Path,
    fsdd: str | Path,
    esc50: str | Path,
    out: str | Path,
    *,
    energy: float = 0.25,
    components: int | None = None,
    noise_power: float = 1.5,
    speakers: Sequence[str] = SPEAKERS,
    noise_folds: Sequence[int] = FOLDS,
    valid_sounds: Literal["own", "shared"] = "own",
    limit: int | None = None,
    seed: int = 0,
    workers: int = 1,
    overwrite: bool = False,
    say: Callable[[str], object] | None = None,
) -> Cohort:
    """Builds the cohort from upstream's files, as a folder; the same arguments give the same bytes.

    Args:
        mnist: Folder of MNIST's four files.
        fsdd: FSDD: its folder, or an archive of it.
        esc50: ESC-50: its folder, or a folder with archives of it.
        out: Folder to write.
        energy: Share of the images' variance after which no further principal component is kept.
        components: Number of principal components kept instead.
        noise_power: Factor on the surroundings when they are added to the speech; 0: clean speech. At the default a
            LeNet of the audio alone gets 41 or 44 % of the test cases, by which epoch is kept (docs/log.md, 2026-11-21;
            published: 40 and 42 %).
        speakers: Whose recordings to use.
        noise_folds: Folds of ESC-50 to choose surroundings from; each must be complete.
        valid_sounds: Whether validation rows have recordings of their "own", or "shared" with training.
        limit: Rows of each split, at most: the first ones; None: all (55,000, 5,000 and 10,000).
        seed: Seed of the choice of surroundings: one recording of each category.
        workers: Threads.
        overwrite: Replace a cohort that is there.
        say: Called with a line on progress now and then; None: silent.

    Returns:
        The cohort, opened from the folder. Its extra columns `spoken` and `noise` name each row's recordings.

    Raises:
        DataError: If a file is missing, truncated or does not fit, by name, or `out` cannot be written.
        ConfigurationError: If a number is out of range.
    """
    _check(energy, components, noise_power, limit, workers, valid_sounds)
    out = Path(out)
    if not overwrite and out.is_dir() and any(out.iterdir()):  # said before the work, not after
        raise DataError(f"there is something in {out} already", hint="Pass overwrite=True to replace a cohort.")
    train, test = read_mnist(Path(mnist))
    images = np.concatenate([train.images, test.images])
    labels = np.concatenate([train.labels, test.labels])
    splits = _splits(len(train.labels), len(test.labels))
    vision, shares = project_images(images, splits == "train", energy=energy, components=components)
    spoken = read_spoken_digits(Path(fsdd), speakers=speakers)
    noises = read_noises(Path(esc50), folds=noise_folds, seed=seed)
    pairing = pair_sounds(labels, splits, spoken, noises, valid_sounds=valid_sounds)
    rows = _first(splits, limit)
    about = (
        f"AV-MNIST: {len(shares)} principal components ({sum(shares):.1%} of the variance), "
        f"{len(pairing.spoken)} spoken digits, {len(noises)} surroundings at {noise_power:g}"
        + ("" if set(noise_folds) == set(FOLDS) else f", of folds {sorted(set(noise_folds))} of ESC-50")
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        pictures = np.lib.format.open_memmap(Path(scratch) / "audio.npy", "w+", np.uint8, (len(rows), 1, SIDE, SIDE))
        _draw(pictures, rows, pairing, noise_power, workers, say)
        pictures.flush()
        cohort = Cohort.from_arrays(
            {"vision": vision[rows], "audio": pictures},
            task=TASK,
            target=labels[rows],
            splits=splits[rows],
            ids=_ids(len(train.labels), len(test.labels))[rows],
            kinds={"vision": "image", "audio": "image"},
            name="avmnist",
            description=about,
            extras={
                "spoken": np.array([recording.name for recording in pairing.spoken])[pairing.spoken_of[rows]],
                "noise": np.array([recording.name for recording in noises])[pairing.noise_of[rows]],
            },
        )
        cohort.save(out, overwrite=overwrite)
    return Cohort.open(out)


def project_images(
    images: np.ndarray, train: np.ndarray, *, energy: float = 0.25, components: int | None = None
) -> tuple[np.ndarray, list[float]]:
    """Images as their projections on principal components of the training rows.

    Args:
        images: uint8, of shape (N, H, W).
        train: Which rows the components are of, bool (N,).
        energy: The leading components are kept until their shares of the variance add up to more than this.
        components: Number kept instead.

    Returns:
        float32, of shape (N, 1, H, W), divided by 255, the mean image not added back; and the kept shares.
    """
    flat = images.reshape(len(images), -1)
    width = flat.shape[1]
    mean, product = np.zeros(width), np.zeros((width, width))
    chosen = np.flatnonzero(train)
    for start in range(0, len(chosen), 4096):
        part = flat[chosen[start : start + 4096]].astype(np.float64)
        mean += part.sum(0)
        product += part.T @ part
    mean /= len(chosen)
    values, vectors = np.linalg.eigh(product / len(chosen) - np.outer(mean, mean))
    share, vectors = values[::-1].clip(min=0) / values.clip(min=0).sum(), vectors[:, ::-1]
    kept = components or 1 + int(np.argmax(share.cumsum() > energy))
    basis = vectors[:, :kept]
    result = np.empty((len(flat), width), np.float32)
    for start in range(0, len(flat), 4096):
        part = flat[start : start + 4096] - mean
        result[start : start + 4096] = (part @ basis) @ basis.T / 255.0
    return result.reshape(len(images), 1, *images.shape[1:]), share[:kept].tolist()


def pair_sounds(
    labels: np.ndarray,
    splits: np.ndarray,
    spoken: dict[tuple[int, int], list[Recording]],
    noises: list[Recording],
    *,
    valid_sounds: Literal["own", "shared"] = "own",
) -> Pairing:
    """Gives each row a recording of its digit, and surroundings, in turn.

    Args:
        labels: Digits, of shape (N,).
        splits: Names of the splits, of shape (N,).
        spoken: Recordings for each digit and take.
        noises: One recording for each category of surroundings, 50.
        valid_sounds: Whether validation rows have recordings of their "own", or "shared" with training.

    Returns:
        What each row is made of.
    """
    order = [(digit, take, i) for (digit, take), some in spoken.items() for i in range(len(some))]
    position = {key: i for i, key in enumerate(order)}
    spoken_of, noise_of = np.zeros(len(labels), np.int64), np.zeros(len(labels), np.int64)
    for split in SPLITS:
        takes, kinds = (table[split] for table in ((_TAKES, _NOISES) if valid_sounds == "own" else (_SHARED, _SHARED)))
        rows = np.flatnonzero(splits == split)
        noise_of[rows] = np.asarray(kinds)[np.arange(len(rows)) % len(kinds)]
        for digit in range(10):
            own = np.array([position[key] for key in order if key[0] == digit and key[1] in takes])
            said = rows[labels[rows] == digit]
            spoken_of[said] = own[np.arange(len(said)) % len(own)]
    return Pairing([spoken[digit, take][i] for digit, take, i in order], noises, spoken_of, noise_of)


def read_multibench(source: str | Path, out: str | Path, *, overwrite: bool = False) -> Cohort:
    """Writes MultiBench's own files of AV-MNIST as a cohort.

    The last twelfth of the training file (5,000 of 60,000 rows) is the validation split, as in MultiBench's loader.

    Args:
        source: Folder with `image/` and `audio/`, each with train_data.npy and test_data.npy, and train_labels.npy and
            test_labels.npy.
        out: Folder to write.
        overwrite: Replace a cohort that is there.

    Returns:
        The cohort, opened from the folder.

    Raises:
        DataError: If a file is missing, damaged, or does not fit the others; the message names it.
    """
    source = Path(source)
    labels = [_load(source / f"{part}_labels.npy", (-1,)) for part in ("train", "test")]
    sizes = [len(part) for part in labels]
    images = [_load(source / f"image/{part}_data.npy", (n, 784)) for part, n in zip(("train", "test"), sizes)]
    sounds = [_load(source / f"audio/{part}_data.npy", (n, SIDE, SIDE)) for part, n in zip(("train", "test"), sizes)]
    pictures = np.empty((sum(sizes), 1, SIDE, SIDE), np.uint8)
    for start, part in zip((0, sizes[0]), sounds):
        for at in range(0, len(part), _CHUNK):
            pictures[start + at : start + at + len(part[at : at + _CHUNK]), 0] = np.rint(part[at : at + _CHUNK])
    vision = np.concatenate(images).astype(np.float32) / np.float32(255)
    Cohort.from_arrays(
        {"vision": vision.reshape(-1, 1, 28, 28), "audio": pictures},
        task=TASK,
        target=np.concatenate(labels).astype(np.int64),
        splits=_splits(*sizes),
        ids=_ids(*sizes),
        kinds={"vision": "image", "audio": "image"},
        name="avmnist",
        description="AV-MNIST, MultiBench's files",
    ).save(out, overwrite=overwrite)
    return Cohort.open(out)


def _draw(
    pictures: np.ndarray,
    rows: np.ndarray,
    pairing: Pairing,
    noise_power: float,
    workers: int,
    say: Callable[[str], object] | None,
) -> None:
    """Fills in the pictures (n, 1, 112, 112) of rows, each at its own place."""

    def fill(part: range) -> int:
        for i in part:
            speech = pairing.spoken[pairing.spoken_of[rows[i]]].samples
            noise = pairing.noises[pairing.noise_of[rows[i]]].samples
            n = min(len(speech), len(noise))
            pictures[i, 0] = spectrogram(speech[:n] + np.float32(noise_power) * noise[:n])
        return part.stop

    parts = [range(start, min(start + _CHUNK, len(rows))) for start in range(0, len(rows), _CHUNK)]
    for number, done in enumerate(_in_threads(fill, parts, workers)):
        if say and (number % 40 == 39 or done == len(rows)):
            say(f"{done:,} of {len(rows):,} sounds")


def _in_threads(function: Callable[[range], int], parts: Sequence[range], workers: int) -> Iterator[int]:
    if workers == 1:
        yield from map(function, parts)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(function, parts)


def _splits(n_train: int, n_test: int) -> np.ndarray:
    """Train, then valid (the last twelfth of the training file), then test."""
    n_valid = n_train // 12
    return np.repeat(SPLITS, [n_train - n_valid, n_valid, n_test])


def _ids(n_train: int, n_test: int) -> np.ndarray:
    return np.array([f"train-{i:05d}" for i in range(n_train)] + [f"test-{i:05d}" for i in range(n_test)])


def _first(splits: np.ndarray, limit: int | None) -> np.ndarray:
    return np.concatenate([np.flatnonzero(splits == split)[:limit] for split in SPLITS])


def _load(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"a file of AV-MNIST is missing: {path}") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}", hint="It may be truncated; fetch it again.") from error
    if array.ndim != len(shape) or (shape[0] >= 0 and array.shape != shape) or array.dtype.kind not in "fiu":
        wanted = tuple("N" if n < 0 else n for n in shape)
        raise DataError(f"{path} does not fit", expected=f"numbers {wanted}", got=f"{array.dtype} {array.shape}")
    return array


def _check(
    energy: float, components: int | None, noise_power: float, limit: int | None, workers: int, valid_sounds: str
) -> None:
    wrong = {
        "energy": ("more than 0 and less than 1", energy, 0 < energy < 1),
        "components": ("1 to 784", components, components is None or 1 <= components <= 784),
        "noise_power": ("0 or more", noise_power, 0 <= noise_power < np.inf),
        "limit": ("1 or more", limit, limit is None or limit >= 1),
        "workers": ("1 or more", workers, workers >= 1),
    }
    for name, (expected, got, right) in wrong.items():
        if not right:
            raise ConfigurationError(f"{name} is out of range", expected=expected, got=got)
    if valid_sounds not in ("own", "shared"):
        raise UnknownNameError("value of valid_sounds", valid_sounds, ("own", "shared"))
