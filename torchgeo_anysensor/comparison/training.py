# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Training on patches in memory, within a budget that is the same for all."""

import hashlib
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.flop_counter import FlopCounterMode

from ..datasets import take_rows
from ..tasks import CrossSensorContrastive, MapTask, SensorTranslation
from ..types import MultiSensorSample
from .patches import Patches

Transform = Callable[[MultiSensorSample], MultiSensorSample]


@dataclass(frozen=True)
class Budget:
    """What a method may spend, the same for all.

    Attributes:
        steps: Training steps with labels.
        gflop: Most floating-point operations of these steps, in billions; a method that would need
            more makes fewer steps.
        pretrain_steps: Training steps without labels, for methods that can use them.
        trials: Hyper-parameters that are tried, on validation ground; a method that names more of
            them uses the first.
        trial_steps: Training steps with labels of a trial; by default *steps*.
        precision: Of the trainings, as Lightning calls it; by default ``bf16-mixed`` on a GPU that
            has it, and ``32-true`` elsewhere.
        batch_size: Patches in a batch with labels.
        pretrain_batch_size: Patches in a batch without labels.
    """

    steps: int = 300
    gflop: float | None = None
    pretrain_steps: int = 150
    trials: int = 3
    trial_steps: int | None = None
    precision: Literal['32-true', 'bf16-mixed'] | None = None
    batch_size: int = 8
    pretrain_batch_size: int = 16

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If one is not positive.
        """
        counts = {k: v for k, v in asdict(self).items() if isinstance(v, int)}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f'{name}={value} must be at least 1')
        if self.gflop is not None and not self.gflop > 0:
            raise ValueError(f'gflop={self.gflop} must be positive')


def digest(files: Iterable[Path]) -> str:
    """A short name of what is in files, another one after every change."""
    return hashlib.sha256(b''.join(file.read_bytes() for file in sorted(files))).hexdigest()[:8]


#: Of the code of this package that was imported, whatever its files have become since.
CODE = digest(Path(__file__).parents[1].rglob('*.py'))


@dataclass(frozen=True)
class Spent:
    """What a training took, and :data:`CODE` of what made it, or nothing if nothing was trained."""

    steps: int = 0
    gflop: float = 0.0
    seconds: float = 0.0
    code: str = ''


class _Draws(IterableDataset[MultiSensorSample]):
    """Batches of random patches, the same for the same seed."""

    def __init__(
        self,
        patches: Patches,
        *,
        steps: int,
        size: int,
        seed: int,
        transforms: Sequence[Transform] = (),
    ) -> None:
        self.patches = patches
        self.steps = steps
        self.size = size
        self.seed = seed
        self.transforms = transforms

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[MultiSensorSample]:
        generator = torch.Generator().manual_seed(self.seed)
        queue = torch.empty(0, dtype=torch.long)
        for _ in range(self.steps):
            while len(queue) < self.size:  # every patch once before one comes again
                queue = torch.cat([queue, torch.randperm(len(self.patches), generator=generator)])
            rows, queue = queue[: self.size], queue[self.size :]
            batch = take_rows(self.patches.batch, rows)
            for transform in self.transforms:
                batch = transform(batch)
            yield batch


def train(
    task: MapTask | CrossSensorContrastive | SensorTranslation,
    patches: Patches,
    budget: Budget,
    *,
    seed: int,
    transforms: Sequence[Transform] = (),
) -> Spent:
    """Train a task, in place.

    Args:
        task: Any task of the package.
        patches: To train with.
        budget: Of steps with labels for a map, and without for another task.
        seed: Of the order of the patches.
        transforms: Called in turn on each batch.

    Returns:
        What it took.

    Raises:
        ValueError: If there is no patch.
    """
    if not len(patches):
        raise ValueError('there is no patch to train with: no label is left on its ground')
    start = time.perf_counter()
    with_labels = isinstance(task, MapTask)
    steps = budget.steps if with_labels else budget.pretrain_steps
    size = budget.batch_size if with_labels else budget.pretrain_batch_size
    draw = _Draws(patches, steps=steps, size=size, seed=seed, transforms=transforms)
    gflop = gflop_per_step(task, next(iter(draw)))
    if with_labels and budget.gflop is not None:
        draw.steps = max(1, min(steps, int(budget.gflop / gflop)))
    with quiet():
        trainer = Trainer(
            max_steps=draw.steps,
            accelerator='auto',
            devices=1,
            precision=budget.precision or default_precision(),
            gradient_clip_val=1.0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(task, DataLoader(draw, batch_size=None))
    task.eval()
    return Spent(draw.steps, gflop * draw.steps, time.perf_counter() - start, CODE)


def default_precision() -> Literal['32-true', 'bf16-mixed']:
    """Precision of the machine."""
    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return 'bf16-mixed' if bf16 else '32-true'


def gflop_per_step(
    task: MapTask | CrossSensorContrastive | SensorTranslation, batch: MultiSensorSample
) -> float:
    """Count the operations of one training step, forward and backward, in billions."""
    state = torch.get_rng_state()
    task.train()
    with FlopCounterMode(display=False) as counter:
        loss = (
            task.train_loss(batch)
            if isinstance(task, MapTask)
            else cast(Any, task).losses(batch)['loss']
        )
        torch.autograd.backward(loss)
    task.zero_grad()
    torch.set_rng_state(state)
    return float(counter.get_total_flops()) / 1e9


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning from talking about each of hundreds of small trainings."""
    loggers = [logging.getLogger(f'lightning.{name}') for name in ('pytorch', 'fabric')]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', module='lightning')
            warnings.filterwarnings('ignore', message='You are trying to `self.log')
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


@torch.no_grad()
def predict(
    task: MapTask, patches: Patches, sensors: Sequence[str], budget: Budget, *, batch_size: int = 64
) -> Iterator[Tensor]:
    """Predict classes.

    Args:
        task: Trained.
        patches: To look at.
        sensors: Sensors to use.
        budget: Its precision.
        batch_size: Patches in a batch.

    Yields:
        Probabilities ``(B, K, H, W)``, in the order of the patches.
    """
    task.to('cuda' if torch.cuda.is_available() else 'cpu').eval()
    bf16 = (budget.precision or default_precision()) == 'bf16-mixed'
    for batch in patches.batches(batch_size):
        here = [name for name in sensors if name in batch['sensors']]
        with torch.autocast(task.device.type, torch.bfloat16, enabled=bf16):
            logits = task(_move(batch, task.device), sensors=here)
        yield logits.float().softmax(dim=1).cpu()


def _move(batch: Any, device: torch.device) -> Any:
    """Tensors in nested containers, on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: _move(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple):
        return tuple(_move(value, device) for value in batch)
    return batch
