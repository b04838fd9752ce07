# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Random numbers and random fields that depend on the seed alone."""

import hashlib

import numpy as np
from numpy.typing import NDArray

type Field = NDArray[np.float32]


def generator(seed: int, *key: str | int) -> np.random.Generator:
    """Random generator for one purpose, whatever was drawn for other purposes before.

    Args:
        seed: The seed of the whole.
        *key: Names the purpose.
    """
    digest = hashlib.sha256(repr((seed, *key)).encode()).digest()
    words = np.frombuffer(digest, dtype='<u4')
    return np.random.Generator(np.random.PCG64([int(word) for word in words]))


def fractal(
    rng: np.random.Generator, *, size: int, largest: float, smallest: float, slope: float = 1.5
) -> Field:
    """Spatially correlated field of mean 0 and standard deviation 1.

    White noise with the amplitude of each frequency f multiplied by f**-slope. It wraps around at
    the edges.

    Args:
        rng: Source of the noise.
        size: Cells along a side.
        largest: Wavelength in cells above which the field is flat.
        smallest: Wavelength in cells below which there is nothing.
        slope: Larger is smoother.
    """
    noise = rng.standard_normal((size, size), dtype=np.float32)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    gain = (frequency**2 + 1 / largest**2) ** (-slope / 2) * np.exp(-((frequency * smallest) ** 2))
    gain[0, 0] = 0
    spectrum = np.fft.rfft2(noise) * gain.astype(np.float32)
    values = np.fft.irfft2(spectrum, s=(size, size)).astype(np.float32)
    return (values - values.mean()) / values.std()


def _fold[T: np.generic](values: NDArray[T], factor: int, *, combine: np.ufunc) -> NDArray[T]:
    """Combine the cells of blocks of *factor* x *factor*, ``(H, W)`` to the coarser grid."""
    height, width = values.shape
    rows = combine.reduce(values.reshape(height // factor, factor, width), axis=1)
    total = rows[:, ::factor].copy()
    for column in range(1, factor):
        combine(total, rows[:, column::factor], out=total)
    return total


def area_mean(values: Field, factor: int) -> Field:
    """Mean over blocks of *factor* x *factor* cells, ``(H, W)`` to the coarser grid."""
    return _fold(values, factor, combine=np.add) / np.float32(factor**2)


def block_any(flags: NDArray[np.bool_], factor: int) -> NDArray[np.bool_]:
    """Whether any cell of a block of *factor* x *factor* cells is set."""
    return _fold(flags, factor, combine=np.logical_or)


def majority(codes: NDArray[np.uint8], *, factor: int, count: int) -> NDArray[np.uint8]:
    """Most frequent code in blocks of *factor* x *factor* cells; of equals, the lowest code.

    Args:
        codes: ``(H, W)``, each below *count*.
        factor: Cells along the side of a block.
        count: Number of codes.
    """
    votes = [
        _fold((codes == code).astype(np.uint16), factor, combine=np.add) for code in range(count)
    ]
    return np.argmax(np.stack(votes), axis=0).astype(np.uint8)


def box_mean(values: Field, width: int) -> Field:
    """Mean over a moving square of *width* x *width* cells; edges are repeated outwards."""
    before = width // 2
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (before + 1, width - 1 - before)
        sums = np.cumsum(np.pad(values, pad, mode='edge'), axis=axis, dtype=np.float64)
        count = values.shape[axis]
        upper = np.take(sums, np.arange(width, width + count), axis=axis)
        lower = np.take(sums, np.arange(count), axis=axis)
        values = ((upper - lower) / width).astype(np.float32)
    return values


def dilate(flags: NDArray[np.bool_], *, steps: int) -> NDArray[np.bool_]:
    """Flags that grow by *steps* pixels to all eight sides."""
    height, width = flags.shape
    padded = np.pad(flags, steps)
    span = range(2 * steps + 1)
    tall = np.logical_or.reduce([padded[shift : shift + height] for shift in span])
    return np.logical_or.reduce([tall[:, shift : shift + width] for shift in span])
