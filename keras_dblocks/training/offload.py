"""The variables a block's step needs, among those kept in host memory.

The order of blocks is known. While a step runs, the variables of the next
step are fetched, and those of the last step leave the device.
"""

from keras_dblocks import compat


def check_offload(offload, parameters):
    """Raises a ValueError for offload settings that contradict each other."""
    if offload not in (None, "host") or parameters and not offload:
        raise ValueError(
            '`offload` must be None, or "host", which `offload_parameters` '
            f"needs too. Received: offload={offload!r}, "
            f'offload_parameters={parameters!r}. Pass "host", or neither.'
        )


def needed(model):
    """For each block, the variables its step needs on the device.

    They are the state of the block's optimizer, except for scalars and
    averages of weights, which are also read elsewhere. If parameters are
    offloaded too, they include the block's own parameters, and with
    hand-overs those of all earlier blocks. Shared variables stay on the
    device.
    """
    groups = []
    own = model.own_variables()
    for i, optimizer in enumerate(model.optimizer.parts[: len(own)]):
        kept = {id(v) for v in compat.weight_averages(optimizer)}
        state = [v for v in optimizer.variables if v.ndim]
        group = [v for v in state if id(v) not in kept]
        if model.offload_parameters:
            first = 0 if model.on_policy else i
            group += [v for block in own[first : i + 1] for v in block]
        groups.append(group)
    return groups
