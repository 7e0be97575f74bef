"""Runs the chain of saved blocks, with one block in memory at a time."""

import numpy as np
from keras import ops, tree

from keras_dblocks.checks import check_integer
from keras_dblocks.diffusion.samplers import generation, loop
from keras_dblocks.models.assembly import (
    check_same_network,
    check_shared,
    network_of,
    paths_and_values,
    read_block,
)


class SavedChain:
    """The files of a network's blocks, read one after another.

    Args:
        cls: class that the network must have.
        paths: list of paths, one file per block, in the order of the blocks.

    Attributes:
        network: the network that they belong to, which is not built.
    """

    def __init__(self, cls, paths):
        self.paths = list(paths)
        if not self.paths:
            raise ValueError(
                "One file per block is needed. Received: none. Pass a list of "
                "the files that `model.block(i).save(path)` wrote."
            )
        self._ready = [read_block(self.paths[0])]
        self._shared = None  # values, of the first block that is run
        self.network = network_of(self._ready[0])
        if not isinstance(self.network, cls):
            kind = type(self.network).__name__
            raise ValueError(
                f"The blocks must be those of a {cls.__name__}. Received: "
                f"{self.paths[0]!r} of a {kind}. Call `{kind}` instead."
            )
        if self.network.hand_over == "state_alone":
            raise ValueError(
                "Each call of a block must need that block alone. Received: "
                f'blocks of a {cls.__name__} with hand_over="state_alone", '
                "whose calls run all earlier blocks too. Assemble them with "
                f"`{cls.__name__}.from_blocks`."
            )
        count = self.network.num_blocks
        if len(self.paths) != count:
            raise ValueError(
                f"One file per block is needed, {count}. "
                f"Received: {len(self.paths)} files. Add or drop files."
            )

    def load(self, index):
        """`Block` number `index`, checked to stand at its place."""
        path = self.paths[index]
        block = self._ready.pop() if self._ready else read_block(path)
        check_same_network(self.network, network_of(block), path)
        if block.index != index:
            raise ValueError(
                "One file per block is needed, in order. "
                f"Received: {path!r} with block {block.index} at place "
                f"{index}. Sort the files, or save them again."
            )
        self._check_shared(block, path)
        return block

    def _check_shared(self, block, path):
        parts = [block.target]
        if self.network.sharing == "all":
            parts += [block.noise_embedding, block.stem, block.readout]
            parts += [block.head, block.shared_average]
        parts = [part for part in parts if part is not None]
        values = paths_and_values(v for part in parts for v in part.weights)
        self._shared = self._shared or values
        check_shared(self._shared, values, self.network.sharing, path)

    def run(self, sampler, condition, count, starts, batch_size, verbose=0):
        """What the chain ends with, numpy `(count, ...)`.

        The states of all rows are kept between blocks.

        Args:
            sampler: `Sampler`.
            condition: numpy array(s) `(count, ...)`, or None.
            count: int. Number of rows.
            starts: function from a `generation.Batch` to the noisy signals
                that its chains start from.
            batch_size: int. Rows that are run at once.
            verbose: 1 for a progress bar.
        """
        visits = loop.plan(sampler, self.network.partition)
        parts = generation.batches(count, batch_size, condition)
        progress = generation.progress_bar(parts, visits, verbose)
        return np.concatenate(
            generation.stream(
                self.load, visits, sampler, parts, starts, progress
            )
        )


def predict_from_blocks(cls, paths, x, batch_size=128, verbose=0):
    """See `DiffusionBlocks.predict_from_blocks`."""
    check_integer("batch_size", batch_size)
    chain = SavedChain(cls, paths)
    network = chain.network
    network.check_data(x)
    if network.condition_spec() is None:
        raise ValueError(
            "`predict_from_blocks` answers for rows of a condition. Received: "
            f"blocks of a {cls.__name__}, which has none. Assemble the blocks "
            f"with `{cls.__name__}.from_blocks` and call its methods."
        )
    condition = tree.map_structure(
        ops.convert_to_numpy, network.condition_of(x)
    )

    def starts(batch):
        noisy = loop.start(
            network.sampler,
            network.noise,
            ops.convert_to_tensor(batch.rows),
            network.target.signal_shape,
        )
        return ops.convert_to_numpy(noisy)

    count = len(tree.flatten(condition)[0])
    made = chain.run(
        network.sampler, condition, count, starts, batch_size, verbose
    )
    return ops.convert_to_numpy(network.target.in_units(made))
