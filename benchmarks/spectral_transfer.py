# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Which way from bands to a feature carries over to sensors that were never seen?

    python benchmarks/spectral_transfer.py            # run what is missing, then print the table
    python benchmarks/spectral_transfer.py --print    # print the table alone

Leaf area index is learned from simulated canopies as three sensors see them, and tested on other
canopies as those three and five others see them. Each finished run is a line of
logs/spectral_transfer.jsonl and is not run again.
"""

import argparse
import json
import time
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from torchgeo_anysensor.models import BandCode, FourierBandCode, NanometreBandCode, PointBandCode
from torchgeo_anysensor.models.interpolation import ANCHORS_UM, SpectralJoin, interpolate
from torchgeo_anysensor.models.spectral import FiLM, SpectralAttention
from torchgeo_anysensor.simulate.spectra import WAVELENGTH_UM, Leaf, canopy, leaf_albedo, soil

OUT = Path('logs/spectral_transfer.jsonl')
SEEDS = (0, 1, 2)
STEPS, BATCH, DIM, CODE_DIM = 600, 256, 96, 128
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


def run(way: str, code: str, *, virtual: bool, seed: int) -> dict[str, float]:
    """Train once; give the error of each sensor, as root mean square."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Regressor(way, code)
    spectra, lai = canopies(20_000, seed=2 * seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=STEPS)
    for step in range(STEPS):
        rows = torch.randint(len(lai), (BATCH,), generator=generator)
        drawn = virtual and float(torch.rand((), generator=generator)) < VIRTUAL_SHARE
        bands = virtual_sensor(generator) if drawn else sensor([*SEEN][step % len(SEEN)])
        estimate = model(observe(spectra[rows], bands, generator), bands)
        optimizer.zero_grad()
        (estimate - lai[rows]).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    spectra, lai = canopies(4_000, seed=2 * seed + 1)
    errors = {}
    with torch.no_grad():
        for name in SEEN | UNSEEN:
            estimate = model(observe(spectra, sensor(name), generator), sensor(name))
            errors[name] = float((estimate - lai).square().mean().sqrt())
    return errors


def finished() -> dict[tuple[str, str, bool, int], dict[str, float]]:
    """Errors of each sensor, by way, code, virtual sensors and seed."""
    lines = OUT.read_text().splitlines() if OUT.exists() else []
    return {tuple(row['key']): row['errors'] for row in map(json.loads, lines)}


def table() -> str:
    """Mean error of the sensors seen and never seen over the seeds, as Markdown."""
    done = finished()
    heads = ['way', 'code', 'virtual sensors', 'seen', 'never seen', *UNSEEN]
    lines = [heads, ['---'] * len(heads)]
    for (way, code), virtual in product(ROWS, (False, True)):
        runs = [done[way, code, virtual, s] for s in SEEDS if (way, code, virtual, s) in done]
        if not runs:
            continue
        cells = [way, code, 'yes' if virtual else 'no']
        for names in (SEEN, UNSEEN):
            each = np.array([np.mean([errors[name] for name in names]) for errors in runs])
            half = T_95 * each.std(ddof=1) / len(each) ** 0.5 if len(each) == len(SEEDS) else np.nan
            cells.append(f'{each.mean():.2f} ± {half:.2f}')
        cells += [f'{np.mean([errors[name] for errors in runs]):.2f}' for name in UNSEEN]
        lines.append(cells)
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--print', action='store_true', dest='only_print')
    parser.add_argument('--ways', nargs='+', default=list(WAYS), choices=list(WAYS))
    options = parser.parse_args()
    if not options.only_print:
        OUT.parent.mkdir(exist_ok=True)
        for seed, (way, code), virtual in product(SEEDS, ROWS, (False, True)):
            if way not in options.ways or (way, code, virtual, seed) in finished():
                continue
            start = time.perf_counter()
            errors = run(way, code, virtual=virtual, seed=seed)
            with OUT.open('a') as file:
                file.write(json.dumps({'key': [way, code, virtual, seed], 'errors': errors}) + '\n')
            print(f'{way}, {code}, {virtual=}, {seed=}: {time.perf_counter() - start:.0f} s')
    print(f'RMSE of the leaf area index (0 to 7), {len(SEEDS)} seeds, 95 % by t:\n\n{table()}')


if __name__ == '__main__':
    main()
