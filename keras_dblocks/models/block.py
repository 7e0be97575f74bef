"""One block: an ordinary Keras model that denoises its own noise range."""

import contextlib
import functools
import inspect

import keras
from keras import ops

from keras_dblocks.models.durable_model import DurableModel
from keras_dblocks.noise import expand
from keras_dblocks.rematerialization import rematerialized


class Reference:
    """Holds a model without making it a sublayer."""

    def __init__(self, model):
        self.model = model

    def __call__(self):
        return self.model


@keras.saving.register_keras_serializable(package="keras_dblocks")
class Block(DurableModel):
    """A denoiser for one noise range, trainable and usable by itself.

    Made by `DiffusionBlocks.block(i)`. `fit(x, y)` minimises the denoising
    loss of this block's range with Keras's own training step; `predict(x)` is
    the block's answer when it is given no hint, at its highest noise level.

    Args:
        network: `DiffusionBlocks`, which says what the parts are.
        index: int. 0 is the first block, with the highest noise.

    References:
     - [DiffusionBlocks](https://arxiv.org/abs/2506.14202), Section 3
    """

    def __init__(self, network, index, name=None, **kwargs):
        super().__init__(
            name=name or f"block_{index}", dtype=network.dtype_policy, **kwargs
        )
        self.network = Reference(network)
        self.index = index
        self.seed = network.seed
        self.seed_generator = keras.random.SeedGenerator(
            network.seed * network.num_blocks + index
        )
        parts = network.make_parts(index)
        self.target = parts["target"]
        self.noise_embedding = parts["noise_embedding"]
        self.stem = parts["stem"]
        self.residual_layers = parts["residual_layers"]
        self.readout = parts["readout"]
        self.head = parts["head"]
        # Of what is shared, and of what is this block's own; or None.
        self.shared_average = parts.get("average")
        self.average = network.make_average()

    def build(self, input_shape=None):
        network = self.network()
        with network.dtype_scope():
            if not self.target.built:
                self.target.build((None, *self.target.signal_shape))
            noisy = keras.KerasTensor(
                (None, *self.target.signal_shape), dtype=network.noise.dtype
            )
            level = keras.KerasTensor((None,))
            condition = network.condition_spec()
            prediction = self.denoise(noisy, level, condition)
        self.prediction_shape = tuple(prediction.shape[1:])
        self._build_averages()
        for generator in self._seed_generators_of_layers():
            # Keras 3.15 on torch drops out with torch's global generator
            # unless a seed was given; a resumed run could not repeat it.
            if generator._initial_seed is None:
                generator._initial_seed = int(generator.state[0])
        self._track_progress()

    def _build_averages(self):
        if self.average is None:
            return
        shared = self.shared_average
        common = [] if shared is None else self.network().shared_of(self)
        if common and not shared.built:
            shared.follow(common)
        common = {id(v) for v in common}
        own = [v for v in self.trainable_variables if id(v) not in common]
        self.average.follow(own)

    def _averages(self):
        return [a for a in (self.shared_average, self.average) if a is not None]

    @contextlib.contextmanager
    def averaged(self):
        """Inside, weights read as their moving averages, if they have any."""
        averages = dict(
            (id(v), value) for a in self._averages() for v, value in a.values()
        )
        if not averages:
            yield
            return
        # All of them: inside, an outer scope is not asked.
        mapping = [(v, averages.get(id(v), v.value)) for v in self.variables]
        with keras.StatelessScope(state_mapping=mapping):
            yield

    def denoise(
        self,
        noisy,
        level,
        condition=None,
        training=False,
        layers=None,
        stem=None,
    ):
        """What the loss sees: logits, or the denoised signal.

        Args:
            noisy: float32 tensor `(B, ...)`, clean signal plus noise.
            level: float32 tensor `(B,)`, noise levels.
            condition: tensor(s) `(B, ...)` the block also sees.
            training: bool.
            layers: function of the first state and the context, a dict, to
                the last state, in place of the residual layers (with caches).
            stem: function of the scaled noisy signal to the first state, in
                place of the stem (with what it makes of the condition kept).
        """
        spec = self.network().condition_spec()
        if spec is not None:
            condition = keras.tree.map_structure(
                lambda t, spec: ops.cast(t, spec.dtype), condition, spec
            )
        scale = self.network().preconditioning(level)  # each (B,), float32
        context = {"training": training, "condition": condition}
        context["signal"] = noisy
        context["noise"] = _call(self.noise_embedding, scale.c_noise, context)
        scaled = noisy
        if scale.c_in is not None:
            scaled = expand(scale.c_in, noisy) * noisy
        if stem is None:
            state = _call(self.stem, scaled, context)
        else:
            state = stem(scaled)
        state = (layers or self._through_layers)(state, context)
        denoised = ops.cast(_call(self.readout, state, context), "float32")
        if scale.c_out is not None:
            denoised = expand(scale.c_out, noisy) * denoised
            denoised = expand(scale.c_skip, noisy) * noisy + denoised
        return ops.cast(_call(self.head, denoised, context), "float32")

    def _through_layers(self, state, context):
        network, layers = self.network(), self.residual_layers
        remat = network.remat and context["training"]
        for layer in layers:
            # The last one's backward pass comes next: what it keeps, it keeps
            # but for a while.
            spared = layer is layers[-1] and not network.layers_in_readout
            call = rematerialized(layer) if remat and not spared else layer
            state = call(state, **_known(layer, context))
        return state

    def denoising_loss(
        self,
        x,
        y,
        sample_weight=None,
        handed=None,
        training=True,
        bounds=None,
    ):
        """Mean loss over levels of this block's range.

        Args:
            x, y: a batch as given to `fit`.
            sample_weight: tensor `(B,)` or None.
            handed: None, or what `hand_over` gives for the first `count`
                examples (METHOD 9), states and levels; the others are noised.
            training: bool. False fixes the noise and drops the overlap, so
                that a validation loss does not move by chance.
            bounds: None for `level_bounds(training)`; a compiled step takes
                them as an argument, so that blocks can share it.
        """
        network = self.network()
        if bounds is None:
            bounds = self.level_bounds(training)
        if training:
            for average in self._averages():
                average.update()
        clean_input, condition = network.split(x, y)
        clean = self.target(clean_input)  # (B, ...)
        count = 0 if handed is None else ops.shape(handed[0])[0]
        # A fixed integer seed gives fixed noise; two, to keep them apart.
        fixed = 2 * (network.seed * network.num_blocks + self.index)
        seeds = (self.seed_generator,) * 2 if training else (fixed, fixed + 1)
        rest = clean[count:]
        level = self._draw_levels(ops.shape(rest)[0], seeds[0], bounds)
        noisy = network.noise.corrupt(rest, level, seeds[1])
        if handed is not None:
            level = ops.concatenate([handed[1], level], 0)
            noisy = ops.concatenate([handed[0], noisy], 0)
        prediction = self.denoise(noisy, level, condition, training)
        loss = network.loss_of(
            self.target, clean_input, prediction, noisy, level
        )  # (B,)
        return network.weigh(loss, level, sample_weight)

    def level_bounds(self, training=True):
        """Ends of this block's range: two probabilities, two noise levels."""
        partition = self.network().partition
        return (
            *partition.probability_range(self.index, overlap=training),
            *partition.noise_range(self.index, overlap=training),
        )

    def _draw_levels(self, count, seed, bounds):
        low, high, lowest, highest = bounds
        if self.network().stratified:
            # One draw for the batch, spread evenly: the same distribution
            # for each example, less variance in the mean.
            shift = keras.random.uniform((), dtype="float32", seed=seed)
            steps = ops.arange(count, dtype="float32")
            steps = steps / ops.maximum(ops.cast(count, "float32"), 1.0)
            uniform = ops.mod(shift + steps, 1.0)
        else:
            uniform = keras.random.uniform((count,), dtype="float32", seed=seed)
        noise = self.network().noise
        level = noise.quantile_tensor(low + uniform * (high - low))
        return ops.clip(level, lowest, highest)

    @property
    def upper_level(self):
        """Highest noise level this block owns (float)."""
        return self.network().partition.noise_range(self.index, False)[1]

    def call(self, x, training=False):
        # In training the denoising loss runs the block, not the forward pass.
        network = self.network()
        if training or not network.is_condition(x):
            return None
        condition = network.condition_of(x)
        batch = network.batch_size_of(condition)
        noisy = network.noise.start((batch, *self.target.signal_shape))
        level = ops.full((batch,), self.upper_level, dtype="float32")
        return self.denoise(noisy, level, condition)

    def compile(self, optimizer="adamw", loss=None, **kwargs):
        """`keras.Model.compile`; the loss is the denoising loss."""
        refuse_loss(loss)
        super().compile(optimizer=optimizer, loss=None, **kwargs)

    def get_compile_config(self):
        return keras.Model.get_compile_config(self)

    def compile_from_config(self, config):
        config = keras.saving.deserialize_keras_object(config)
        self.compile(**config)
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        loss = self.denoising_loss(x, y, sample_weight, training=training)
        return sum(self.losses, loss)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        if y_pred is None:  # in training there is no prediction
            return {"loss": self._loss_tracker.result()}
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def check_data(self, x, y=None):
        self.network().check_data(x, y)

    def check_targets(self, x, y):
        self.network().check_targets(x, y)

    def training_step(self):
        return int(self.optimizer._iterations)

    def _seed_generators_of_layers(self):
        layers = self._flatten_layers()
        return [g for layer in layers for g in layer._seed_generators]

    def _random_states(self):
        return [g.state for g in self._seed_generators_of_layers()]

    def save_own_variables(self, store):
        super().save_own_variables(store)
        # Keras leaves the generators' states out; a resumed run needs them.
        for i, state in enumerate(self._random_states()):
            store[f"random_{i}"] = state

    def load_own_variables(self, store):
        states = self._random_states()
        names = [key for key in store.keys() if key.startswith("random_")]
        own = {k: store[k] for k in store.keys() if k not in names}
        super().load_own_variables(own)
        if len(names) == len(states):
            for i, state in enumerate(states):
                state.assign(store[f"random_{i}"])

    def get_config(self):
        network = self.network()
        return {
            "network": keras.saving.serialize_keras_object(network),
            "index": self.index,
        }

    @classmethod
    def from_config(cls, config):
        network = keras.saving.deserialize_keras_object(
            {**config["network"], "build_config": None, "compile_config": None}
        )
        return network.block(config["index"], build=False)


def refuse_loss(loss):
    """The loss is the method's; a second one would be ignored."""
    if loss is not None:
        raise ValueError(
            "Blocks are trained on the denoising loss, so `loss` stays None. "
            f"Received: loss={loss!r}. Leave it out; `loss_weighting` in the "
            "constructor is the dial."
        )


def accepts(layer, argument):
    """True if the layer's `call` takes the named argument."""
    call = layer.call
    return argument in _arguments(getattr(call, "__func__", call))


@functools.cache
def _arguments(call):
    return frozenset(inspect.signature(call).parameters)


def _call(layer, inputs, context):
    """Calls `layer` with those of `context` its `call` names."""
    return layer(inputs, **_known(layer, context))


def _known(layer, context):
    return {k: v for k, v in context.items() if accepts(layer, k)}
