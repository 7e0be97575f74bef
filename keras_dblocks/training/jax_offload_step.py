"""Keeps the state of idle blocks in host memory on JAX.

JAX dispatches copies like computations: they wait for their inputs and run
in parallel with other work. A device without the memory kind "pinned_host"
keeps everything where it is.
"""

import jax

from keras_dblocks import compat
from keras_dblocks.training.offload import needed


class OffloadedStep:
    """A `JaxStep` that moves the state of all other blocks to the host.

    Args:
        step: `JaxStep`.
    """

    def __init__(self, step):
        self.step, model = step, step.trainer
        places = step.places
        self.groups = [{places[id(v)] for v in g} for g in needed(model)]
        idle = set().union(*self.groups) - self.groups[step.index]
        kinds = [m.kind for m in jax.local_devices()[0].addressable_memories()]
        self.idle = idle if "pinned_host" in kinds else set()
        self.here = set(places.values()) - self.idle

    def __call__(self, data, state):
        move(state, self.here)
        left, arrived = move(state, self.idle, "pinned_host")
        if len(left) > max(map(len, self.groups)):
            # More than one block's state left the device, which happens in the
            # first step after `compile`. Wait for it before this step.
            jax.block_until_ready(arrived)
        logs = self.step(data, state)
        # This waits for the copies, but not for this step. So the device never
        # holds the state of more than two blocks.
        jax.block_until_ready(arrived)
        for value in left:
            value.delete()  # Keras may still hold it
        move(state, self.groups[self.step.trainer.upcoming_block()])
        return logs


def move(state, places, memory=None):
    """Moves those entries of the state that are not in `memory` yet.

    Args:
        state: tuple of lists of arrays, changed in place.
        places: pairs of a list's number and a position in that list.
        memory: kind of memory, or None for the device's own.

    Returns:
        The arrays that were moved, and the arrays that replace them.
    """
    memory = memory or jax.local_devices()[0].default_memory().kind
    # JAX compiles anew when an argument becomes committed to its device, and
    # arrays from host memory are committed. So we commit all of them from the
    # first step on.
    moving = [
        (kind, i)
        for kind, i in places
        if state[kind][i].sharding.memory_kind != memory
        or not state[kind][i].committed
    ]
    old = [state[kind][i] for kind, i in moving]
    there = [value.sharding.with_memory_kind(memory) for value in old]
    new = jax.device_put(old, there)
    for (kind, i), value in zip(moving, new, strict=True):
        state[kind][i] = value
    return old, new


def bring_home(model):
    """Moves offloaded parameters to the device before Keras syncs them."""
    values = compat.epoch_state(model).get("trainable_variables", [])
    move([values], [(0, i) for i in range(len(values))])
