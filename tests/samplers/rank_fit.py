# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""A training that does nothing but write down its patches: what test_rank_samplers.py compares."""

import json
import os
from pathlib import Path

import torch
import torch.multiprocessing as mp
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from torchgeo_anysensor.datamodules import ChippedDataModule, MultiSensorDataModule
from torchgeo_anysensor.samplers import BlockSplit

LENGTH, BATCH, EPOCHS = 26, 4, 2
CHIP_BATCH = 2


class Recorder(LightningModule):
    """Keeps the patches of each step, by epoch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {}

    def training_step(self, batch, number):
        (view, *_), *_ = batch['sensors'].values()
        patches = torch.cat([view['bounds'][:, [0, 3]].double(), view['t'][:, None]], dim=1)
        self.seen.setdefault(self.current_epoch, []).append(patches.tolist())
        return self.weight**2

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters())


def patches_of(dataset, *, num_workers=0):
    """Patches of scenes, in pairs side by side."""
    return MultiSensorDataModule(
        dataset,
        size=120,
        split=BlockSplit(300),
        batch_size=BATCH,
        length=LENGTH,
        neighbours=2,
        num_workers=num_workers,
    )


def chips_of(root):
    """Chips, read by two workers."""
    return ChippedDataModule(root, batch_size=CHIP_BATCH, num_workers=2)


def fit(data, folder, *, ckpt_path=None, **options):
    """Train two epochs, keeping a checkpoint of every step; the patches by epoch."""
    seed_everything(7, verbose=False)  # ranks of Lightning take no other
    keep = ModelCheckpoint(folder, '{step}', save_top_k=-1, every_n_train_steps=1)
    recorder = Recorder()
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator='cpu',
        logger=False,
        callbacks=[keep],
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        **options,
    )
    trainer.fit(recorder, data, ckpt_path=ckpt_path)
    return recorder.seen


def run(rank, dataset, chips, folder, port, resumed):
    """Train as one of two ranks, and once more from a checkpoint, on patches and on chips."""
    torch.set_num_threads(1)
    about = {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port, 'WORLD_SIZE': 2, 'LOCAL_RANK': rank}
    os.environ.update({key: str(value) for key, value in (about | {'NODE_RANK': 0}).items()})
    options = {'strategy': 'ddp', 'devices': 2}
    seen = {}
    for name, make, source in (('patches', patches_of, dataset), ('chips', chips_of, chips)):
        whole, again = folder / name, folder / f'{name} again'
        seen[name] = {'whole': fit(make(source), whole, **options)}
        seen[name]['resumed'] = fit(make(source), again, ckpt_path=whole / resumed, **options)
    (folder / f'{rank}.json').write_text(json.dumps(seen))
    torch.distributed.destroy_process_group()


def fit_in_two_processes(dataset, chips: Path, folder: Path, port: int, resumed: str):
    """Train in two processes; what each has seen, the whole runs and the resumed ones."""
    mp.start_processes(run, (dataset, chips, folder, port, resumed), nprocs=2, start_method='fork')
    return [json.loads((folder / f'{rank}.json').read_text()) for rank in range(2)]
