"""What earlier blocks hand over, kept in files instead of run in each step.

While one block trains, the blocks before it do not change, and neither does
what they hand over for a row. The first time that a row comes, the step runs
the earlier blocks as always, and keeps the result; from then on it is read.
"""

import json
import os
import shutil
from pathlib import Path

import keras
import numpy as np
from keras import ops, tree

from keras_dblocks.files.atomic_files import written_beside
from keras_dblocks.files.digest import digest_of
from keras_dblocks.training.trainable_block import hand_over

FLUSH_EVERY = 64  # batches, after which what was written is safe


class StoredHandOvers:
    """The files of the block that trains, and of no other.

    A row takes two bytes for each number of the state (float16), and four for
    each noise level. The files of one block replace those of the block before
    it. They belong to the earlier blocks' weights and to the data: a run that
    was killed goes on with them, and another one begins them anew.

    Args:
        trainer: `BlockTrainer`.
        folder: path, made if it does not exist.
    """

    def __init__(self, trainer, folder):
        self.trainer = trainer
        self.folder = Path(folder)
        self.batches = None
        self.of_data = None  # digest of this `fit`'s arrays, once it is needed
        self.turn = None  # the block and the phase that the files are for
        self.leaves = None  # arrays in files, one for each tensor of a state
        self.row_specs = []  # of these, see `_row_spec`
        self.structure = None  # of a state
        self.known = None  # for each row, whether the files hold it
        self.unsafe = 0  # batches since the last flush

    def begin(self, batches):
        """Called when `fit` begins: checks that the disk can hold the files.

        Args:
            batches: `ArrayBatches` of this `fit`.

        Raises:
            ValueError: for data that are no arrays, and if there is not enough
                space.
        """
        self.batches, self.of_data, self.turn = batches, None, None
        if not hasattr(batches, "rows_of_step"):
            raise ValueError(
                "`store_hand_overs` keeps what is handed over for each row. "
                f"Received: a {type(batches).__name__}, whose rows have no "
                "numbers. Pass arrays, or leave `store_hand_overs` out."
            )
        blocks = self.trainer.blocks
        if blocks[0].hand_over_is_drawn():
            raise ValueError(
                "`store_hand_overs` keeps one hand-over a row. Received: "
                "blocks whose hand-overs begin with noise, which each step "
                "draws anew. Leave `store_hand_overs` out."
            )
        one = tree.map_structure(lambda array: array[:1], batches.data)
        state = hand_over(blocks, 1, (*one, None, None)[:3], 1.0)
        self.structure = tree.map_structure(lambda leaf: 0, state)
        self.row_specs = [_row_spec(leaf) for leaf in tree.flatten(state)]
        wanted = self.bytes_needed()
        self.folder.mkdir(parents=True, exist_ok=True)
        own = sum(
            path.stat().st_blocks * 512  # of a sparse file, what it takes
            for path in [*self._paths(), self.folder / "known.npy"]
            if path.exists()
        )
        free = shutil.disk_usage(self.folder).free + own
        if wanted > free:
            raise ValueError(
                "The disk must hold what is handed over for every row. "
                f"Received: {wanted:,} bytes for {batches.num_rows:,} rows, "
                f"with {free:,} free in {self.folder}. Choose another folder, "
                "or leave `store_hand_overs` out."
            )

    def bytes_needed(self):
        """Bytes of the files for all rows (int)."""
        row = sum(
            int(np.prod(shape)) * dtype.itemsize
            for shape, dtype, _ in self.row_specs
        )
        return (row + 1) * self.batches.num_rows

    def of_step(self, turn, step_number, step, data, state):
        """What block `turn[0]` is handed in a step, read or run and kept.

        Args:
            turn: tuple that names the block and its phase.
            step_number: int.
            step: the step of the backend, whose `hand_over` runs the blocks.
            data: a batch, as Keras provides it.
            state: on JAX, the four lists that hold all variables' values.

        Returns:
            Tree of tensors, or None if the batch is too small for a share.
        """
        if turn != self.turn:
            self._open(turn, step, state)
        rows = self.batches.rows_of_step(step_number)
        count = int(len(rows) * self.trainer.on_policy + 0.5)
        rows = rows[:count]
        if not count:
            return None
        if self.known[rows].all():
            return self._read(rows)
        handed = step.hand_over(data, *state)
        if handed is None:
            return None
        self._write(rows, handed)
        # Read back: a step that comes again after a kill sees the same.
        return self._read(rows)

    def _read(self, rows):
        leaves = [
            ops.convert_to_tensor(np.asarray(leaf[rows]), dtype=dtype)
            for leaf, (_, _, dtype) in zip(
                self.leaves, self.row_specs, strict=True
            )
        ]
        return tree.pack_sequence_as(self.structure, leaves)

    def _write(self, rows, handed):
        new = np.flatnonzero(~self.known[rows])
        leaves = tree.flatten(handed)
        for kept, leaf in zip(self.leaves, leaves, strict=True):
            values = ops.convert_to_numpy(ops.cast(leaf, kept.dtype.name))
            if kept.dtype == "float16" and not np.isfinite(values).all():
                raise ValueError(
                    "`store_hand_overs` keeps states as float16. Received: "
                    "a state above its range, or NaN. Leave "
                    "`store_hand_overs` out."
                )
            kept[rows[new]] = values[new]
        self.known[rows] = True
        self.unsafe += 1
        if self.unsafe >= FLUSH_EVERY or self.known.all():
            self.flush()

    def flush(self):
        """Writes what is known to the disk; `fit` also calls it at its end."""
        if self.leaves is None or not self.unsafe:
            return
        for leaf in self.leaves:
            leaf.flush()
        with written_beside(self.folder / "known.npy") as beside:
            np.save(beside, self.known)  # last: it speaks for the others
        self.unsafe = 0

    def _open(self, turn, step, state):
        """Opens the files of a block, or begins them anew."""
        fingerprint = self._fingerprint(turn, step, state)
        path = self.folder / "hand_overs.json"
        found = json.loads(path.read_text()) if path.exists() else None
        paths = self._paths()
        known = self.folder / "known.npy"
        whole = all(part.exists() for part in (known, *paths))
        if found == fingerprint and whole:
            self.leaves = [np.load(leaf, mmap_mode="r+") for leaf in paths]
            self.known = np.load(known)
        else:
            path.unlink(missing_ok=True)  # first: the files are nobody's now
            self.leaves = None
            self.leaves = [
                np.lib.format.open_memmap(
                    leaf,
                    mode="w+",
                    dtype=dtype,
                    shape=(self.batches.num_rows, *shape),
                )
                for leaf, (shape, dtype, _) in zip(
                    paths, self.row_specs, strict=True
                )
            ]
            _allocate(paths)
            self.known = np.zeros(self.batches.num_rows, bool)
            np.save(known, self.known)
            with written_beside(path) as beside:
                Path(beside).write_text(json.dumps(fingerprint) + "\n")
        self.unsafe = 0
        self.turn = turn

    def _fingerprint(self, turn, step, state):
        """What the files depend on, as JSON."""
        earlier = self.trainer.blocks[: turn[0]]
        constants = [block.hand_over_constants() for block in earlier]
        values = [step.values(block.variables, *state) for block in earlier]
        if self.of_data is None:  # the same in all phases of a `fit`
            self.of_data = digest_of(tree.flatten(self.batches.data))
        return {
            "block": turn[0],
            "weights": digest_of(tree.flatten([constants, values])),
            "data": self.of_data,
            "rows": self.batches.num_rows,
            "on_policy": self.trainer.on_policy,
            "states": [[list(s), str(d), t] for s, d, t in self.row_specs],
        }

    def _paths(self):
        count = len(self.row_specs)
        return [self.folder / f"leaf_{i}.npy" for i in range(count)]


def _row_spec(leaf):
    """Shape of a row, dtype in the file and dtype in a step of a tensor."""
    dtype = keras.backend.standardize_dtype(leaf.dtype)
    kept = np.dtype("float32" if len(leaf.shape) == 1 else "float16")
    if not dtype.startswith(("float", "bfloat")):
        kept = np.dtype(dtype)
    return tuple(leaf.shape[1:]), kept, dtype


def _allocate(paths):
    """Takes the space of sparse files now, and not at a write later."""
    if not hasattr(os, "posix_fallocate"):  # macOS, Windows
        return
    for path in paths:
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
