# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

from itertools import product

import numpy as np
import pytest

from torchgeo_anysensor.simulate.clouds import make_clouds
from torchgeo_anysensor.simulate.fields import (
    area_mean,
    block_any,
    box_mean,
    dilate,
    fractal,
    generator,
    majority,
)
from torchgeo_anysensor.simulate.landcover import WATER, make_landscape
from torchgeo_anysensor.simulate.scene import make_ground, sunlight


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_generators_depend_on_seed_and_purpose_alone():
    first = generator(0, 'map', 1).random(3)
    generator(0, 'clouds', 1).random(100)
    np.testing.assert_array_equal(first, generator(0, 'map', 1).random(3))
    for other in (generator(1, 'map', 1), generator(0, 'map', 2), generator(0, 'clouds', 1)):
        assert (first != other.random(3)).all()


@pytest.mark.parametrize('factor', [1, 2, 6])
def test_blocks_agree_with_loops(rng, factor):
    values = rng.random((24, 36), dtype=np.float32)
    codes = rng.integers(0, 5, (24, 36)).astype(np.uint8)
    shape = (24 // factor, 36 // factor)
    mean, best, any_set = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=bool)
    for i, j in product(range(shape[0]), range(shape[1])):
        window = np.s_[i * factor : (i + 1) * factor, j * factor : (j + 1) * factor]
        mean[i, j] = values[window].mean()
        best[i, j] = np.bincount(codes[window].ravel()).argmax()
        any_set[i, j] = (values[window] > 0.97).any()
    np.testing.assert_allclose(area_mean(values, factor), mean, rtol=1e-5)
    np.testing.assert_array_equal(majority(codes, factor=factor, count=5), best)
    np.testing.assert_array_equal(block_any(values > 0.97, factor), any_set)


@pytest.mark.parametrize('width', [1, 4, 5])
def test_box_mean_agrees_with_a_loop(rng, width):
    values = rng.random((12, 15), dtype=np.float32)
    before = width // 2
    padded = np.pad(values, (before, width - 1 - before), mode='edge')
    expected = [[padded[i : i + width, j : j + width].mean() for j in range(15)] for i in range(12)]
    np.testing.assert_allclose(box_mean(values, width), expected, rtol=1e-5)


def test_dilate_grows_a_point_to_a_square():
    flags = np.zeros((9, 9), dtype=bool)
    flags[4, 3] = True
    grown = dilate(flags, steps=2)
    assert grown.sum() == 25
    assert grown[2:7, 1:6].all()


def test_fractal_is_standard_and_correlated(rng):
    field = fractal(rng, size=200, largest=50, smallest=5)
    assert field.dtype == np.float32
    assert field.mean() == pytest.approx(0, abs=1e-4)
    assert field.std() == pytest.approx(1, abs=1e-4)
    near, far = (np.mean(field * np.roll(field, shift, axis=1)) for shift in (2, 80))
    assert near > 0.8
    assert abs(far) < 0.4


def test_shadows_fall_away_from_the_sun(rng):
    # Morning sun in the south-east: shadows to the north-west
    clouds = make_clouds(rng, size=300, cover=0.1, sun=(135.0, 45.0), cell_m=5)
    assert (clouds.opacity > 0).mean() == pytest.approx(0.1, abs=0.01)
    overlap = {
        (row, column): (np.roll(clouds.opacity, (row, column), (0, 1)) * clouds.shadow).sum()
        for row in range(-60, 61, 3)
        for column in range(-60, 61, 3)
    }
    row, column = max(overlap, key=overlap.__getitem__)
    assert row < 0
    assert column < 0
    assert abs(row - column) <= 3


def test_no_cover_no_clouds(rng):
    clouds = make_clouds(rng, size=50, cover=0, sun=(150.0, 50.0), cell_m=5)
    assert not clouds.cloudy.any()
    assert not clouds.shaded.any()


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('size', [174, 414])
def test_every_landscape_has_every_class(seed, size):
    landscape = make_landscape(generator(seed, 'map', 0), size=size)
    shares = np.bincount(landscape.classes.ravel(), minlength=10) / landscape.classes.size
    assert shares[0] == 0
    assert (shares[1:] > 0.004).all()
    assert shares.max() < 0.5
    assert (landscape.parcels[landscape.classes == WATER] == 0).all()


def test_ground_changes_between_seasons_and_map_does_not():
    landscape = make_landscape(generator(0, 'map', 0), size=174)
    spring, summer = (make_ground(landscape, seed=0, place=0, season=s) for s in (0.0, 1.0))
    np.testing.assert_array_equal(spring.seen, summer.seen)
    np.testing.assert_array_equal(spring.color, summer.color)
    assert (spring.entry != summer.entry).mean() > 0.02
    assert 0.02 < (spring.seen != spring.classes).mean() < 0.3
    for ground in (spring, summer):
        assert ((ground.above >= 0) & (ground.above <= 1)).all()
        assert ((ground.color >= 0) & (ground.color <= 1)).all()


def test_light_is_one_on_water_and_brighter_towards_the_sun():
    landscape = make_landscape(generator(0, 'map', 0), size=174)
    light = sunlight(landscape, (180.0, 45.0))
    assert (light[landscape.classes == WATER] == 1).all()
    falls_south = np.gradient(landscape.relief)[0] < 0
    land = landscape.classes != WATER
    assert (light[falls_south & land] > 1).all()
    assert (light[~falls_south & land] <= 1).all()
