"""The `tf.function` train and evaluation steps."""

import time
from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from data.augment.apply import Rendering
from trainer import metrics, reduction
from trainer.guard import GuardState
from trainer.losses import Loss
from trainer.optimization.clipping import Clipping
from trainer.optimization.ema import Average
from trainer.optimization.loss_scale import LossScale
from trainer.optimization.optimizers import Optimizer

# What has no Python `if` or `for` over tensors need not be rewritten, which takes half of the time of a trace.
PLAIN = tf.autograph.experimental.do_not_convert
UNBOUNDED = Clipping()
SUM, MEAN = tf.distribute.ReduceOp.SUM, tf.distribute.ReduceOp.MEAN


def train_window(
    *,
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    variables: dict[str, keras.Variable],
    moving_statistics: Sequence[keras.Variable],
    optimizer: Optimizer,
    loss_scale: LossScale,
    step: tf.Variable,
    task: str,
    loss: Loss,
    rendering: Rendering,
    length: int,
    clipping: Clipping = UNBOUNDED,
    accumulation: int = 1,
    factors: Mapping[str, float] | None = None,
    average: Average | None = None,
    distillation: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
    anchor: Callable[[], tf.Tensor] | None = None,
    deterministic: bool = False,
    stop: tf.Variable | None = None,
    guard: GuardState | None = None,
    pack: int | None = None,
    xla: bool = False,
) -> Callable:
    """Traces, once, a window of up to `length` training steps.

    Args:
        variables: those that train, by name. No other is changed, but for moving statistics and random seeds.
        moving_statistics: averaged over the replicas at the end of each window.
        step: scalar int64, counts the steps done.
        task: one of `data.examples.TASKS`, of the labels.
        clipping: bounds on the unscaled global gradient.
        accumulation: equal parts of a replica's batch that pass through the model one after the other. Their gradients
            are summed: the update is that of the whole batch, but where parts see each other (batch normalisation).
        factors: of the learning rate, by name of the variable.
        average: follows the weights, once an update.
        distillation: function (what the model sees, logits) -> [B] float32 that is added to the losses.
        anchor: function () -> scalar float32 that is added to the objective of an update.
        deterministic: TensorFlow's op determinism is on. It refuses `tf.timestamp`; Python's clock, which is slower,
            takes its place.
        stop: scalar bool, on the host: no step begins once it is true. Not asked where moving statistics of several
            replicas have to be averaged at the end of the window.
        guard: tells which losses are spikes; None: none is, and nobody looks at what updates make of the weights.
        pack: bytes of gradients that are added up over the replicas at once; None: all at once.
        xla: whether forward and backward pass are compiled by XLA.

    Returns:
        function (iterator of distributed batches, learning rates [length] float32, steps scalar int32) ->
        dict of [length] arrays of which the first `steps` hold: loss (mean over the global weight, with
        regularisers), accuracy (mean_absolute_error of a regression), gradient_norm (before clipping), loss_scale
        (before the step), finite (1 or 0), spike (1 or 0), sound (0 where the update made weights NaN or infinite; 1
        where nobody looks), replaced (images that stand in for broken ones, over all replicas), wait (seconds waited
        for the batch).
    """
    names = list(variables)
    values = [variables[name].value for name in names]
    loss = with_control_flow(loss)
    clock = (lambda: tf.numpy_function(time.time, [], tf.float64)) if deterministic else tf.timestamp
    statistics = [variable.value for variable in moving_statistics]
    running = metrics.running(task)
    parts = accumulation * strategy.num_replicas_in_sync
    averages_statistics = bool(statistics) and strategy.num_replicas_in_sync > 1
    stops = stop is not None and not averages_statistics
    watches = guard is not None and guard.rule.watches_weights

    def objective(part, weight):
        """What a part of the batch adds to the objective, and to the score, of a batch of this global weight."""
        images = rendering.images(part)
        with tf.control_dependencies([images]):
            # What needs no images, random masks above all, would begin first and hold up the batch that they wait for.
            logits = model(images, training=True)
        taught = 0.0 if distillation is None else distillation(images, logits)
        # A batch may hold examples of weight 0 only.
        shares = tf.math.divide_no_nan(weighted(part, lambda labels: loss(labels, logits) + taught), weight)
        regulariser = tf.add_n([tf.cast(term, tf.float32) for term in model.losses] or [tf.constant(0.0)])
        if anchor is not None:
            regulariser += anchor()
        scores = weighted(part, lambda labels: metrics.score(labels, logits, task=task))
        score = tf.math.divide_no_nan(tf.reduce_sum(scores), weight)
        return tf.reduce_sum(shares) + regulariser / parts, score

    def part_sums(part, weight, scale):
        """[gradient of each variable, scaled], objective and score of a part of the batch."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            of_part, score = objective(part, weight)
            scaled = of_part * scale
        gradients = tape.gradient(scaled, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.convert_to_tensor(gradient) for gradient in gradients], of_part, score

    if xla:
        part_sums = tf.function(part_sums, jit_compile=True, autograph=False)

    def accumulated(batch, weight, scale):
        """The same of a replica's whole batch, part by part."""
        if accumulation == 1:
            return part_sums(batch, weight, scale)
        cut = tf.nest.map_structure(lambda column: _parts(column, accumulation), batch)

        def add(index, sums):
            part = tf.nest.map_structure(lambda column: column[index], cut)
            return index + 1, tf.nest.map_structure(tf.add, sums, part_sums(part, weight, scale))

        nothing = [tf.zeros(value.shape, value.dtype) for value in values], tf.constant(0.0), tf.constant(0.0)
        _, sums = tf.while_loop(
            lambda index, sums: index < accumulation, add, (tf.constant(0), nothing), parallel_iterations=1
        )
        return sums

    @PLAIN
    def gradients(batch, scale):
        """In replica context: this replica's share of the batch -> the global gradient."""
        replica = tf.distribute.get_replica_context()
        before = [tf.identity(statistic) for statistic in statistics]
        weight = replica.all_reduce(SUM, tf.reduce_sum(batch["weight"]))
        replaced = tf.reduce_sum(tf.cast(batch.get("replaced", tf.zeros_like(batch["weight"])), tf.float32))
        sums = *accumulated(batch, weight, scale), replaced, *([_total(statistics)] if watches and statistics else [])
        reduced, total, score, replaced, *of_statistics = reduction.add_up(sums, most=pack)

        # A norm that is finite has finite gradients only. Unscaling and clipping by norm are one factor.
        norm = tf.linalg.global_norm(reduced) / scale
        finite = tf.reduce_all(tf.math.is_finite([norm, total, *of_statistics]))
        bound = clipping.scale(norm)
        if bound is not None or loss_scale.dynamic:
            factor = (1.0 if bound is None else bound) / scale
            reduced = [gradient * factor for gradient in reduced]
        reduced = clipping.each(names, reduced, values)
        figures = {"loss": total, running: score, "gradient_norm": norm, "replaced": replaced}
        return reduced, finite, figures, before

    def one_step(batch, learning_rate):
        scale = loss_scale.value.read_value()
        global_gradients, finite, figures, before = strategy.run(gradients, args=(batch, scale))
        finite = _first(strategy, finite)
        figures = {name: _first(strategy, value) for name, value in figures.items()}
        spike = tf.constant(False) if guard is None else guard.is_spike(figures["loss"], finite)
        if finite & ~spike:
            optimizer.apply(names, global_gradients, learning_rate, factors)
            if average is not None:
                average.update(step.read_value())
        elif statistics:
            # The forward pass has updated them already.
            strategy.run(put_back, args=(before,))
        loss_scale.update(finite)
        step.assign_add(1)
        sound = tf.math.is_finite(_total(values)) if watches else tf.constant(True)
        verdicts = {"finite": finite, "spike": spike, "sound": sound}
        return figures | {"loss_scale": scale} | {name: tf.cast(told, tf.float32) for name, told in verdicts.items()}

    @PLAIN
    def put_back(before):
        for statistic, value in zip(statistics, before, strict=True):
            statistic.assign(value)

    @PLAIN
    def average_statistics():
        replica = tf.distribute.get_replica_context()
        for statistic in statistics:
            statistic.assign(replica.all_reduce(MEAN, tf.identity(statistic)))

    def goes_on(index, steps):
        return (index < steps) & ~stop.read_value() if stops else index < steps

    def window(iterator, learning_rates, steps):
        verdicts = ("finite", "spike", "sound")
        columns = ("loss", running, "gradient_norm", "loss_scale", *verdicts, "replaced", "wait")
        records = tf.TensorArray(tf.float32, size=length, element_shape=[len(columns)])
        index = tf.constant(0)
        while goes_on(index, steps):
            with tf.control_dependencies([step.read_value()]):
                asked = clock()
            with tf.control_dependencies([asked]):
                batch = next(iterator)
            with tf.control_dependencies(tf.nest.flatten(strategy.experimental_local_results(batch))[:1]):
                waited = tf.cast(clock() - asked, tf.float32)
            figures = one_step(batch, learning_rates[index]) | {"wait": waited}
            records = records.write(index, tf.stack([figures[name] for name in columns]))
            index += 1
        if averages_statistics:
            strategy.run(average_statistics)
        if average is not None:
            average.copy_others()
        return dict(zip(columns, tf.unstack(records.stack(), axis=1), strict=True))

    return tf.function(window)


def _total(variables: Sequence[tf.Variable]) -> tf.Tensor:
    """The sum of all numbers, which is finite if all of them are."""
    return tf.add_n([tf.cast(tf.reduce_sum(variable.read_value()), tf.float32) for variable in variables])


def _parts(column: tf.Tensor, count: int) -> tf.Tensor:
    """[B, ...] -> [count, B / count, ...]."""
    return tf.reshape(column, [count, column.shape[0] // count, *column.shape[1:]])


def with_control_flow(loss: Loss) -> Loss:
    """A loss of one's own, which names no tasks, may have a Python `if` or `for` over tensors: it is rewritten."""
    return loss if hasattr(loss, "tasks") else tf.function(loss)


def weighted(batch: dict[str, tf.Tensor], values: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """[B] values of labels times weight; where examples are mixed, each label counts by the share that it has.

    Args:
        batch: as `data.pipeline.train_batches` gives it. The partner of an example is the one at its index xor 1.
        values: labels -> [B] float32, for example the losses.
    """
    own = values(batch["label"]) * batch["weight"]
    if "share" not in batch:
        return own
    labels, weights = (_partners(batch[name]) for name in ("label", "weight"))
    return batch["share"] * own + (1 - batch["share"]) * values(labels) * weights


def _partners(column: tf.Tensor) -> tf.Tensor:
    pairs = tf.reshape(column, [column.shape[0] // 2, 2, *column.shape[1:]])
    return tf.reshape(pairs[:, ::-1], column.shape)


def predictions(batch: dict[str, tf.Tensor], model: keras.Model, rendering: Rendering, *, task: str) -> tf.Tensor:
    """Logits [B, K] of the mean prediction over the views of each image: geometry [B, V, 3, 3], or [B, 3, 3]."""
    if "image" in batch or len(batch["geometry"].shape) == 3:
        return model(rendering.images(batch), training=False)

    def of_view(geometry):
        return model(rendering.images(batch | {"geometry": geometry}), training=False)

    views = tf.transpose(batch["geometry"], [1, 0, 2, 3])
    return metrics.mean_prediction(
        tf.map_fn(of_view, views, parallel_iterations=1, fn_output_signature=tf.float32), task=task
    )


def evaluation_window(
    *, strategy: tf.distribute.Strategy, model: keras.Model, task: str, loss: Loss, rendering: Rendering
) -> Callable:
    """Traces, once, a window of evaluation steps.

    Returns:
        function (iterator of distributed batches, steps scalar int32) -> sums of `trainer.metrics.batch_sums`; and of
        each example on all replicas, padding included, in any order: dict(position [M] int64, replaced [M] int32,
        logits [M, K] float32, losses [M] float32).
    """
    nothing, loss = metrics.zeros(model.output_shape[-1], task=task), with_control_flow(loss)
    together = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)

    @PLAIN
    def of_replica(batch):
        logits = predictions(batch, model, rendering, task=task)
        losses = loss(batch["label"], logits)
        arrays = batch["label"], batch["weight"], logits, losses
        sums = metrics.batch_sums(*arrays, task=task, replaced=batch.get("replaced"))
        replaced = tf.cast(batch.get("replaced", tf.zeros_like(batch["weight"])), tf.int32)
        told = {"position": batch["position"], "replaced": replaced, "logits": logits, "losses": losses}
        if together:
            # TensorFlow cannot gather what is an argument of this function.
            replica = tf.distribute.get_replica_context()
            told = {name: replica.all_gather(tf.identity(column), axis=0) for name, column in told.items()}
        return sums, told

    @PLAIN
    def joined(column):
        return tf.concat(strategy.experimental_local_results(column)[: 1 if together else None], axis=0)

    def window(iterator, steps):
        totals = {name: tf.constant(value) for name, value in nothing.items()}
        kinds = {"position": tf.int64, "replaced": tf.int32, "logits": tf.float32, "losses": tf.float32}
        told = {name: tf.TensorArray(kind, size=steps) for name, kind in kinds.items()}
        for index in tf.range(steps):
            batch_sums, columns = strategy.run(of_replica, args=(next(iterator),))
            totals = {name: totals[name] + strategy.reduce(SUM, batch_sums[name], axis=None) for name in totals}
            told = {name: told[name].write(index, joined(columns[name])) for name in kinds}
        return totals, {name: array.concat() for name, array in told.items()}

    return tf.function(window)


def _first(strategy: tf.distribute.Strategy, value) -> tf.Tensor:
    """The value on the first replica, where all are equal."""
    return strategy.experimental_local_results(value)[0]
