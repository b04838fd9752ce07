# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Maps of classes: by a whole model, or by a head on the features of an encoder."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib import pyplot as plt
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from ..models import LinearHead, Segmenter, SensorEncoder, encode_sensors, segment
from ..models.pretrained import load_encoder
from ..types import IGNORE_INDEX, MultiSensorSample, SensorSample
from .base import SensorTask, joint_views, sensor_views
from .schedule import Schedule


class MapTask(SensorTask):
    """Base of the tasks that make a map of classes.

    Logs the loss, the intersection over union (IoU) of each class, their mean over the classes that
    occur (mIoU) and the overall accuracy, for val and test; during validation also a picture of the
    image, the truth and the prediction. Pixels that no sensor saw (cloud, nodata) count nowhere.
    """

    monitor = 'val_miou'
    mode = 'max'

    def set_up_map(
        self,
        classes: Sequence[str],
        train_sensors: Sequence[str] | None,
        test_sensors: Sequence[str] | None,
    ) -> None:
        """Take note of what the map shows, and of what it is made from.

        Args:
            classes: Names of the classes 0, 1, ...
            train_sensors: Sensors that train and validate; all of the batch if None.
            test_sensors: Sensors that test; if None, *train_sensors*.
        """
        self.classes = tuple(classes)
        self.train_sensors = tuple(train_sensors) if train_sensors else None
        self.test_sensors = tuple(test_sensors) if test_sensors else self.train_sensors
        self.val_confusion = MulticlassConfusionMatrix(len(classes), ignore_index=IGNORE_INDEX)
        self.test_confusion = MulticlassConfusionMatrix(len(classes), ignore_index=IGNORE_INDEX)

    @abstractmethod
    def forward(self, batch: MultiSensorSample, *, sensors: Sequence[str] | None = None) -> Tensor:
        """Logits of a batch.

        Args:
            batch: Of :func:`~..datasets.collate_sensors`.
            sensors: Which to look at; all of the batch by default.

        Returns:
            ``(B, K, H, W)`` on the grid of ``mask``, or of the finest view if there is no mask.
        """

    def train_loss(self, batch: MultiSensorSample) -> Tensor:
        """What training minimises.

        Args:
            batch: Of :func:`~..datasets.collate_sensors`, with ``mask``.
        """
        logits = self(batch, sensors=self.train_sensors)
        return self._loss(logits, seen_labels(batch, self.train_sensors))

    def training_step(self, batch: MultiSensorSample, batch_idx: int) -> Tensor:
        """Loss of one batch.

        Args:
            batch: Of :func:`~..datasets.collate_sensors`, with ``mask``.
            batch_idx: Number of the batch.
        """
        loss = self.train_loss(batch)
        self.log('train_loss', loss, batch_size=len(batch['mask']), prog_bar=True)
        return loss

    def validation_step(self, batch: MultiSensorSample, batch_idx: int) -> None:
        """Count hits; draw the first batch.

        Args:
            batch: Of :func:`~..datasets.collate_sensors`, with ``mask``.
            batch_idx: Number of the batch.
        """
        logits = self(batch, sensors=self.train_sensors)
        mask = seen_labels(batch, self.train_sensors)
        self.log('val_loss', self._loss(logits, mask), batch_size=len(mask), sync_dist=True)
        self.val_confusion.update(logits, mask)
        if batch_idx == 0:
            self._draw(batch, logits.argmax(dim=1))

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        self._log_scores('val', self.val_confusion)

    def test_step(self, batch: MultiSensorSample, batch_idx: int) -> None:
        """Count hits.

        Args:
            batch: Of :func:`~..datasets.collate_sensors`, with ``mask``.
            batch_idx: Number of the batch.
        """
        logits = self(batch, sensors=self.test_sensors)
        self.test_confusion.update(logits, seen_labels(batch, self.test_sensors))

    def on_test_epoch_end(self) -> None:
        """Log the scores."""
        self._log_scores('test', self.test_confusion)

    def predict_step(self, batch: MultiSensorSample, batch_idx: int) -> Tensor:
        """Classes ``(B, H, W)`` of one batch.

        Args:
            batch: Of :func:`~..datasets.collate_sensors`.
            batch_idx: Number of the batch.
        """
        return self(batch, sensors=self.test_sensors).argmax(dim=1)

    @staticmethod
    def _loss(logits: Tensor, mask: Tensor) -> Tensor:
        """Mean cross entropy of the labelled pixels; 0 if there are none."""
        total = F.cross_entropy(logits.float(), mask, ignore_index=IGNORE_INDEX, reduction='sum')
        return total / (mask != IGNORE_INDEX).sum().clamp(min=1)

    def _log_scores(self, stage: str, confusion: MulticlassConfusionMatrix) -> None:
        """Log IoU by class, mIoU and overall accuracy, and start counting anew."""
        scores = segmentation_scores(confusion.compute())
        confusion.reset()
        named = {f'{stage}_iou/{name}': iou for name, iou in zip(self.classes, scores['iou'])}
        self.log_dict({key: value for key, value in named.items() if not value.isnan()})
        self.log(f'{stage}_miou', scores['miou'], prog_bar=True)
        self.log(f'{stage}_accuracy', scores['accuracy'], prog_bar=True)

    def _draw(self, batch: MultiSensorSample, prediction: Tensor) -> None:
        """Send a picture of the first sample to TensorBoard, if that is the logger."""
        datamodule = getattr(self.trainer, 'datamodule', None)
        boards = [log for log in self.trainer.loggers if isinstance(log, TensorBoardLogger)]
        if datamodule is None or not boards or not self.trainer.is_global_zero:
            return
        figure = datamodule.plot(_first_sample(batch) | {'prediction': prediction[0].cpu()})
        for board in boards:
            board.experiment.add_figure('val/first', figure, global_step=self.global_step)
        plt.close(figure)


class Segmentation(MapTask):
    """A map of classes from a whole model; logs what :class:`MapTask` does."""

    def __init__(
        self,
        segmenter: Segmenter,
        classes: Sequence[str],
        *,
        train_sensors: Sequence[str] | None = None,
        test_sensors: Sequence[str] | None = None,
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        schedule: Schedule | None = None,
    ) -> None:
        """Make the task.

        Args:
            segmenter: What is trained.
            classes: Names of the classes 0, 1, ...
            train_sensors: Sensors that train and validate it; all of the batch by default.
            test_sensors: Sensors that test it; by default *train_sensors*.
            lr: Peak learning rate.
            weight_decay: Of AdamW.
            schedule: How the learning rate moves; by default as :class:`.Schedule` does.

        Raises:
            ValueError: If the segmenter has another number of classes.
        """
        super().__init__()
        if segmenter.num_classes != len(classes):
            raise ValueError(
                f'the segmenter has num_classes={segmenter.num_classes}, '
                f'and classes names {len(classes)}'
            )
        self.describe_modules(segmenter=segmenter, schedule=schedule)
        self.segmenter = segmenter
        self.set_up_map(classes, train_sensors, test_sensors)

    def forward(self, batch: MultiSensorSample, *, sensors: Sequence[str] | None = None) -> Tensor:
        """Logits of a batch; see :meth:`MapTask.forward`."""
        views = sensor_views(batch['sensors'], batch.get('present'), sensors)
        return segment(self.segmenter, views, map_size(batch, joint_views(views, None)))

    def train_loss(self, batch: MultiSensorSample) -> Tensor:
        """Mean loss of the decisions, each where it has seen something."""
        views = sensor_views(batch['sensors'], batch.get('present'), self.train_sensors)
        mask = seen_labels(batch, self.train_sensors)
        decided = self.segmenter.decide(views, (mask.shape[-2], mask.shape[-1])).values()
        losses = [self._loss(d.logits, torch.where(d.seen, mask, IGNORE_INDEX)) for d in decided]
        return torch.stack(losses).mean()


class SegmentationProbe(MapTask):
    """A map of classes from the features of an encoder, frozen or fine-tuned.

    Logs what :class:`MapTask` does.
    """

    def __init__(
        self,
        encoder: SensorEncoder | str,
        classes: Sequence[str],
        *,
        head: Callable[[int, int], nn.Module] = LinearHead,
        canonical: bool = True,
        freeze: bool = True,
        train_sensors: Sequence[str] | None = None,
        test_sensors: Sequence[str] | None = None,
        token_m: float | None = None,
        detail_m: float | None = None,
        lr: float = 1e-3,
        encoder_lr: float = 0.1,
        weight_decay: float = 0.05,
        schedule: Schedule | None = None,
    ) -> None:
        """Make the task.

        Args:
            encoder: An encoder, or the path of a checkpoint that the pretraining wrote.
            classes: Names of the classes 0, 1, ...
            head: Called with the length of the features and the number of classes; makes a module
                that turns features and a size ``(H, W)`` into logits ``(B, K, H, W)``.
            canonical: Of a checkpoint; see :func:`~..models.load_encoder`.
            freeze: Train the head alone; otherwise the encoder too.
            train_sensors: Sensors that train and validate the probe; all of the batch by default.
                Several are read as :func:`~..models.encode_sensors` does.
            test_sensors: Sensors that test it; by default *train_sensors*.
            token_m: Width of a ground token in metres; by default the encoder's own.
            detail_m: Width of a cell of the encoder's detail in metres, if the head is to read that
                too; *head* is then told its ``detail_dim``.
            lr: Peak learning rate.
            encoder_lr: That of an encoder that is not frozen, as a share of *lr*.
            weight_decay: Of AdamW.
            schedule: How the learning rate moves; by default as :class:`.Schedule` does.

        Raises:
            FileNotFoundError: If the checkpoint does not exist.
            ValueError: If the checkpoint holds no encoder.
        """
        super().__init__()
        if isinstance(encoder, str):
            encoder = load_encoder(encoder, canonical=canonical)
        self.encoder = encoder
        # From now on the encoder is described by itself, not by a path that may move
        self.describe_modules(encoder=self.encoder, head=self.hparams['head'], schedule=schedule)
        detail = {'detail_dim': self.encoder.detail_dim} if detail_m is not None else {}
        self.head = cast(Any, head)(self.encoder.embed_dim, len(classes), **detail)
        self.freeze_encoder = freeze
        self.token_m = token_m
        self.detail_m = detail_m
        if freeze:
            self.encoder.requires_grad_(False)
        else:
            for part in self.encoder.detail_parts():
                part.requires_grad_(detail_m is not None)
        self.set_up_map(classes, train_sensors, test_sensors)

    def train(self, mode: bool = True) -> 'SegmentationProbe':
        """Keep a frozen encoder in evaluation mode."""
        super().train(mode)
        if self.freeze_encoder:
            self.encoder.eval()
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The head, and the encoder at its own rate unless it is frozen."""
        groups: list[dict[str, Any]] = [{'params': list(self.head.parameters())}]
        if not self.freeze_encoder:
            lr = self.hparams['lr'] * self.hparams['encoder_lr']
            groups.append({'params': list(self.encoder.parameters()), 'lr': lr})
        return groups

    def forward(self, batch: MultiSensorSample, *, sensors: Sequence[str] | None = None) -> Tensor:
        """Logits of a batch; see :meth:`MapTask.forward`."""
        views = sensor_views(batch['sensors'], batch.get('present'), sensors)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_encoder):
            features = encode_sensors(
                self.encoder, views, token_m=self.token_m, detail_m=self.detail_m
            )
        return cast(Tensor, self.head(features, map_size(batch, joint_views(views, None))))


def map_size(batch: MultiSensorSample, views: Sequence[SensorSample]) -> tuple[int, int]:
    """Rows and columns of the map: those of ``mask``, or of the finest view if there is none."""
    grids = [batch['mask']] if 'mask' in batch else [view['image'] for view in views]
    height, width = max((grid.shape[-2:] for grid in grids), key=lambda shape: shape[1])
    return height, width


def seen_labels(batch: MultiSensorSample, sensors: Sequence[str] | None = None) -> Tensor:
    """Labels of the pixels that at least one sensor saw.

    Args:
        batch: Of :func:`~..datasets.collate_sensors`, with ``mask``.
        sensors: Which sensors count; all of the batch by default.

    Returns:
        ``(B, H, W)``, :data:`~..types.IGNORE_INDEX` where all of them have cloud or no data.
    """
    mask = batch['mask']
    views = joint_views(batch['sensors'], batch.get('present'), sensors)
    seen = torch.zeros_like(mask, dtype=torch.bool)
    for view in views:
        valid = view['valid'][:, None].float()
        seen |= F.interpolate(valid, mask.shape[-2:], mode='nearest')[:, 0] > 0
    return torch.where(seen, mask, IGNORE_INDEX)


def _first_sample(batch: MultiSensorSample) -> dict[str, Any]:
    """The first sample of a batch, on the CPU."""
    present = batch['present']
    sensors = {
        name: tuple(
            {
                key: value[0].cpu() if key in ('image', 'valid') else value.cpu()
                for key, value in cast(dict[str, Tensor], view).items()
            }
            for view in views
        )
        for name, views in batch['sensors'].items()
        if present[name][0]
    }
    return {'sensors': sensors, 'mask': batch['mask'][0].cpu()}


def segmentation_scores(confusion: Tensor) -> dict[str, Tensor]:
    """Scores of a confusion matrix.

    Args:
        confusion: ``(K, K)`` counts, truth in rows and prediction in columns.

    Returns:
        ``iou`` ``(K,)``, NaN for a class that neither occurs nor is predicted; ``miou`` ``()``, the
        mean over the classes that occur in the truth; ``accuracy`` ``()``, the share of pixels that
        are right.
    """
    counts = confusion.double()
    hits, truth, predicted = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
    iou = hits / (truth + predicted - hits)
    return {
        'iou': iou.float(),
        'miou': iou[truth > 0].mean().float(),
        'accuracy': (hits.sum() / counts.sum()).float(),
    }
