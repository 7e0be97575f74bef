"""Which variables a block's step needs, of those that may wait on the host.

The order of blocks is known, so what the next step needs is fetched while
this one runs, and what the last one needed leaves meanwhile.
"""

from keras_dblocks import compat


def check_offload(offload, parameters):
    """Raises a ValueError for settings of `compile` that do not go together."""
    if offload not in (None, "host") or parameters and not offload:
        raise ValueError(
            '`offload` must be None, or "host", which `offload_parameters` '
            f"needs too. Received: offload={offload!r}, "
            f'offload_parameters={parameters!r}. Pass "host", or neither.'
        )


def needed(model):
    """For each block, the variables its step needs on the device.

    Of the blocks' optimizers, without scalars and averages of weights, which
    others read; and of the blocks' own parameters, if those are offloaded:
    then the hand-over needs the earlier blocks' too. Shared parts stay where
    they are.
    """
    groups = []
    own = model.own_variables()
    for i, optimizer in enumerate(model.optimizer.optimizers[: len(own)]):
        kept = {id(v) for v in compat.weight_averages(optimizer)}
        state = [v for v in optimizer.variables if v.ndim]
        group = [v for v in state if id(v) not in kept]
        if model.offload_parameters:
            first = 0 if model.on_policy else i
            group += [v for block in own[first : i + 1] for v in block]
        groups.append(group)
    return groups
