# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Less memory, or less time, for the same training."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ..models import SensorEncoder


class Efficiency(Callback):
    """How the encoder of a task is run. None of it changes what is learned, but for rounding."""

    def __init__(
        self,
        *,
        chunk: int | None = None,
        checkpointing: bool = False,
        compile: bool | Mapping[str, Any] = False,
    ) -> None:
        """Choose.

        Args:
            chunk: Samples of a sensor whose activations are held at a time, so that a contrastive
                batch may be larger than memory; see :func:`~..models.encode`.
            checkpointing: Compute the blocks of the transformer again on the way back; see
                :meth:`~..models.SensorEncoder.set_grad_checkpointing`.
            compile: Compile the encoder; a mapping holds arguments of :func:`torch.compile`.

        Raises:
            ValueError: If *chunk* is not positive.
        """
        if chunk is not None and chunk < 1:
            raise ValueError(f'chunk must be at least 1 sample, got {chunk}')
        self.chunk = chunk
        self.checkpointing = checkpointing
        self.compile = compile

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell the encoder, before a strategy wraps it.

        Args:
            trainer: Of the run.
            pl_module: The task.
            stage: Of the run.

        Raises:
            TypeError: If the task has no encoder.
            ValueError: If the encoder has no blocks to compute again.
        """
        compiled = self.compile is not False
        if self.chunk is None and not self.checkpointing and not compiled:
            return
        encoder = getattr(pl_module, 'encoder', None)
        if not isinstance(encoder, SensorEncoder):
            raise TypeError(
                f'chunk, checkpointing and compile are for the encoder of a task, and '
                f'{type(pl_module).__name__} has none; leave them out'
            )
        if self.chunk is not None:
            encoder.batch_chunk = self.chunk
        if self.checkpointing:
            encoder.set_grad_checkpointing()
        if compiled:
            encoder.compile(**(self.compile if isinstance(self.compile, Mapping) else {}))
