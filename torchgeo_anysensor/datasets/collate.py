# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""How samples become batches, and how the samples of two datasets become one."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ..types import BAND_FACTS, MultiSensorSample, SensorSample

#: What all dates of a series share.
_OF_PATCH = ('bounds', 'transform', 'dx', 'dy', 'lon', 'lat', 'level')


def collate_sensors(samples: Sequence[MultiSensorSample]) -> MultiSensorSample:
    """Make a batch of multi-sensor samples.

    Args:
        samples: Samples of a :class:`MultiSensorDataset`, of patches of one size. They may lack
            different sensors.

    Returns:
        ``sensors[name]``: views with a leading dimension for the samples that have the sensor;
        ``present[name]``: ``(B,)`` bool, which these are; ``mask`` ``(B, H, W)`` if there is one.

    Raises:
        ValueError: If there is no sample, only some samples have a mask, or the views of a sensor
            differ in shape.
    """
    if not samples:
        raise ValueError('collate_sensors needs at least one sample, got none')
    names = list(dict.fromkeys(name for sample in samples for name in sample['sensors']))
    batch: MultiSensorSample = {'sensors': {}, 'present': {}}
    for name in names:
        grids = _grids(name, samples, what='samples of one batch')
        batch['sensors'][name] = tuple(_stack(name, views) for views in grids)
        batch['present'][name] = torch.tensor([name in sample['sensors'] for sample in samples])
    if masks := _masks(samples, what='samples'):
        batch['mask'] = torch.stack(masks)
    return batch


def _grids(
    name: str, samples: Sequence[MultiSensorSample], *, what: str
) -> list[tuple[SensorSample, ...]]:
    """Views of one sensor in all samples or batches that have it, by grid.

    Raises:
        ValueError: If they have different numbers of grids.
    """
    having = [sample['sensors'][name] for sample in samples if name in sample['sensors']]
    if len(counts := {len(views) for views in having}) > 1:
        raise ValueError(f'{name}: {what} have {sorted(counts)} grids')
    return [*zip(*having)]


def _masks(samples: Sequence[MultiSensorSample], *, what: str) -> list[Tensor]:
    """Masks of all samples or batches, or none.

    Raises:
        ValueError: If only some have one.
    """
    masks = [sample['mask'] for sample in samples if 'mask' in sample]
    if masks and len(masks) < len(samples):
        raise ValueError(f'{len(samples) - len(masks)} of {len(samples)} {what} have no mask')
    return masks


def _stack(name: str, views: Sequence[SensorSample]) -> SensorSample:
    """Stack the views of one sensor on one grid.

    Raises:
        ValueError: If their shapes differ.
    """
    out: dict[str, Tensor] = {}
    for key in views[0]:
        values = [cast(dict[str, Tensor], view)[key] for view in views]
        shapes = {tuple(value.shape) for value in values}
        if len(shapes) > 1:
            raise ValueError(
                f'{name}: {key} differs in shape within a batch: {sorted(shapes)}; '
                'use one patch size and one set of bands'
            )
        if key == 'res' or (key in BAND_FACTS and all(values[0].equal(v) for v in values)):
            out[key] = values[0]
        else:
            out[key] = torch.stack(values)
    return cast(SensorSample, out)


def take_rows(batch: MultiSensorSample, rows: Tensor) -> MultiSensorSample:
    """Make a smaller batch.

    Args:
        batch: Of :func:`collate_sensors`.
        rows: ``(m,)`` int64, numbers of its samples.

    Returns:
        The batch of those samples; a sensor that saw none of them is not in it.
    """
    out: dict[str, Any] = {'sensors': {}, 'present': {}}
    for name, present in batch['present'].items():
        there = present[rows]
        if not bool(there.any()):
            continue
        own = (present.cumsum(0) - 1)[rows[there]]  # rows among those that the sensor has
        out['sensors'][name] = tuple(_take_view(view, own) for view in batch['sensors'][name])
        out['present'][name] = there
    if 'mask' in batch:
        out['mask'] = batch['mask'][rows]
    return cast(MultiSensorSample, out)


def _take_view(view: SensorSample, rows: Tensor) -> SensorSample:
    """Rows of a batched view."""
    values = cast(Mapping[str, Tensor], view)
    shared = {key for key in BAND_FACTS if values[key].ndim == 1} | {'res'}
    taken = {key: x if key in shared else x[rows] for key, x in values.items()}
    return cast(SensorSample, taken)


def join_batches(batches: Sequence[MultiSensorSample]) -> MultiSensorSample:
    """Make one batch of several.

    Args:
        batches: Of :func:`collate_sensors`. They may lack different sensors.

    Raises:
        ValueError: If there is no batch, only some batches have a mask, or the views of a sensor
            differ in shape.
    """
    if not batches:
        raise ValueError('join_batches needs at least one batch, got none')
    out: MultiSensorSample = {'sensors': {}, 'present': {}}
    sizes = [len(next(iter(batch['present'].values()))) for batch in batches]
    for name in dict.fromkeys(name for batch in batches for name in batch['sensors']):
        grids = _grids(name, batches, what='batches to join')
        out['sensors'][name] = tuple(_join_views(name, views) for views in grids)
        nowhere = (torch.zeros(size, dtype=torch.bool) for size in sizes)
        there = [batch['present'].get(name, absent) for batch, absent in zip(batches, nowhere)]
        out['present'][name] = torch.cat(there)
    if masks := _masks(batches, what='batches'):
        out['mask'] = torch.cat(masks)
    return out


def _join_views(name: str, views: Sequence[SensorSample]) -> SensorSample:
    """Lay batched views of one sensor on one grid after each other.

    Raises:
        ValueError: If their shapes differ.
    """
    out: dict[str, Tensor] = {}
    for key in views[0]:
        values = [cast(dict[str, Tensor], view)[key] for view in views]
        if key in BAND_FACTS and any(x.ndim > 1 or not x.equal(values[0]) for x in values):
            values = [x.expand(len(v['image']), -1) for x, v in zip(values, views)]
        shared = key == 'res' or (values[0].ndim == 1 and key in BAND_FACTS)
        kinds = {float(x) if key == 'res' else tuple(x.shape[1:]) for x in values}
        if len(kinds) > 1:
            raise ValueError(
                f'{name}: {key} differs between the batches to join: {sorted(kinds)}; '
                'use one patch size and one set of bands'
            )
        out[key] = values[0] if shared else torch.cat(values)
    return cast(SensorSample, out)


def stack_views(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put views of one patch in the order of their time: a time series.

    Args:
        samples: Flat samples of one sensor on one grid.

    Returns:
        One flat sample: ``image`` ``(T, C, H, W)``, ``valid`` ``(T, H, W)``, ``t`` ``(T,)``, rising;
        facts of the bands ``(T, C)`` if two platforms disagree on them, or else ``(C,)``.
    """
    ordered = sorted(samples, key=lambda sample: float(sample['t']))
    out = dict(ordered[0])
    for key in ('image', 'valid', 't'):
        out[key] = torch.stack([sample[key] for sample in ordered])
    for key in BAND_FACTS:
        if not all(sample[key].equal(out[key]) for sample in ordered):
            out[key] = torch.stack([sample[key] for sample in ordered])
    return out


def collate_series(
    samples: Sequence[dict[str, Any]], *, length: int, random: bool = False
) -> dict[str, Any]:
    """Make a batch of time series of one length.

    Longer series are thinned to *length* dates, shorter ones are padded at their end.

    Args:
        samples: Samples of a :class:`SensorDataset` with ``time_series=True``.
        length: Number of dates ``T``.
        random: Draw the dates of a longer series (with torch's generator) instead of taking them
            evenly from its first to its last.

    Returns:
        ``image`` ``(B, T, C, H, W)``, ``valid`` ``(B, T, H, W)``, ``t`` ``(B, T)``, and ``observed``
        ``(B, T)`` bool: which dates are not padding (there ``image`` and ``t`` are 0 and nothing is
        ``valid``). Facts of the bands are ``(C,)`` if they agree everywhere, or ``(B, T, C)``.

    Raises:
        ValueError: If there is no sample, *length* is not positive, or a sample is no series.
    """
    if not samples or length < 1:
        raise ValueError(f'need at least one sample and date, got {len(samples)} and {length}')
    if any(sample['image'].ndim != 4 for sample in samples):
        raise ValueError(
            'collate_series needs images (T, C, H, W); make the dataset with time_series=True'
        )
    rows = []
    for sample in samples:
        n = len(sample['t'])
        if n <= length:
            keep = torch.arange(n)
        elif random:
            keep = torch.randperm(n)[:length].sort().values
        else:
            keep = torch.linspace(0, n - 1, length).round().long()
        row = {key: _pad(sample[key][keep], length) for key in ('image', 'valid', 't')}
        row['observed'] = torch.arange(length) < len(keep)
        for key in BAND_FACTS:
            fact = sample[key].expand(n, -1)[keep]
            row[key] = torch.cat([fact, fact[-1:].expand(length - len(keep), -1)])
        rows.append(row | {key: sample[key] for key in _OF_PATCH if key in sample})
    batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
    for key in BAND_FACTS:
        if (batch[key] == batch[key][0, 0]).all():
            batch[key] = batch[key][0, 0]
    return batch | {'res': samples[0]['res']}


def _pad(values: Tensor, length: int) -> Tensor:
    """Zeros after the end of the first dimension."""
    return torch.cat([values, values.new_zeros(length - len(values), *values.shape[1:])])


def concat_views(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join samples of the same ground: what ``a & b`` returns.

    Bands are concatenated in order, ``valid`` asks for all of them, and what belongs to the patch
    (``bounds``, ``transform``, ``res``, ``t``) is the first dataset's.

    Args:
        samples: Flat samples on one grid, of images or masks.

    Returns:
        One flat sample.
    """
    out = dict(samples[0])
    for sample in samples[1:]:
        for key, value in sample.items():
            if key not in out:
                out[key] = value
            elif key == 'image' or key in BAND_FACTS:
                out[key] = torch.cat([out[key], value])
            elif key == 'valid':
                out[key] = out[key] & value
    return out


def merge_views(samples: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Lay samples of the same bands over each other: what ``a | b`` returns.

    The first valid pixel wins. (TorchGeo's own rule, the largest value, prefers clouds and turns
    negative reflectance into nodata.)

    Args:
        samples: Flat samples on one grid.

    Returns:
        One flat sample; ``t`` is the first dataset's.
    """
    first, *rest = samples
    out = dict(first)
    for sample in rest:
        if 'image' in out and 'image' in sample and 'valid' in out:
            fill = sample['valid'] & ~out['valid']
            out['image'] = torch.where(fill, sample['image'], out['image'])
            out['valid'] = out['valid'] | sample['valid']
        out |= {key: value for key, value in sample.items() if key not in out}
    return out
