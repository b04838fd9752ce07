# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Pictures of what the encoder takes for alike."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.figure import Figure
from torch import Tensor

from ..models import Features
from ..tasks import EncoderPretraining
from ..types import MultiSensorSample
from .base import ValidationFeatures, rows_of_patches
from .figures import Candidate, Neighbours, TokenRow, draw_neighbours, draw_tokens
from .measures import principal_components
from .quicklook import QuickLook, quick_look, stretched
from .spread import Spread

#: Patches whose tokens are kept, for each that is drawn: those that most sensors saw are.
_CHOICE = 3


class _Shown(NamedTuple):
    """One patch, as one sensor saw it."""

    look: QuickLook
    vector: Tensor  #: ``(P,)``, a unit vector


class _Tokens(NamedTuple):
    """All tokens of one patch, of one sensor."""

    look: QuickLook
    tokens: Tensor  #: ``(rows, columns, D)`` float16
    valid: Tensor  #: ``(rows, columns)`` bool


class RepresentationPictures(ValidationFeatures):
    """Draw nearest neighbours across sensors, and the principal components of ground tokens.

    ``neighbours``: each row is a patch of the first sensor, and the patches of every other sensor
    whose vectors are nearest to its own among those that were kept; the same patch has a frame.
    ``tokens``: each row is a patch; beside the colours of each sensor stand the first three
    principal components of its tokens as red, green and blue, those of all sensors and patches of
    the picture together, so that equal colours are equal features.

    They go to a folder as PNG, named by the step, and to TensorBoard where that is a logger. The
    process of rank zero draws its own patches. Quick-looks have at most 64 pixels along a side.
    """

    def __init__(
        self,
        *,
        dirpath: str | None = None,
        every_n_epochs: int = 1,
        rows: int = 4,
        neighbours: int = 4,
        max_patches: int = 256,
        min_valid: float = 0.5,
    ) -> None:
        """Make the callback.

        Args:
            dirpath: Folder for the pictures; by default ``pictures`` in that of the logger.
            every_n_epochs: Look at the end of each so manieth epoch, if it validates.
            rows: Patches of a picture.
            neighbours: Nearest patches of each other sensor that are drawn.
            max_patches: Patches that are kept on the CPU, among which the nearest are looked for.
            min_valid: A sensor is drawn where it saw at least this share of the patch's tokens.

        Raises:
            ValueError: If *every_n_epochs* is below 1, or there are to be no rows or neighbours.
        """
        super().__init__(every_n_epochs=every_n_epochs)
        if min(rows, neighbours, max_patches) < 1:
            raise ValueError(
                f'rows, neighbours and max_patches must be at least 1, got {rows}, {neighbours} '
                f'and {max_patches}'
            )
        self.dirpath = dirpath
        self.rows = rows
        self.neighbours = neighbours
        self.max_patches = max_patches
        self.min_valid = min_valid
        self._empty()

    def _empty(self) -> None:
        """Keep nothing."""
        self._patches: Spread[dict[str, _Shown]] = Spread(self.max_patches)
        self._tokens: Spread[dict[str, _Tokens]] = Spread(_CHOICE * self.rows)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the folder, of which all ranks must be asked."""
        super().setup(trainer, pl_module, stage)
        self._folder = Path(
            self.dirpath or Path(trainer.log_dir or trainer.default_root_dir, 'pictures')
        )

    def start(self, trainer: Trainer, task: EncoderPretraining) -> None:
        """Forget the epoch before."""
        self._empty()

    def collect(
        self,
        task: EncoderPretraining,
        batch: MultiSensorSample,
        features: Mapping[str, Features],
        first: int,
    ) -> None:
        """Keep quick-looks and vectors of some patches, and all tokens of a few."""
        vectors = {name: F.normalize(task.embed(f).float(), dim=1) for name, f in features.items()}
        enough = {
            name: (f.valid.float().mean(dim=1) >= self.min_valid).tolist()
            for name, f in features.items()
        }
        for i, rows in enumerate(rows_of_patches(batch['present'])):
            seen = {name: row for name, row in rows.items() if enough[name][row]}
            shared = len(seen) >= min(2, len(features))
            wanted = shared and self._patches.wants(first + i), self._tokens.wants(first + i)
            if not shared or not any(wanted):
                continue
            looks = {name: quick_look(batch['sensors'][name], row) for name, row in seen.items()}
            if wanted[0]:
                self._patches.put(
                    first + i,
                    {n: _Shown(looks[n], vectors[n][row].cpu()) for n, row in seen.items()},
                )
            if wanted[1]:
                self._tokens.put(
                    first + i, {n: _whole(looks[n], features[n], row) for n, row in seen.items()}
                )

    def finish(self, trainer: Trainer, task: EncoderPretraining) -> None:
        """Draw, write and send the pictures."""
        patches, tokens = self._patches.items(), self._tokens.items()
        self._empty()
        if not trainer.is_global_zero:
            return
        drawn = {
            'neighbours': _neighbours(patches, rows=self.rows, count=self.neighbours),
            'tokens': _components([tokens[i] for i in _most_seen(tokens, self.rows)]),
        }
        fitting = trainer.state.fn == TrainerFn.FITTING
        when = f'{trainer.global_step:06d}' if fitting else str(trainer.state.fn)
        for name, figure in drawn.items():
            if figure is None:
                continue
            self._folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(self._folder / f'{name}-{when}.png', dpi=100)
            for board in trainer.loggers:
                if isinstance(board, TensorBoardLogger):
                    step = trainer.global_step
                    board.experiment.add_figure(f'val/{name}', figure, global_step=step)


def _whole(look: QuickLook, features: Features, row: int) -> _Tokens:
    """All tokens of a patch on their grid."""
    tokens, valid = features.tokens[row].half().cpu(), features.valid[row].cpu()
    rows, columns = features.grid
    return _Tokens(look, tokens.reshape(rows, columns, -1), valid.reshape(rows, columns))


def _most_seen(patches: Sequence[Mapping[str, Any]], count: int) -> list[int]:
    """Numbers of a few of the patches that most sensors saw, spread evenly over these."""
    most = sorted({len(patch) for patch in patches}, reverse=True)
    found = [i for size in most for i, patch in enumerate(patches) if len(patch) == size]
    same = max(count, sum(len(patch) == most[0] for patch in patches)) if most else count
    return found[:same][:: max(1, same // count)][:count]


def _neighbours(patches: list[dict[str, _Shown]], *, rows: int, count: int) -> Figure | None:
    """Draw the nearest patches across sensors; nothing if no patch was seen twice."""
    names = list(dict.fromkeys(name for patch in patches for name in patch))
    first = next((name for name in names if sum(name in p for p in patches) > 1), None)
    if first is None or len(names) < 2:
        return None
    colours = {}
    for name in names:
        have = [i for i, patch in enumerate(patches) if name in patch]
        colours[name] = dict(zip(have, stretched([patches[i][name].look for i in have])))
    queries = [i for i in _most_seen(patches, rows) if i in colours[first]]
    found = []
    for query in queries:
        vector = patches[query][first].vector
        others = {}
        for name in names:
            keys = list(colours[name])
            if name == first or not keys:
                continue
            cosine = torch.stack([patches[i][name].vector for i in keys]) @ vector
            order = cosine.argsort(descending=True, stable=True).tolist()
            rank = [keys[i] for i in order].index(query) + 1 if query in keys else None
            nearest = [
                Candidate(colours[name][keys[i]], float(cosine[i]), keys[i] == query)
                for i in order[:count]
            ]
            others[name] = nearest, rank, len(keys)
        found.append(Neighbours(colours[first][query], others))
    return draw_neighbours(first, found, count=count) if found else None


def _components(patches: list[dict[str, _Tokens]]) -> Figure | None:
    """Draw the principal components of the tokens of a few patches; nothing if there are none."""
    names = list(dict.fromkeys(name for patch in patches for name in patch))
    every = [p.tokens[p.valid].float() for patch in patches for p in patch.values()]
    if not every or sum(map(len, every)) < 2:
        return None
    known = torch.cat(every)
    mean, directions = principal_components(known)
    scores = (known - mean) @ directions
    low, high = torch.quantile(scores, torch.tensor([0.02, 0.98]), dim=0)
    colours = {}
    for name in names:
        have = [i for i, patch in enumerate(patches) if name in patch]
        colours[name] = dict(zip(have, stretched([patches[i][name].look for i in have])))
    rows: list[TokenRow] = []
    for i, patch in enumerate(patches):
        row = {}
        for name, p in patch.items():
            shares = (
                ((p.tokens.float() - mean) @ directions - low) / (high - low).clamp(min=1e-6)
            ).clamp(0, 1)
            row[name] = (
                colours[name][i],
                torch.cat([shares, p.valid[..., None].to(shares.dtype)], dim=-1),
            )
        rows.append(row)
    return draw_tokens(names, rows)
