"""`DHM`: a Keras model that trains all the heads of a network and ships the main one."""

import contextlib
import functools
import operator
import warnings

import keras
from keras import ops

from dhm_keras import distribute
from dhm_keras.logs import HeadLogs, build_metrics
from dhm_keras.network import check_class_names, checked_heads, with_features
from dhm_keras.objective import Objective, check_labels, read_config, sort_heads, targets
from dhm_keras.resume import in_order, optimizer_config
from dhm_keras.routing import Routing

SCOPES = ("mimic", "branch")


@keras.saving.register_keras_serializable(package="dhm_keras")
class DHM(keras.Model):
    """Trains a network with side branches that teach one another (Dynamic Hierarchical Mimicking, CVPR 2020).

    Compile it with an optimizer, fit it like any Keras model, and ship `model.main`: the backbone alone, a plain Keras
    model without a trace of the branches. `predict`, `evaluate` and `model(x)` give all the heads, and what necks and
    triplets are made of.

    Example:

    ```python
    network = dhm_keras.models.resnet32(num_classes=100)
    model = dhm_keras.DHM(network)
    model.compile(optimizer=dhm_keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=1e-4))
    model.fit(images, labels, batch_size=128, epochs=164)
    probabilities = keras.ops.softmax(model.main.predict(images))
    ```

    Labels are one for all heads: integers `(batch,)`, or soft labels `(batch, classes)`. `sample_weight` weighs every
    term of the objective. Logs, each a mean over the examples of an epoch: `loss`; per head `main_ce`,
    `main_accuracy`, `main_top5` (with more than five classes); per pair `mimic_main_to_aux1` (teacher to student, T^2
    included). The terms are logged with sample weights but without the objective's weights. What took no part in a
    whole epoch logs NaN. Evaluation always covers all heads and pairs.

    For re-identification, `triplet_weight` adds the batch-hard triplet loss on the features of each head: the output
    `NAME_features` where the network has it, as with a `reid.bl_neck`, else what the head's classifier takes, before
    the normalization of a `reid.bn_neck`. Batches then hold several images of each person, as those of
    `reid.IdentityBatches`. Logs: `main_triplet`, and of an `fbl_neck` `main_local_ce` and `main_local_triplet`.

    Args:
        network: Functional model from images to a dict of logits `(batch, classes)` with the key `"main"`; other keys
            are branches, sorted from the deepest fork to the shallowest (`"aux1"`, `"aux2"`, ...), or what belongs to
            a head's neck, see `reid.fbl_neck`.
        method: `"dhm"`; `"dsl"`: deep supervision, no mimicking; `"baseline"`: a network without branches. Defaults to
            `"dhm"`.
        ce_weights: Number, or dict from head to number; heads left out weigh 1. Defaults to `1.0`.
        mimic_weights: Number, or dict from `(teacher, student)` to number; pairs left out weigh 1. Defaults to `1.0`.
        temperature: Float > 0, of the mimicking terms. Defaults to `1.0`.
        direction: `"both"`, `"top_down"` or `"bottom_up"`. Defaults to `"both"`.
        divergence: `"kl"`, `"cross_entropy"`, or a callable on the log-probabilities of teacher and student. Defaults
            to `"kl"`.
        triplet_weight: Float >= 0, of the triplet loss of each head. Defaults to `0.0`: none.
        triplet_margin: Float >= 0. Defaults to `0.3`.
        class_names: Sequence of strings, the name of class 0 first. They are saved with the model and travel to the
            export. Defaults to `None`.
        name: String. Name of the model.
        dtype: Dtype policy. Defaults to the network's.

    Attributes:
        network: The network given.
        objective: The `Objective` with the settings above, which are read-only attributes of the model, too.
        main: The backbone with its own classifier, a functional model from images to logits; of a network with the
            output `embedding` to that, without a classifier. Shares the weights.

    Raises:
        ValueError: if the network or a setting is not as above.
    """

    def __init__(
        self,
        network,
        method="dhm",
        ce_weights=1.0,
        mimic_weights=1.0,
        temperature=1.0,
        direction="both",
        divergence="kl",
        triplet_weight=0.0,
        triplet_margin=0.3,
        class_names=None,
        name=None,
        dtype=None,
    ):
        heads = sort_heads(checked_heads(network))
        # Inputs pass as they are: raw images are normalised in float32 by the network's first layer.
        super().__init__(name=name, dtype=dtype or network.dtype_policy, autocast=False)
        self.network = network
        self.num_classes = network.output["main"].shape[-1]
        self.class_names = check_class_names(class_names, self.num_classes)
        of_mimicking = mimic_weights, temperature, direction, divergence
        self.objective = Objective(heads, method, ce_weights, *of_mimicking, triplet_weight, triplet_margin)
        trained = with_features(network, heads) if triplet_weight else network
        self._routing = Routing(trained, heads, self.objective.pairs)
        of_necks = self.objective.names_of_necks(list(trained.output))
        self._logs = HeadLogs(heads, self.objective.pairs, self.num_classes, of_necks)
        self.build(network.input_shape)

    def build(self, input_shape=None):
        self.built = True

    method = property(operator.attrgetter("objective.method"))
    ce_weights = property(operator.attrgetter("objective.ce_weights"))
    mimic_weights = property(operator.attrgetter("objective.mimic_weights"))
    temperature = property(operator.attrgetter("objective.temperature"))
    direction = property(operator.attrgetter("objective.direction"))
    divergence = property(operator.attrgetter("objective.divergence"))
    triplet_weight = property(operator.attrgetter("objective.triplet_weight"))
    triplet_margin = property(operator.attrgetter("objective.triplet_margin"))

    @property
    def heads(self):
        """Names of all the heads, the deepest first: `("main", "aux1", ...)`."""
        return self.objective.heads

    @property
    def main(self):
        return self._routing.main

    @property
    def metrics(self):
        # Keras weighs its loss of a step, which is one replica's, by that replica's examples; ours has all examples.
        others = [metric for metric in super().metrics if metric is not self._loss_tracker]
        return [self._logs.loss, *others, *self._logs.metrics]

    # Which heads take part

    def activate(self, branches=None, scope="mimic"):
        """Sets the branches that take part in the training steps from now on; `callbacks.SampleBranches` calls this.

        Args:
            branches: Names of the active branches; `main` is always active. Defaults to all.
            scope: `"mimic"`: all heads keep their cross-entropy, and only pairs of active heads mimic (supplement D).
                `"branch"`: an inactive branch has no term at all (eq. 8-9); it is not computed, and its weights and
                optimizer state stay exactly as they are. Defaults to `"mimic"`.

        Raises:
            ValueError: on an unknown branch or scope.
        """
        if scope not in SCOPES:
            raise ValueError(f"Invalid value for argument `scope`. Expected one of {SCOPES}. Received: {scope!r}.")
        branches = self.heads[1:] if branches is None else tuple(branches)
        unknown = [name for name in branches if name not in self.heads[1:]]
        if unknown:
            raise ValueError(
                f"Invalid value for argument `branches`. Expected some of {self.heads[1:]}. Received: {unknown}."
            )
        active = tuple(head for head in self.heads if head == "main" or head in branches)
        self._routing.heads = active if scope == "branch" else self.heads
        self._routing.pairs = tuple(pair for pair in self.objective.pairs if set(pair) <= set(active))
        if self.train_function is not None:
            self.make_train_function()

    def make_train_function(self, force=False):
        """One train function per active set and source of images, see `Routing.key`."""
        routing = self._routing
        if force or routing.key not in routing.functions:
            routing.part(routing.heads)
            if not self.optimizer.built:
                self.optimizer.build(self.trainable_variables)  # with all of them, before a step that updates some
            make = functools.partial(super().make_train_function, force=True)
            distribute.make_train_function(self, make, routing.source)
            routing.functions[routing.key] = self.train_function
        self.train_function = routing.functions[routing.key]

    # The training step

    def call(self, inputs, training=None):
        return distribute.on_share(self._routing.current, inputs, training)

    def train_step(self, *args):
        """Keras's own training step, on the part of the network that leads to the active heads."""
        with self._routing.step():
            moving = {id(variable) for variable in self._routing.current.trainable_variables}
            active = [id(variable) in moving for variable in self.trainable_variables]
            with distribute.updating_only(self.optimizer, active):
                return distribute.run_step(super().train_step, args)

    def test_step(self, *args):
        return distribute.run_step(super().test_step, args)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        distribute.symbolic_build(self, iterator, data_batch)  # Keras calls it on TensorFlow

    def _get_metrics_result_or_logs(self, logs):
        return self.get_metrics_result()  # of a whole epoch; the logs of its last step may lack some

    @property
    def trainable_weights(self):
        # What Keras's training step on TensorFlow differentiates and updates; on JAX see `distribute.updating_only`.
        return self._routing.current.trainable_weights if self._routing.is_within_step else super().trainable_weights

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if y is None or isinstance(y, (dict, list, tuple)):
            raise ValueError(
                "Invalid labels. Expected one array for all heads: integers of shape (batch,) or soft labels of shape "
                f"(batch, {self.num_classes}). Received: {type(y).__name__}."
            )
        pairs = self._routing.pairs if self._routing.is_within_step else self.objective.pairs
        y = distribute.checked_labels(y, self.num_classes)
        logits = {head: y_pred[head] for head in self.heads if head in y_pred}
        total, ce, mimic = self.objective(logits, y, pairs)
        more, of_necks = self.objective.of_necks(y_pred, y)
        total += more
        weights = None if sample_weight is None else ops.reshape(ops.cast(sample_weight, total.dtype), (-1,))
        self._logs.update_terms(ce, mimic, of_necks, 1.0 if weights is None else weights)
        values = ops.cast(total if weights is None else total * weights, keras.config.floatx())
        loss = distribute.share_of_mean(values)
        if self.losses:  # the layers' own: regularizers
            share = super().compute_loss(x)
            loss, values = loss + share, values + share * distribute.num_replicas()
        self._logs.loss.update_state(values)
        return loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self._logs.update_hits(y_pred, ops.argmax(targets(y, self.num_classes), axis=-1))
        return super().compute_metrics(x, y, y_pred["main"], sample_weight)  # `metrics=` of compile: on main

    # Keras's entry points

    def compile(self, optimizer="rmsprop", loss=None, loss_weights=None, metrics=None, **kwargs):
        """As `keras.Model.compile`, without a loss: the objective is the model's. `metrics` apply to main.

        Raises:
            ValueError: if a loss or loss weights are given.
        """
        if loss is not None or loss_weights is not None:
            raise ValueError(
                "`DHM.compile` takes no `loss` and no `loss_weights`: the objective is the model's own. Set it up in "
                "the constructor, DHM(network, method=..., ce_weights=..., mimic_weights=..., divergence=...). "
                f"Received: loss={loss!r}, loss_weights={loss_weights!r}."
            )
        self._routing.functions.clear()  # they hold the optimizer they were made with
        super().compile(optimizer=optimizer, metrics=metrics, **distribute.compile_settings(self, kwargs))
        self.compiled_optimizer = optimizer_config(self.optimizer)  # as it is before a training changes its rate

    def fit(self, x=None, y=None, batch_size=None, epochs=1, verbose="auto", callbacks=None, **kwargs):
        """As `keras.Model.fit`. Endless batches of `dhm_keras.data` start at `initial_epoch`, one epoch an epoch.

        With `callbacks.Resume` among the callbacks the training starts where an earlier one was stopped.
        """
        if hasattr(x, "starting_at"):
            check_labels(x.labels, self.num_classes)
            kwargs.setdefault("steps_per_epoch", x.steps_per_epoch)
            kwargs["shuffle"] = False
            self._divide_the_epoch(kwargs["steps_per_epoch"])
        check_labels(y, self.num_classes)
        strategy = distribute.strategy_of(self)
        if (validation := kwargs.pop("validation_data", None)) is not None:
            _refuse_endless(validation)
            if isinstance(validation, (tuple, list)) and len(validation) > 1:
                check_labels(validation[1], self.num_classes)
            check_labels(validation.labels if hasattr(validation, "for_backend") else None, self.num_classes)
            of_validation = kwargs.get("validation_batch_size") or batch_size or 32  # 32: Keras's default
            kwargs["validation_data"], steps = distribute.validation_data(validation, of_validation, strategy)
            if steps is not None:
                kwargs["validation_steps"] = min(steps, kwargs.get("validation_steps") or steps)
        _check_processes(self)
        callbacks, resume = in_order(callbacks)
        start, steps = kwargs.pop("initial_epoch", 0), kwargs.get("steps_per_epoch")
        session = contextlib.nullcontext((start, 0))
        if resume:
            of_fit = {"batch_size": batch_size, "steps_per_epoch": steps, "class_weight": kwargs.get("class_weight")}
            session = resume.session(self, x, callbacks, epochs, start, of_fit)
        before = self._routing.heads, self._routing.pairs
        try:
            with session as (epoch, step), distribute.plain_errors(x, validation):
                on_device = getattr(x, "on_device", False)
                if on_device:
                    self._take_from(x, {name: kwargs.get(name) for name in ("class_weight", "steps_per_epoch")})
                else:
                    self._routing.take_from(None)
                if hasattr(x, "starting_at"):
                    later = x.starting_at(*divmod(epoch * steps + step, x.steps_per_epoch))
                    at_once = self.steps_per_execution
                    x = later.draws_for_backend(at_once) if on_device else later.for_backend(strategy)
                x, y, kwargs = _batches(x, y, {"batch_size": batch_size, "shuffle": True, **kwargs})
                return super().fit(
                    x, y, epochs=epochs, verbose=verbose, callbacks=callbacks, initial_epoch=epoch, **kwargs
                )
        finally:  # a callback's draw does not outlive the training, however it ended
            self._routing.heads, self._routing.pairs = before
            self._routing.source = None
            if self.train_function is not None:
                self.make_train_function()

    def _take_from(self, batches, given):
        """Has the training steps cut their batches from the images on the device; Keras sees the draws alone."""
        devices = distribute.num_devices(self)
        if devices > 1 or given != {"class_weight": None, "steps_per_epoch": batches.steps_per_epoch}:
            raise ValueError(
                "Invalid batches with on_device=True. Expected one device, no class_weight, and the steps_per_epoch of "
                f"the batches, {batches.steps_per_epoch}. Received: {devices} device{'s' * (devices > 1)}, {given}. "
                "Give batches with on_device=False."
            )
        build_metrics(self, batches.labels[:1])  # Keras would take the draws for images
        self._routing.take_from(vars(batches).get("source"))  # others make room first
        self._routing.take_from(batches.source)

    def _divide_the_epoch(self, steps):
        """Keras rounds the steps of an epoch of endless data up to whole executions: it would train on more."""
        if self.steps_per_execution != 1 and steps % self.steps_per_execution:
            warnings.warn(
                f"The {steps} steps of an epoch are not a multiple of steps_per_execution={self.steps_per_execution}: "
                "they are taken one by one. Choose a divisor.",
                stacklevel=3,
            )
            self.steps_per_execution = 1
            self._routing.functions.clear()
            self.make_train_function()

    def evaluate(self, x=None, y=None, batch_size=None, verbose="auto", sample_weight=None, **kwargs):
        """As `keras.Model.evaluate`; covers all heads and pairs."""
        _refuse_endless(x)
        check_labels(y, self.num_classes)
        with distribute.plain_errors(x):
            if hasattr(x, "for_backend"):
                check_labels(x.labels, self.num_classes)
                x, steps = distribute.validation_data(x, None, distribute.strategy_of(self))
                kwargs = {"steps": steps, **kwargs}
            given = {"batch_size": batch_size, "sample_weight": sample_weight, **kwargs}
            x, y, kwargs = _batches(x, y, given)
            return super().evaluate(x, y, verbose=verbose, **kwargs)

    def predict(self, x, batch_size=None, verbose="auto", **kwargs):
        """As `keras.Model.predict`; gives a dict from head to logits `(n, classes)`, with what else necks give."""
        _refuse_endless(x)
        with distribute.plain_errors(x):
            x, _, kwargs = _batches(x, None, {"batch_size": batch_size, **kwargs})
            return super().predict(x, verbose=verbose, **kwargs)

    def get_config(self):
        return {
            "name": self.name,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
            "network": keras.saving.serialize_keras_object(self.network),
            "class_names": self.class_names,
            **self.objective.get_config(),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        with keras.saving.custom_object_scope(custom_objects or {}):
            config = read_config(config)
            for key in ("network", "dtype"):
                config[key] = keras.saving.deserialize_keras_object(config[key])
            return cls(**config)

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)


def _batches(x, y, kwargs):
    """Arguments of Keras's `fit`, `evaluate` or `predict`: on TensorFlow arrays become batches at once.

    Of arrays Keras makes a pipeline that TensorFlow tunes, and an epoch then ends up to a minute late, see
    `distribute.tensorflow_data.without_autotune`.
    """
    if any(kwargs.get(name) for name in ("steps", "steps_per_epoch", "validation_split")):
        return x, y, kwargs  # Keras takes arrays apart itself
    of_arrays = {name: kwargs.get(name) for name in ("sample_weight", "class_weight", "batch_size")}
    batches = distribute.batches_of_arrays(x, y, shuffle=kwargs.get("shuffle", False), **of_arrays)
    if batches is None:
        return x, y, kwargs
    kwargs = {name: value for name, value in kwargs.items() if name not in of_arrays}
    return batches, None, {**kwargs, "shuffle": False} if "shuffle" in kwargs else kwargs


def _check_processes(model):
    """Raises `ValueError` if there are several processes, and a model was built for one alone."""
    count = distribute.process()[1]
    if distribute.num_devices(model) < count:
        raise ValueError(
            f"TF_CONFIG lists {count} processes, and this model was built for one alone: they would train apart. Build "
            "and compile it within dhm_keras.distribute.data_parallel(), or unset TF_CONFIG."
        )


def _refuse_endless(data):
    if hasattr(data, "starting_at"):
        raise ValueError(
            f"Invalid data to evaluate or predict on. Expected a finite set without augmentation, such as (images, "
            f"labels). Received: the endless training batches {data!r}."
        )
