# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What a method may learn from, and how it does."""

import hashlib
import importlib
import inspect
import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import nn

from ..models import FittedSegmenter, Segmenter
from ..models.description import describe
from ..models.floors import Labelled
from ..tasks import CrossSensorContrastive, MapTask, Segmentation, SensorTranslation
from ..tasks.base import sensor_views
from ..tasks.segmentation import seen_labels
from ..types import IGNORE_INDEX
from .patches import Patches
from .protocols import Case, Test
from .scores import count, scores
from .training import CODE, Budget, Spent, Transform, default_precision, predict, train

#: ``class_path`` and ``init_args``, as in a YAML config.
Description = Mapping[str, Any]
#: The same in a constructor. (Of what is in a ``dict[str, Any]``, jsonargparse makes objects.)
Plain = dict[str, str | dict]
#: Most pixels that a regression is fitted to.
_MAX_PIXELS = 20_000
#: Most patches that they are drawn from.
_MAX_PATCHES = 512


@dataclass(frozen=True)
class Ground:
    """What a method may learn from.

    Attributes:
        train: Labelled patches.
        val: Labelled patches to choose hyper-parameters by.
        unlabelled: Gives the patches for training without labels.
        case: What the patches show; of its tests a method may know nothing.
        classes: Names of the classes.
        budget: What it may spend.
        seed: Of all draws.
        keep: Folder for what was trained without labels, which several cases share.
        transforms: Called in turn on each training batch.
    """

    train: Patches
    val: Patches
    unlabelled: Callable[[], Patches]
    case: Case
    classes: Sequence[str]
    budget: Budget
    seed: int
    keep: Path
    transforms: Sequence[Transform] = field(default=())


@dataclass(frozen=True)
class Fitted:
    """A trained model, and what it took.

    Attributes:
        task: Makes maps.
        spent: For training with labels.
        pretraining: For training without labels.
    """

    task: MapTask
    spent: Spent
    pretraining: Spent = field(default_factory=Spent)


class Method(ABC):
    """A way from labelled patches to a model that makes maps.

    Attributes:
        only: Names of the protocols that it takes part in; all if None.
    """

    #: Hyper-parameters to try, in this order.
    choices: Sequence[float] = (1e-3, 3e-4, 3e-3)

    def __init__(self, *, only: Sequence[str] | None = None) -> None:
        """Make the method.

        Args:
            only: Names of the protocols that it takes part in; all by default.
        """
        self.only = tuple(only) if only is not None else None

    def missing(self) -> str | None:
        """Say what the method needs and is not there, if anything."""
        return None

    def cannot(self, case: Case, test: Test) -> str | None:
        """Say why the method cannot take a test, if so."""
        return None

    def prepared(self, case: Case, budget: Budget, seed: int) -> str | None:
        """Name the file of what the method learns without labels, None if it does not.

        Methods and cases that would learn the same give the same name.
        """
        return None

    def prepare(self, ground: Ground) -> None:
        """Learn without labels, if the method does so, and keep it."""
        return

    def learn(self, ground: Ground) -> tuple[Fitted, float]:
        """Choose the hyper-parameter by mIoU on validation ground, then train.

        Args:
            ground: What to learn from; its budget says how many choices are tried.

        Returns:
            The trained model and the choice.
        """
        choices = self.tried(ground.budget)
        choice = choices[0]
        if len(choices) > 1:
            steps = ground.budget.trial_steps or ground.budget.steps
            trial = replace(ground, budget=replace(ground.budget, steps=steps))
            found = {choice: validate(self.fit(trial, choice).task, ground) for choice in choices}
            choice = max(found, key=lambda tried: found[tried])
        return self.fit(ground, choice), choice

    def tried(self, budget: Budget) -> Sequence[float]:
        """The first of the choices, as many as the budget allows."""
        return self.choices[: budget.trials]

    def weights(self) -> str | None:
        """Digest of the file of weights that the method starts from, if it does."""
        return None

    @abstractmethod
    def fit(self, ground: Ground, choice: float) -> Fitted:
        """Train.

        Args:
            ground: What to learn from.
            choice: The hyper-parameter.
        """


def build[T](kind: type[T], description: Description) -> T:
    """Make an object of its description, checked as a config on the command line is.

    Args:
        kind: Class that it must have.
        description: ``class_path`` and ``init_args``.

    Returns:
        The object.

    Raises:
        ValueError: If the description does not fit.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument('--it', type=kind)
    try:
        config = parser.parse_object({'it': plain(description)})
        made: T = parser.instantiate(config).it
    except Exception as error:
        raise ValueError(f'{dict(description)} makes no {kind.__name__}: {error}') from error
    return made


def build_segmenter(
    description: Description,
    ground: Ground,
    *,
    with_bands: bool = True,
    bands: Mapping[str, int] | None = None,
) -> Any:
    """Make a segmenter for the sensors and classes of the data.

    Args:
        description: Without ``num_classes``, ``bands`` and ``seed``.
        ground: The data.
        with_bands: Say the number of bands, if the segmenter asks for it.
        bands: By default those of the training patches.
    """
    known = inspect.signature(class_of(description)).parameters
    given: dict[str, Any] = {'num_classes': len(ground.classes)}
    if 'bands' in known and with_bands:
        given['bands'] = dict(bands) if bands is not None else band_counts(ground.train)
    if 'seed' in known:
        given['seed'] = ground.seed
    init_args = {**description.get('init_args', {}), **given}
    return build(Segmenter, {'class_path': description['class_path'], 'init_args': init_args})  # type: ignore[type-abstract]


def train_segmenter(segmenter: Segmenter, ground: Ground, *, lr: float) -> Fitted:
    """Train a segmenter by gradient steps."""
    sensors = ground.case.train.sensors
    task = Segmentation(segmenter, list(ground.classes), train_sensors=sensors, lr=lr)
    return Fitted(task, train_task(task, ground))


def train_task(task: MapTask, ground: Ground) -> Spent:
    """Train with labels, within the budget."""
    patches = labelled(ground.train)
    return train(task, patches, ground.budget, seed=ground.seed, transforms=ground.transforms)


def train_unlabelled(
    task: CrossSensorContrastive | SensorTranslation, ground: Ground, path: Path
) -> None:
    """Train a task without labels and keep it, whole or not at all."""
    spent = train(
        task, ground.unlabelled(), ground.budget, seed=ground.seed, transforms=ground.transforms
    )
    kept = {
        'hyper_parameters': plain(dict(task.hparams)),
        'state_dict': task.state_dict(),
        'spent': asdict(spent),
    }
    draft = path.with_suffix(f'.{os.getpid()}')
    torch.save(kept, draft)
    draft.replace(path)


def kept_name(what: Any, case: Case, budget: Budget, seed: int) -> str:
    """File name of what is trained without labels."""
    precision = budget.precision or default_precision()
    spend = budget.pretrain_steps, budget.pretrain_batch_size, precision
    return f'{digest(what, case.pretrain, spend, seed)}.ckpt'


def kept_spent(path: Path) -> Spent:
    """What a kept training took."""
    kept = torch.load(path, map_location='cpu', weights_only=True)['spent']
    return Spent(**{'code': 'unknown', **kept})


def fit_segmenter(
    segmenter: FittedSegmenter, ground: Ground, *, penalties: Sequence[float]
) -> tuple[Fitted, float]:
    """Fit a regression to features that are made once.

    Args:
        segmenter: The regression.
        ground: What to learn from.
        penalties: To choose from, by the cross entropy on validation ground.

    Returns:
        The regression and its penalty.
    """
    start = time.perf_counter()
    train = _pairs(ground.train, ground)
    val = _pairs(ground.val, ground) if len(penalties) > 1 else None
    best = segmenter.fit(train, val, max_pixels=_MAX_PIXELS, penalties=penalties)
    task = Segmentation(segmenter, list(ground.classes), train_sensors=ground.case.train.sensors)
    return Fitted(task, Spent(seconds=time.perf_counter() - start, code=CODE)), best


def _pairs(patches: Patches, ground: Ground) -> list[Labelled]:
    """Batches for :meth:`FittedSegmenter.fit`."""
    few, sensors = _some(labelled(patches), ground.seed), ground.case.train.sensors
    batches = few.batches(64)
    return [(sensor_views(b['sensors'], b['present'], sensors), b['mask']) for b in batches]


def _some(patches: Patches, seed: int) -> Patches:
    """As many patches as a regression needs for its pixels, drawn at random."""
    if len(patches) <= _MAX_PATCHES:
        return patches
    generator = torch.Generator().manual_seed(seed)
    return patches.take(torch.randperm(len(patches), generator=generator)[:_MAX_PATCHES])


def labelled(patches: Patches) -> Patches:
    """The patches that have a label."""
    there = (patches.batch['mask'] != IGNORE_INDEX).flatten(1).any(dim=1)
    return patches if bool(there.all()) else patches.take(there)


def validate(task: MapTask, ground: Ground) -> float:
    """Measure mIoU on validation ground."""
    sensors = ground.case.train.sensors
    probabilities = torch.cat(list(predict(task, ground.val, sensors, ground.budget)))
    counted = count(
        probabilities,
        seen_labels(ground.val.batch, sensors),
        ground.val.block,
        num_classes=len(ground.classes),
    )
    return scores(counted, ground.classes)['miou']


def digest(*values: Any) -> str:
    """A short name for plain values."""
    text = json.dumps(values, sort_keys=True, default=_jsonable)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _jsonable(value: Any) -> Any:
    """Plain values of what JSON does not know."""
    if hasattr(value, '__dataclass_fields__'):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    return str(describe(value))


def band_counts(patches: Patches) -> dict[str, int]:
    """Number of bands of each sensor."""
    return {
        name: sum(view['image'].shape[1] for view in views)
        for name, views in patches.batch['sensors'].items()
    }


def class_of(description: Description) -> Any:
    """The class or function that a description names."""
    module, _, name = description['class_path'].rpartition('.')
    return getattr(importlib.import_module(module), name)


def plain(value: Any) -> Any:
    """Mappings and sequences as dictionaries and lists, and modules by their description."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return describe(value) if isinstance(value, nn.Module) else value
