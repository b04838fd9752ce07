# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The way over another sensor: translate, then make the map."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..tasks import SensorTranslation, Translated, Translator
from .learning import (
    Description,
    Fitted,
    Ground,
    Method,
    Plain,
    band_counts,
    build_segmenter,
    class_of,
    kept_name,
    kept_spent,
    train_segmenter,
    train_unlabelled,
)
from .protocols import Case, Test
from .training import Budget, Spent


class Translation(Method):
    """A network turns one sensor into another, of which a segmenter then makes the map."""

    def __init__(
        self,
        segmenter: Plain,
        *,
        source: str = 'landsat_c2l2',
        target: str = 'sentinel2_l2a',
        choices: Sequence[float] = (1e-3, 3e-4, 3e-3),
        only: Sequence[str] | None = None,
    ) -> None:
        """Make the method.

        Args:
            segmenter: ``class_path`` and ``init_args`` of the segmenter of the target.
            source: Name of the sensor to translate.
            target: Name of the sensor to translate it into.
            choices: Learning rates to try.
            only: See :class:`Method`.
        """
        super().__init__(only=only)
        self.segmenter = segmenter
        self.source = source
        self.target = target
        self.choices = tuple(choices)

    def cannot(self, case: Case, test: Test) -> str | None:
        """It knows two sensors."""
        known = {self.source, self.target}
        for condition in (case.train, test.condition):
            if not set(condition.sensors) <= known:
                return f'knows {self.source} and {self.target} alone'
        if not known <= set(case.pretrain.sensors):
            return f'has no pairs of {self.source} and {self.target} to learn from'
        if case.train.without_um or test.condition.without_um:
            return 'needs the bands that it was made for'
        return None

    def prepared(self, case: Case, budget: Budget, seed: int) -> str:
        """Name the file of the translator; see :meth:`Method.prepared`."""
        return kept_name(['translation', self.source, self.target], case, budget, seed)

    def prepare(self, ground: Ground) -> None:
        """Train the translator; see :meth:`Method.prepare`."""
        self._translator(ground)

    def fit(self, ground: Ground, choice: float) -> Fitted:
        """Train the segmenter; see :meth:`Method.fit`."""
        translator, pretraining = self._translator(ground)
        torch.manual_seed(ground.seed)
        count = translator.init_args['target_bands']
        inner = build_segmenter(self.segmenter, ground, bands={self.target: count})
        both = Translated(translator, inner, source=self.source, target=self.target)
        fitted = train_segmenter(both, ground, lr=choice)
        return Fitted(fitted.task, fitted.spent, pretraining)

    def _translator(self, ground: Ground) -> tuple[Translator, Spent]:
        """The trained translator, from the folder if it is there."""
        path = ground.keep / self.prepared(ground.case, ground.budget, ground.seed)
        torch.manual_seed(ground.seed)
        if not path.exists():
            patches = ground.unlabelled()
            counts = band_counts(patches)
            fresh = Translator(counts[self.source], counts[self.target])
            task = SensorTranslation(fresh, source=self.source, target=self.target)
            train_unlabelled(task, ground, path)
        kept = torch.load(path, map_location='cpu', weights_only=True)
        translator = Translator(**_plain_init(kept['hyper_parameters']['translator']))
        prefix = 'translator.'
        weights = {k.removeprefix(prefix): v for k, v in kept['state_dict'].items()}
        translator.load_state_dict(weights)
        return translator.eval(), kept_spent(path)


def _plain_init(description: Description) -> dict[str, Any]:
    """``init_args`` with the network, if it has one, as a function of its channels."""
    init_args = dict(description['init_args'])
    network = init_args.pop('network')
    if isinstance(network, Mapping):
        options = network.get('init_args', {})
        kind = class_of(network)
        init_args['network'] = lambda c_in, c_out: kind(c_in, c_out, **options)
    return init_args
