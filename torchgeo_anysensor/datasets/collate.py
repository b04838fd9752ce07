# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""How samples become batches, and how the samples of two datasets become one."""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ..types import BAND_FACTS, MultiSensorSample, SensorSample


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
        having = [sample['sensors'][name] for sample in samples if name in sample['sensors']]
        grids = {len(views) for views in having}
        if len(grids) > 1:
            raise ValueError(f'{name}: samples of one batch have {sorted(grids)} grids')
        batch['sensors'][name] = tuple(_stack(name, views) for views in zip(*having))
        batch['present'][name] = torch.tensor([name in sample['sensors'] for sample in samples])
    masks = [sample['mask'] for sample in samples if 'mask' in sample]
    if masks and len(masks) < len(samples):
        raise ValueError(f'{len(samples) - len(masks)} of {len(samples)} samples have no mask')
    if masks:
        batch['mask'] = torch.stack(masks)
    return batch


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
