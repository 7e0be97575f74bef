"""Keeps the state of idle blocks in host memory on PyTorch.

On CUDA, copies go through pinned memory on a separate stream. On a CPU the
same code copies within host memory.
"""

import functools

import torch

from keras_dblocks.training.offload import needed


def offloaded(model, index, step):
    """The step of block `index` with all other blocks' state on the host."""
    groups = needed(model)
    used = {id(v) for v in groups[index]}
    idle = [v for group in groups for v in group if id(v) not in used]

    def offloaded_step(data):
        move(groups[index])
        if move(idle, to_host=True) > max(map(len, groups)):
            # More than one block's state left the device, which happens in the
            # first step after `compile`. Wait for it before this step.
            wait()
        logs = step(data)
        # This waits for the copies, but not for this step. So the device never
        # holds the state of more than two blocks, and copies on the host are
        # complete.
        wait()
        move(groups[model.upcoming_block()])
        return logs

    return offloaded_step


@functools.cache
def side_stream():
    """The CUDA stream of all copies, or None without CUDA."""
    return torch.cuda.Stream() if torch.cuda.is_available() else None


def wait():
    """Blocks until all copies that were started are done."""
    if side_stream():
        side_stream().synchronize()


def move(variables, to_host=False):
    """Moves those variables that are not there yet; returns their number.

    Copies to the host wait for the work that is already queued. Work that is
    queued later waits for copies to the device.
    """
    side = side_stream()
    main = torch.cuda.current_stream() if side else None
    # A variable on the host records its device in `_home`. The tensor's device
    # does not tell where it is if that device is a CPU.
    moving = [v for v in variables if (_home(v) is None) == to_host]
    if side and to_host:
        side.wait_stream(main)
    with torch.cuda.stream(side):
        for variable in moving:
            old = variable._value.data
            place = {"device": "cpu", "pin_memory": old.is_cuda}
            if not to_host:
                place = {"device": _home(variable)}
            new = torch.empty_like(old, **place).copy_(old, non_blocking=True)
            for value in (old, new):
                if value.is_cuda:
                    value.record_stream(side)
                    value.record_stream(main)
            variable._home = old.device if to_host else None
            variable._value.data = new
    if side and not to_host:
        main.wait_stream(side)
    return len(moving)


def _home(variable):
    return getattr(variable, "_home", None)


def bring_home(model):
    """Moves offloaded parameters to the device."""
    for variables in model.own_variables():
        move(variables)
