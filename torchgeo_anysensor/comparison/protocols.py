# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What is trained with what, and what it is tested on."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from ..tasks.segmentation import seen_labels
from ..types import IGNORE_INDEX
from .patches import Patches, between

#: Wavelengths in micrometres of the red edge, which Sentinel-2 sees and Landsat does not.
RED_EDGE_UM = (0.69, 0.80)


@dataclass(frozen=True)
class Condition:
    """Which patches, and what of them a model may see.

    Attributes:
        sensors: The sensors; several are looked at together.
        without_um: Ranges of wavelengths, in micrometres, whose bands are hidden.
        res: Finer pixels are averaged to this size in metres.
        places: Numbers of the connected pieces of ground, from the west; all if None.
        dates: First and last day, as ``2018-03-01``; None is open.
        labels: Share of the labelled places.
        mistold: Each band of a view has the wavelength of the band before it.
    """

    sensors: tuple[str, ...]
    without_um: tuple[tuple[float, float], ...] = ()
    res: float | None = None
    places: tuple[int, ...] | None = None
    dates: tuple[str | None, str | None] = (None, None)
    labels: float = 1.0
    mistold: bool = False

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If there is no sensor, or *labels* is no share.
        """
        if not self.sensors:
            raise ValueError('a condition needs at least one sensor')
        if not 0 < self.labels <= 1:
            raise ValueError(f'labels={self.labels} must be a share above 0, at most 1')

    def __call__(self, patches: Patches, *, seed: int = 0) -> Patches:
        """Choose patches, and leave away what is hidden.

        Args:
            patches: Of one split.
            seed: Of the draw of the labelled places; a smaller share is part of a larger one.

        Returns:
            The patches.

        Raises:
            ValueError: If nothing is left.
        """
        keep = between(patches, *self.dates)
        if self.places is not None:
            keep &= torch.isin(patches.place, torch.tensor(self.places))
        if self.labels < 1:
            _, position = torch.unique(patches.bounds[:, :2].round(), dim=0, return_inverse=True)
            there = (patches.batch['mask'] != IGNORE_INDEX).flatten(1).any(dim=1)
            places = position[there].unique()
            order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))
            few = places[order[: math.ceil(self.labels * len(places))]]
            keep &= torch.isin(position, few)
        if not bool(keep.any()):
            raise ValueError(f'no patch is left of {len(patches)} by {self}')
        chosen = patches if bool(keep.all()) else patches.take(keep)
        seen = chosen.look(self.sensors, without_um=self.without_um, res=self.res)
        return seen.mistold() if self.mistold else seen


@dataclass(frozen=True)
class Test:
    """Something that a trained model is tested on.

    Attributes:
        name: For the table.
        condition: What the model sees.
        group: Tests that are averaged in the verdict.
    """

    name: str
    condition: Condition
    group: str = ''


@dataclass(frozen=True)
class Case:
    """One training and its tests.

    Attributes:
        protocol: Name of the protocol.
        name: For the table.
        train: What training and validation see.
        pretrain: What training without labels sees.
        tests: The tests.
        seen_by: A pixel counts in the tests only if all these sensors saw it, so that all tests of
            a protocol are on the same ground and labels.
    """

    protocol: str
    name: str
    train: Condition
    pretrain: Condition
    tests: tuple[Test, ...]
    seen_by: tuple[str, ...] = field(default=())


def patches_of(patches: Patches, case: Case, test: Test, *, seed: int) -> Patches:
    """Patches of the test ground as one test sees them.

    Args:
        patches: Of the test split.
        case: The test's case.
        test: The test.
        seed: See :meth:`Condition.__call__`.

    Returns:
        The patches, with labels where all of ``seen_by`` saw the pixel.
    """
    seen = torch.ones_like(patches.batch['mask'], dtype=torch.bool)
    for name in case.seen_by:
        if name not in patches.batch['sensors']:
            raise ValueError(f'no sensor {name} in the data: {list(patches.batch["sensors"])}')
        seen &= seen_labels(patches.batch, [name]) != IGNORE_INDEX
    return test.condition(patches.label_only(seen), seed=seed)


class Protocol(ABC):
    """A question, as trainings and tests."""

    #: Name of the protocol in tables.
    name: str

    @abstractmethod
    def cases(self, sensors: Sequence[str]) -> list[Case]:
        """List the trainings and their tests.

        Args:
            sensors: All sensors of the data, for training without labels.
        """


@dataclass(frozen=True)
class SensorMatrix(Protocol):
    """Train with each sensor, test with each.

    Attributes:
        sensors: The sensors.
        name: For the table.
    """

    sensors: Sequence[str]
    name: str = 'matrix'

    def cases(self, sensors: Sequence[str]) -> list[Case]:
        """One training for each sensor; see :meth:`Protocol.cases`."""
        return [
            Case(
                self.name,
                one,
                train=Condition((one,)),
                pretrain=Condition(tuple(sensors)),
                tests=tuple(
                    Test(
                        other, Condition((other,)), f'{"same" if other == one else "other"} sensor'
                    )
                    for other in self.sensors
                ),
                seen_by=tuple(self.sensors),
            )
            for one in self.sensors
        ]


@dataclass(frozen=True)
class LeaveOut(Protocol):
    """Sensors and bands that neither pretraining nor training has seen.

    Attributes:
        train: Sensors to train with, each by itself.
        left_out: Sensors to test with.
        without_um: Ranges of wavelengths that training does not see.
        name: For the table.
    """

    train: Sequence[str]
    left_out: Sequence[str]
    without_um: Sequence[tuple[float, float]] = (RED_EDGE_UM,)
    name: str = 'left out'

    def cases(self, sensors: Sequence[str]) -> list[Case]:
        """One training for each sensor of *train*; see :meth:`Protocol.cases`.

        Raises:
            ValueError: If a sensor is to be trained with and left out.
        """
        if both := set(self.train) & set(self.left_out):
            raise ValueError(f'{sorted(both)} are to be trained with and left out')
        return [self._case(one, sensors) for one in self.train]

    def _case(self, one: str, sensors: Sequence[str]) -> Case:
        """The training with one sensor."""
        hidden = tuple((low, high) for low, high in self.without_um)
        train = Condition((one,), without_um=hidden)
        tests = [
            Test(f'{one}, bands it trained with', train, 'bands seen'),
            Test(f'{one}, with bands never seen', Condition((one,)), 'bands never seen'),
            *(Test(name, Condition((name,)), 'sensor never seen') for name in self.left_out),
        ]
        seen = tuple(name for name in sensors if name not in self.left_out)
        pretrain, seen_by = Condition(seen, without_um=hidden), (one, *self.left_out)
        return Case(self.name, f'{one} without bands', train, pretrain, tuple(tests), seen_by)


@dataclass(frozen=True)
class SensorsRemoved(Protocol):
    """Train with several sensors together, test with all and with each of them removed.

    Attributes:
        sensors: The sensors.
        name: For the table.
    """

    sensors: Sequence[str]
    name: str = 'removed'

    def cases(self, sensors: Sequence[str]) -> list[Case]:
        """One training; see :meth:`Protocol.cases`."""
        both = tuple(self.sensors)
        tests = [Test('all', Condition(both), 'all')]
        for gone in both:
            rest = tuple(name for name in both if name != gone)
            tests.append(Test(f'without {gone}', Condition(rest), 'one removed'))
        pretrain = Condition(tuple(sensors))
        return [Case(self.name, ' + '.join(both), Condition(both), pretrain, tuple(tests), both)]


@dataclass(frozen=True)
class FewLabels(Protocol):
    """Train with a share of the labelled places.

    Attributes:
        sensor: The sensor.
        fractions: The shares.
        name: For the table.
    """

    sensor: str
    fractions: Sequence[float] = (0.01, 0.1, 1.0)
    name: str = 'labels'

    def cases(self, sensors: Sequence[str]) -> list[Case]:
        """One training for each share; see :meth:`Protocol.cases`."""
        one = Condition((self.sensor,))
        return [
            Case(
                self.name,
                f'{100 * fraction:g}%',
                train=replace(one, labels=fraction),
                pretrain=Condition(tuple(sensors)),
                tests=(Test(self.sensor, one, f'{100 * fraction:g}% of labels'),),
                seen_by=(self.sensor,),
            )
            for fraction in self.fractions
        ]


@dataclass(frozen=True)
class OtherPlace(Protocol):
    """Train in some places, test in others.

    Attributes:
        sensor: The sensor.
        train: Numbers of the places to train in, from the west.
        test: Numbers of the places to test in.
        name: For the table.
    """

    sensor: str
    train: Sequence[int]
    test: Sequence[int]
    name: str = 'place'

    def cases(self, sensors: Sequence[str]) -> list[Case]:
        """One training; see :meth:`Protocol.cases`.

        Raises:
            ValueError: If a place is in both.
        """
        if shared := set(self.train) & set(self.test):
            raise ValueError(f'places {sorted(shared)} are in train and in test')
        here, there = tuple(self.train), tuple(self.test)
        one = Condition((self.sensor,))
        train = replace(one, places=here)
        return [
            Case(
                self.name,
                f'{self.sensor}, places {", ".join(map(str, here))}',
                train=train,
                pretrain=Condition(tuple(sensors), places=here),
                tests=(
                    Test('same places', train, 'same place'),
                    Test('other places', replace(one, places=there), 'other place'),
                ),
                seen_by=(self.sensor,),
            )
        ]


@dataclass(frozen=True)
class OtherSeason(Protocol):
    """Train in one season, test in another, each on its own ground.

    Attributes:
        sensor: The sensor.
        train: First and last day to train with, as ``2018-03-01``.
        test: First and last day to test with.
        name: For the table.
    """

    sensor: str
    train: tuple[str, str]
    test: tuple[str, str]
    name: str = 'season'

    def cases(self, sensors: Sequence[str]) -> list[Case]:
        """One training; see :meth:`Protocol.cases`."""
        one = Condition((self.sensor,))
        train, other = (replace(one, dates=(a, b)) for a, b in (self.train, self.test))
        return [
            Case(
                self.name,
                f'{self.sensor}, {self.train[0]} to {self.train[1]}',
                train=train,
                pretrain=Condition(tuple(sensors), dates=train.dates),
                tests=(
                    Test('same season', train, 'same season'),
                    Test('other season', other, 'other season'),
                ),
                seen_by=(self.sensor,),
            )
        ]


@dataclass(frozen=True)
class OtherResolution(Protocol):
    """Train at the sensor's own resolution, test at coarser ones.

    Attributes:
        sensor: The sensor.
        res: Pixel sizes in metres that finer pixels are averaged to.
        name: For the table.
    """

    sensor: str
    res: Sequence[float] = (20.0, 30.0, 60.0)
    name: str = 'resolution'

    def cases(self, sensors: Sequence[str]) -> list[Case]:
        """One training; see :meth:`Protocol.cases`."""
        one = Condition((self.sensor,))
        tests = [Test('native', one, 'native')]
        tests += [Test(f'{res:g} m', replace(one, res=res), 'coarser') for res in self.res]
        pretrain = Condition(tuple(sensors))
        return [Case(self.name, self.sensor, one, pretrain, tuple(tests), (self.sensor,))]


@dataclass(frozen=True)
class Mistold(Protocol):
    """Test with bands that are said to have each other's wavelengths.

    Who does not lose by it does not use them.

    Attributes:
        sensor: The sensor.
        name: For the table.
    """

    sensor: str
    name: str = 'mistold'

    def cases(self, sensors: Sequence[str]) -> list[Case]:
        """One training; see :meth:`Protocol.cases`."""
        one = Condition((self.sensor,))
        wrong = Test('mistold', replace(one, mistold=True), 'mistold')
        tests, pretrain = (Test('told', one, 'told'), wrong), Condition(tuple(sensors))
        return [Case(self.name, self.sensor, one, pretrain, tests, (self.sensor,))]
