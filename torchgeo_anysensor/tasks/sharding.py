# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Parameters, gradients and the optimiser's state in pieces, one on each rank."""

from lightning.pytorch import LightningModule
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

#: What is called beside `forward`, by Lightning and by callbacks.
_STEPS = ('training_step', 'validation_step', 'test_step', 'predict_step', 'embed')


def shard(task: LightningModule, mesh: DeviceMesh) -> None:
    """Shard a task over the ranks (FSDP2, ``torch.distributed.fsdp.fully_shard``), once.

    The task is one unit: its parameters are gathered once in a step, and its gradients are reduced
    once. So ranks may hold other sensors, or other numbers of chunks, and call the encoder a
    different number of times; units of single blocks would then wait for each other, or mix.
    Parameters without a dimension, such as a learned temperature, cannot be cut. They stay whole:
    their gradient is the same on all ranks, see :class:`~..losses.CrossSensorInfoNCE`.

    Args:
        task: What is trained.
        mesh: Of Lightning, with ``data_parallel`` and ``tensor_parallel``.

    Raises:
        ValueError: If ranks are to share tensors.
    """
    if isinstance(task, FSDPModule):
        return
    if mesh['tensor_parallel'].size() > 1:
        raise ValueError(
            'no task splits its tensors over ranks, and ModelParallelStrategy does unless it is told '
            f'otherwise; give it data_parallel_size={mesh.size()} and tensor_parallel_size=1'
        )
    whole = {p for p in task.parameters() if p.ndim == 0}
    fully_shard(task, mesh=mesh['data_parallel'], ignored_params=whole)
    for name in filter(lambda step: hasattr(task, step), _STEPS):
        register_fsdp_forward_method(task, name)


def task_name(task: LightningModule) -> str:
    """Name of the class of a task, which is another one once the task is sharded."""
    kind = type(task)
    return (kind.__mro__[2] if isinstance(task, FSDPModule) else kind).__name__
