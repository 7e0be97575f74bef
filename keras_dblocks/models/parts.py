"""What a subclass of `DiffusionBlocks` says, and the parts made from it."""

import keras
from keras import ops, tree

from keras_dblocks.layers import (
    MovingAverage,
    NoiseEmbedding,
    NoiseModulation,
)
from keras_dblocks.models.block import Block, accepts
from keras_dblocks.noise import LogNormalNoise
from keras_dblocks.preconditioning import EDMPreconditioning
from keras_dblocks.samplers import EulerSampler


class Parts:
    """Hooks of `DiffusionBlocks`, and which block holds which variables."""

    ema_momentum = None  # of the weights' moving average; None for none
    layers_keyword = "num_layers"  # of the constructor, for models of any depth
    layers_in_readout = False  # if so, `remat` spares no residual layer

    def batch_spec(self):
        """Tuple of `keras.KerasTensor`, what `fit` takes: inputs, labels."""
        return self.condition_spec(), keras.KerasTensor((None,), dtype="int32")

    def condition_spec(self):
        """`keras.KerasTensor` of the condition, or None if there is none."""
        raise NotImplementedError

    def make_target(self):
        """Layer of the clean signal, such as `layers.LabelEmbedding`."""
        raise NotImplementedError

    def make_stem(self):
        """Layer from the noisy signal and `condition` to the first state."""
        raise NotImplementedError

    def make_layer(self, index):
        """Residual layer `index`, from a state to a state."""
        raise NotImplementedError

    def make_readout(self):
        """Layer from the last state to the shape of the clean signal."""
        return keras.layers.LayerNormalization(name="readout")

    def make_head(self):
        """Layer from the denoised signal to the prediction."""
        return keras.layers.Identity(dtype="float32", name="head")

    def make_noise_embedding(self):
        """Layer from `c_noise` `(B,)` to `(B, noise_dim)`."""
        return NoiseEmbedding(64, name="noise_embedding")

    def make_noise(self):
        """Noise distribution; the paper's by default."""
        return LogNormalNoise()

    def make_preconditioning(self):
        """EDM's, with the paper's `sigma_data`."""
        return EDMPreconditioning()

    def make_sampler(self):
        """Sampler `predict` uses."""
        if self.reference:
            return EulerSampler(grid="equal_mass", start="noise")
        return EulerSampler()

    def split(self, x, y):
        """`(clean, condition)` of a batch `(x, y)` as given to `fit`."""
        return y, self.condition_of(x)

    def loss_of(self, target, clean_input, prediction, noisy, level):
        """Loss of each example, `(B,)`, before `loss_weighting`."""
        return target.loss(clean_input, prediction)

    def condition_of(self, x):
        """Condition from the input of `predict`."""
        return x

    def is_condition(self, x):
        """False for data that `predict` does not take, as in `evaluate`."""
        return True

    def make_average(self):
        """`layers.MovingAverage` of weights, or None for no averages."""
        if self.ema_momentum is None:
            return None
        return MovingAverage(self.ema_momentum, name="average")

    def null_condition(self, condition):
        """Condition that says nothing, for guidance."""
        return tree.map_structure(ops.zeros_like, condition)

    # The parts, made once or once per block.

    def make_parts(self, index):
        """Parts of block `index`, by name."""
        shared = self._shared_parts
        own = dict(shared) if self.sharing == "all" else self._make_shell()
        own["target"] = shared["target"]
        if self.sharing != "all":
            own["average"] = None  # the block's own average holds everything
        with self.dtype_scope():
            layers = [
                self.make_layer(i) for i in self.partition.layers_of(index)
            ]
            own["residual_layers"] = [
                layer if accepts(layer, "noise") else NoiseModulation(layer)
                for layer in layers
            ]
        return own

    def _make_shell(self):
        with self.dtype_scope():
            return {
                "noise_embedding": self.make_noise_embedding(),
                "stem": self.make_stem(),
                "readout": self.make_readout(),
                "head": self.make_head(),
                "average": self.make_average(),
            }

    @property
    def _target(self):
        """Layer of the clean signal, which all blocks share."""
        if not hasattr(self, "_shared_parts"):
            self._make_blocks()
        return self._shared_parts["target"]

    def shared_of(self, block):
        """Trainable variables of a block's parts other than its layers."""
        layers = block.residual_layers
        own = {id(v) for layer in layers for v in layer.variables}
        return [v for v in block.trainable_variables if id(v) not in own]

    def _make_blocks(self):
        if self.blocks:
            return
        target = self.make_target()
        if self.sharing == "targets":
            target.fix(self.seed)
        self._shared_parts = {"target": target}
        if self.sharing == "all":
            self._shared_parts |= self._make_shell()
        for index in range(self.num_blocks):
            self.blocks.append(Block(self, index))

    def dtype_scope(self):
        """Makes new layers follow this model's dtype policy."""
        return _DtypeScope(self.dtype_policy)

    def shared_variables(self):
        """Trainable variables that every block holds."""
        if self.sharing == "targets" or self.num_blocks == 1:
            return []
        common = set.intersection(
            *({id(v) for v in b.trainable_variables} for b in self.blocks)
        )
        first = self.blocks[0].trainable_variables
        return [v for v in first if id(v) in common]

    def own_variables(self):
        """Per block, the trainable variables no other block holds."""
        shared = {id(v) for v in self.shared_variables()}
        return [
            [v for v in block.trainable_variables if id(v) not in shared]
            for block in self.blocks
        ]


class _DtypeScope:
    def __init__(self, policy):
        self.policy = policy

    def __enter__(self):
        self.before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.policy)

    def __exit__(self, *error):
        keras.config.set_dtype_policy(self.before)
