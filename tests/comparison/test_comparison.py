# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The comparison must be able to say no."""

from dataclasses import replace

import numpy as np
import pytest
import shapely
import torch

from torchgeo_anysensor.comparison import (
    Budget,
    FewLabels,
    LeaveOut,
    OtherSeason,
    Probe,
    Regression,
    SensorMatrix,
    SensorsRemoved,
    difference,
    evaluate,
)
from torchgeo_anysensor.comparison.cells import ground_of, plan, run_cell
from torchgeo_anysensor.comparison.figures import mosaic
from torchgeo_anysensor.comparison.patches import Patches, check_apart, check_labels, read_patches
from torchgeo_anysensor.comparison.protocols import Condition, Mistold, patches_of
from torchgeo_anysensor.comparison.scores import (
    BINS,
    Bootstrap,
    Counts,
    calibration_error,
    count,
    interval,
    iou,
    miou,
)
from torchgeo_anysensor.datamodules import MultiSensorDataModule
from torchgeo_anysensor.datasets import (
    LabelRaster,
    LandsatC2L2,
    MultiSensorDataset,
    Sentinel2L2A,
    take_rows,
)
from torchgeo_anysensor.models import Features, SensorEncoder, anysensor_vit_tiny, to_grid
from torchgeo_anysensor.samplers import BlockSplit
from torchgeo_anysensor.samplers.splits import Splits
from torchgeo_anysensor.transforms import RandomBandDrop

S2, L8 = 'sentinel2_l2a', 'landsat_c2l2'
CLASSES = [f'class {number}' for number in range(9)]
PROTOCOL = SensorMatrix([S2, L8])


class Spectrum(SensorEncoder):
    """Reflectance at fixed wavelengths, from the nearest bands: no training, wavelengths matter."""

    at = (0.49, 0.56, 0.66, 0.865, 1.61, 2.2)

    def __init__(self, shift: int = 0) -> None:
        """Make it; *shift* plants wavelengths of other bands."""
        super().__init__()
        self.embed_dim, self.shift, self.init_args = len(self.at), shift, {'shift': shift}

    def forward(self, views, *, token_m=None):
        """One token for each 30 m."""
        view = views[0]
        n = round(view['image'].shape[-1] * float(view['res']) / 30)
        raster = to_grid(views, (n, n))
        centre = raster.wavelength[0].roll(self.shift)
        chosen = [int((centre - um).abs().argmin()) for um in self.at]
        tokens = raster.image[:, chosen].flatten(2).mT
        valid = (raster.seen > 0).any(dim=1).flatten(1)
        return Features(tokens, tokens.mean(dim=1), (n, n), valid)


@pytest.fixture(scope='module')
def data(demo):
    """Sentinel-2 and Landsat of the demo scenes, with their land cover."""
    labels = LabelRaster(demo / 'landcover', classes={k + 1: k for k in range(9)})
    sentinel2 = [Sentinel2L2A(demo / 'sentinel2', res=res) for res in (10, 20)]
    sensors = {S2: sentinel2, L8: LandsatC2L2(demo / 'landsat')}
    scenes = MultiSensorDataset(sensors, tolerance=3, labels=labels)
    split = BlockSplit(480, fractions=(0.5, 0.2, 0.3), buffer=60)
    return MultiSensorDataModule(scenes, size=120, split=split)


def table(encoder, data, protocol=PROTOCOL, seeds=(0, 1)):
    return evaluate(encoder, data, protocol, classes=CLASSES, seeds=seeds, budget=Budget(trials=1))


@pytest.fixture(scope='module')
def honest(data):
    return table(Spectrum(), data)


def test_row_of_a_users_encoder(honest):
    assert list(honest['case']) == [S2, S2, L8, L8]
    assert list(honest['test']) == [S2, L8, S2, L8]
    assert ((honest['low'] <= honest['high']) & (honest['miou'] > 0.2)).all()
    assert {'accuracy', 'ece', 'blocks', 'iou/class 0'} <= set(honest)


def test_shuffled_wavelengths_are_caught(honest, data):
    planted = table(Spectrum(shift=2), data)
    for key in ((S2, L8), (L8, S2)):
        found = difference(planted.attrs['counts'][key], honest.attrs['counts'][key])
        assert found.verdict == 'worse'
        assert found.high < 0
    itself = difference(honest.attrs['counts'][S2, L8], honest.attrs['counts'][S2, L8])
    assert itself.verdict == 'no difference shown'
    assert itself.value == 0


class Leaking(BlockSplit):
    """Deals the test ground to train as well."""

    def __call__(self, dataset):
        ground = super().__call__(dataset)
        return Splits(shapely.union(ground.train, ground.test), ground.val, ground.test)


def test_shared_ground_is_caught(data):
    leak = Leaking(**{k: getattr(data.split, k) for k in ('size', 'fractions', 'buffer', 'seed')})
    with pytest.raises(ValueError, match='train and test share ground'):
        read_patches(data, leak)


def test_a_file_that_is_there_twice_is_caught(data):
    splits = read_patches(data, data.split)
    twice = replace(splits['train'], bounds=splits['train'].bounds + 1e6)
    with pytest.raises(ValueError, match='same pixels at different coordinates'):
        check_apart({'train': splits['train'], 'test': twice})


def test_labels_are_whole_places_and_nested(data):
    train = read_patches(data, data.split)['train']
    few, more = (Condition((S2,), labels=share)(train, seed=3) for share in (0.1, 0.5))
    places = [{tuple(b) for b in p.bounds.tolist()} for p in (few, more, train)]
    assert places[0] < places[1] < places[2]
    assert len(places[0]) == pytest.approx(0.1 * len(places[2]), abs=1)
    assert list(few.batch['sensors']) == [S2]


def test_hidden_bands_and_coarser_pixels(data):
    val = read_patches(data, data.split)['val']
    views = val.look([S2], without_um=[(0.69, 0.80)], res=30).batch['sensors'][S2]
    assert all(float(view['res']) == 30 and view['image'].shape[-1] == 4 for view in views)
    centres = torch.cat(
        [view['wavelength'].reshape(-1, view['image'].shape[1])[0] for view in views]
    )
    assert len(centres) == 7
    assert not ((centres > 0.69) & (centres < 0.80)).any()
    fine, coarse = val.batch['sensors'][S2][0], views[0]
    whole = fine['valid'].flatten(1).all(dim=1)
    expected = torch.nn.functional.avg_pool2d(fine['image'][whole], 3)
    torch.testing.assert_close(coarse['image'][whole], expected)


def test_bands_are_mistold_in_the_test_alone(data):
    (case,) = Mistold(S2).cases([S2, L8])
    val = read_patches(data, data.split)['val']
    told, wrong = (patches_of(val, case, test, seed=0).batch['sensors'][S2] for test in case.tests)
    for one, other in zip(told, wrong):
        assert torch.equal(one['image'], other['image'])
        for key in ('wavelength', 'bandwidth'):
            assert torch.equal(one[key].roll(1, -1), other[key])
            assert not torch.equal(one[key], other[key])
    assert not case.train.mistold
    assert not case.pretrain.mistold


def test_seasons_and_few_labels_choose_what_they_say(data):
    train = read_patches(data, data.split)['train']
    case = OtherSeason(S2, ('2023-05-01', '2023-05-31'), ('2023-07-01', '2023-07-31')).cases([S2])[
        0
    ]
    spring, summer = (case.tests[k].condition(train) for k in (0, 1))
    assert spring.time.max() < summer.time.min()
    assert len(spring) + len(summer) == len(train)
    assert [c.train.labels for c in FewLabels(S2).cases([S2, L8])] == [0.01, 0.1, 1.0]
    names = [c.name for c in FewLabels(S2, fractions=(0.001, 0.004, 0.015)).cases([S2])]
    assert names == ['0.1%', '0.4%', '1.5%']


def test_missing_weights_are_named_and_a_folder_has_some(tmp_path):
    assert 'no weights at nowhere.ckpt' in Probe('nowhere.ckpt').missing()
    anysensor_vit_tiny(depth=1).save_pretrained(tmp_path)
    shared = Probe(str(tmp_path))
    assert shared.missing() is None
    assert shared.weights() is not None


def test_scores_by_hand():
    confusion = np.array([[3.0, 1, 0], [2, 4, 0], [0, 0, 0]])
    assert iou(confusion)[:2] == pytest.approx([3 / 6, 4 / 7])
    assert np.isnan(iou(confusion)[2])
    assert miou(confusion) == pytest.approx((3 / 6 + 4 / 7) / 2)


def test_counts_by_block_and_calibration():
    probabilities = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])[..., None, None]
    mask = torch.tensor([0, 1, 255])[:, None, None]
    found = count(probabilities, mask, torch.tensor([7, 4, 4]), num_classes=2)
    assert found.block.tolist() == [4, 7]
    assert found.confusion.tolist() == [[[0, 0], [1, 0]], [[1, 0], [0, 0]]]
    assert calibration_error(found) == pytest.approx((0.1 + 0.6) / 2, abs=1e-6)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    """Blocks with an error rate of their own: pixels in a block are no independent evidence."""
    rng = np.random.default_rng(0)
    hits, trials, size = 0, 150, 400
    for trial in range(trials):
        good = np.round(size * rng.beta(8, 2, size=30)).astype(int)
        confusion = np.zeros((30, 2, 2), dtype=np.int64)
        confusion[:, 0, 0], confusion[:, 0, 1] = good, size - good
        counts = Counts(np.arange(30), confusion, np.zeros((30, BINS, 3)))
        low, high = interval(*Bootstrap(counts.block, replicates=300, seed=trial).miou([counts]))
        hits += low <= 0.8 <= high
    assert 0.85 < hits / trials <= 1


def test_interval_of_patchy_classes_is_rough_but_better_than_percentiles():
    """Nine classes, each in few of the ten blocks of a test: the verdict calls this rough."""
    rng = np.random.default_rng(0)
    skill = rng.uniform(0.4, 0.9, 9)

    def blocks(count):
        share = rng.dirichlet(np.full(9, 0.3), size=count)
        pixels = np.stack([rng.multinomial(2000, one) for one in share])
        good = np.clip(skill + rng.normal(0, 0.1, (count, 1)), 0.05, 0.98)
        hits = rng.binomial(pixels, good)
        confusion = np.stack([rng.multinomial(n, np.full(9, 1 / 9)) for n in (pixels - hits).flat])
        confusion = confusion.reshape(count, 9, 9)
        confusion[:, range(9), range(9)] += hits
        return confusion

    truth = float(miou(blocks(3000).sum(axis=0).astype(float)))
    corrected, plain = 0, 0
    for trial in range(60):
        place = blocks(48)
        deals = [np.sort(rng.permutation(48)[:10]) for _ in range(3)]
        tests = [Counts(deal, place[deal], np.zeros((10, BINS, 3))) for deal in deals]
        numbers = np.concatenate(deals)
        value, drawn = Bootstrap(numbers, replicates=200, seed=trial).miou(tests)
        low, high = interval(value, drawn)
        corrected += low <= truth <= high
        low, high = np.quantile(drawn, [0.025, 0.975])
        plain += low <= truth <= high
    assert plain < corrected
    assert 0.65 < corrected / 60 < 0.95


def test_other_pixels_cannot_be_compared():
    a = Counts(np.array([1]), np.array([[[2, 0], [0, 1]]]), np.zeros((1, BINS, 3)))
    b = Counts(np.array([1]), np.array([[[1, 0], [0, 1]]]), np.zeros((1, BINS, 3)))
    with pytest.raises(ValueError, match='same pixels'):
        difference([a], [b])


def test_maps_lie_as_on_the_ground():
    """Patches in any order make the picture that they were cut from."""
    whole = torch.arange(48).reshape(6, 8)  # 6 x 8 pixels of 10 m
    corners = [(row, column) for row in (3, 0) for column in (4, 0)]  # from the south-east
    cut = torch.stack([whole[r : r + 3, c : c + 4] for r, c in corners])
    bounds = [
        [500 + 10 * c, 860 - 10 * (r + 3), 500 + 10 * (c + 4), 860 - 10 * r] for r, c in corners
    ]
    nothing = torch.zeros(4, dtype=torch.long)
    patches = Patches({}, nothing, nothing, nothing, torch.tensor(bounds, dtype=torch.float64))
    assert (mosaic(patches, cut, fill=-1) == whole.numpy()).all()
    few = mosaic(
        patches.__class__(**{**vars(patches), 'bounds': patches.bounds[1:]}), cut[1:], fill=-1
    )
    assert (few[3:, 4:] == -1).all()
    assert (few[:3] == whole[:3].numpy()).all()


def without_one(patches, name):
    """The patches, of which a sensor did not see the first."""
    batch = patches.batch
    rows = torch.arange(1, len(patches))
    seen = take_rows(batch, rows)['sensors'][name]
    present = {**batch['present'], name: torch.arange(len(patches)) > 0}
    sensors = {**batch['sensors'], name: seen}
    return replace(patches, batch={**batch, 'sensors': sensors, 'present': present})


@pytest.mark.parametrize(
    'method',
    [
        Regression({'class_path': 'torchgeo_anysensor.models.PixelRegression'}),
        Regression({'class_path': 'torchgeo_anysensor.models.PixelRegression'}, all_bands=True),
        Probe(Spectrum()),
    ],
    ids=['common bands', 'all bands', 'tokens'],
)
def test_a_sensor_may_be_absent(method, data, tmp_path):
    """As in any batch: the rows of a sensor are those of the samples that it saw."""
    protocol = SensorsRemoved([S2, L8])
    cells, _ = plan({'it': method}, [protocol], [0], [S2, L8])
    splits = {name: without_one(p, L8) for name, p in read_patches(data, data.split).items()}
    ground = ground_of(cells[0], splits, classes=CLASSES, budget=Budget(trials=1), keep=tmp_path)
    rows = run_cell(cells[0], method, ground, splits['test']).rows
    assert len(rows) == 3
    assert rows[0]['miou'] > 0.08


def test_few_labels_are_drawn_where_there_are_labels(data):
    train = read_patches(data, data.split)['train']
    corners = torch.unique(train.bounds[:, :2], dim=0)
    one = (train.bounds[:, :2] == corners[0]).all(dim=1)
    sparse = train.label_only(one[:, None, None].expand_as(train.batch['mask']))
    for seed in range(6):
        chosen = Condition((S2,), labels=0.1)(sparse, seed=seed)
        assert (chosen.bounds[:, :2] == corners[0]).all()


def test_labels_of_no_class_are_named(data):
    splits = read_patches(data, data.split)
    check_labels(splits, 9)
    with pytest.raises(ValueError, match=r'labels \[.*8\], and there are 8 classes'):
        check_labels(splits, 8)


def test_what_is_left_out_is_not_trained_with():
    cases = LeaveOut([S2, 'hls_s30'], [L8]).cases([S2, L8, 'hls_s30'])
    assert [case.train.sensors for case in cases] == [(S2,), ('hls_s30',)]
    assert all(L8 not in case.pretrain.sensors for case in cases)
    with pytest.raises(ValueError, match='to be trained with and left out'):
        LeaveOut([S2], [S2]).cases([S2, L8])


def test_what_a_method_lacks_leaves_it_out():
    (case,) = LeaveOut([S2], [L8], without_um=[(1.5, 2.3)]).cases([S2, L8])
    regression = Regression({'class_path': 'torchgeo_anysensor.models.PixelRegression'})
    assert 'needs swir16, swir22' in regression.cannot(case, case.tests[0])
    objective = {'class_path': 'torchgeo_anysensor.tasks.CrossSensorContrastive'}
    assert 'one sensor alone' in Probe(Spectrum(), objective=objective).cannot(case, case.tests[0])


def test_transforms_of_a_method_are_those_of_its_pretraining_alone(data, tmp_path, monkeypatch):
    """Without them it shares its pretraining with others; with them it has one of its own."""
    encoder = {
        'class_path': 'torchgeo_anysensor.models.anysensor_vit_tiny',
        'init_args': {'depth': 1, 'token_m': 60},
    }
    objective = {'class_path': 'torchgeo_anysensor.tasks.CrossSensorContrastive', 'init_args': {}}
    drop = {'class_path': 'torchgeo_anysensor.transforms.RandomBandDrop', 'init_args': {'p': 0.5}}
    plain, again = (Probe(encoder, objective=objective) for _ in range(2))
    changed = Probe(encoder, objective=objective, transforms=[drop])
    (cell, *_), _ = plan({'changed': changed}, [PROTOCOL], [0], [S2, L8])
    budget = Budget(pretrain_steps=1, pretrain_batch_size=2, trials=1)
    names = [m.prepared(cell.case, budget, 0) for m in (plain, again, changed)]
    assert names[0] == names[1] != names[2]
    drawn = []
    monkeypatch.setattr(RandomBandDrop, '_drop', lambda self, view: drawn.append(self.p) or view)
    patches = read_patches(data, replace(data.split, seed=0))
    ground = ground_of(cell, patches, classes=CLASSES, budget=budget, keep=tmp_path)
    run_cell(cell, changed, ground, patches['test'])
    # Two sensors on three grids, for the step and for the count of its operations
    assert drawn == 6 * [0.5]


def test_hyper_parameters_are_chosen_on_the_ground_of_the_training(data, tmp_path):
    """Not on dates, places or labels that the training may not see."""

    class Spy(Probe):
        def learn(self, ground):
            seen.append((ground.train.time.max(), ground.val.time.max()))
            return super().learn(ground)

    seen = []
    spring, summer = ('2023-05-01', '2023-05-31'), ('2023-07-01', '2023-07-31')
    table(Spy(Spectrum()), data, OtherSeason(S2, spring, summer), seeds=[0])
    last = data_time('2023-06-01')
    assert seen
    assert all(float(time) < last for times in seen for time in times)


def data_time(day):
    """Seconds since 1970."""
    return np.datetime64(day, 's').astype(int)
