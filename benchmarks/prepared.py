# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What a sample costs from re-tiled files and from chips, beside TorchGeo's own way.

    python benchmarks/prepared.py
    python benchmarks/prepared.py --formats   # how chips could be stored; needs webdataset, litdata

Writes the scenes of ``loading_scenes.py`` to a temporary folder, re-tiles and chips them, and reads
patches in random order. Processor time of a sample, that of all processes together where there are
workers, and with the batch made.
"""

import argparse
import importlib.util
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from loading import in_turns, ours, scenes_of, torchgeo
from loading_scenes import Scenes
from safetensors import safe_open
from safetensors.numpy import save_file
from torch.utils.data import DataLoader, Dataset, get_worker_info

from torchgeo_anysensor.datamodules import ChipLoader, MultiSensorDataModule, chip_loader
from torchgeo_anysensor.datasets import ChippedDataset, collate_sensors
from torchgeo_anysensor.datasets.chip_format import Chip, PackedBatch
from torchgeo_anysensor.prepare import retile, write_chips
from torchgeo_anysensor.samplers import BlockSplit

COLD = '16'  # GDAL_CACHEMAX, MB


def in_process(work: Callable[..., Any], *args: Any) -> Any:
    """Run in a process of its own: GDAL takes the size of its cache once."""
    os.environ['GDAL_CACHEMAX'] = COLD
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(1, mp_context=context) as pool:  # a Pool's may have no workers
        return pool.submit(work, *args).result()


def prepare(scenes: Scenes, options: argparse.Namespace) -> tuple[Path, Path]:
    """Re-tile and chip, with what it takes."""
    retiled, chips = scenes.root / 'retiled', scenes.root / 'chips'
    for folder in ('sentinel2', 'landsat', 'hls'):
        report = retile(scenes.root / folder, retiled / folder)
        assert not report.problems
    patches = argparse.Namespace(size=options.size, count=1)
    dataset = ours(scenes, patches, qa=True).dataset
    split = BlockSplit(scenes.km * 1000, (1, 0, 0))
    write_chips(MultiSensorDataModule(dataset, size=options.size, split=split), chips)
    return retiled, chips


def used() -> float:
    """Processor time of this process and of those that it has ended."""
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return sum(u.ru_utime + u.ru_stime for u in (own, children))


# -- against TorchGeo --------------------------------------------------------------------------


def from_files(scenes: Scenes, retiled: Path, options: argparse.Namespace) -> dict[str, float]:
    """Seconds a sample from delivered and from re-tiled files, patch by patch in turns."""
    torch.set_num_threads(1)
    patches = argparse.Namespace(size=options.size, count=options.patches)
    again = Scenes(retiled, scenes.km, scenes.dates)
    sources = {
        'TorchGeo, delivered': torchgeo(scenes, patches),
        'ours, delivered': ours(scenes, patches),
        'ours, re-tiled': ours(again, patches),
        'TorchGeo, re-tiled': torchgeo(again, patches),
    }
    return {name: cost.cpu for name, cost in in_turns(sources, warm=False).items()}


def per_sample(make: Callable[[], Iterable[Any]], samples: int, epochs: int) -> float:
    """Processor seconds a sample over whole epochs, the start of workers included."""
    start = used()
    loader: Any = make()
    for _ in range(epochs):
        for _ in loader:
            pass
    del loader
    return (used() - start) / (samples * epochs)


def from_chips(chips: Path, options: argparse.Namespace) -> dict[str, float]:
    """Seconds a sample from chips, by workers."""
    torch.set_num_threads(1)
    multiprocessing.set_start_method(
        'fork', force=True
    )  # this process was spawned, its workers would be
    dataset = ChippedDataset(chips)

    def loader(workers: int) -> ChipLoader:
        return chip_loader(
            dataset, batch_size=options.batch, shuffle=True, seed=0, num_workers=workers
        )

    samples = len(loader(0)) * options.batch
    per_sample(lambda: loader(0), samples, 1)  # the disk is not what is measured
    return {
        f'chips, {workers} workers': per_sample(
            lambda workers=workers: loader(workers), samples, options.epochs
        )
        for workers in (0, options.workers)
    }


def against_torchgeo(scenes: Scenes, options: argparse.Namespace) -> None:
    """Print the first table."""
    retiled, chips = prepare(scenes, options)
    found = in_process(from_files, scenes, retiled, options)
    found |= in_process(from_chips, chips, options)
    table(['loader', 'CPU ms', 'TorchGeo / it'])
    for name, cost in found.items():
        table([name, f'{1e3 * cost:.2f}', f'{found["TorchGeo, delivered"] / cost:.1f}'], body=True)


# -- formats -----------------------------------------------------------------------------------


def batches(count: int, batch: int) -> list[list[int]]:
    """Random batches, each number once."""
    order = np.random.default_rng(0).permutation(count)
    return [order[i : i + batch].tolist() for i in range(0, count - batch + 1, batch)]


def contents(dataset: ChippedDataset) -> Iterator[bytes]:
    """Each chip as it is stored."""
    for index in range(len(dataset)):
        yield bytes(dataset._read(index, memoryview(bytearray(int(dataset._size[index])))))


Load = Callable[[list[int]], Any]


def ours_by_offset(dataset: ChippedDataset, root: Path, batch: int) -> Load:
    """Tar of safetensors, each chip at its offset, with its checksum."""
    return dataset.pack


def webdataset_stream(dataset: ChippedDataset, root: Path, batch: int) -> Load:
    """The same tar by WebDataset's own pipeline: mixed in a buffer, whatever the numbers."""
    import webdataset as wds

    urls = sorted(map(str, dataset.root.glob('train-*.tar')))
    stream: list[Iterator[Any]] = []

    def load(indices: list[int]) -> PackedBatch:
        if not stream:
            pipeline = wds.WebDataset(urls, shardshuffle=False, empty_check=False)
            stream.append(iter(pipeline.shuffle(4 * batch).repeat()))
        chips = [next(stream[0])['safetensors'] for _ in indices]
        return PackedBatch([Chip(memoryview(chip)) for chip in chips])

    return load


def litdata_writer(dataset: ChippedDataset, root: Path, items: Iterable[Any]) -> Any:
    """A streaming dataset of items."""
    from litdata import StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    root.mkdir()
    writer = BinaryWriter(str(root), chunk_bytes='64MB')
    for index, item in enumerate(items):
        writer.add_item(index, item)
    writer.done()
    writer.merge(1)
    return StreamingDataset(str(root))


def litdata_tensors(dataset: ChippedDataset, root: Path, batch: int) -> Load:
    """Samples as LitData stores them: each tensor a leaf, float32."""
    stored = litdata_writer(dataset, root, (dataset[i] for i in range(len(dataset))))
    return lambda indices: collate_sensors([stored[i] for i in indices])


def litdata_bytes(dataset: ChippedDataset, root: Path, batch: int) -> Load:
    """Chips as LitData's items of bytes, made a batch as ours are."""
    stored = litdata_writer(dataset, root, contents(dataset))
    return lambda indices: PackedBatch([Chip(memoryview(stored[i])) for i in indices])


class Row(Chip):
    """A chip of columns."""

    def __init__(self, columns: Mapping[tuple[str, int, str], Any], index: int) -> None:
        """Cut the row out of each column."""
        self.mask = None
        self.sensors: dict[str, list[dict[str, Any]]] = {}
        for (name, number, key), column in columns.items():
            views = self.sensors.setdefault(name, [])
            if number == len(views):
                views.append({})
            views[number][key] = column[index]


def columns(dataset: ChippedDataset, root: Path, batch: int) -> Load:
    """One safetensors file, mapped, with all chips in each tensor."""
    root.mkdir()
    chips = [Chip(memoryview(content)) for content in contents(dataset)]
    keys = [
        (name, number, key)
        for name, views in chips[0].sensors.items()
        for number, view in enumerate(views)
        for key in view
    ]
    arrays = {
        f'{name}/{number}/{key}': np.stack([chip.sensors[name][number][key] for chip in chips])
        for name, number, key in keys
    }
    save_file(arrays, root / 'all.safetensors')
    file = safe_open(root / 'all.safetensors', 'np').__enter__()
    slices = {key: file.get_slice('/'.join(map(str, key))) for key in keys}
    return lambda indices: PackedBatch([Row(slices, index) for index in indices])


FORMATS: dict[str, tuple[str, Callable[..., Load]]] = {
    'tar of safetensors, by offset (ours)': ('', ours_by_offset),
    "the same tar by WebDataset's stream": ('webdataset', webdataset_stream),
    'LitData, each tensor a leaf': ('litdata', litdata_tensors),
    'LitData, a chip a leaf': ('litdata', litdata_bytes),
    'safetensors, mapped, by column': ('', columns),
}


class Loads(Dataset[Any]):
    """Whole batches for a DataLoader."""

    def __init__(self, load: Load, plan: list[list[int]]) -> None:
        """Take what there is to load."""
        self.load = load
        self.plan = plan

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.plan)

    def __getitem__(self, index: int) -> Any:
        """Load a batch; only a worker sends it on."""
        batch = self.load(self.plan[index])
        plain = isinstance(batch, PackedBatch) and get_worker_info() is None
        return batch.batch() if plain else batch


def cost_of(name: str, chips: Path, batch: int, workers: int) -> tuple[float, float, float]:
    """Seconds to import, and a sample in this process and in workers."""
    torch.set_num_threads(1)
    multiprocessing.set_start_method('fork', force=True)
    module, build = FORMATS[name]
    start = time.process_time()
    if module:
        importlib.import_module(module)
    imported = time.process_time() - start
    with tempfile.TemporaryDirectory() as folder:
        dataset = ChippedDataset(chips)
        load = build(dataset, Path(folder) / 'data', batch)
        plan = batches(len(dataset), batch)
        costs = []
        for count in (workers, 0):  # a thread of this process would not be in its workers
            loader = DataLoader(
                Loads(load, plan), batch_size=None, num_workers=count, collate_fn=_same
            )
            runs = [
                per_sample(lambda loader=loader: loader, len(plan) * batch, 1) for _ in range(3)
            ]
            costs.append(min(runs))
    return imported, costs[1], costs[0]


def _same(batch: Any) -> Any:
    """Leave a batch as it is."""
    return batch


def compression(chips: Path) -> Iterator[list[str]]:
    """Size and time of the ways to store the images of a chip."""
    dataset = ChippedDataset(chips)
    chip = Chip(memoryview(next(contents(dataset))))
    views = [view for several in chip.sensors.values() for view in several]
    stored = np.concatenate([view['image'].ravel().view(np.uint16) for view in views])
    image = dataset[0]
    floats = [view['image'].ravel() for several in image['sensors'].values() for view in several]
    split = stored.view(np.uint8).reshape(-1, 2).T.copy()
    for title, array in (
        ('float32', torch.cat(floats).numpy()),
        ('digital numbers', stored),
        ('digital numbers, bytes apart', split),
    ):
        for codec in (None, 'lz4', 'zstd'):
            packed = (
                array.tobytes()
                if codec is None
                else pyarrow.Codec(codec).compress(array, asbytes=True)
            )
            start = time.process_time()
            for _ in range(20):
                if codec is None:
                    np.copyto(np.empty_like(array), array)
                    continue
                opened = np.frombuffer(
                    pyarrow.Codec(codec).decompress(packed, array.nbytes), np.uint8
                )
                if array is split:
                    np.copyto(np.empty((stored.size, 2), np.uint8), opened.reshape(2, -1).T)
            cost = (time.process_time() - start) / 20
            yield [title, codec or 'none', f'{len(packed) / 1e6:.2f}', f'{1e3 * cost:.2f}']


def formats(scenes: Scenes, options: argparse.Namespace) -> None:
    """Print the tables of ways to store."""
    _, chips = prepare(scenes, options)
    table(['format', 'import s', 'CPU ms', f'CPU ms, {options.workers} workers'])
    for name, (module, _) in FORMATS.items():
        if module and importlib.util.find_spec(module) is None:
            table([name, 'not installed', '', ''], body=True)
            continue
        imported, *costs = in_process(cost_of, name, chips, options.batch, options.workers)
        table([name, f'{imported:.2f}', *(f'{1e3 * cost:.2f}' for cost in costs)], body=True)
    print()
    table(['images', 'compression', 'MB a chip', 'CPU ms to open'])
    for cells in compression(chips):
        table(cells, body=True)


def table(cells: Sequence[str], *, body: bool = False) -> None:
    """Print a row of a Markdown table, or its head."""
    print(f'| {" | ".join(cells)} |', flush=True)
    if not body:
        print(f'| {" | ".join(["---"] * len(cells))} |', flush=True)


def main(args: Sequence[str] | None = None) -> None:
    """Write scenes, prepare, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--scene-km', type=float, default=30)
    parser.add_argument('--size', type=float, default=2220, help='width of a patch in metres')
    parser.add_argument('--patches', type=int, default=20, help='read from files')
    parser.add_argument('--batch', type=int, default=16, help='chips in a batch')
    parser.add_argument('--epochs', type=int, default=4, help='over the chips')
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--formats', action='store_true', help='compare ways to store chips')
    parser.add_argument('--root', type=Path, help='keeps the scenes here, and uses those it finds')
    options = parser.parse_args(args)
    with tempfile.TemporaryDirectory() as folder:
        scenes = scenes_of(options.root or Path(folder), 3, options)
        (formats if options.formats else against_torchgeo)(scenes, options)


if __name__ == '__main__':
    main()
