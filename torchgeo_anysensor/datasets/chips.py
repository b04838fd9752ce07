# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Patches that were written once, to be read many times."""

import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch.utils.data import Dataset

from ..types import MultiSensorSample
from .chip_format import Chip, PackedBatch, first_of

#: Raise it with every change of what is written.
VERSION = 1
MANIFEST = 'manifest.json'

_NAMED = 5  # files in an error
_AGAIN = 'Run the same `torchgeo-anysensor chip` again, which writes what is missing'


def read_json(path: Path) -> dict[str, Any]:
    """Read a manifest.

    Raises:
        ValueError: If it is no JSON.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text('utf-8'))
    except ValueError as error:
        raise ValueError(f'{path}: is damaged ({error}). {_AGAIN}') from None
    return found


def read_manifest(root: Path) -> dict[str, Any]:
    """Read what was to be written to a folder of chips.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is of another version, or damaged.
    """
    path = root / MANIFEST
    if not path.exists():
        raise FileNotFoundError(
            f'{path}: is not there; write chips with `torchgeo-anysensor chip --config CONFIG {root}`'
        )
    manifest = read_json(path)
    if manifest.get('version') != VERSION:
        raise ValueError(
            f'{path}: is of version {manifest.get("version")}, this package reads version {VERSION}; '
            'write the chips again, to a new folder, or use the package that wrote them'
        )
    return manifest


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


class ChippedDataset(Dataset[MultiSensorSample]):
    """Chips of one split, as ``torchgeo-anysensor chip`` wrote them.

    Its samples are those of the :class:`MultiSensorDataset` that they were made of, to the bit.
    :meth:`batch` reads many at once, without a copy more than is needed; it is what
    :class:`~..datamodules.ChippedDataModule` does.
    """

    def __init__(self, root: str | os.PathLike[str], *, split: str = 'train') -> None:
        """Read the manifests.

        Args:
            root: Folder of the chips.
            split: ``'train'``, ``'val'`` or ``'test'``, as the ground was dealt when they were
                written.

        Raises:
            FileNotFoundError: If there are no chips.
            ValueError: If a shard is missing or has another size than was written, the manifest is
                of another version, or there is no chip of the split.
        """
        self.root = Path(root)
        self.split = split
        self.manifest = read_manifest(self.root)
        splits = self.manifest['splits']
        if not splits.get(split):
            raise ValueError(
                f'{self.root}: has no chips of split={split!r}; it has '
                + ', '.join(f'{n} of {name}' for name, n in splits.items())
            )
        self.shards = [s for s, one in self.manifest['shards'].items() if one['split'] == split]
        self._facts = self._read_facts()
        counts = [len(facts['offset']) for facts in self._facts]
        self._shard = np.repeat(np.arange(len(counts)), counts)
        self._offset, self._size, self._crc = (
            np.concatenate([np.array(facts[key], dtype=np.int64) for facts in self._facts])
            for key in ('offset', 'size', 'crc32')
        )

    def _read_facts(self) -> list[dict[str, Any]]:
        """The manifest of each shard.

        Raises:
            ValueError: If a shard is missing or cut off.
        """
        wrong, found = [], []
        for shard in self.shards:
            tar, own = self.root / f'{shard}.tar', self.root / f'{shard}.json'
            if not (own.exists() and tar.exists()):
                wrong.append(f'{tar.name} is missing')
                continue
            found.append(read_json(own))
            if (size := tar.stat().st_size) != found[-1]['bytes']:
                wrong.append(f'{tar.name} has {size} bytes, and {found[-1]["bytes"]} were written')
        if wrong:
            named = '; '.join(wrong[:_NAMED]) + ('; ...' if len(wrong) > _NAMED else '')
            raise ValueError(
                f'{self.root}: {len(wrong)} of {len(self.shards)} shards of {self.split} cannot be '
                f'used: {named}. {_AGAIN}'
            )
        return found

    @cached_property
    def patches(self) -> pd.DataFrame:
        """Where and when each chip is.

        ``left``, ``top``, ``width`` and ``height`` (float64, in ``crs``), ``start``, ``stop`` and
        ``shard``.
        """
        columns = ('left', 'top', 'width', 'height', 'crs', 'start', 'stop')
        data = {key: [v for facts in self._facts for v in facts[key]] for key in columns}
        table = pd.DataFrame(data | {'shard': np.array(self.shards)[self._shard]})
        return table.astype({'start': 'datetime64[ns]', 'stop': 'datetime64[ns]'})

    def __len__(self) -> int:
        """Number of chips."""
        return len(self._shard)

    def __getitem__(self, index: int) -> MultiSensorSample:
        """Read a chip.

        Args:
            index: Its number.

        Returns:
            The sample that it was made of.

        Raises:
            IndexError: If there is no such chip.
            ValueError: If the shard is damaged.
        """
        return first_of(self.batch([range(len(self))[index]]))

    def batch(self, indices: Sequence[int]) -> MultiSensorSample:
        """Read a batch.

        Args:
            indices: Numbers of chips.

        Returns:
            What :func:`collate_sensors` makes of the samples. Its tensors share one piece of memory.

        Raises:
            ValueError: If a shard is damaged, or the chips do not go together.
        """
        return self.pack(indices).batch()

    def pack(self, indices: Sequence[int]) -> PackedBatch:
        """Read a batch that is to be sent to another process; see :meth:`batch`."""
        ends = np.cumsum(self._size[indices])
        # Kept for the next batch; pop, for another thread may be at it
        buffer = self.__dict__.pop('_buffer', b'')
        if len(buffer) < ends[-1]:
            buffer = bytearray(int(ends[-1]))
        memory = memoryview(buffer)
        packed = PackedBatch(
            [
                Chip(self._read(index, memory[end - self._size[index] : end]))
                for index, end in zip(indices, ends.tolist())
            ]
        )
        self._buffer = buffer
        return packed

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs."""
        return {key: value for key, value in self.__dict__.items() if key != '_buffer'}

    def _read(self, index: int, memory: memoryview) -> memoryview:
        """Read the bytes of a chip.

        Raises:
            ValueError: If they are not those that were written.
        """
        shard = self.shards[self._shard[index]]
        path = self.root / f'{shard}.tar'
        # Opened anew: a file that processes share has one position
        with path.open('rb', buffering=0) as file:
            file.seek(self._offset[index])
            read = file.readinto(memory)
        if read != len(memory) or zlib.crc32(memory) != self._crc[index]:
            raise ValueError(
                f'{path}: is damaged at chip {index} (its checksum differs). Remove {shard}.json, and '
                'run the same `torchgeo-anysensor chip` again, which writes the shard anew'
            )
        return memory

    def verify(self) -> None:
        """Read all shards and compare them with their SHA-256.

        Raises:
            ValueError: If one is damaged.
        """
        digests = {s: facts['sha256'] for s, facts in zip(self.shards, self._facts)}
        bad = [s for s, own in digests.items() if file_digest(self.root / f'{s}.tar') != own]
        if bad:
            raise ValueError(
                f'{self.root}: the checksum of {", ".join(f"{s}.tar" for s in bad)} differs. Remove '
                f'{", ".join(f"{s}.json" for s in bad)}, and run the same `torchgeo-anysensor chip` again'
            )
