# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Which way from bands to a feature carries over to sensors that were never seen?

    python benchmarks/spectral_transfer.py            # run what is missing, then print the table
    python benchmarks/spectral_transfer.py --print    # print the table alone

Leaf area index is learned from simulated canopies as three sensors see them, and tested on other
canopies as those three and five others see them. Each finished training is a line of
logs/spectral_transfer.jsonl and is not run again, unless the sources that it depends on changed.
Trainings run side by side, each on one thread and with seeds of its own, so that their errors do not
depend on how many do.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchgeo_anysensor import models, simulate, types
from torchgeo_anysensor.comparison.training import digest
from torchgeo_anysensor.comparison.workers import end_with_parent
from torchgeo_anysensor.models import BandCode, FourierBandCode, NanometreBandCode, PointBandCode
from torchgeo_anysensor.models.interpolation import ANCHORS_UM, SpectralJoin, interpolate
from torchgeo_anysensor.models.spectral import FiLM, SpectralAttention
from torchgeo_anysensor.simulate.spectra import WAVELENGTH_UM, Leaf, canopy, leaf_albedo, soil

OUT = Path('logs/spectral_transfer.jsonl')
SEEDS = (0, 1, 2)
BATCH, DIM, CODE_DIM = 256, 96, 128
VIRTUAL_SHARE = 0.6  # of the batches, where there are virtual sensors
T_95 = 4.303  # Student's t of 2 degrees of freedom: 95 % with three seeds

#: Centre and full width at half maximum of the bands in nm. Sentinel-2A and Landsat 8 as in
#: torchgeo_anysensor.sensors; the others rounded, from their makers' pages: NAIP (Leica ADS100),
#: SuperDove (Planet), MODIS land bands (NASA), WorldView-3 VNIR and SWIR (Maxar), ASTER VNIR and
#: SWIR (JPL), and 20 bands spaced as an imaging spectrometer's.
SEEN = {
    'Sentinel-2': '443/20 493/65 560/35 665/30 704/15 741/15 783/20 833/105 865/21 1614/90 2202/174',
    'Landsat 8': '443/16 482/60 561/57 655/37 865/28 1609/85 2201/187',
    'NAIP': '465/60 555/60 635/50 845/90',
}
UNSEEN = {
    'SuperDove': '443/20 490/50 531/36 565/36 610/20 665/31 705/15 865/40',
    'MODIS': '469/20 555/20 645/50 858/35 1240/20 1640/24 2130/50',
    'WorldView-3': '425/50 480/60 545/70 605/40 660/60 725/40 832/125 950/180 '
    '1210/30 1570/40 1660/40 1730/40 2165/40 2205/40 2260/50 2330/70',
    'ASTER': '556/80 661/60 807/100 1656/100 2167/40 2209/40 2262/50 2336/70 2400/70',
    'spectrometer': ' '.join(f'{nm:.0f}/10' for nm in np.linspace(430, 2390, 20)),
}
CODES = {
    'integrated': BandCode,
    'without bandwidth': PointBandCode,
    'Copernicus Fourier': FourierBandCode,
    'nm sine-cosine': NanometreBandCode,
}


def sources() -> list[Path]:
    """The files that an error depends on: this one, and the parts of the package that it uses."""
    folders = (Path(str(part.__file__)).parent for part in (models, simulate))
    of_facts = Path(str(types.__file__))
    return [
        Path(__file__),
        of_facts,
        *(file for folder in folders for file in folder.rglob('*.py')),
    ]


#: Of the code that was imported, whatever its files have become since.
SOURCE = digest(sources())


@dataclass(frozen=True)
class Bands:
    """What a sensor is, and what it makes of a spectrum."""

    center: Tensor  #: ``(C,)`` um
    width: Tensor  #: ``(C,)`` um
    response: Tensor  #: ``(W, C)`` of sum 1


def gaussian_bands(center: Tensor, width: Tensor) -> Bands:
    """Bands of Gaussian response."""
    off = torch.from_numpy(WAVELENGTH_UM).float()[:, None] - center
    response = torch.exp(-0.5 * (off * 2.355 / width) ** 2)
    return Bands(center, width, response / response.sum(dim=0))


@lru_cache
def sensor(name: str) -> Bands:
    """One of the sensors above."""
    rows = [row.split('/') for row in (SEEN | UNSEEN)[name].split()]
    center, width = (torch.tensor([float(row[i]) / 1000 for row in rows]) for i in (0, 1))
    return gaussian_bands(center, width)


def virtual_sensor(generator: torch.Generator) -> Bands:
    """A sensor of 3 to 20 bands anywhere, 10 to 150 nm wide."""
    count = int(torch.randint(3, 21, (), generator=generator))
    u, v = torch.rand(2, count, generator=generator)
    return gaussian_bands(0.42 * (2.4 / 0.42) ** u, 0.01 * 15**v)


@lru_cache(maxsize=2)  # those of a seed are the same in all its trainings
def canopies(count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Draw canopies.

    Args:
        count: How many.
        seed: Of the draw.

    Returns:
        Spectra ``(count, W)`` and their leaf area index ``(count,)``.
    """
    rng = np.random.default_rng(seed)

    def draw(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, (count, 1))

    lai = draw(0, 7)
    leaf = Leaf(draw(5, 80), draw(0.004, 0.04), draw(0.002, 0.02), draw(0, 0.8))  # type: ignore[arg-type]
    ground = soil(draw(0.1, 0.5), moisture=draw(0, 1), iron=draw(0, 1))  # type: ignore[arg-type]
    spectra = canopy(leaf_albedo(leaf), lai=lai, background=ground, shade=draw(0.6, 1))  # type: ignore[arg-type]
    return torch.from_numpy(spectra).float(), torch.from_numpy(lai[:, 0]).float()


def observe(spectra: Tensor, bands: Bands, generator: torch.Generator) -> Tensor:
    """Reflectance ``(n, C)`` with noise of 1 % and 0.002."""
    seen = spectra @ bands.response
    noise = torch.randn(2, *seen.shape, generator=generator)
    return seen * (1 + 0.01 * noise[0]) + 0.002 * noise[1]


class LinearHypernetwork(nn.Module):
    """Sum bands by weights that a small network makes of their codes, as DOFA does."""

    def __init__(self) -> None:
        """Make the network, and the bias of the sum."""
        super().__init__()
        self.weight = nn.Sequential(
            nn.Linear(CODE_DIM, 2 * CODE_DIM), nn.GELU(), nn.Linear(2 * CODE_DIM, DIM)
        )
        self.bias = nn.Parameter(torch.zeros(DIM))

    def forward(self, x: Tensor, code: Tensor, bands: Bands) -> Tensor:
        """Join ``x`` ``(n, C)`` to ``(n, DIM)``."""
        joined: Tensor = x @ self.weight(code) / x.shape[1] ** 0.5 + self.bias
        return joined


class Attention(nn.Module):
    """Join bands by attention alone."""

    def __init__(self) -> None:
        """Make the attention; a pixel has one kernel for all bands."""
        super().__init__()
        self.basis = nn.Parameter(torch.randn(DIM))
        self.film = FiLM(DIM, code_dim=CODE_DIM)
        self.attention = SpectralAttention(DIM, out_dim=DIM)

    def forward(self, x: Tensor, code: Tensor, bands: Bands) -> Tensor:
        """Join ``x`` ``(n, C)`` to ``(n, DIM)``."""
        tokens = self.film(x[:, None, :, None] * self.basis, code)  # (n, 1, C, DIM)
        seen = torch.ones(tokens.shape[:3], dtype=torch.bool)
        joined: Tensor = self.attention(tokens, seen)
        return joined[:, 0]


class Interpolation(nn.Module):
    """A linear map of the spectrum at fixed wavelengths; no code."""

    def __init__(self) -> None:
        """Make the map."""
        super().__init__()
        self.linear = nn.Linear(len(ANCHORS_UM), DIM)

    def forward(self, x: Tensor, code: Tensor, bands: Bands) -> Tensor:
        """Join ``x`` ``(n, C)`` to ``(n, DIM)``."""
        seen = torch.ones(len(x), 1, x.shape[1], dtype=torch.bool)
        shown = interpolate(x[:, None, :, None], seen, bands.center)
        joined: Tensor = self.linear(shown.flatten(1))
        return joined


class Both(nn.Module):
    """Join bands as the encoder of this package does: interpolation, and attention beside it."""

    def __init__(self) -> None:
        """Make both; a pixel has one kernel for all bands."""
        super().__init__()
        self.basis = nn.Parameter(torch.randn(DIM))
        self.film = FiLM(DIM, code_dim=CODE_DIM)
        self.join = SpectralJoin(DIM, out_dim=DIM, plain_dim=1, latents=4, depth=2, heads=4)

    def forward(self, x: Tensor, code: Tensor, bands: Bands) -> Tensor:
        """Join ``x`` ``(n, C)`` to ``(n, DIM)``."""
        plain = x[:, None, :, None]  # (n, 1, C, 1)
        seen = torch.ones(plain.shape[:3], dtype=torch.bool)
        tokens = self.film(plain * self.basis, code)
        joined: Tensor = self.join(plain, tokens, seen, bands.center)
        return joined[:, 0]


WAYS = {
    'linear hypernetwork': LinearHypernetwork,
    'spectral attention': Attention,
    'interpolated spectrum': Interpolation,
    'both': Both,
}
#: Of interpolation with our own code alone, of which the interpolated spectrum makes no use.
ROWS = [*product(('linear hypernetwork', 'spectral attention'), CODES)]
ROWS += [('interpolated spectrum', 'integrated'), ('both', 'integrated')]


class Regressor(nn.Module):
    """Bands of any sensor to one number; what follows the bands is the same for all ways."""

    def __init__(self, way: str, code: str) -> None:
        """Make the network; *way* and *code* as in the table."""
        super().__init__()
        self.code = CODES[code](CODE_DIM)
        self.join = WAYS[way]()
        layers = [nn.LayerNorm(DIM), nn.Linear(DIM, 4 * DIM), nn.GELU()]
        layers += [nn.Linear(4 * DIM, 4 * DIM), nn.GELU(), nn.Linear(4 * DIM, 1)]
        self.head = nn.Sequential(*layers)

    def forward(self, reflectance: Tensor, bands: Bands) -> Tensor:
        """Estimate ``(n,)``."""
        code = self.code(bands.center, bands.width, torch.full_like(bands.center, 10.0))
        found: Tensor = self.head(self.join((reflectance - 0.2) / 0.2, code, bands))
        return 3.5 + 2 * found.squeeze(-1)


@dataclass(frozen=True)
class Training:
    """One training: its place in the table, and its size."""

    way: str
    code: str
    virtual: bool
    seed: int
    steps: int = 600
    canopies: int = 20_000  #: to learn from; a fifth as many others to test on


def run(training: Training) -> dict[str, float]:
    """Train once; give the error of each sensor, as root mean square."""
    seed, steps = training.seed, training.steps
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Regressor(training.way, training.code)
    spectra, lai = canopies(training.canopies, seed=2 * seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for step in range(steps):
        rows = torch.randint(len(lai), (BATCH,), generator=generator)
        drawn = training.virtual and float(torch.rand((), generator=generator)) < VIRTUAL_SHARE
        bands = virtual_sensor(generator) if drawn else sensor([*SEEN][step % len(SEEN)])
        estimate = model(observe(spectra[rows], bands, generator), bands)
        optimizer.zero_grad()
        (estimate - lai[rows]).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    spectra, lai = canopies(training.canopies // 5, seed=2 * seed + 1)
    errors = {}
    with torch.no_grad():
        for name in SEEN | UNSEEN:
            estimate = model(observe(spectra, sensor(name), generator), sensor(name))
            errors[name] = float((estimate - lai).square().mean().sqrt())
    return errors


def result(training: Training) -> dict[str, Any]:
    """Train on one thread; give the line of the file of results."""
    torch.set_num_threads(1)
    start = time.process_time()
    errors = run(training)
    spent = round(time.process_time() - start, 1)
    return {'training': asdict(training), 'source': SOURCE, 'errors': errors, 'cpu_s': spent}


def results(trainings: Sequence[Training], workers: int) -> Iterator[dict[str, Any]]:
    """Train side by side; give each result when it is there."""
    workers = min(workers, len(trainings))
    if workers <= 1:
        yield from map(result, trainings)
        return
    context = multiprocessing.get_context('spawn')
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent)
    try:
        for future in as_completed([pool.submit(result, training) for training in trainings]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def finished(out: Path) -> dict[Training, dict[str, float]]:
    """Errors of each sensor, by training, of those that were run with the present sources."""
    lines = map(json.loads, out.read_text().splitlines() if out.exists() else [])
    return {
        Training(**line['training']): line['errors']
        for line in lines
        if line.get('source') == SOURCE
    }


def table(trainings: Iterable[Training], done: Mapping[Training, dict[str, float]]) -> str:
    """Mean error of the sensors seen and never seen over the seeds, as Markdown."""
    heads = ['way', 'code', 'virtual sensors', 'seen', 'never seen', *UNSEEN]
    lines = [heads, ['---'] * len(heads)]
    rows: dict[tuple[str, str, bool], list[dict[str, float]]] = {}
    for one in trainings:
        runs = rows.setdefault((one.way, one.code, one.virtual), [])
        runs += [done[one]] if one in done else []
    for (way, code, virtual), runs in rows.items():
        if not runs:
            continue
        cells = [way, code, 'yes' if virtual else 'no']
        for names in (SEEN, UNSEEN):
            each = np.array([np.mean([errors[name] for name in names]) for errors in runs])
            half = T_95 * each.std(ddof=1) / len(each) ** 0.5 if len(each) == 3 else np.nan
            cells.append(f'{each.mean():.2f} ± {half:.2f}')
        cells += [f'{np.mean([errors[name] for errors in runs]):.2f}' for name in UNSEEN]
        lines.append(cells)
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def main(args: Sequence[str] | None = None) -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--print', action='store_true', dest='only_print')
    parser.add_argument('--ways', nargs='+', default=list(WAYS), choices=list(WAYS))
    parser.add_argument('--workers', type=int, default=os.cpu_count() or 1, help='processes')
    parser.add_argument('--steps', type=int, default=Training.steps)
    parser.add_argument('--canopies', type=int, default=Training.canopies)
    parser.add_argument('--out', type=Path, default=OUT, help='file of the finished trainings')
    options = parser.parse_args(args)
    trainings = [
        Training(way, code, virtual, seed, options.steps, options.canopies)
        for seed, (way, code), virtual in product(SEEDS, ROWS, (False, True))
    ]
    if not options.only_print:
        done = finished(options.out)
        missing = [one for one in trainings if one.way in options.ways and one not in done]
        options.out.parent.mkdir(parents=True, exist_ok=True)
        start, spent = time.perf_counter(), 0.0
        for line in results(missing, options.workers):
            with options.out.open('a') as file:
                file.write(json.dumps(line) + '\n')
            spent += line['cpu_s']
            print(Training(**line['training']), f'{line["cpu_s"]:.0f} s', flush=True)
        passed = time.perf_counter() - start
        print(f'{len(missing)} trainings: {passed:.0f} s, {spent:.0f} s of processors\n')
    print('RMSE of the leaf area index (0 to 7), 95 % by t where all seeds are finished:\n')
    print(table(trainings, finished(options.out)))


if __name__ == '__main__':
    main()
