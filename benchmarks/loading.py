# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What a sample of three sensors costs, beside TorchGeo's own way and beside bare reads.

    python benchmarks/loading.py
    python benchmarks/loading.py --profile
    python benchmarks/loading.py --memory 10000

Writes scenes (see ``loading_scenes.py``) to a temporary folder and reads random patches of them, in
each of several ways, the same patches in one run and in turns. Cold: GDAL may keep 16 MB of decoded
blocks, so that nearly all are decoded anew; warm: each patch was read just before. In both, files are
open already, as far as a way to load keeps them so. Times are medians for one patch, and so are MB: those
that the process asked the files for (Linux alone tells), and those of the sample's tensors.
"""

import argparse
import contextlib
import cProfile
import io
import itertools
import multiprocessing
import os
import pickle
import pstats
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import rasterio
import torch
from loading_scenes import HLS_BANDS, LANDSAT_BANDS, S2_BANDS, Scenes, write_scenes
from rasterio.windows import Window
from torch.utils.data import DataLoader, Dataset
from torchgeo.datasets import Landsat8, RasterDataset, Sentinel2

from torchgeo_anysensor.datasets import HLSS30, LandsatC2L2, MultiSensorDataset, Sentinel2L1C
from torchgeo_anysensor.samplers import AlignedPatchSampler

NEIGHBOURS, BATCH = 16, 64
FILE_BLOCK = 5120  # m: 512 pixels of 10 m, as the scenes are written
CACHES = {'cold': '16', 'warm': '1024'}  # GDAL_CACHEMAX, MB


class Source(NamedTuple):
    """One way to load: ``dataset[key]`` for each key is a sample."""

    dataset: Any
    keys: Sequence[Any]
    each: int = 1  #: patches of a key


# -- ways to load ------------------------------------------------------------------------------


def ours(
    scenes: Scenes, patches: argparse.Namespace, *, qa: bool = False, **folders: str
) -> Source:
    """The package's dataset and sampler."""
    names = {name: scenes.root / folders.get(name, name) for name in ('sentinel2', 'landsat')}
    dataset = MultiSensorDataset(
        {
            'sentinel2': [Sentinel2L1C(names['sentinel2'], res=r, qa=qa) for r in (10, 20, 60)],
            'landsat': LandsatC2L2(names['landsat'], bands=LANDSAT_BANDS, qa=qa),
            'hls': HLSS30(scenes.root / 'hls', bands=HLS_BANDS, qa=qa),
        }
    )
    sampler = AlignedPatchSampler(dataset, size=patches.size, length=patches.count, seed=0)
    return Source(dataset, list(sampler))


class Batches(Dataset):
    """A dataset whose keys are batches."""

    def __init__(self, dataset: MultiSensorDataset) -> None:
        """Of one whose keys are patches."""
        self.dataset = dataset

    def __getitem__(self, key: Any) -> list[Any]:
        """Read a batch as a DataLoader does."""
        return self.dataset.__getitems__(key)


def neighbours(scenes: Scenes, patches: argparse.Namespace, **folders: str) -> Source:
    """Ours, with batches of groups of patches that lie side by side."""
    dataset = ours(scenes, patches, **folders).dataset
    length = BATCH * -(-patches.count // NEIGHBOURS)
    sampler = AlignedPatchSampler(
        dataset,
        size=patches.size,
        length=length,
        neighbours=NEIGHBOURS,
        file_block=FILE_BLOCK,
        seed=0,
    )
    return Source(Batches(dataset), [*itertools.batched(sampler, BATCH)], each=BATCH)


class HLS(RasterDataset):
    """HLS as TorchGeo's documentation tells to add a sensor."""

    filename_glob = 'HLS.S30.*.B01.tif'
    filename_regex = r'^HLS\.S30\.T\w{5}\.(?P<date>\d{7}T\d{6})\.v2\.0\.(?P<band>\w+)\.tif$'
    date_format = '%Y%jT%H%M%S'
    separate_files = True
    all_bands = HLS_BANDS


def torchgeo(scenes: Scenes, patches: argparse.Namespace, **folders: str) -> Source:
    """``(s2 & l8) & hls``, for the same patches."""
    names = {name: scenes.root / folders.get(name, name) for name in ('sentinel2', 'landsat')}
    with contextlib.redirect_stdout(io.StringIO()):  # it says each pixel size that it changes
        dataset = (
            Sentinel2(names['sentinel2'], bands=S2_BANDS)
            & Landsat8(names['landsat'], bands=LANDSAT_BANDS)
        ) & HLS(scenes.root / 'hls', bands=HLS_BANDS)
    return Source(dataset, ours(scenes, patches, **folders).keys)


class Windows(Dataset):
    """The same pixels by nothing but windowed reads: what no loader of these files can beat."""

    def __init__(self, scenes: Scenes, *, qa: bool, folders: Sequence[str]) -> None:
        """Files are opened when they are first read."""
        self.times = [time.date() for time in scenes.times]
        self.files = [
            [
                path
                for folder in folders
                for band, path in scenes.files[folder][date].items()
                if qa or not band.startswith(('CLASSI', 'QA_', 'Fmask'))
            ]
            for date in range(scenes.dates)
        ]
        self.handles: dict[Path, rasterio.DatasetReader] = {}

    def __getitem__(self, key: Any) -> list[torch.Tensor]:
        """Read the native windows."""
        x, y, t = key
        arrays = []
        for path in self.files[self.times.index(t.start.date())]:
            if path not in self.handles:
                self.handles[path] = rasterio.open(path)
            src = self.handles[path]
            a = src.transform
            col, row = round((x.start - a.c) / a.a), round((y.stop - a.f) / a.e)
            window = Window(
                col, row, round((x.stop - x.start) / a.a), round((y.start - y.stop) / a.e)
            )
            arrays.append(torch.from_numpy(src.read(window=window)))
        return arrays


def bare(
    scenes: Scenes, patches: argparse.Namespace, *, qa: bool = False, **folders: str
) -> Source:
    """Windowed reads of rasterio, nothing calibrated or masked."""
    names = [folders.get(name, name) for name in ('sentinel2', 'landsat', 'hls')]
    return Source(
        Windows(scenes, qa=qa, folders=names), ours(scenes, patches, qa=qa, **folders).keys
    )


Way = Callable[..., Source]
#: Each is called with scenes, ``patches`` (``size`` in metres and ``count``), and other folders.
WAYS: dict[str, Way] = {
    'TorchGeo': torchgeo,
    'ours': ours,
    f'ours, neighbours={NEIGHBOURS}': neighbours,
    'bare reads': bare,
    'ours, same zone': lambda scenes, patches, **folders: Source(
        ours(scenes, patches).dataset, ours(scenes, patches, **folders).keys
    ),
    'ours, masked': lambda *args, **kwargs: ours(*args, qa=True, **kwargs),
    'bare reads, with quality bands': lambda *args, **kwargs: bare(*args, qa=True, **kwargs),
}


# -- measuring ---------------------------------------------------------------------------------


class Cost(NamedTuple):
    """Of one patch."""

    cpu: float  #: seconds
    wall: float
    read: float  #: MB
    mb: float


def bytes_read() -> int:
    """What this process has asked files for so far; 0 where the system does not tell."""
    told = Path('/proc/self/io')
    return int(told.read_text().split()[1]) if told.exists() else 0


def tensors(sample: Any) -> Iterator[torch.Tensor]:
    """All tensors of a sample."""
    if isinstance(sample, torch.Tensor):
        yield sample
    elif isinstance(sample, Mapping | list | tuple):
        for part in sample.values() if isinstance(sample, Mapping) else sample:
            yield from tensors(part)


def megabytes(sample: Any) -> float:
    """Of all tensors."""
    return sum(tensor.nbytes for tensor in tensors(sample)) / 1e6


def in_turns(sources: Mapping[str, Source], *, warm: bool) -> dict[str, Cost]:
    """Read patch by patch in this process, all ways in turns."""
    costs: dict[str, list[Cost]] = {name: [] for name in sources}
    for source in sources.values():
        for key in one_of_each_date(source):  # opens the files
            source.dataset[key]
    for turn in range(max(len(source.keys) for source in sources.values())):
        order = [*sources][turn % len(sources) :] + [*sources][: turn % len(sources)]
        for name in order:
            source = sources[name]
            key = source.keys[turn % len(source.keys)]
            for repeat in range(3 if warm else 1):
                read, cpu, wall = bytes_read(), time.process_time(), time.perf_counter()
                sample = source.dataset[key]
                spent = time.process_time() - cpu, time.perf_counter() - wall
                if repeat or not warm:
                    sizes = (bytes_read() - read) / 1e6, megabytes(sample)
                    each = (value / source.each for value in (*spent, *sizes))
                    costs[name].append(Cost(*each))
    return {n: Cost(*map(statistics.median, zip(*c))) for n, c in costs.items()}


def one_of_each_date(source: Source) -> Iterable[Any]:
    """A patch of each date, or a batch if keys are batches."""
    return (
        source.keys[:1] if source.each > 1 else {key[2].start: key for key in source.keys}.values()
    )


def stamped(samples: Sequence[Any]) -> tuple[int, float, int, float]:
    """What a worker's batch tells: its process, time and bytes so far, and MB of a sample."""
    return os.getpid(), time.process_time(), bytes_read(), megabytes(samples) / len(samples)


def in_workers(source: Source, *, warm: bool, workers: int, batch: int = 4) -> Cost:
    """Read batches in the workers of a DataLoader; those that open the files are not counted."""
    batch = batch if source.each == 1 else 1
    first = [key for key in one_of_each_date(source) for _ in range(batch * workers)]
    keys = [*source.keys]
    if warm:  # the same patches again and again
        first = keys = keys[: batch * workers]
        keys = keys * (len(source.keys) // (2 * workers) + 1)
    skip = len(first) // (batch * workers)  # batches of each worker
    loader = DataLoader(
        source.dataset,
        sampler=first + keys,
        batch_size=batch,
        num_workers=workers,
        collate_fn=stamped,
        multiprocessing_context='fork',
    )
    told: dict[int, list[tuple[float, int]]] = {}
    walls, sizes = [], []
    for pid, used, read, mb in loader:
        told.setdefault(pid, []).append((used, read))
        walls.append(time.perf_counter())
        sizes.append(mb)
    batch *= source.each
    pairs = [pair for own in told.values() for pair in itertools.pairwise(own[skip - 1 :])]
    if not pairs:
        raise SystemExit(
            f'--patches {len(source.keys) * source.each} are too few for {workers} workers'
        )
    spent, asked = ([(b[i] - a[i]) / batch for a, b in pairs] for i in (0, 1))
    skip *= workers
    wall = (walls[-1] - walls[skip - 1]) / ((len(walls) - skip) * batch)
    mb = statistics.median(sizes) / source.each
    return Cost(statistics.median(spent), wall, statistics.median(asked) / 1e6, mb)


def compare(
    scenes: Scenes, ways: Sequence[str], options: argparse.Namespace, cache: str, **folders: str
) -> dict[tuple[str, int], Cost]:
    """Costs of some ways, by their name and the number of workers."""
    warnings.simplefilter('ignore')
    patches = argparse.Namespace(size=options.size, count=options.patches)
    sources = {name: WAYS[name](scenes, patches, **folders) for name in ways}
    warm = cache == 'warm'
    found = {(name, 0): cost for name, cost in in_turns(sources, warm=warm).items()}
    if options.workers:
        for name, source in sources.items():
            fresh = WAYS[name](scenes, patches, **folders)  # no handle is inherited
            del source
            found[name, options.workers] = in_workers(fresh, warm=warm, workers=options.workers)
    return found


def peak_mb() -> float:
    """Most memory that this process has held, in MB."""
    status = Path('/proc/self/status')
    if status.exists():  # getrusage tells what the process held that started this one, if more
        lines = dict(line.split(':', 1) for line in status.read_text().splitlines())
        return int(lines['VmHWM'].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(pickled: bytes) -> str:
    """How far the memory of a worker grows over many patches, above what it has imported.

    Args:
        pickled: A :class:`Source`, as a worker gets its dataset.
    """
    before = peak_mb()
    source: Source = pickle.loads(pickled)
    marks = []
    for number, key in enumerate(source.keys, 1):
        source.dataset[key]
        if number in {len(source.keys) // 10, len(source.keys)}:
            marks.append(f'{peak_mb() - before:.0f} MB after {number} patches')
    return ', '.join(marks)


#: Functions of the package to what they do; each holds those below that it calls.
PARTS = {
    '__getitem__': 'a sample',
    '_answer': 'which acquisitions answer',
    'view': 'the views',
    'read_bands': 'their bands',
    '_decode': 'decoding',
    '_quality_codes': 'their quality bands',
    'is_bad': 'what the codes mean',
    '_to_units': 'calibration',
}


def profile(scenes: Scenes, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of a warm patch under the profiler, which makes Python slower, by part."""
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    patches = argparse.Namespace(size=options.size, count=1)
    dataset, (key,), _ = ours(scenes, patches, qa=True)
    dataset[key]
    profiler = cProfile.Profile(time.process_time)
    for _ in range(options.patches):
        profiler.runcall(dataset.__getitem__, key)
    found = dict.fromkeys(PARTS, 0.0)
    for (file, _, name), (*_, total, _) in pstats.Stats(profiler).stats.items():
        if name in found and 'torchgeo_anysensor' in file:
            found[name] += 1e3 * total / options.patches
    return {PARTS[name]: ms for name, ms in found.items()}


# -- report ------------------------------------------------------------------------------------


def rows(title: str, cache: str, costs: Mapping[tuple[str, int], Cost]) -> Iterable[str]:
    """Lines of the table; ratios are of processor time."""
    for (name, workers), cost in costs.items():
        other, floor = costs.get(('TorchGeo', workers)), None
        if name.startswith('ours'):
            masked = 'bare reads, with quality bands' if 'masked' in name else 'bare reads'
            floor = costs.get((masked, workers))
        cells = [
            title,
            cache,
            str(workers),
            name,
            f'{1e3 * cost.cpu:.1f}',
            f'{1e3 * cost.wall:.1f}',
            f'{cost.read:.2f}',
            f'{cost.mb:.2f}',
            f'{other.cpu / cost.cpu:.1f}' if other else '-',
            f'{cost.cpu / floor.cpu:.2f}' if floor else '-',
        ]
        yield f'| {" | ".join(cells)} |'


HEADS = [
    'files',
    'cache',
    'workers',
    'loader',
    'CPU ms',
    'wall ms',
    'MB read',
    'MB',
    'TorchGeo / it',
    'it / bare reads',
]

#: Title, dates, ways, and folders other than the usual ones.
PLAN: list[tuple[str, int, list[str], dict[str, str]]] = [
    ('3 dates', 3, [name for name in WAYS if 'zone' not in name], {}),
    ('12 dates', 12, ['TorchGeo', 'ours', f'ours, neighbours={NEIGHBOURS}', 'bare reads'], {}),
    (
        'Landsat in the next zone',
        1,
        ['TorchGeo', 'ours', 'ours, same zone'],
        {'landsat': 'landsat_next_zone'},
    ),
    (
        'Sentinel-2 as JPEG 2000',
        1,
        ['TorchGeo', 'ours', 'bare reads'],
        {'sentinel2': 'sentinel2_jp2'},
    ),
]


def one(
    scenes: Scenes,
    ways: Sequence[str],
    options: argparse.Namespace,
    cache: str,
    folders: Mapping[str, str],
) -> dict[tuple[str, int], Cost]:
    """A process of its own: GDAL takes the size of its cache once."""
    torch.set_num_threads(1)
    return compare(scenes, ways, options, cache, **folders)


def main(args: Sequence[str] | None = None) -> None:
    """Write scenes, measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--scene-km', type=float, default=30)
    parser.add_argument('--size', type=float, default=2220, help='width of a patch in metres')
    parser.add_argument('--patches', type=int, default=40)
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--only', nargs='+', choices=[title for title, *_ in PLAN])
    parser.add_argument('--memory', type=int, default=0, help='patches; prints nothing else')
    parser.add_argument('--profile', action='store_true', help='prints nothing else')
    parser.add_argument('--root', type=Path, help='keeps the scenes here, and uses those it finds')
    options = parser.parse_args(args)
    spawn = multiprocessing.get_context('spawn')
    with tempfile.TemporaryDirectory() as folder:
        root = options.root or Path(folder)
        if options.memory:
            os.environ['GDAL_CACHEMAX'] = '64'  # as the workers of MultiSensorDataModule
            patches = argparse.Namespace(size=options.size, count=options.memory)
            source = pickle.dumps(ours(scenes_of(root, 3, options), patches, qa=True))
            with ProcessPoolExecutor(1, spawn) as pool:
                print(pool.submit(memory, source).result())
            return
        if options.profile:
            os.environ['GDAL_CACHEMAX'] = CACHES['warm']
            with ProcessPoolExecutor(1, spawn) as pool:
                found = pool.submit(profile, scenes_of(root, 3, options), options).result()
            for part, ms in found.items():
                print(f'| {part} | {ms:.2f} |')
            return
        for line in (HEADS, ['---'] * len(HEADS)):
            print('| ' + ' | '.join(line) + ' |')
        for title, dates, ways, folders in PLAN:
            if options.only and title not in options.only:
                continue
            scenes = scenes_of(root, dates, options)
            for cache, megabytes in CACHES.items():
                os.environ['GDAL_CACHEMAX'] = megabytes
                with ProcessPoolExecutor(1, spawn) as pool:
                    costs = pool.submit(one, scenes, ways, options, cache, folders).result()
                for line in rows(title, cache, costs):
                    print(line, flush=True)


def scenes_of(root: Path, dates: int, options: argparse.Namespace) -> Scenes:
    """Scenes of so many dates, written where they are not there yet."""
    own = root / f'{dates} dates'
    if own.is_dir():
        return Scenes(own, options.scene_km, dates)
    return write_scenes(own, km=options.scene_km, dates=dates, jp2=dates == 1)


if __name__ == '__main__':
    main()
