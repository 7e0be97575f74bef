"""One block, an ordinary Keras model that denoises its own noise range."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_dblocks import compat, processes, streams
from keras_dblocks.checks import refuse_replicas, shapes_agree
from keras_dblocks.chunks import in_chunks, number_of_chunks
from keras_dblocks.diffusion.noise import expand
from keras_dblocks.diffusion.samplers.euler import euler_step
from keras_dblocks.diffusion.weighting import weighted_mean
from keras_dblocks.files import file_format
from keras_dblocks.files.atomic_files import AtomicFiles
from keras_dblocks.files.random_states import SavedRandomStates
from keras_dblocks.layers.context import (
    accepts,
    call_part,
    check_arguments,
    known,
)
from keras_dblocks.layers.moving_average import averaged
from keras_dblocks.models.built_when_read import BuiltWhenRead
from keras_dblocks.models.export import Exportable
from keras_dblocks.models.numbered_rows import NumberedRows
from keras_dblocks.models.parts import BatchLayout, BlockParts, Method
from keras_dblocks.rematerialization import rematerialized
from keras_dblocks.training.data_checks import CheckedData
from keras_dblocks.training.data_order import ResumableOrder
from keras_dblocks.training.trainable_block import TrainableBlock
from keras_dblocks.training.trainer import refuse_loss


@keras.saving.register_keras_serializable(package="keras_dblocks")
class Block(
    AtomicFiles,
    SavedRandomStates,
    CheckedData,
    BuiltWhenRead,
    NumberedRows,
    Exportable,
    ResumableOrder,
    keras.Model,
    TrainableBlock,
):
    """A denoiser for one noise range, trainable and usable by itself.

    `DiffusionBlocks.block(i)` makes it. `fit(x, y)` minimises the denoising
    loss of this block's range with Keras's own training step. `predict(x)`
    gives the block's prediction at its highest noise level, where the noisy
    signal is the mean of the start and says nothing about the answer.

    Args:
        index: int. 0 is the first block, which has the highest noise.
        parts: `BlockParts`.
        method: `Method`.
        layout: `BatchLayout`.
        network_config: function of no arguments that returns the serialized
            network, from which a saved block is made again.
        hand_over_start: function `(block, start, condition, stream, step)`
            that returns the state a hand-over begins with, where `start` is
            the start of the chain and `stream` a `Stream` to draw from. None
            begins with `start` itself at the highest level.

    Example:

    ```python
    block = model.block(0)
    block.compile("adamw")
    block.fit(x, y)
    block.save("block_0.keras")
    keras.saving.load_model("block_0.keras").predict(x)
    ```

    References:
     - [DiffusionBlocks](https://arxiv.org/abs/2506.14202), Section 3
    """

    def __init__(
        self,
        index: int,
        parts: BlockParts,
        method: Method,
        layout: BatchLayout,
        network_config: Callable[[], dict[str, Any]],
        hand_over_start: Callable[..., Any] | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name or f"block_{index}", **kwargs)
        self.index = index
        self.method = method
        self.layout = layout
        self.network_config = network_config
        self.hand_over_start = hand_over_start
        self.target = parts.target
        self.noise_embedding = parts.shell.noise_embedding
        self.stem = parts.shell.stem
        self.residual_layers = parts.residual_layers
        self.readout = parts.shell.readout
        self.head = parts.shell.head
        self.state_input = parts.state_input
        self.shared_average = parts.shared_average
        self.average = parts.average
        self._streams = {
            purpose: streams.Stream(method.seed, purpose, index)
            for purpose in (
                "noise",
                "noise_level",
                "validation_noise",
                "validation_noise_level",
                "hand_over",
                "validation_hand_over",
            )
        }
        self._check_parts()

    def _check_parts(self):
        layers = [(layer, "layer") for layer in self.residual_layers]
        shell = [(self.stem, "stem"), (self.readout, "readout")]
        shell += [(self.noise_embedding, "noise_embedding")]
        parts = [*shell, *layers, (self.head, "head")]
        for layer, part in parts:
            if not isinstance(layer, keras.layers.Layer):
                raise ValueError(
                    f"The {part} must be a Keras layer. Received: {layer!r}. "
                    f"Return one from `make_{part}`."
                )
            check_arguments(layer, part)
        if self.layout.condition_spec is not None and not any(
            accepts(layer, "condition") for layer, _ in parts
        ):
            raise ValueError(
                "What the network predicts from is the `condition`, which a "
                "part's `call` must name. Received: parts that name none. "
                "Name it in the stem: `def call(self, noisy, condition)`."
            )

    @property
    def seed(self) -> int:
        """Seed of the network (int)."""
        return self.method.seed

    def build(self, input_shape=None):
        if not self.target.built:
            self.target.build((None, *self.target.signal_shape))
        noisy = keras.KerasTensor(
            (None, *self.target.signal_shape), dtype=self.method.noise.dtype
        )
        level = keras.KerasTensor((None,))
        with dtype_scope(self.dtype_policy):
            prediction, state = self.denoise_pass(
                noisy, level, self.layout.condition_spec
            )
        self.prediction_shape = tuple(prediction.shape[1:])
        self._check_bridge(prediction)
        self.state_shape = tuple(state[0].shape[1:]) if state else None
        self._build_averages()
        streams.seed_layers([self], self.seed, "dropout", self.index)
        self.make_row_counter()
        # Counts the training losses so far, which is the step of the draws.
        self.draws = self.add_weight(
            shape=(),
            initializer="zeros",
            dtype="int32",
            trainable=False,
            name="draws",
        )
        self.track_progress()

    def _check_bridge(self, prediction):
        """Refuses a head whose output the target cannot turn into a signal.

        For tokens that are masked, the sampler draws them from the logits.
        """
        if not self.method.noise.dtype.startswith("float"):
            return
        wanted, problem = tuple(self.target.signal_shape), ""
        try:
            signal = Bridge(self.target).compute_output_spec(prediction)
            came = tuple(signal.shape[1:])
        except Exception as error:  # of any backend
            came, problem = None, f" ({str(error).splitlines()[0]})"
            if "automatically infer" in problem:  # Keras's, of `Bridge` itself
                problem = ""
        if came != wanted:
            kind = type(self.target).__name__
            raise ValueError(
                f"The head must return what {kind}.bridge turns into a signal "
                f"of shape {('B', *wanted)}. Received: a prediction of shape "
                f"{('B', *self.prediction_shape)}, which gives "
                f"{came and ('B', *came)}{problem}. Pass a `head` that ends in "
                "one logit for each class, for labels, or in the signal's "
                "shape."
            )

    def _build_averages(self):
        if self.average is None:
            return
        shared = self.shared_average
        common = [] if shared is None else self.shell_variables()
        if common and not shared.built:
            shared.follow(common)
        common = {id(v) for v in common}
        own = [v for v in self.trainable_variables if id(v) not in common]
        self.average.follow(own)

    def shell_variables(self) -> list[keras.Variable]:
        """Trainable variables of all parts that blocks may share."""
        layers = list(self.residual_layers)
        if self.state_input is not None:
            layers.append(self.state_input)
        own = {id(v) for layer in layers for v in layer.variables}
        return [v for v in self.trainable_variables if id(v) not in own]

    def _averages(self):
        return [a for a in (self.shared_average, self.average) if a is not None]

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Context in which weights have their moving averages as values."""
        return averaged([self])

    def averages(self) -> list[tuple[keras.Variable, Any]]:
        """Pairs of a weight and its moving average; none without averages."""
        return [pair for a in self._averages() for pair in a.values()]

    # The denoiser.

    def denoise(
        self,
        noisy: Any,
        level: Any,
        condition: Any = None,
        training: bool = False,
        layers: Callable[..., Any] | None = None,
        stem: Callable[[Any], Any] | None = None,
    ) -> Any:
        """The prediction that the loss sees: logits, or the denoised signal.

        Args:
            noisy: float32 tensor `(B, ...)`, clean signal plus noise.
            level: float32 tensor `(B,)`, noise levels.
            condition: tensor(s) `(B, ...)` the block also sees.
            training: bool.
            layers: function from the first state and the context, a dict, to
                the last state. It replaces the residual layers, for example
                by layers that use a cache.
            stem: function from the scaled noisy signal to the first state. It
                replaces the stem, for example by one that has computed its
                part of the condition before.
        """
        return self.denoise_pass(
            noisy, level, condition, (), training, layers, stem
        )[0]

    def denoise_pass(
        self,
        noisy: Any,
        level: Any,
        condition: Any = None,
        handed: tuple = (),
        training: bool = False,
        layers: Callable[..., Any] | None = None,
        stem: Callable[[Any], Any] | None = None,
        use: Callable[..., Any] | None = None,
    ) -> tuple[Any, tuple]:
        """`denoise` from what was handed over, and what to hand over.

        Args:
            handed: the second value of the call before this one in the chain,
                or an empty tuple if there is none.
            noisy, level, condition, training, layers, stem: as in `denoise`.
            use: function `(predict, denoised, context)`, whose value is
                returned instead of the prediction, `predict(denoised,
                context)`. It need not have all of a large prediction at once.

        Returns:
            Pair of the prediction and a tuple. It holds the last state
            `(B, ...)`, float32, if the network hands states over; otherwise
            it is empty.
        """
        spec = self.layout.condition_spec
        if spec is not None:
            condition = tree.map_structure(
                lambda t, spec: ops.cast(t, spec.dtype), condition, spec
            )
        scale = self.method.preconditioning(level)  # each (B,), float32
        context = {"training": training, "condition": condition}
        context["signal"] = noisy
        context["noise"] = call_part(
            self.noise_embedding, scale.c_noise, context
        )
        scaled = noisy
        if scale.c_in is not None:
            scaled = expand(scale.c_in, noisy) * noisy
        if stem is None:
            state = self._first_state(scaled, context)
        else:
            state = stem(scaled)
        if self.state_input is not None:
            state = self.with_handed(state, handed)
        first_shape = tuple(state.shape[1:])
        state = (layers or self._through_layers)(state, context)
        handed = ()
        if self.state_input is not None:
            check_state(first_shape, tuple(state.shape[1:]))
            handed = (ops.cast(state, "float32"),)
        denoised = ops.cast(call_part(self.readout, state, context), "float32")
        if scale.c_out is not None:
            wanted, came = noisy.shape[1:], denoised.shape[1:]
            check_shape("readout", self.readout, wanted, came)
            denoised = expand(scale.c_out, noisy) * denoised
            denoised = expand(scale.c_skip, noisy) * noisy + denoised
        if use is not None:
            return use(self._predict, denoised, context), handed
        return self._predict(denoised, context), handed

    def _first_state(self, scaled, context):
        try:
            return call_part(self.stem, scaled, context)
        except Exception as error:  # of any backend, while the block is built
            text = str(error)
            if not isinstance(scaled, keras.KerasTensor) or "Received:" in text:
                raise
            raise ValueError(
                "The stem must take the target's noisy signal, of shape "
                f"{('B', *self.target.signal_shape)}, and what else its `call` "
                f"names. Received: {type(self.target).__name__} and a stem "
                f"that says: {compat.said(error)}. Make their sizes the same."
            ) from error

    def _predict(self, denoised, context):
        """What the head makes of the denoised signal, float32."""
        prediction = call_part(self.head, denoised, context)
        return ops.cast(prediction, "float32")

    def _chunks(self, batch):
        """Number of chunks in which a batch is predicted (int)."""
        if not self.target.has_position_losses():
            return 1
        return number_of_chunks(self.head, self.prediction_shape, batch)

    def _example_losses(
        self, clean_input, noisy, level, predict, denoised, context
    ):
        """Loss of each example, `(B,)`; see `use` of `denoise_pass`."""
        target = self.target
        count = self._chunks(ops.shape(noisy)[0])
        if count == 1:
            prediction = predict(denoised, context)
            return target.loss(clean_input, prediction, noisy, level)

        def losses(denoised, clean_input, noisy, noise, level):
            prediction = predict(denoised, {**context, "noise": noise})
            return target.position_losses(clean_input, prediction, noisy, level)

        along = [denoised, clean_input, noisy]
        others = context["noise"], level
        found = in_chunks(losses, count, along, *others, trained=self.head)
        return target.over_positions(found, clean_input)

    def _estimate(self, predict, denoised, context):
        """Estimate of the clean signal; see `use` of `denoise_pass`."""

        def estimate(denoised):
            return self.target.bridge(predict(denoised, context))

        count = self._chunks(ops.shape(denoised)[0])
        if count == 1:
            return estimate(denoised)
        return in_chunks(estimate, count, [denoised])

    def with_handed(self, state: Any, handed: tuple) -> Any:
        """The first state, with what was handed over added to it."""
        if not handed:  # the gradient of what reads it is then 0, not missing
            handed = (ops.zeros_like(state),)
        return self.state_input(state, ops.cast(handed[0], state.dtype))

    def nothing_handed(self, batch: Any, guided: bool = False) -> tuple:
        """What is handed to the first call of a chain: zeros, or nothing.

        Args:
            batch: number of rows.
            guided: bool. Whether `guided_pass` gets it, with a scale.
        """
        if self.state_input is None:
            return ()
        zeros = ops.zeros((batch, *self.state_shape), dtype="float32")
        return (zeros, zeros) if guided else (zeros,)

    def _through_layers(self, state, context):
        layers, method = self.residual_layers, self.method
        for layer in layers:
            # The backward pass begins with the last layer, right after its
            # forward pass, so computing it again would save no memory.
            last = layer is layers[-1] and not method.remat_last
            again = method.remat and context["training"] and not last
            call = rematerialized(layer) if again else layer
            before, state = state, call(state, **known(layer, context))
            if method.keeps_shape or layer is not layers[-1]:
                check_shape("layer", layer, before.shape[1:], state.shape[1:])
        return state

    def guided(
        self, noisy: Any, level: Any, condition: Any, scale: float | None = None
    ) -> Any:
        """`denoise` with classifier-free guidance of strength `scale`.

        Args:
            noisy, level, condition: as in `denoise`.
            scale: float, or None for the plain prediction.
        """
        return self.guided_pass(noisy, level, condition, scale, ())[0]

    def guided_pass(
        self,
        noisy: Any,
        level: Any,
        condition: Any,
        scale: float | None,
        handed: tuple,
    ) -> tuple[Any, tuple]:
        """`guided` from what was handed over, and what to hand over.

        Args:
            noisy, level, condition, scale: as in `guided`.
            handed: what the call before returned. With a scale it holds two
                states, with the condition and without.

        Returns:
            Pair of the prediction and the tuple to hand over.
        """
        made, handed = self._passes(noisy, level, condition, scale, handed)
        if scale is None:
            return made[0], handed
        prediction, without = made
        return without + scale * (prediction - without), handed

    def hand_on(
        self,
        noisy: Any,
        level: Any,
        condition: Any,
        scale: float | None,
        handed: tuple,
    ) -> tuple:
        """What `guided_pass` hands over, without a prediction."""
        given = noisy, level, condition, scale, handed
        return self._passes(*given, use=lambda *_: None)[1]

    def _passes(self, noisy, level, condition, scale, handed, use=None):
        """`denoise_pass` with the condition and, with a scale, without it.

        Returns:
            Pair of the list of predictions and the tuple of states.
        """
        runs = [(condition, handed[:1])]
        if scale is not None:
            runs.append((self.layout.null_condition(condition), handed[1:]))
        passes = [self.denoise_pass(noisy, level, *r, use=use) for r in runs]
        states = tuple(s for _, state in passes for s in state)
        return [prediction for prediction, _ in passes], states

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """`keras.Model.quantize`, of the averaged weights where there are any.

        Quantized kernels are made once, so the weights are first set to their
        averages, which `averaged` would otherwise read.
        """
        self.take_averages()
        super().quantize(*args, **kwargs)

    def take_averages(self) -> None:
        """Sets the weights to their moving averages, if they have any."""
        if self.built:
            for variable, value in self.averages():
                variable.assign(value)

    # Training: see `TrainableBlock`.

    def loss_constants(self, as_only_block: bool = False) -> tuple:
        """Ends of the widened range, and the keys of level and noise draws."""
        drawn = self._streams["noise_level"], self._streams["noise"]
        keys = [stream.key for stream in drawn]
        bounds = self.range_bounds(overlap=True)
        if as_only_block:
            noise = self.method.noise
            bounds = 0.0, 1.0, noise.minimum, noise.maximum
            bounds = tuple(np.float32(bound) for bound in bounds)
        return bounds, *keys

    def copied_variables(self):
        counters = {id(v) for v in self.counters()}
        return [v for v in self.weights if id(v) not in counters]

    def was_trained(self):
        return int(self.draws) > 0

    def range_bounds(self, overlap: bool) -> tuple:
        """Ends of the range: two probabilities and two levels, float32."""
        partition = self.method.partition
        bounds = (
            *partition.probability_range(self.index, overlap=overlap),
            *partition.noise_range(self.index, overlap=overlap),
        )
        return tuple(np.float32(bound) for bound in bounds)

    def hand_over_constants(self) -> tuple:
        """Upper levels of this block and of the next (0 for the last block)."""
        partition = self.method.partition
        following = 0.0
        if self.index + 1 < partition.num_blocks:
            following = partition.noise_range(self.index + 1, overlap=False)[1]
        return np.float32(self.upper_level), np.float32(following)

    def training_loss(self, data, handed, constants):
        return self.denoising_loss(*data, handed, constants, training=True)

    def batch_weight(self, data):
        x, y, _ = data
        counts = self.target.counts(self.layout.split(x, y)[0])
        if counts is None:
            return self.layout.batch_size_of(x)
        return ops.sum(counts)

    def begin_hand_over(self, data, share, constants, rows=None):
        x, y, _ = data
        clean_input, condition = self.layout.split(x, y)
        batch = self.layout.batch_size_of(x)
        if isinstance(batch, int):
            count = int(batch * share + 0.5)
            if count == 0:
                return None
        else:  # on TensorFlow it is unknown until the step runs
            count = ops.cast(ops.cast(batch, "float32") * share + 0.5, "int32")
        if condition is not None:
            condition = tree.map_structure(lambda t: t[:count], condition)
        purpose, step, training = "validation_hand_over", 0, rows is None
        if training:
            purpose, step = "hand_over", self.draws + 0
            rows = processes.rows_of(self.layout.batch_size_of(x), count)
        if self.method.state_alone:
            clean = self.target(clean_input[:count])
            drawn = self._drawn_for_all(clean, rows[:count], step, training)
            return drawn, condition
        stream = None
        if self.method.starts_from_noise():
            stream = self._streams[purpose]
        shape = self.target.signal_shape
        noisy = self.method.noise.start(rows[:count], shape, stream, step)
        if self.hand_over_start is not None:
            draws = streams.Stream(self.seed, f"{purpose}_start", self.index)
            state = self.hand_over_start(self, noisy, condition, draws, step)
            return state, condition
        batch = ops.shape(noisy)[0]
        level = constants[0] * ops.ones((batch,), dtype="float32")
        return (noisy, level, *self.nothing_handed(batch)), condition

    def _drawn_for_all(self, clean, rows, step, training):
        """Noisy signals, levels and no state, which earlier blocks run on.

        Later blocks run this one at their own levels, so that in training it
        sees all levels below its upper edge.
        """
        purpose = "noise" if training else "validation_noise"
        low, high, lowest, highest = self.range_bounds(overlap=training)
        if training:
            low, lowest = np.float32(0), np.float32(self.method.noise.minimum)
        bounds = low, high, lowest, highest
        stream = self._streams[f"{purpose}_level"]
        level = self._draw_levels(stream, rows, step, bounds, training)
        stream = self._streams[purpose]
        noisy = self.method.noise.corrupt(clean, level, stream, rows, step)
        return noisy, level, *self.nothing_handed(ops.shape(noisy)[0])

    def hand_over_is_drawn(self):
        drawn = self.method.starts_from_noise() or self.method.state_alone
        return drawn or self.hand_over_start is not None

    def pass_on(
        self,
        state: tuple,
        context: Any,
        constants: tuple,
        stem: Callable[[Any], Any] | None = None,
    ) -> tuple:
        """One Euler step with this block, from its upper edge to the next one.

        If the state is all that is handed over, signal and levels stay as they
        are. The state is made with moving averages of the weights if there are
        any, as at inference.

        Args:
            state: tuple of the noisy signal `(B, ...)`, its levels `(B,)` and
                what else is handed over, see `denoise_pass`.
            context: the condition, tensor(s) `(B, ...)`.
            constants: two scalars, the noise levels before and after the step.
            stem: as in `denoise`.
        """
        noisy, level, *before = state
        if self.method.state_alone:
            with self.averaged():
                made = self.hand_on(noisy, level, context, None, tuple(before))
            return noisy, level, *map(ops.stop_gradient, made)
        ones = ops.ones((ops.shape(noisy)[0],), dtype="float32")
        denoised, handed = self.denoise_pass(
            noisy,
            constants[0] * ones,
            context,
            tuple(before),
            stem=stem,
            use=self._estimate,
        )
        noisy = euler_step(noisy, denoised, *constants)
        noisy, *passed = map(ops.stop_gradient, (noisy, *handed))
        return noisy, constants[1] * ones, *passed

    def denoising_loss(
        self,
        x: Any,
        y: Any,
        sample_weight: Any = None,
        handed: tuple | None = None,
        constants: tuple | None = None,
        training: bool = True,
        rows: Any = None,
        share: float = 1.0,
    ) -> Any:
        """Mean loss over levels of this block's range.

        Args:
            x, y: a batch as given to `fit`.
            sample_weight: tensor `(B,)` or None.
            handed: the noisy signals, levels and states that were handed over
                for the first examples, or None. The other examples are noised.
            constants: what `loss_constants` returns, used in training only,
                or None to compute it.
            training: bool. False fixes the noise and drops the overlap, so
                that a validation loss does not change by chance.
            rows: int32 tensor `(B,)`, the rows' numbers if `training` is
                False, or None to number the rows of this batch.
            share: float. If `training` is False, the share of the rows that
                take what was handed over. Their numbers decide which.
        """
        method = self.method
        if training:
            for average in self._averages():
                average.update()
        clean_input, condition = self.layout.split(x, y)
        clean = self.target(clean_input)  # (B, ...)
        batch = ops.shape(clean)[0]
        if rows is None:
            rows = processes.rows_of(batch)
        spread = not training and handed is not None and share < 1
        count = 0
        if handed is not None and not spread:
            count = ops.shape(handed[0])[0]
        step = 0
        if training:
            step = self.draws + 0  # a copy
            self.draws.assign(step + 1)
            bounds, *keys = constants or self.loss_constants()
            of_level, of_noise = map(streams.Stream.of_key, keys)
        else:
            bounds = self.range_bounds(overlap=False)
            of_level = self._streams["validation_noise_level"]
            of_noise = self._streams["validation_noise"]
        if handed is not None and isinstance(batch, int) and count == batch:
            noisy, level, *state = handed
        else:
            rest, left = clean[count:], rows[count:]
            level = self._draw_levels(of_level, left, step, bounds, training)
            noisy = method.noise.corrupt(rest, level, of_noise, left, step)
            nothing = self.nothing_handed(ops.shape(rest)[0])
            made: Sequence[Any] = (noisy, level, *nothing)
            if spread:
                chosen = streams.spread(rows, 0.0) < share
                made = [
                    ops.where(expand(chosen, one), other, one)
                    for one, other in zip(made, handed, strict=True)  # type: ignore[arg-type]
                ]
            elif handed is not None:
                made = [
                    ops.concatenate([other, one], 0)
                    for one, other in zip(made, handed, strict=True)
                ]
            noisy, level, *state = made
        use = functools.partial(self._example_losses, clean_input, noisy, level)
        loss, _ = self.denoise_pass(
            noisy, level, condition, tuple(state), training, use=use
        )
        # TensorFlow may not know the rank while it traces.
        if getattr(loss.shape, "rank", 1) is not None and len(loss.shape) != 1:
            raise ValueError(
                "The `loss` of a `Target` has one number for each example, "
                f"(B,). Received: {type(self.target).__name__} with shape "
                f"{tuple(loss.shape)}. Take the mean over the other axes."
            )
        return weighted_mean(
            loss,
            level,
            method.weighting,
            method.preconditioning,
            sample_weight,
            self.target.counts(clean_input),
        )

    def _draw_levels(self, stream, rows, step, bounds, training):
        low, high, lowest, highest = bounds
        if not self.method.stratified:
            uniform = stream.uniform(rows, (), step)
        else:
            # One shift for the batch and evenly spread examples: each example
            # has the same distribution, and their mean has less variance.
            shift = stream.uniform(ops.zeros((1,), "int32"), (), step)  # (1,)
            if training:
                count = ops.shape(rows)[0]
                place = ops.cast(processes.rows_of(count), "float32")
                count = ops.cast(count * processes.count(), "float32")
                place = place / ops.maximum(count, 1.0)
                uniform = ops.mod(shift + place, 1.0)
            else:
                uniform = streams.spread(rows, shift)
        level = self.method.noise.quantile_tensor(low + uniform * (high - low))
        return ops.clip(level, lowest, highest)

    @property
    def upper_level(self) -> float:
        """Highest noise level this block owns (float)."""
        return self.method.partition.noise_range(self.index, False)[1]

    # An ordinary Keras model.

    def call(self, x, training=False):
        # In training `compute_loss` runs the block, so nothing is done here.
        processes.refuse_wrapped(self)
        if training or not self.layout.is_condition(x):
            return None
        condition = self.layout.condition_of(x)
        batch = self.layout.batch_size_of(x)
        noisy = self.method.noise.start(
            streams.rows_of(batch), self.target.signal_shape
        )
        level = ops.full((batch,), self.upper_level, dtype="float32")
        return self.target.in_units(self.denoise(noisy, level, condition))

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adamw",
        loss: None = None,
        **kwargs: Any,
    ) -> None:
        """`keras.Model.compile`, where the loss is the denoising loss."""
        refuse_replicas(self)
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
        if y is None:  # TensorFlow traces this before a stream is checked
            self.check_structure(x, y)
        rows = None
        if not training:
            batch = self.layout.batch_size_of(x)
            rows = self.row_numbers(batch, "evaluate")
        loss = self.denoising_loss(
            x, y, sample_weight, training=training, rows=rows
        )
        return sum(self.losses, loss)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        if y_pred is None:  # in training there is no prediction
            return {"loss": compat.loss_tracker(self).result()}
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def check_data(self, x, y=None):
        self.layout.check_data(x, y)

    def check_targets(self, x, y):
        self.layout.check_targets(x, y)

    def training_step(self):
        return int(compat.iterations(self.optimizer))

    def counters(self):
        return [*super().counters(), self.draws]

    def input_specs(self):
        return self.layout.condition_spec

    # Files.

    def get_config(self):
        return {
            "network": self.network_config(),
            "index": self.index,
            **file_format.config(),
        }

    @classmethod
    def from_config(cls, config):
        file_format.check(config, "block")
        network = keras.saving.deserialize_keras_object(
            {**config["network"], "build_config": None, "compile_config": None}
        )
        return network.block(config["index"], build=False)


def check_state(first, last):
    """Raises a ValueError unless a block's first state has its last's shape."""
    if first != last:
        raise ValueError(
            "A state is handed over to blocks whose states have its shape. "
            f"Received: a last state of {('B', *last)}, where the first one "
            f'has {("B", *first)}. Pass hand_over="signal".'
        )


class Bridge(keras.layers.Layer):
    """A target's `bridge` as a layer, whose output's shape can be asked for."""

    def __init__(self, target):
        super().__init__(autocast=False)
        self.target = target

    def call(self, prediction):
        return self.target.bridge(prediction)


def check_shape(part, layer, wanted, came):
    """Raises a ValueError unless a part's output has the shape it must have.

    Args:
        part: str. Role of the layer, for the error message.
        layer: Keras layer.
        wanted, came: shapes without the batch; None is any size.
    """
    if shapes_agree(wanted, came):
        return
    advice = "Make it end in that shape"
    layer = getattr(layer, "layer", layer)  # of a wrapper
    if part == "readout":
        advice = "Pass a `readout` that ends in the clean signal's shape"
    raise ValueError(
        f"The {part} must return shape {('B', *wanted)}. Received: "
        f"{('B', *came)} from {type(layer).__name__} {layer.name!r}. {advice}."
    )


class dtype_scope(contextlib.ContextDecorator):  # noqa: N801
    """Sets the default dtype policy of layers that are made inside."""

    def __init__(self, policy):
        self.policy = policy

    def __enter__(self):
        self.before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.policy)

    def __exit__(self, *error):
        keras.config.set_dtype_policy(self.before)
