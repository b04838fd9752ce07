# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Patches of a config, written once."""

import hashlib
import itertools
import json
import os
import tarfile
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from torch.utils.data import DataLoader, Dataset
from torchgeo.datasets.utils import GeoSlice
from tqdm import tqdm

from ..datamodules import MultiSensorDataModule
from ..datasets import MultiSensorDataset, SensorDataset
from ..datasets.chip_format import Calibration, encode
from ..datasets.chips import MANIFEST, VERSION, file_digest, read_json, read_manifest
from ..datasets.geometry import crs_text
from ..samplers import AlignedGridSampler

_NAMED = 5  # differences in an error

#: A chip and what the manifest of its shard says of it.
Written = tuple[bytes, dict[str, Any]]


class Shard(NamedTuple):
    """Chips of one file."""

    name: str
    split: str
    first: int  #: number of its first chip in the split
    queries: list[GeoSlice]


class Report(NamedTuple):
    """What :func:`write_chips` found and did."""

    shards: int  #: of this part of the work
    written: int  #: of these, now; the others were there
    chips: int  #: in the shards that were written
    missing: int  #: shards of other parts that are not there


def write_chips(
    data: MultiSensorDataModule,
    out: str | os.PathLike[str],
    *,
    shard: tuple[int, int] = (1, 1),
    stride: float | None = None,
    chips_per_shard: int = 256,
    workers: int = 0,
    config: Mapping[str, Any] | None = None,
) -> Report:
    """Write the patches of all splits to files that :class:`~..datasets.ChippedDataset` reads.

    A shard is a tar of WebDataset's layout, with a safetensors file for each chip, and a manifest
    with its checksums. What is there is not written again.

    Args:
        data: Its dataset, its split of the ground and its size of patches.
        out: Folder.
        shard: Which part of the work to do, of how many: ``(1, 4)`` is the first of four. Parts may
            be done at one time, on machines that share the folder.
        stride: Metres between train patches; by default they lie side by side, as those of val
            and test do always.
        chips_per_shard: Chips in a file.
        workers: Processes that read.
        config: What made *data*, as plain values, kept in the manifest.

    Returns:
        What was done.

    Raises:
        ValueError: If a part is not of the whole, a split has room for no patch, or the folder was
            begun with another config.
    """
    part, parts = shard
    if not 1 <= part <= parts:
        raise ValueError(f'shard={part}/{parts} must be from 1/{parts} to {parts}/{parts}')
    if chips_per_shard < 1:
        raise ValueError(f'chips_per_shard={chips_per_shard} must be at least 1')
    out = Path(out)
    shards = _plan(data, stride=stride, chips_per_shard=chips_per_shard)
    settings = {
        'size': data.size,
        'stride': stride or data.size,
        'chips_per_shard': chips_per_shard,
    }
    _write_manifest(out, data.scenes, shards, dict(config or {}) | settings)
    # Neighbours in the list are of one acquisition
    cuts = np.linspace(0, len(shards), parts + 1).round().astype(int)
    mine = shards[cuts[part - 1] : cuts[part]]
    todo = [one for one in mine if not _is_written(out, one.name)]
    queries = [query for one in todo for query in one.queries]
    loader = DataLoader(
        _Patches(data.scenes, queries), batch_size=None, num_workers=workers, collate_fn=_same
    )
    stream = iter(tqdm(loader, desc='Chips', unit='chip', delay=2, disable=None))
    for one in todo:
        _write_shard(out, one, itertools.islice(stream, len(one.queries)))
    missing = sum(not _is_written(out, one.name) for one in shards)
    return Report(len(mine), len(todo), len(queries), missing)


# -- plan ------------------------------------------------------------------------------------


def _plan(
    data: MultiSensorDataModule, *, stride: float | None, chips_per_shard: int
) -> list[Shard]:
    """All shards, whoever writes them.

    Raises:
        ValueError: If a split has ground, but room for no patch.
    """
    shards = []
    for split, ground in data.split(data.scenes)._asdict().items():
        if ground.is_empty:  # it was given no share
            continue
        own = stride if split == 'train' else None
        try:
            sampler = AlignedGridSampler(data.scenes, size=data.size, stride=own, roi=ground)
        except ValueError as error:
            raise ValueError(f'{split} split (blocks of {data.split.size:g} m): {error}') from None
        queries = list(sampler)
        for number, first in enumerate(range(0, len(queries), chips_per_shard)):
            some = queries[first : first + chips_per_shard]
            shards.append(Shard(f'{split}-{number:05d}', split, first, some))
    return shards


def _write_manifest(
    out: Path, scenes: MultiSensorDataset, shards: Sequence[Shard], config: Mapping[str, Any]
) -> None:
    """Say what is to be written, or check that it is what another part or an earlier run said.

    Raises:
        ValueError: If it is not.
    """
    splits: dict[str, int] = {}
    for one in shards:
        splits[one.split] = splits.get(one.split, 0) + len(one.queries)
    manifest: dict[str, Any] = {
        'version': VERSION,
        'sensors': list(scenes.datasets),
        'splits': splits,
        'patches': _digest(scenes, [one.queries for one in shards]),
        'shards': {one.name: {'split': one.split, 'chips': len(one.queries)} for one in shards},
        'config': json.loads(json.dumps(config)),
    }
    if not (out / MANIFEST).exists():
        out.mkdir(parents=True, exist_ok=True)
        _write_text(out / MANIFEST, json.dumps(manifest, indent=1))
        return
    there = read_manifest(out)
    old, new = _flat(there['config']), _flat(manifest['config'])
    differ = [key for key in old | new if old.get(key) != new.get(key)]
    if differ:
        lines = [f'  {key}: {old.get(key)} there, {new.get(key)} now' for key in differ[:_NAMED]]
        raise ValueError(
            f'{out}: was begun with another config; choose another folder:\n' + '\n'.join(lines)
        )
    if there != manifest:
        raise ValueError(
            f'{out}: was begun when the same config meant other patches: '
            f'{there["splits"]} there, {splits} now. Files were added, changed or removed since; '
            'choose another folder'
        )


def _digest(scenes: MultiSensorDataset, queries: Iterable[Sequence[GeoSlice]]) -> str:
    """A text that differs if any patch does, or what may answer it."""
    digest = hashlib.sha256()
    for query in itertools.chain.from_iterable(queries):
        ends = [(s.start, s.stop) for s in cast(tuple[slice, slice, slice], query)]
        digest.update(repr(ends).encode())
    for combination in scenes.lookup.combinations:
        names = {
            sensor: [
                member.acquisitions[path].name
                for member, path in zip(scenes.datasets[sensor], paths, strict=True)
            ]
            for sensor, paths in combination.items()
        }
        digest.update(repr(names).encode())
    return digest.hexdigest()


def _flat(values: Any, name: str = '') -> dict[str, Any]:
    """Nested values by their dotted names."""
    if not isinstance(values, dict):
        return {name: values}
    return {
        key: value
        for own, inner in values.items()
        for key, value in _flat(inner, f'{name}.{own}' if name else own).items()
    }


# -- chips -----------------------------------------------------------------------------------


class _Patches(Dataset[Written]):
    """Samples of queries as bytes."""

    def __init__(self, scenes: MultiSensorDataset, queries: Sequence[GeoSlice]) -> None:
        self.scenes = scenes
        self.queries = queries
        self.known: dict[int, dict[str, list[list[Calibration]]]] = {}

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, index: int) -> Written:
        query = self.queries[index]
        x, y, t = self.scenes._disambiguate_slice(query)
        row = self.scenes._answer(x, y, t)
        assert row is not None
        lattice = self.scenes.lattice(row)
        left, top, width, height = lattice.window(x, y, crs_text(self.scenes.crs.srs))
        if row not in self.known:
            self.known = {row: self._calibrations(row)}
        chip = encode(
            self.scenes[query], self.known[row], patch=(left, top, width, height), crs=lattice.crs
        )
        return chip, {
            'left': left,
            'top': top,
            'width': width,
            'height': height,
            'crs': lattice.crs,
            'start': pd.Timestamp(t.start).isoformat(),
            'stop': pd.Timestamp(t.stop).isoformat(),
        }

    def _calibrations(self, row: int) -> dict[str, list[list[Calibration]]]:
        """What may have made the images of a combination."""
        return {
            name: [
                list(_calibrations(member, path))
                for member, path in zip(self.scenes.datasets[name], paths)
            ]
            for name, paths in self.scenes.index.combination.iloc[row].items()
        }


def _calibrations(member: SensorDataset, path: str) -> Iterator[Calibration]:
    """Scales and offsets of the tiles of an acquisition, each once."""
    known = set()
    for tile in member.acquisitions[path].tiles:
        pairs = tuple(
            member._calibration(tile, band) if member.calibrate else (1.0, 0.0)
            for band in member._bands
        )
        if pairs not in known:
            known.add(pairs)
            scale, offset = np.array(pairs, dtype=np.float32).T.copy()
            yield scale, offset


# -- files -----------------------------------------------------------------------------------


def _is_written(out: Path, name: str) -> bool:
    """Whether a shard is there as its manifest says."""
    tar, own = out / f'{name}.tar', out / f'{name}.json'
    if not (own.exists() and tar.exists()):
        return False
    try:
        return bool(tar.stat().st_size == read_json(own)['bytes'])
    except ValueError:  # a manifest that was cut off
        return False


def _write_shard(out: Path, shard: Shard, chips: Iterable[Written]) -> None:
    """Write a tar, then its manifest; either is there as a whole or not at all."""
    for left_over in out.glob(f'.{shard.name}.*.part'):
        left_over.unlink()
    part = out / f'.{shard.name}.{uuid.uuid4().hex}.part'
    columns: dict[str, list[Any]] = {}
    # Ustar: one block of header, so that the place of a chip is known
    with part.open('wb') as file:
        with tarfile.open(fileobj=file, mode='w', format=tarfile.USTAR_FORMAT) as tar:
            for number, (chip, facts) in enumerate(chips):
                info = tarfile.TarInfo(f'{shard.split}-{shard.first + number:09d}.safetensors')
                info.size = len(chip)
                place = {'offset': file.tell() + tarfile.BLOCKSIZE, 'size': len(chip)}
                tar.addfile(info, BytesIO(chip))
                for key, value in (place | {'crc32': zlib.crc32(chip)} | facts).items():
                    columns.setdefault(key, []).append(value)
        file.flush()
        os.fsync(file.fileno())
    own = {'bytes': part.stat().st_size, 'sha256': file_digest(part)} | columns
    part.replace(out / f'{shard.name}.tar')
    _write_text(out / f'{shard.name}.json', json.dumps(own))


def _write_text(path: Path, text: str) -> None:
    """Write a small file as a whole."""
    part = path.with_name(f'.{path.name}.{uuid.uuid4().hex}.part')
    with part.open('w', encoding='utf-8') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _same(batch: Any) -> Any:
    """Leave what the workers send as it is."""
    return batch
