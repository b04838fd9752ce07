# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Fixtures of the whole suite: product trees, real files, simulated scenes.

Fixtures import what they need themselves: the process that deals the tests to the others reads this
file as well, before it starts them.
"""

import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import product_trees
    import torch

    from torchgeo_anysensor.datamodules import MultiSensorDataModule

os.environ['MPLBACKEND'] = 'Agg'
# The suite starts some twenty processes; without bytecode each would compile all modules anew
os.environ.pop('PYTHONDONTWRITEBYTECODE', None)
if 'PYTEST_XDIST_WORKER' in os.environ:
    # The workers share the cores already, and so do processes of theirs
    os.environ.setdefault('OMP_NUM_THREADS', '1')


@pytest.fixture(scope='session', autouse=True)
def _close_files() -> Iterator[None]:
    """Close the files that the datasets keep open, before the interpreter takes GDAL down."""
    yield
    from torchgeo_anysensor.datasets import handles

    handles._layers.cache_clear()
    handles._open.cache_clear()


@pytest.fixture(scope='session', autouse=True)
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is cached of read-only data out of the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        yield


@pytest.fixture
def world(tmp_path: Path) -> 'product_trees.World':
    """Builder of product trees in a folder of the test's own."""
    import product_trees as trees

    return trees.World(tmp_path / 'world')


@pytest.fixture(scope='session')
def code() -> SimpleNamespace:
    """The code of position, and what goes with it."""
    import product_trees as trees

    return SimpleNamespace(
        encode=trees.encode,
        decode=trees.decode,
        centres=trees.centres,
        grid=trees.make_grid,
        write=trees.write_raster,
        mtl=trees.mtl,
        s2_metadata=trees.s2_metadata,
        left=trees.LEFT,
        top=trees.TOP,
        size=trees.SIZE,
        epsg=trees.EPSG,
    )


@pytest.fixture(scope='session')
def shared_data() -> Iterator[Path]:
    """Real files that lie beside the repository on a developer's machine; nothing is written there."""
    folder = Path(__file__).resolve().parents[2] / 'shared' / 'data'
    if not folder.is_dir():
        pytest.skip(f'needs {folder}')
    from torchgeo_anysensor.datasets import cache

    allowed = os.access
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            cache.os,
            'access',
            lambda path, mode: folder not in Path(path).resolve().parents and allowed(path, mode),
        )
        yield folder


@pytest.fixture(scope='session')
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulated scenes of one place, 1.2 km wide, with spectra."""
    from torchgeo_anysensor.simulate import simulate_scenes

    root = tmp_path_factory.mktemp('demo') / 'scenes'
    return simulate_scenes(root, places=1, size_m=1200, spectrometer=True)


@pytest.fixture(scope='session')
def demo_sensors(demo: Path) -> dict[str, Any]:
    """Sentinel-2 on two grids and Landsat, of the simulated scenes."""
    from torchgeo_anysensor.datasets import LandsatC2L2, Sentinel2L2A

    return {
        'sentinel2_l2a': [Sentinel2L2A(demo / 'sentinel2', res=res) for res in (10, 20)],
        'landsat_c2l2': LandsatC2L2(demo / 'landsat'),
    }


@pytest.fixture(scope='session')
def scenes_of_chips(demo: Path, demo_sensors: dict[str, Any]) -> 'MultiSensorDataModule':
    """What the chips are made of: two sensors on three grids, and land cover."""
    from torchgeo_anysensor.datamodules import MultiSensorDataModule
    from torchgeo_anysensor.datasets import LabelRaster, MultiSensorDataset
    from torchgeo_anysensor.samplers import BlockSplit

    labels = LabelRaster(demo / 'landcover')
    dataset = MultiSensorDataset(demo_sensors, tolerance=3, require=1, labels=labels)
    return MultiSensorDataModule(dataset, size=240, split=BlockSplit(300), batch_size=4)


@pytest.fixture(scope='session')
def chips(
    tmp_path_factory: pytest.TempPathFactory, scenes_of_chips: 'MultiSensorDataModule'
) -> Path:
    """Chips of all splits in shards of 4, not to be changed."""
    from torchgeo_anysensor.prepare import write_chips

    root = tmp_path_factory.mktemp('chips') / 'demo'
    write_chips(scenes_of_chips, root, chips_per_shard=4)
    return root


def _awake[T: torch.nn.Module](module: T) -> T:
    """What begins with nothing has random weights, as after some training."""
    import torch

    for parameter in module.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return module


@pytest.fixture
def awake() -> 'Callable[[torch.nn.Module], torch.nn.Module]':
    return _awake


@pytest.fixture(scope='module')
def benchmark() -> 'Iterator[Callable[[str], ModuleType]]':
    """Imports a benchmark by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).resolve().parents[1] / 'benchmarks')
        yield importlib.import_module
