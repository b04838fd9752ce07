# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from torchgeo_anysensor.datasets import Sentinel2L2A, plot
from torchgeo_anysensor.datasets.plot import draw_panels, true_color, view_panels


@pytest.fixture(autouse=True)
def _no_figures_stay():
    yield
    plt.close('all')


def draw(*panels, **options):
    return draw_panels(panels, **({'show_titles': True, 'suptitle': None} | options))


def hatched(figure, shape, axis=0):
    """Which pixels of a picture ``(H, W)`` have lines across them, as they are on the screen."""
    figure.canvas.draw()
    screen = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
    found = np.zeros(shape, dtype=bool)
    ax = figure.axes[axis]
    for row, col in np.ndindex(shape):
        (x0, y0), (x1, y1) = ax.transData.transform(
            [(col - 0.45, row + 0.45), (col + 0.45, row - 0.45)]
        )
        height = screen.shape[0]
        block = screen[int(height - y1) + 1 : int(height - y0), int(x0) + 1 : int(x1)]
        found[row, col] = (np.ptp(block, axis=(0, 1)) > 20).any()
    return found


@pytest.fixture
def mask():
    """All but a ring with a hole, a corner, a diagonal step and an edge is valid."""
    valid = torch.ones(10, 12, dtype=torch.bool)
    valid[2:7, 2:7] = False
    valid[4, 4] = True
    valid[0, 0] = valid[9, 11] = valid[8, 10] = False
    valid[:, 8] = False
    return valid


def test_what_is_not_valid_is_hatched_to_the_pixel(mask):
    picture = true_color(torch.full((3, 10, 12), 0.3), mask)
    figure = draw(('a', picture))
    assert np.array_equal(hatched(figure, mask.shape), ~mask.numpy())


def test_numbers_are_hatched_where_they_are_none(mask):
    figure = draw(('a', torch.where(mask, 1.0, torch.nan)))
    assert np.array_equal(hatched(figure, mask.shape), ~mask.numpy())


@pytest.mark.parametrize(
    'panel',
    [
        true_color(torch.rand(3, 4, 4), torch.ones(4, 4, dtype=torch.bool)),
        torch.rand(4, 4, 3),
        torch.tensor([[1, 2], [255, 3]]),
    ],
    ids=['valid', 'colours', 'classes'],
)
def test_nothing_else_is_hatched(panel):
    assert not draw(('a', panel)).axes[0].patches


def test_colours_are_stretched_by_what_is_valid():
    rgb = torch.linspace(0.1, 0.3, 300).reshape(3, 10, 10)
    valid = torch.ones(10, 10, dtype=torch.bool)
    rgb[:, 0, 0] = 50.0
    valid[0, 0] = False
    picture = true_color(rgb, valid)
    assert picture.shape == (10, 10, 4)
    assert picture[0, 0].tolist() == [0.5, 0.5, 0.5, 0]
    assert (picture[..., 3].bool() == valid).all()
    assert picture[9, 9, 2] == 1
    assert picture[0, 1, 0] == 0
    assert (picture[..., :3].amin(), picture[..., :3].amax()) == (0, 1)


def test_clouds_are_seen_below_the_hatching():
    rgb = torch.tensor([0.0, 0.1, 0.2, 0.9, 0.0]).expand(3, 1, 5)
    valid = torch.tensor([[True, True, True, False, False]])
    seen = torch.tensor([[True, True, True, True, False]])
    picture = true_color(rgb, valid, seen=seen)
    assert picture[0, 2, 0] == 1  # clouds do not darken the ground
    cloud, outside = picture[0, 3:]
    assert cloud[:3].min() > 0.8
    assert cloud[3] == 0
    assert outside.tolist() == [0.5, 0.5, 0.5, 0]


def test_picture_without_a_valid_pixel_is_grey():
    nothing = torch.zeros(2, 2, dtype=torch.bool)
    assert true_color(torch.zeros(3, 2, 2), nothing).unique().tolist() == [0, 0.5]


def test_one_band_is_a_grey_picture():
    picture = true_color(torch.rand(1, 5, 5), torch.ones(5, 5, dtype=torch.bool))
    assert picture.shape == (5, 5, 4)
    assert (picture[..., 0] == picture[..., 2]).all()


def series(dates):
    return {
        'image': torch.arange(dates).float()[:, None, None, None].expand(-1, 3, 2, 2) / dates,
        'valid': torch.ones(dates, 2, 2, dtype=torch.bool),
        't': torch.arange(dates, dtype=torch.float64) * 86400,
    }


def test_single_sample_is_one_panel():
    sample = {key: value[0] for key, value in series(2).items()}
    ((title, picture),) = view_panels(sample, [0, 1, 2], 'name')
    assert title == 'name'
    assert picture.shape == (2, 2, 4)


def test_time_series_has_a_panel_for_each_date():
    sample = series(3)
    sample['valid'][1, 0, 1] = False
    titles, pictures = zip(*view_panels(sample, [2, 1, 0], 'name'))
    assert titles == ('1970-01-01', '1970-01-02', '1970-01-03')
    assert [int(picture[..., 3].sum()) for picture in pictures] == [4, 3, 4]


@pytest.mark.parametrize('dates', [12, 13, 40])
def test_time_series_has_twelve_panels_at_most(dates):
    titles = [title for title, _ in view_panels(series(dates), [0, 1, 2], 'name')]
    assert len(titles) == len(set(titles)) == 12
    assert titles[0].startswith('1970-01-01')
    last = '1970-01-12' if dates == 12 else f'({dates} of {dates})'
    assert titles[-1].endswith(last)


@pytest.mark.parametrize(('panels', 'rows'), [(1, 1), (6, 1), (7, 2), (12, 2), (13, 3)])
def test_six_panels_in_a_row(panels, rows):
    figure = draw(*((str(i), torch.rand(2, 2, 3)) for i in range(panels)))
    assert [ax.get_title() for ax in figure.axes] == [str(i) for i in range(panels)]
    assert figure.axes[0].get_gridspec().nrows == rows
    assert figure.axes[0].get_gridspec().ncols <= 6


def test_wide_panels_make_a_wide_figure():
    width, height = draw(('a', torch.rand(10, 40, 3))).get_size_inches()
    assert width == pytest.approx(4 * height)


def test_dataset_hatches_what_its_quality_band_hides(world):
    def cloud(data):
        data[1, 2] = 9

    dataset = Sentinel2L2A(world.sentinel2_l2a(size=120, edit={'SCL_20': cloud}))
    sample = dataset[dataset.bounds]
    assert 0 < (~sample['valid']).sum() < 144
    found = hatched(dataset.plot(sample), (12, 12))
    assert np.array_equal(found, ~sample['valid'].numpy())


def test_quick_look_is_thinned(code, tmp_path, monkeypatch):
    monkeypatch.setattr(plot, '_PIXELS', 100)
    grid = code.grid(code.left, code.top, 10, (130, 250))
    path = code.write(tmp_path / 'a.tif', np.ones((130, 250), 'uint8'), grid)
    _, picture = plot.look_at_raster(str(path))
    assert picture.shape == (43, 83, 4)
