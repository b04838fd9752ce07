# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Ways from labelled patches to a model that makes maps."""

import copy
import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from ..models import FittedSegmenter, SensorEncoder, SMPDecoderHead, TokenRegression
from ..models.description import describe
from ..models.harmonise import COMMON_BANDS_UM
from ..models.hub import WEIGHTS
from ..models.pretrained import load_encoder
from ..models.weights import weights_file
from ..tasks import SegmentationProbe
from .learning import (
    Description,
    Fitted,
    Ground,
    Method,
    Plain,
    build,
    build_segmenter,
    class_of,
    fit_segmenter,
    kept_name,
    kept_spent,
    train_segmenter,
    train_task,
    train_unlabelled,
)
from .protocols import Case, Condition, Test
from .training import Budget, Spent


class Trained(Method):
    """A segmenter that is trained by gradient steps; what is tried is the learning rate."""

    def __init__(
        self,
        segmenter: Plain,
        *,
        min_sensors: int = 1,
        choices: Sequence[float] = (1e-3, 3e-4, 3e-3),
        only: Sequence[str] | None = None,
    ) -> None:
        """Make the method.

        Args:
            segmenter: ``class_path`` and ``init_args`` of a :class:`~..models.Segmenter`, without
                ``num_classes`` and ``bands``, which the data say.
            min_sensors: Least number of sensors to train with: with one, all kinds of fusion are
                the same network.
            choices: Learning rates to try.
            only: See :class:`Method`.
        """
        super().__init__(only=only)
        self.segmenter = segmenter
        self.min_sensors = min_sensors
        self.choices = tuple(choices)
        self.needs_bands = 'bands' in inspect.signature(class_of(segmenter)).parameters

    def cannot(self, case: Case, test: Test) -> str | None:
        """A model with a slot for each band reads the bands that it was trained with."""
        if len(case.train.sensors) < self.min_sensors:
            return f'needs {self.min_sensors} sensors to train with'
        if self.needs_bands:
            return _other_bands(case.train, test.condition)
        return _no_common_bands(case.train, test.condition)

    def fit(self, ground: Ground, choice: float) -> Fitted:
        """Train; see :meth:`Method.fit`."""
        torch.manual_seed(ground.seed)
        segmenter = build_segmenter(self.segmenter, ground)
        return train_segmenter(segmenter, ground, lr=choice)


class Regression(Method):
    """A segmenter that is fitted to convergence; what is tried is the penalty.

    Args:
        segmenter: ``class_path`` and ``init_args`` of a :class:`~..models.FittedSegmenter`.
    """

    def __init__(
        self,
        segmenter: Plain,
        *,
        all_bands: bool = False,
        choices: Sequence[float] = (1e-2, 1e-4, 1e-6),
        only: Sequence[str] | None = None,
    ) -> None:
        """Make the method.

        Args:
            segmenter: ``class_path`` and ``init_args`` of a :class:`~..models.FittedSegmenter`.
            all_bands: Use all bands of all sensors together, instead of the six common ones.
            choices: Penalties to try.
            only: See :class:`Method`.
        """
        super().__init__(only=only)
        self.segmenter = segmenter
        self.all_bands = all_bands
        self.choices = tuple(choices)

    def cannot(self, case: Case, test: Test) -> str | None:
        """With all bands, it reads the bands that it was fitted to."""
        if self.all_bands:
            return _other_bands(case.train, test.condition)
        return _no_common_bands(case.train, test.condition)

    def learn(self, ground: Ground) -> tuple[Fitted, float]:
        """Choose the penalty and fit; see :func:`fit_segmenter`."""
        penalties = self.tried(ground.budget)
        return fit_segmenter(self._segmenter(ground), ground, penalties=penalties)

    def fit(self, ground: Ground, choice: float) -> Fitted:
        """Fit; see :meth:`Method.fit`."""
        return fit_segmenter(self._segmenter(ground), ground, penalties=[choice])[0]

    def _segmenter(self, ground: Ground) -> FittedSegmenter:
        """Make the segmenter."""
        made: FittedSegmenter = build_segmenter(self.segmenter, ground, with_bands=self.all_bands)
        return made


class Probe(Method):
    """Our kind: an encoder of any sensor, frozen or not, and a head.

    ``linear`` fits a regression to the frozen tokens, ``decoder`` trains a convolutional decoder on
    them, and ``finetune`` trains encoder and decoder.
    """

    def __init__(
        self,
        encoder: Plain | str | SensorEncoder,
        *,
        objective: Plain | None = None,
        transforms: Sequence[Plain] = (),
        readout: Literal['linear', 'decoder', 'finetune'] = 'linear',
        token_m: float | None = None,
        detail_m: float | None = None,
        canonical: bool = True,
        encoder_lr: float = 0.1,
        choices: Sequence[float] | None = None,
        only: Sequence[str] | None = None,
    ) -> None:
        """Make the method.

        Args:
            encoder: ``class_path`` and ``init_args`` of an encoder with random weights, drawn by
                the seed; or the path of a checkpoint; or an encoder, in Python.
            objective: ``class_path`` and ``init_args`` of the task that pretrains it on the
                unlabelled patches, without ``encoder``; by default it stays as it is.
            transforms: ``class_path`` and ``init_args`` of what changes the batches of that
                pretraining, after the transforms of the data.
            readout: ``linear``, ``decoder`` or ``finetune``.
            token_m: Width of a ground token in metres; by default the encoder's own.
            detail_m: Width of a cell of the encoder's detail in metres, if that is to be read too.
            canonical: See :func:`~..models.pretrained.load_encoder`.
            encoder_lr: Learning rate of a fine-tuned encoder, as a share of the decoder's.
            choices: Penalties (linear) or learning rates to try.
            only: See :class:`Method`.
        """
        super().__init__(only=only)
        self.encoder = encoder
        self.objective = objective
        self.transforms = tuple(transforms)
        self.readout = readout
        self.token_m = token_m
        self.detail_m = detail_m
        self.canonical = canonical
        self.encoder_lr = encoder_lr
        if choices is None:
            choices = (1e-2, 1e-4, 1e-6) if readout == 'linear' else (1e-3, 3e-4, 3e-3)
        self.choices = tuple(choices)

    def missing(self) -> str | None:
        """Weights that are not on disk: the method is left out, never made up."""
        try:
            self._weights_file()
        except FileNotFoundError as error:
            return str(error)
        return None

    def _weights_file(self) -> Path | None:
        """File that the encoder is made from, if it is.

        Raises:
            FileNotFoundError: If it is not there.
        """
        if isinstance(self.encoder, str):
            path = Path(self.encoder)
            path = path / WEIGHTS if path.is_dir() else path
            if not path.is_file():
                raise FileNotFoundError(f'no weights at {self.encoder}')
            return path
        if isinstance(self.encoder, Mapping):
            init_args = self.encoder.get('init_args', {})
            name = init_args.get('weights') if isinstance(init_args, Mapping) else None
            return None if name is None else weights_file(name)
        return None

    def cannot(self, case: Case, test: Test) -> str | None:
        """A contrast of sensors needs two."""
        if self.objective is not None and len(case.pretrain.sensors) < 2:
            return 'has one sensor alone to pretrain with'
        return None

    def prepared(self, case: Case, budget: Budget, seed: int) -> str | None:
        """Name the file of the pretrained encoder; see :meth:`Method.prepared`."""
        if self.objective is None:
            return None
        known = isinstance(self.encoder, str | Mapping)
        encoder = self.encoder if known else describe(self.encoder)
        what = [encoder, self.weights(), self.objective, *self.transforms]
        return kept_name(what, case, budget, seed)

    def prepare(self, ground: Ground) -> None:
        """Pretrain the encoder; see :meth:`Method.prepare`."""
        if self.objective is not None:
            self._pretrained(ground)

    def weights(self) -> str | None:
        """Digest of the checkpoint; see :meth:`Method.weights`."""
        file = self._weights_file()
        return None if file is None else _digest_of(file, file.stat().st_mtime_ns)

    def learn(self, ground: Ground) -> tuple[Fitted, float]:
        """Choose the penalty or the learning rate, and read the encoder out."""
        if self.readout != 'linear':
            return super().learn(ground)
        return self._regression(ground, self.tried(ground.budget))

    def _regression(self, ground: Ground, penalties: Sequence[float]) -> tuple[Fitted, float]:
        """Fit a regression to the tokens."""
        encoder, pretraining = self._pretrained(ground)
        segmenter = TokenRegression(
            encoder,
            len(ground.classes),
            token_m=self.token_m,
            detail_m=self.detail_m,
            seed=ground.seed,
        )
        fitted, best = fit_segmenter(segmenter, ground, penalties=penalties)
        return Fitted(fitted.task, fitted.spent, pretraining), best

    def fit(self, ground: Ground, choice: float) -> Fitted:
        """Read the encoder out; see :meth:`Method.fit`."""
        if self.readout == 'linear':
            return self._regression(ground, [choice])[0]
        encoder, pretraining = self._pretrained(ground)
        torch.manual_seed(ground.seed)
        task = SegmentationProbe(
            encoder,
            list(ground.classes),
            head=SMPDecoderHead,
            freeze=self.readout == 'decoder',
            train_sensors=ground.case.train.sensors,
            token_m=self.token_m,
            detail_m=self.detail_m,
            lr=choice,
            encoder_lr=self.encoder_lr,
        )
        return Fitted(task, train_task(task, ground), pretraining)

    def _fresh(self, seed: int) -> SensorEncoder:
        """The encoder before training."""
        if isinstance(self.encoder, str):
            whole = self.canonical and self.objective is None  # what is trained on starts without
            return load_encoder(self.encoder, canonical=whole)
        if isinstance(self.encoder, Mapping):
            torch.manual_seed(seed)
            return build(SensorEncoder, self.encoder)  # type: ignore[type-abstract]
        return copy.deepcopy(self.encoder)

    def _pretrained(self, ground: Ground) -> tuple[SensorEncoder, Spent]:
        """The encoder after training without labels, from the folder if it is there."""
        name = self.prepared(ground.case, ground.budget, ground.seed)
        if name is None or self.objective is None:
            return self._fresh(ground.seed).eval(), Spent()
        path = ground.keep / name
        if not path.exists():
            encoder = self._fresh(ground.seed)
            objective: Description = self.objective
            given = {**objective.get('init_args', {}), 'encoder': encoder}
            task = class_of(self.objective)(**given)
            own = [build(nn.Module, description) for description in self.transforms]
            changed = replace(ground, transforms=(*ground.transforms, *own))
            train_unlabelled(task, changed, path)
        return load_encoder(path, canonical=self.canonical), kept_spent(path)


@lru_cache
def _digest_of(file: Path, mtime_ns: int) -> str:
    """Digest of a file as it was at a time; every cell asks for it."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _other_bands(train: Condition, test: Condition) -> str | None:
    """Why a model with a slot for each band cannot read a test, if so."""
    if other := [name for name in test.sensors if name not in train.sensors]:
        return f'was not trained with {", ".join(other)}'
    if test.without_um != train.without_um:
        return 'was trained with other bands'
    return None


def _no_common_bands(*conditions: Condition) -> str | None:
    """Why a model on the common bands cannot read a condition, if so."""
    for low, high in (hidden for condition in conditions for hidden in condition.without_um):
        if gone := [name for name, um in COMMON_BANDS_UM.items() if low <= um <= high]:
            return f'needs {", ".join(gone)}, which is hidden'
    return None
