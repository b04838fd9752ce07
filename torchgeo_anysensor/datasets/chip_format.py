# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""A sample as bytes, and bytes as a batch.

The bytes are a safetensors file. Each tensor of a view is there by its name
(``sentinel2_l2a/0/t``), but for two, which lose nothing either: ``valid`` has one bit for a pixel,
and ``image`` is digital numbers with ``scale`` and ``offset`` of each band wherever these give back
the same bits, which is tried, and float32 elsewhere.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import Tensor
from torch.utils.data import get_worker_info

from ..types import BAND_FACTS, MultiSensorSample
from .lent_memory import borrow, give_back

#: ``(C,)`` float32 each: scale and offset that make an image of digital numbers.
Calibration = tuple[NDArray[np.float32], NDArray[np.float32]]
Arrays = Mapping[str, NDArray]

_INTEGERS = (np.dtype(np.int16), np.dtype(np.uint16))
_TYPES = {'F64': 'f8', 'F32': 'f4', 'I64': 'i8', 'I16': 'i2', 'U16': 'u2', 'U8': 'u1', 'BOOL': '?'}
_NUMPY: dict[torch.dtype, np.dtype] = {
    torch.float64: np.dtype('f8'),
    torch.float32: np.dtype('f4'),
    torch.int64: np.dtype('i8'),
    torch.bool: np.dtype('?'),
}
_TORCH = {numpy: torch for torch, numpy in _NUMPY.items()}
_LENGTH = 8  # bytes at the start, which tell the length of the header
_ALIGNMENT = 64  # bytes
#: Of a chip alone, not of a sample.
_CALIBRATION = ('scale', 'offset')


# -- writing ---------------------------------------------------------------------------------


def encode(
    sample: MultiSensorSample,
    calibrations: Mapping[str, Sequence[Iterable[Calibration]]],
    *,
    patch: Sequence[float],
    crs: str,
) -> bytes:
    """Make a chip of a sample.

    Args:
        sample: Of a :class:`~.multisensor.MultiSensorDataset`.
        calibrations: Of each sensor and view, those that may have made its image.
        patch: Left, top, width and height of the ground, kept as float64.
        crs: Of the patch.

    Returns:
        A safetensors file.
    """
    arrays: dict[str, NDArray] = {'patch': np.array(patch, dtype=np.float64)}
    for name, views in sample['sensors'].items():
        for number, view in enumerate(views):
            values = {key: value.numpy() for key, value in cast(dict[str, Tensor], view).items()}
            image, valid = values.pop('image'), values.pop('valid')
            values |= _encode_image(image, valid, calibrations[name][number])
            values['valid'] = np.packbits(valid, axis=1)
            arrays |= {f'{name}/{number}/{key}': value for key, value in values.items()}
    if 'mask' in sample:
        mask = sample['mask'].numpy()
        small = mask.astype(np.uint8)
        arrays['mask'] = small if np.array_equal(small, mask) else mask
    grids = {name: len(views) for name, views in sample['sensors'].items()}
    arrays = {name: np.array(array, order='C') for name, array in arrays.items()}
    # One entry: safetensors writes several in any order
    return save(arrays, {'chip': json.dumps({'crs': crs, 'grids': grids})})


def _encode_image(
    image: NDArray[np.float32], valid: NDArray[np.bool_], calibrations: Iterable[Calibration]
) -> dict[str, NDArray]:
    """Digital numbers if they give back the same bits, otherwise the image."""
    again = np.empty_like(image)
    for scale, offset in calibrations:
        exact = image.astype(np.float64) - offset[:, None, None]
        dn = np.where(valid, np.rint(exact / scale[:, None, None]), 0)
        for dtype in _INTEGERS:
            limits = np.iinfo(dtype)
            if limits.min <= dn.min() and dn.max() <= limits.max:
                found: dict[str, NDArray] = {'image': dn.astype(dtype)}
                found |= {'scale': scale, 'offset': offset}
                _decode_image(found, valid, again)
                if np.array_equal(again.view(np.int32), image.view(np.int32)):
                    return found
                break
    return {'image': image}


# -- reading ---------------------------------------------------------------------------------


class _Place(NamedTuple):
    """Where an array lies in a chip."""

    dtype: str
    shape: tuple[int, ...]
    offset: int


class _Layout(NamedTuple):
    """What is in a chip."""

    sensors: dict[str, list[dict[str, _Place]]]
    mask: _Place | None


class Chip:
    """The arrays of one chip, on the memory of its bytes."""

    def __init__(self, content: memoryview) -> None:
        """Find the arrays.

        Args:
            content: What :func:`encode` made.
        """
        self._content = content
        start = _LENGTH + int.from_bytes(content[:_LENGTH], 'little')
        layout = _layout(bytes(content[_LENGTH:start]))
        self._start = start
        self.sensors = {
            name: [{key: self._array(place) for key, place in view.items()} for view in views]
            for name, views in layout.sensors.items()
        }
        self.mask = None if layout.mask is None else self._array(layout.mask)

    def _array(self, place: _Place) -> NDArray:
        """An array, not copied."""
        offset = self._start + place.offset
        return np.ndarray(place.shape, place.dtype, self._content, offset)


@lru_cache(maxsize=256)  # chips of the same sensors have the same header
def _layout(header: bytes) -> _Layout:
    """Take a header apart."""
    tensors: dict[str, Any] = json.loads(header)
    grids = json.loads(tensors.pop('__metadata__')['chip'])['grids']
    sensors: dict[str, list[dict[str, _Place]]] = {
        name: [{} for _ in range(number)] for name, number in grids.items()
    }
    places = {
        name: _Place(_TYPES[entry['dtype']], tuple(entry['shape']), entry['data_offsets'][0])
        for name, entry in tensors.items()
    }
    mask = places.pop('mask', None)
    del places['patch']
    for path, place in places.items():
        name, number, key = path.rsplit('/', 2)
        sensors[name][int(number)][key] = place
    return _Layout(sensors, mask)


def _decode_image(view: Arrays, valid: NDArray[np.bool_], out: NDArray[np.float32]) -> None:
    """Write one image ``(C, H, W)``; *valid* is ``(H, W)``."""
    out[...] = view['image']
    if 'scale' in view:
        # Two roundings, as where files are read: one fused operation would give other bits
        np.multiply(out, view['scale'][:, None, None], out=out)
        np.add(out, view['offset'][:, None, None], out=out)
        if not valid.all():
            np.copyto(out, 0, where=~valid)


# -- batches ---------------------------------------------------------------------------------

_Path = tuple[str | int, ...]


class _Slot(NamedTuple):
    """A tensor of a batch, and what writes it."""

    path: _Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    fill: Callable[[NDArray], None]


class PackedBatch:
    """A batch in one piece of memory.

    A worker sends it to the main process as one file of shared memory, instead of one for each
    tensor; there it is a plain batch.
    """

    def __init__(self, chips: Sequence[Chip]) -> None:
        """Make the batch that ``collate_sensors`` would make of the samples.

        Args:
            chips: At least one.

        Raises:
            ValueError: As ``collate_sensors`` does.
        """
        slots = _slots(chips)
        ends = list(itertools.accumulate(map(_padded, slots)))
        self._size = ends[-1]
        sent = get_worker_info() is not None
        self._memory = borrow(ends[-1]) if sent else torch.empty(ends[-1], dtype=torch.uint8)
        self._places = [
            (slot.path, slot.dtype, slot.shape, start) for slot, start in zip(slots, [0, *ends])
        ]
        memory = self._memory.numpy()
        for slot, start in zip(slots, [0, *ends]):
            slot.fill(np.ndarray(slot.shape, _NUMPY[slot.dtype], memory.data, start))

    def batch(self) -> MultiSensorSample:
        """The tensors, on the same memory."""
        return _unpack(self._memory, self._places)

    def __reduce__(self) -> tuple[Any, ...]:
        """What arrives in another process is the batch."""
        return _receive, (self._memory, self._size, self._places)


_Placed = tuple[_Path, torch.dtype, tuple[int, ...], int]


def _receive(memory: Tensor, size: int, places: Sequence[_Placed]) -> MultiSensorSample:
    """The batch that a worker has sent."""
    return _unpack(give_back(memory, size), places)


def _unpack(memory: Tensor, places: Sequence[_Placed]) -> MultiSensorSample:
    """The batch that lies in a piece of memory."""
    sensors: dict[str, list[dict[str, Tensor]]] = {}
    batch: dict[str, Any] = {'sensors': {}, 'present': {}}
    for place in places:
        tensor, path = _tensor(memory, place), place[0]
        if len(path) == 1:
            batch['mask'] = tensor
        elif len(path) == 2:
            batch['present'][path[1]] = tensor
        else:
            name, number, key = cast(tuple[str, int, str], path)
            views = sensors.setdefault(name, [])
            if number == len(views):
                views.append({})
            views[number][key] = tensor
    batch['sensors'] = {name: tuple(views) for name, views in sensors.items()}
    return cast(MultiSensorSample, batch)


def _tensor(memory: Tensor, place: _Placed) -> Tensor:
    """A tensor that lies in a piece of memory."""
    _, dtype, shape, start = place
    size = math.prod(shape) * dtype.itemsize
    return memory[start : start + size].view(dtype).view(shape)


def _padded(slot: _Slot) -> int:
    """Bytes that a tensor takes, so that the next one is aligned."""
    size = math.prod(slot.shape) * slot.dtype.itemsize
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _slots(chips: Sequence[Chip]) -> list[_Slot]:
    """All tensors of a batch.

    Raises:
        ValueError: If chips do not go together.
    """
    slots: list[_Slot] = []
    for name in dict.fromkeys(name for chip in chips for name in chip.sensors):
        having = [chip.sensors[name] for chip in chips if name in chip.sensors]
        grids = {len(views) for views in having}
        if len(grids) > 1:
            raise ValueError(f'{name}: samples of one batch have {sorted(grids)} grids')
        for number, views in enumerate(zip(*having)):
            slots += _view_slots(name, number, views)
        present = [name in chip.sensors for chip in chips]
        slots.append(_whole(('present', name), np.array(present)))
    masks = [chip.mask for chip in chips if chip.mask is not None]
    if masks and len(masks) < len(chips):
        raise ValueError(f'{len(chips) - len(masks)} of {len(chips)} samples have no mask')
    if masks:
        shape = _common_shape('mask', '', masks)
        slots.append(_Slot(('mask',), torch.int64, (len(masks), *shape), _stacked(masks)))
    return slots


def _view_slots(name: str, number: int, views: Sequence[Arrays]) -> list[_Slot]:
    """The tensors of one sensor on one grid."""
    n, where = len(views), (name, number)
    images = [view['image'] for view in views]
    bands, height, width = _common_shape(name, 'image', images)
    valid = np.stack([view['valid'] for view in views])
    unpacked = np.unpackbits(valid, axis=2, count=width).view(bool)

    def fill(out: NDArray) -> None:
        for view, good, row in zip(views, unpacked, out):
            _decode_image(view, good, row)

    slots = [
        _Slot((*where, 'image'), torch.float32, (n, bands, height, width), fill),
        _whole((*where, 'valid'), unpacked),
    ]
    for key in views[0]:
        if key in ('image', 'valid', *_CALIBRATION):
            continue
        arrays = [view[key] for view in views]
        _common_shape(name, key, arrays)
        stacked = np.stack(arrays)
        one = key == 'res' or (key in BAND_FACTS and bool((stacked == stacked[0]).all()))
        slots.append(_whole((*where, key), stacked[0] if one else stacked))
    return slots


def _whole(path: _Path, value: NDArray) -> _Slot:
    """A tensor that is there already."""
    return _Slot(path, _TORCH[value.dtype], value.shape, lambda out: np.copyto(out, value))


def _stacked(arrays: Sequence[NDArray]) -> Callable[[NDArray], None]:
    """Writes arrays one after the other."""

    def fill(out: NDArray) -> None:
        for row, array in zip(out, arrays):
            row[...] = array

    return fill


def _common_shape(name: str, key: str, arrays: Sequence[NDArray]) -> tuple[int, ...]:
    """The shape of all arrays.

    Raises:
        ValueError: If they differ.
    """
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise ValueError(
            f'{name}: {key} differs in shape within a batch: {sorted(shapes)}; '
            'use one patch size and one set of bands'
        )
    return shapes.pop()


def first_of(batch: MultiSensorSample) -> MultiSensorSample:
    """The one sample of a batch of one."""
    sensors = {}
    for name, views in batch['sensors'].items():
        sensors[name] = tuple(
            {
                key: value if key in ('res', *BAND_FACTS) else value[0]
                for key, value in cast(dict[str, Tensor], view).items()
            }
            for view in views
        )
    sample: dict[str, Any] = {'sensors': sensors}
    if 'mask' in batch:
        sample['mask'] = batch['mask'][0]
    return cast(MultiSensorSample, sample)
