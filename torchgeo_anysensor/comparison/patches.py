# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""All patches of a split in memory, read once for all methods.

Letters as in :mod:`torchgeo_anysensor.types`, and ``n`` patches.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import shapely
import torch
from torch import Tensor

from ..datamodules import MultiSensorDataModule
from ..datasets import collate_sensors, take_rows
from ..models import to_grid
from ..samplers import AlignedGridSampler, BlockSplit
from ..types import IGNORE_INDEX, MultiSensorSample, SensorSample, take_bands

#: Splits of the ground, in the order in which they are read.
SPLITS = ('train', 'val', 'test')


@dataclass(frozen=True)
class Patches:
    """Patches of labelled ground, as one batch, and where and when they are."""

    batch: MultiSensorSample  #: of all patches
    block: Tensor  #: ``(n,)`` int64: number of the block of ground, the same for any seed
    place: Tensor  #: ``(n,)`` int64: number of the connected piece of ground, from the west
    time: Tensor  #: ``(n,)`` float64: s since 1970, the reference sensor's acquisition
    bounds: Tensor  #: ``(n, 4)`` float64: left, bottom, right, top in the dataset's CRS

    def __len__(self) -> int:
        """Number of patches."""
        return len(self.block)

    def take(self, rows: Tensor) -> 'Patches':
        """Choose patches.

        Args:
            rows: Their numbers, or ``(n,)`` bool.
        """
        rows = rows.nonzero().squeeze(1) if rows.dtype == torch.bool else rows
        named = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != 'batch'}
        return Patches(batch=take_rows(self.batch, rows), **named)

    def batches(self, size: int) -> Iterator[MultiSensorSample]:
        """Go through the patches in order.

        Args:
            size: Most patches in a batch.

        Yields:
            Batches.
        """
        for rows in torch.split(torch.arange(len(self)), size):
            yield take_rows(self.batch, rows)

    def look(
        self,
        sensors: Sequence[str],
        *,
        without_um: Sequence[tuple[float, float]] = (),
        res: float | None = None,
    ) -> 'Patches':
        """Leave some of what was measured away.

        Args:
            sensors: Those that stay. Patches that none of them saw go.
            without_um: Ranges of wavelengths, in micrometres, whose bands go.
            res: Views of finer pixels are averaged to this pixel size in metres.

        Returns:
            Patches of the same ground.

        Raises:
            ValueError: If a sensor is not there, or nothing is left of one.
        """
        if unknown := [name for name in sensors if name not in self.batch['sensors']]:
            raise ValueError(f'no sensor {unknown} in the data: {list(self.batch["sensors"])}')
        views = {}
        for name in sensors:
            kept = [_without(view, without_um) for view in self.batch['sensors'][name]]
            views[name] = tuple(_coarse(view, res) for view in kept if view['gsd'].shape[-1])
            if not views[name]:
                raise ValueError(f'{name} has no band outside of {list(without_um)} um')
        present = {name: self.batch['present'][name] for name in sensors}
        batch = cast(MultiSensorSample, {**self.batch, 'sensors': views, 'present': present})
        there = torch.stack(list(present.values())).any(dim=0)
        looked = replace(self, batch=batch)
        return looked if bool(there.all()) else looked.take(there)

    def mistold(self) -> 'Patches':
        """Say of each band of a view that it has the wavelength of the band before it."""
        views = {
            name: tuple(
                cast(
                    SensorSample,
                    {**view, **{key: view[key].roll(1, -1) for key in ('wavelength', 'bandwidth')}},
                )
                for view in views
            )
            for name, views in self.batch['sensors'].items()
        }
        return replace(self, batch=cast(MultiSensorSample, {**self.batch, 'sensors': views}))

    def label_only(self, seen: Tensor) -> 'Patches':
        """Take the labels away where ``seen`` ``(n, H, W)`` bool is false."""
        mask = torch.where(seen, self.batch['mask'], IGNORE_INDEX)
        return replace(self, batch=cast(MultiSensorSample, {**self.batch, 'mask': mask}))


def _without(view: SensorSample, without_um: Sequence[tuple[float, float]]) -> SensorSample:
    """A view without the bands of some wavelengths."""
    if not without_um:
        return view
    centre = view['wavelength'].reshape(-1, view['wavelength'].shape[-1])[0]
    keep = torch.ones_like(centre, dtype=torch.bool)
    for low, high in without_um:
        keep &= (centre < low) | (centre > high)
    return take_bands(view, keep)


def _coarse(view: SensorSample, res: float | None) -> SensorSample:
    """A view averaged by area to larger pixels.

    Raises:
        ValueError: If the patch is not a whole number of them.
    """
    if res is None or float(view['res']) >= res:
        return view
    ground = [n * float(view['res']) for n in view['image'].shape[-2:]]
    size = round(ground[0] / res), round(ground[1] / res)
    if any(abs(n * res - metres) > 1e-3 for n, metres in zip(size, ground)):
        raise ValueError(f'a patch of {ground} m is not a whole number of pixels of {res:g} m')
    raster = to_grid([view], size)
    valid = (raster.seen > 0.5).all(dim=1)
    still = torch.zeros_like(view['dx'])  # resampled to the ground of the patch
    changed = {
        'image': raster.image * valid[:, None],
        'valid': valid,
        'res': torch.full_like(view['res'], res),
        'gsd': view['gsd'].clamp(min=res),
        'dx': still,
        'dy': still,
    }
    return cast(SensorSample, {**view, **changed})


def read_patches(data: MultiSensorDataModule, split: BlockSplit) -> dict[str, Patches]:
    """Read all patches of a split of the ground.

    Args:
        data: Its dataset has labels; ``size`` is the width of a patch.
        split: How the ground is dealt.

    Returns:
        The patches of train, val and test, side by side over every acquisition.

    Raises:
        ValueError: If the dataset has no labels, a split has room for no patch, or two splits share
            ground or pixels.
    """
    if data.scenes.labels is None:
        raise ValueError('the dataset has no labels: give it a LabelRaster or LabelVector')
    ground, blocks = split(data.scenes), split.blocks(data.scenes)
    pieces = shapely.get_parts(shapely.union_all(data.scenes.index.geometry.to_numpy()))
    pieces = pieces[np.lexsort(shapely.bounds(pieces).T[[3, 0]])]
    found = {}
    for name in SPLITS:
        try:
            sampler = AlignedGridSampler(data.scenes, size=data.size, roi=getattr(ground, name))
        except ValueError as error:
            raise ValueError(f'{name} split (blocks of {split.size:g} m): {error}') from None
        queries = list(sampler)
        samples = [data.scenes[query] for query in queries]
        bounds = np.array([_bounds(query) for query in queries])
        centres = shapely.points((bounds[:, :2] + bounds[:, 2:]) / 2)
        times = [next(iter(sample['sensors'].values()))[0]['t'] for sample in samples]
        found[name] = Patches(
            batch=collate_sensors(samples),
            block=_number(centres, blocks),
            place=_number(centres, pieces),
            time=torch.stack(times),
            bounds=torch.from_numpy(bounds),
        )
    check_apart(found)
    return found


def _bounds(query: Any) -> tuple[float, float, float, float]:
    """Left, bottom, right and top of a sampler's query."""
    x, y, _ = query
    return x.start, y.start, x.stop, y.stop


def _number(points: np.ndarray, areas: np.ndarray) -> Tensor:
    """Number of the area that each point is nearest to."""
    return torch.from_numpy(shapely.STRtree(areas).nearest(points)).long()


def check_apart(splits: Mapping[str, Patches]) -> None:
    """Raise if a model could be tested on what it was trained with.

    What was read is compared, not what was asked for: the squares of the patches, grown by as much
    as a view lies off its patch, and their pixels.

    Args:
        splits: Patches by the name of their split.

    Raises:
        ValueError: If patches of two splits share ground or have the same pixels.
    """
    names = list(splits)
    squares = {name: _squares(patches) for name, patches in splits.items()}
    prints = {name: _fingerprints(patches) for name, patches in splits.items()}
    for place, one in enumerate(names):
        tree = shapely.STRtree(squares[one])
        for other in names[place + 1 :]:
            a, b = tree.query(squares[other], predicate='intersects')[::-1]
            areas = shapely.area(shapely.intersection(squares[one][a], squares[other][b]))
            if (areas > 1).any():  # m2: more than rounding
                bounds = [round(n) for n in squares[one][a[areas.argmax()]].bounds]
                raise ValueError(
                    f'{one} and {other} share ground, for example {bounds}: a score there would '
                    'be worth nothing. Give the split a buffer, at least half a pixel of the '
                    'coarsest sensor'
                )
            if same := prints[one] & prints[other]:
                raise ValueError(
                    f'{one} and {other} have {len(same)} patches with the same pixels at different '
                    'coordinates: is a file there twice?'
                )


def check_labels(splits: Mapping[str, Patches], num_classes: int) -> None:
    """Raise if there are labels of no class.

    Args:
        splits: Patches by the name of their split.
        num_classes: Number of classes.

    Raises:
        ValueError: If so.
    """
    for name, patches in splits.items():
        found = torch.unique(patches.batch['mask']).tolist()
        if wrong := [c for c in found if c != IGNORE_INDEX and not 0 <= c < num_classes]:
            raise ValueError(
                f'{name} has labels {wrong}, and there are {num_classes} classes: give the label '
                'dataset classes that map its codes to 0, 1, ..., and a name for each'
            )


def _squares(patches: Patches) -> np.ndarray:
    """Ground of all views of each patch, at least."""
    off = max(
        float(torch.maximum(view['dx'].abs().max(), view['dy'].abs().max()))
        for views in patches.batch['sensors'].values()
        for view in views
    )
    left, bottom, right, top = patches.bounds.numpy().T
    return np.asarray(shapely.box(left - off, bottom - off, right + off, top + off))


def _fingerprints(patches: Patches) -> set[bytes]:
    """Digests of the images of the first sensor that show something."""
    view = next(iter(patches.batch['sensors'].values()))[0]
    shown = (view['valid'].float().mean(dim=(1, 2)) > 0.5) & (view['image'].std((1, 2, 3)) > 0)
    return {hashlib.sha1(image.numpy().tobytes()).digest() for image in view['image'][shown]}


def save_patches(splits: Mapping[str, Patches], path: Path) -> None:
    """Keep patches in a file, which appears when it is whole."""
    draft = path.with_suffix(f'.{os.getpid()}')
    plain = {name: {f.name: getattr(p, f.name) for f in fields(p)} for name, p in splits.items()}
    torch.save(plain, draft)
    draft.replace(path)


def load_patches(path: Path) -> dict[str, Patches]:
    """Load what :func:`save_patches` kept."""
    plain = torch.load(path, weights_only=True, mmap=True)
    return {name: Patches(**values) for name, values in plain.items()}


def between(patches: Patches, since: str | None, until: str | None) -> Tensor:
    """Say which patches were acquired in a time.

    Args:
        patches: To choose from.
        since: First day, as ``2018-03-01``; from the start if None.
        until: Last day; to the end if None.

    Returns:
        ``(n,)`` bool.
    """
    keep = torch.ones(len(patches), dtype=torch.bool)
    if since is not None:
        keep &= patches.time >= pd.Timestamp(since, tz='UTC').timestamp()
    if until is not None:
        keep &= patches.time < pd.Timestamp(until, tz='UTC').timestamp() + 86_400
    return keep
