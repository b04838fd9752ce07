# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What the codes of quality bands mean."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from ..sensors import QA


def is_bad(qa: QA, codes: NDArray, bands: Collection[str]) -> NDArray[np.bool_]:
    """Where a quality band calls the pixel bad.

    Args:
        qa: What is bad.
        codes: ``(H, W)`` codes of the band, never interpolated.
        bands: Names of the bands that are read: the saturation of others does no harm.

    Returns:
        ``(H, W)``.
    """
    if codes.dtype.kind != 'u':
        codes = codes.astype(np.int64)
    bad = np.zeros(codes.shape, dtype=bool)
    bits = [*qa.bad_bits, *(bit for band, bit in qa.band_bits if band in bands)]
    mask = sum(1 << bit for bit in set(bits)) & np.iinfo(codes.dtype).max
    if mask:
        bad |= (codes & codes.dtype.type(mask)) != 0
    for value in qa.bad_values:
        bad |= codes == value
    return bad


def clear_share(qa: QA, codes: NDArray) -> float:
    """Share of the observed pixels that are clear; 0 if none was observed."""
    seen = codes != qa.fill if qa.fill is not None else np.ones(codes.shape, dtype=bool)
    return float((seen & ~is_bad(qa, codes, ())).sum() / max(1, seen.sum()))
