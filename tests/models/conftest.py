# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest
import timm
import torch
import torchgeo.models.panopticon

from torchgeo_anysensor.types import SensorSample

ViewMaker = Callable[..., SensorSample]


def _make_view(
    bands: int = 4,
    *,
    size: tuple[int, int] = (12, 12),
    res: float = 10.0,
    batch: int = 2,
    thermal: bool = False,
    seed: int = 0,
) -> SensorSample:
    """A batched view of noise; the last band is thermal on request."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(batch, bands, *size, generator=generator)
    wavelength = torch.linspace(0.44, 2.2, bands)
    bandwidth = torch.linspace(0.02, 0.2, bands)
    if thermal:
        image[:, -1] = 280 + 30 * image[:, -1]
        wavelength[-1], bandwidth[-1] = 10.9, 0.6
    return SensorSample(
        image=image,
        valid=torch.ones(batch, *size, dtype=torch.bool),
        wavelength=wavelength,
        bandwidth=bandwidth,
        gsd=torch.full((bands,), res),
        res=torch.tensor(res),
        t=torch.zeros(batch, dtype=torch.float64),
        dx=torch.zeros(batch),
        dy=torch.zeros(batch),
        bounds=torch.zeros(batch, 9),
        transform=torch.zeros(batch, 9),
    )


@pytest.fixture
def make_view() -> ViewMaker:
    return _make_view


@pytest.fixture
def small_dinov2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Panopticon always makes a ViT-B, of 86 million parameters; here it makes a small one.

    Its blocks count from the start: the 1e-5 of DINOv2 would hide the image from the class token.
    """
    create = partial(timm.create_model, embed_dim=48, depth=2, num_heads=3, init_values=1.0)
    monkeypatch.setattr(torchgeo.models.panopticon, 'timm', SimpleNamespace(create_model=create))
