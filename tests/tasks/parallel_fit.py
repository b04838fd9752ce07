# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""A small training, in one process and in two: what test_parallel_training.py compares."""

import os

import torch
import torch.multiprocessing as mp
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.utils.data import DataLoader

from torchgeo_anysensor.callbacks import (
    Efficiency,
    KNNProbe,
    RepresentationMonitor,
    RepresentationPictures,
)
from torchgeo_anysensor.losses import CrossSensorInfoNCE
from torchgeo_anysensor.models import AnySensorViT
from torchgeo_anysensor.tasks import CrossSensorContrastive

#: Rows of the two ranks, of which the second has not seen the last sensor.
SIZES = (5, 3)
PIXELS = {'s0': (4, 24, 10.0), 's1': (3, 8, 30.0), 's2': (2, 12, 20.0)}
STRATEGIES = {
    'ddp': DDPStrategy,
    'sharded': lambda: ModelParallelStrategy(2, 1, save_distributed_checkpoint=False),
}


class GradientDescent(CrossSensorContrastive):
    """Steps are gradients: AdamW would make a large step of a rounding error."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameter_groups(), lr=1.0)


def make_task():
    torch.manual_seed(1)
    encoder = AnySensorViT(32, depth=2, num_heads=2, band_dim=16, detail_dim=8)
    loss = CrossSensorInfoNCE(0.2, temperature_bounds=(0.01, 1))
    return GradientDescent(encoder, loss=loss, tokens_per_patch=16)


def whole_batch():
    generator = torch.Generator().manual_seed(0)
    rows = sum(SIZES)
    sensors, present = {}, {}
    for name, (bands, size, res) in PIXELS.items():
        there = torch.ones(rows, dtype=torch.bool)
        if name == 's2':
            there[SIZES[0] :] = False
        count = int(there.sum())
        view = {
            'image': torch.rand(count, bands, size, size, generator=generator),
            'valid': torch.rand(count, size, size, generator=generator) > 0.1,
            # Those of the last one are unlike the others', and one rank alone meets them
            'wavelength': torch.linspace(0.44, 2.2, bands) * (1.05 if name == 's2' else 1),
            'bandwidth': torch.full((bands,), 0.05),
            'gsd': torch.full((bands,), res),
            'res': torch.tensor(res),
            'bounds': torch.zeros(count, 9),
        }
        view |= {key: torch.zeros(count) for key in ('t', 'dx', 'dy')}
        sensors[name], present[name] = (view,), there
    mask = torch.randint(3, (rows, 24, 24), generator=generator)
    return {'sensors': sensors, 'present': present, 'mask': mask}


def batch_of(rank):
    rows = slice(0, SIZES[0]) if rank == 0 else slice(SIZES[0], None)
    shared = ('res', 'wavelength', 'bandwidth', 'gsd')
    batch = whole_batch()
    seen = [name for name, there in batch['present'].items() if there[rows].any()]
    return {
        'sensors': {
            name: tuple(
                {key: x if key in shared else x[rows] for key, x in view.items()}
                for view in batch['sensors'][name]
            )
            for name in seen
        },
        'present': {name: batch['present'][name][rows] for name in seen},
        'mask': batch['mask'][rows],
    }


def fit(batch, folder, *, chunk=None, **options):
    """Four epochs of one step and one validation each; the trainer and what the validations said."""
    task = make_task()
    trainer = Trainer(
        max_epochs=4,
        accelerator='cpu',
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # the ranks have their batches
        gradient_clip_val=0.1,
        num_sanity_val_steps=1,
        callbacks=[
            Efficiency(chunk=chunk, checkpointing=chunk is not None),
            RepresentationMonitor(),
            RepresentationPictures(every_n_epochs=4),
            KNNProbe(every_n_epochs=2),
        ],
        default_root_dir=folder,
        **options,
    )
    train, val = (DataLoader([x], batch_size=None) for x in (batch, batch_of(0)))
    trainer.fit(task, train, val)
    return trainer, {key: float(x) for key, x in trainer.callback_metrics.items()}


def run(rank, folder, port):
    """Train as one of two ranks, with each strategy in turn."""
    torch.set_num_threads(1)
    about = {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port, 'WORLD_SIZE': 2, 'LOCAL_RANK': rank}
    os.environ.update({key: str(value) for key, value in (about | {'NODE_RANK': 0}).items()})
    for name, make in STRATEGIES.items():
        trainer, metrics = fit(batch_of(rank), folder, chunk=2, strategy=make(), devices=2)
        trainer.save_checkpoint(f'{folder}/{name}.ckpt')
        torch.save(metrics, f'{folder}/{name}{rank}.pt')
        moments = trainer.lightning_module.moments.state_dict()
        torch.save(moments, f'{folder}/{name}{rank}-moments.pt')
    torch.distributed.destroy_process_group()


def fit_in_two_processes(folder, port):
    """Train in two processes, which do not have to import all again."""
    mp.start_processes(run, (str(folder), port), nprocs=2, start_method='fork')
