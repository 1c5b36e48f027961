"""DHM: the logs, the routing, what is frozen, saving, labels and weights, errors."""

import keras
import numpy as np
import pytest
from networks import batch, sgd, tiny, values
from numpy.testing import assert_allclose, assert_array_equal

import dhm_keras as dhm

HEADS = ("main", "aux1", "aux2")
EAGER = keras.backend.backend() == "tensorflow"  # there a graph takes longer to trace than a few steps


def compiled(optimizer=None, network=None, graph=False, metrics=None, **kwargs):
    model = dhm.DHM(network or tiny(), **kwargs)
    model.compile(optimizer=optimizer or sgd(), metrics=metrics, run_eagerly=EAGER and not graph)
    return model


def fit(model, epochs=1, seed=0, **kwargs):
    x, y = batch(32, seed=seed)
    return model.fit(x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, **kwargs).history


def state(model):
    """All variables by path; those of the optimizer with a prefix."""
    slots = {f"optimizer/{i}/{v.path}": v for i, v in enumerate(model.optimizer.variables)}
    return {**values(model.variables), **{key: values([v]).popitem()[1] for key, v in slots.items()}}


# Logs


def test_loss_is_the_weighted_sum_of_the_logged_terms():
    model = compiled(ce_weights={"aux2": 0.5}, mimic_weights={("main", "aux2"): 2.0}, temperature=2.0)
    x, y = batch(20)
    for logs in (
        model.evaluate(x, y, batch_size=8, verbose=0, return_dict=True),
        {key: value[0] for key, value in fit(model).items()},
        model.evaluate(x, y, batch_size=8, verbose=0, return_dict=True, sample_weight=np.linspace(0, 2, 20)),
    ):
        expected = logs["main_ce"] + logs["aux1_ce"] + 0.5 * logs["aux2_ce"]
        pairs = [f"mimic_{t}_to_{s}" for t in HEADS for s in HEADS if t != s]
        expected += sum(logs[pair] for pair in pairs) + logs["mimic_main_to_aux2"]
        assert logs["loss"] == pytest.approx(expected, rel=1e-5)


def test_each_log_is_of_the_head_that_it_names():
    model, (x, y) = compiled(), batch(24)
    logits = model.predict(x, verbose=0)
    logs = model.evaluate(x, y, batch_size=7, verbose=0, return_dict=True)
    log_p = {h: z - np.log(np.exp(z).sum(-1, keepdims=True)) for h, z in logits.items()}
    for head in HEADS:
        assert logs[f"{head}_accuracy"] == pytest.approx((logits[head].argmax(-1) == y).mean())
        assert logs[f"{head}_ce"] == pytest.approx(-log_p[head][np.arange(24), y].mean(), rel=1e-4)
    kl = (np.exp(log_p["aux1"]) * (log_p["aux1"] - log_p["main"])).sum(-1).mean()
    assert logs["mimic_aux1_to_main"] == pytest.approx(kl, rel=1e-4)


def test_top5_is_logged_with_more_than_five_classes():
    x, y = batch(40, num_classes=8)
    model = compiled(network=tiny(num_classes=8))
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    ranks = (-model.predict(x, verbose=0)["aux1"]).argsort(-1)
    assert logs["aux1_top5"] == pytest.approx((ranks[:, :5] == y[:, None]).any(-1).mean())
    assert "main_top5" not in fit(compiled())


def test_metrics_of_compile_apply_to_main():
    model, (x, y) = compiled(metrics=["accuracy"]), batch()
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    assert logs["accuracy"] == logs["main_accuracy"]


# Methods


def test_dsl_has_no_mimicking_term_and_baseline_is_plain_training():
    assert not [key for key in fit(compiled(method="dsl")) if "mimic" in key]
    network = tiny(names=("main",))
    plain = keras.models.clone_model(network)
    plain = keras.Model(plain.input, plain.output["main"])
    plain.set_weights(network.get_weights())
    plain.compile(sgd(), keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=EAGER)
    model = compiled(network=network, method="baseline")
    loss, plain_loss = fit(model, epochs=3)["loss"], fit(plain, epochs=3)["loss"]
    assert_allclose(loss, plain_loss, rtol=1e-5)
    for ours, theirs in zip(model.main.get_weights(), plain.get_weights()):
        assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_zero_mimicking_weight_trains_as_dsl():
    network = tiny()
    again = keras.models.clone_model(network)
    again.set_weights(network.get_weights())
    off, dsl = compiled(network=network, mimic_weights=0.0), compiled(network=again, method="dsl")
    assert_allclose(fit(off, epochs=2)["loss"], fit(dsl, epochs=2)["loss"], rtol=1e-6)


# Outputs


def test_main_shares_weights_and_everything_else_gives_all_heads():
    model, (x, _) = compiled(graph=True), batch()
    model.activate((), scope="branch")
    fit(model)
    logits = model.predict(x, verbose=0)
    assert set(logits) == set(model(x)) == set(model(x, training=True)) == set(HEADS)
    assert_array_equal(model.main.predict(x, verbose=0), model.predict(x, verbose=0)["main"])
    assert not [v.path for v in model.main.variables if "aux" in v.path]
    assert model.main is model.main


@keras.saving.register_keras_serializable(package="tests")
class Plain(keras.layers.Layer):
    """Stands for a user's own layer."""

    def call(self, inputs):
        return inputs


def test_main_of_a_users_network_is_of_no_class_of_this_library(tmp_path):
    x = keras.Input((4,))
    y = keras.layers.Dense(4, name="stem")(x)
    network = keras.Model(x, {"main": keras.layers.Dense(3, name="main")(Plain()(y)), "aux1": keras.layers.Dense(3)(y)})
    model = dhm.DHM(network)
    assert type(model.main) is type(network)
    assert "dhm_keras" not in model.main.to_json()


# Routing


OPTIMIZERS = {
    "momentum and decay": sgd,
    "amsgrad": lambda: dhm.optimizers.Adam(0.01, amsgrad=True, weight_decay=0.1),
    "keras adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "accumulation": lambda: dhm.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.1, gradient_accumulation_steps=2),
    "loss scaling": lambda: keras.optimizers.LossScaleOptimizer(sgd()),
}
TRAININGS = [("momentum and decay", None), *((optimizer, "l2") for optimizer in OPTIMIZERS)]


@pytest.mark.parametrize(("optimizer", "regularizer"), TRAININGS)
def test_an_inactive_branch_stays_exactly_as_it_is(optimizer, regularizer):
    model = compiled(OPTIMIZERS[optimizer](), tiny(regularizer=regularizer), graph=True)
    fit(model)
    routes = (
        (("aux1",), (), ("aux2",), ("aux1", "aux2")) if optimizer == "momentum and decay" else (("aux1",), HEADS[1:])
    )
    for active in routes:
        before = state(model)
        model.activate(active, scope="branch")
        fit(model)  # two steps
        for path, value in state(model).items():
            head = next((head for head in HEADS[1:] if head in path), "main")
            moved = not np.array_equal(value, before[path])
            if head not in ("main", *active):
                assert not moved, f"{path} moved while {active} were active"
            elif path.endswith(("kernel", "gamma", "beta", "moving_mean", "moving_variance")) and "main/" not in path:
                assert moved, f"{path} did not move while {active} were active"


def test_scope_branch_trains_as_the_network_without_the_inactive_branch():
    full = tiny()
    full_part = dhm.network.Network(full.input, {head: full.output[head] for head in ("main", "aux1")})
    part = keras.models.clone_model(full_part)
    part.set_weights(full_part.get_weights())
    model, alone = compiled(network=full), compiled(network=part)
    model.activate(("aux1",), scope="branch")
    mine, theirs = fit(model, epochs=2), fit(alone, epochs=2)
    assert_allclose(mine["loss"], theirs["loss"], rtol=1e-6)
    assert_allclose(mine["mimic_aux1_to_main"], theirs["mimic_aux1_to_main"], rtol=1e-5)
    for ours, other in zip(full_part.get_weights(), part.get_weights()):
        assert_allclose(ours, other, rtol=1e-5, atol=1e-7)


def test_inactive_heads_and_pairs_log_nan_and_columns_stay():
    model = compiled()
    every = fit(model)
    model.activate(("aux2",), scope="branch")
    logs = fit(model, validation_data=batch())
    assert set(every) <= set(logs)
    for key, (value,) in logs.items():
        assert np.isnan(value) == ("aux1" in key and not key.startswith("val_")), key


def test_scope_mimic_masks_pairs_and_keeps_every_cross_entropy():
    model = compiled()
    model.activate(("aux2",), scope="mimic")
    logs = {key: value[0] for key, value in fit(model).items()}
    active = ["mimic_main_to_aux2", "mimic_aux2_to_main"]
    for key, value in logs.items():
        assert np.isnan(value) == (key.startswith("mimic") and key not in active), key
    expected = sum(logs[f"{head}_ce"] for head in HEADS) + sum(logs[key] for key in active)
    assert logs["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_set_of_branches_is_traced_once():
    traces = []

    class Counting(dhm.DHM):
        def train_step(self, *args):
            traces.append(self._routing.heads)
            return super().train_step(*args)

    model = Counting(tiny())
    model.compile(optimizer=sgd())
    for active in ((), ("aux1", "aux2"), (), ("aux1", "aux2"), ()):
        model.activate(active, scope="branch")
        fit(model)
    assert len(traces) <= 4  # TensorFlow traces a function once or twice at its first call, and never again
    first = len(traces)
    model.activate(("aux1", "aux2"), scope="branch")
    fit(model)
    assert len(traces) == first


def test_recompiling_takes_the_new_optimizer():
    model = compiled(sgd(0.1), graph=True)
    fit(model)
    model.activate(("aux1",), scope="branch")
    fit(model)
    model.compile(optimizer=dhm.optimizers.SGD(0.0))
    for active in (("aux1",), ("aux1", "aux2")):
        model.activate(active, scope="branch")
        before = values(model.trainable_variables)
        fit(model)
        for path, value in values(model.trainable_variables).items():
            assert_array_equal(value, before[path])


@pytest.mark.parametrize("how", [{"run_eagerly": True}, {"jit_compile": True}, {"steps_per_execution": 2}], ids=str)
def test_every_way_to_run_a_step_gives_the_same(how):
    network = tiny()
    again = keras.models.clone_model(network)
    again.set_weights(network.get_weights())
    model, other = dhm.DHM(network), dhm.DHM(again)
    model.compile(optimizer=sgd(), jit_compile=keras.backend.backend() == "jax")
    other.compile(optimizer=sgd(), **how)
    losses = []
    for m in (model, other):
        m.activate(("aux2",), scope="branch")
        before = values(m.network.variables)
        losses.append(fit(m, epochs=2)["loss"])
        for path, value in values(m.network.variables).items():
            assert np.array_equal(value, before[path]) or "aux1" not in path
    assert_allclose(*losses, rtol=1e-4)


# Labels and weights


def test_soft_labels_equal_integers():
    x, y = batch(32)
    models = [compiled(network=tiny()) for _ in range(3)]
    for model in models[1:]:
        model.set_weights(models[0].get_weights())
    forms = (y, y[:, None].astype("uint8"), np.eye(3, dtype="float32")[y])
    logs = [m.fit(x, form, batch_size=16, shuffle=False, verbose=0).history for m, form in zip(models, forms)]
    for other in logs[1:]:
        for key in logs[0]:
            assert_allclose(other[key], logs[0][key], rtol=1e-5, err_msg=key)


def test_sample_weight_weighs_every_term():
    (x, y), weights = batch(16), np.array([0.0, 2.0] * 8, "float32")
    model, half = compiled(), compiled(network=tiny())
    half.set_weights(model.get_weights())
    # Evaluation has no batch statistics: weights 0 and 2 of 16 examples are the plain mean of the other 8.
    logs = model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)
    plain = half.evaluate(x[1::2], y[1::2], verbose=0, return_dict=True)
    for key in [key for key in logs if "accuracy" not in key]:
        assert logs[key] == pytest.approx(plain[key], rel=1e-5), key


@pytest.mark.parametrize("call", ["fit", "validation", "evaluate"])
def test_labels_out_of_range_are_refused(call):
    model, (x, y) = compiled(), batch()
    wrong = np.where(np.arange(16) == 5, 3, y)
    with pytest.raises(ValueError, match="Received: 3 at position 5"):
        if call == "fit":
            model.fit(x, wrong, verbose=0)
        elif call == "validation":
            model.fit(x, y, validation_data=(x, wrong), verbose=0)
        else:
            model.evaluate(x, wrong, verbose=0)


@pytest.mark.tensorflow
def test_labels_out_of_range_in_a_dataset_stop_the_training():
    import tensorflow as tf

    model, (x, y) = compiled(graph=True), batch()
    data = tf.data.Dataset.from_tensor_slices((x, np.where(np.arange(16) == 5, 3, y))).batch(8)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"labels in \[0, 3\)"):
        model.fit(data, verbose=0)


def test_labels_of_a_wrong_shape_are_refused():
    with pytest.raises(ValueError, match="Invalid labels"):
        compiled().fit(batch()[0], np.zeros((16, 4), "float32"), verbose=0)


# Errors


def endless(labels=0):
    return dhm.data.TrainBatches(batch()[0], np.full(16, labels), batch_size=8)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: dhm.DHM(tiny(), ce_weights={"aux9": 1.0}), "'aux9'"),
        (lambda: dhm.DHM(tiny(names=("main",))), "needs a network with branches"),
        (lambda: dhm.DHM(tiny(), method="baseline"), "branches=()"),
        (lambda: dhm.DHM(keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])), "dict of logits"),
        (lambda: dhm.DHM("resnet32"), "`network`"),
        (lambda: dhm.DHM(tiny(num_classes=1)), "at least two classes"),
        (lambda: compiled().fit(batch()[0], verbose=0), "one array for all heads"),
        (lambda: compiled().fit(batch()[0], dict.fromkeys(HEADS, batch()[1]), verbose=0), "one array for all heads"),
        (lambda: compiled().fit(endless(labels=3), verbose=0), "Received: 3 at position 0"),
        (lambda: compiled().evaluate(endless()), "endless training batches"),
        (lambda: compiled().predict(endless()), "endless training batches"),
        (lambda: compiled().fit(*batch(), validation_data=endless(), verbose=0), "endless training batches"),
        (lambda: compiled().activate(("aux9",)), "['aux9']"),
        (lambda: compiled().activate(scope="loss"), "`scope`"),
        (lambda: dhm.DHM(tiny()).compile("sgd", loss="mse"), "takes no `loss`"),
        (lambda: dhm.DHM(tiny()).compile("sgd", loss_weights=[1.0]), "`loss_weights`"),
    ],
)
def test_mistakes_are_named(make, words):
    with pytest.raises(ValueError) as error:
        make()
    assert words in str(error.value)


def test_heads_of_different_classes_are_refused():
    x = keras.Input((4,))
    network = keras.Model(x, {"main": keras.layers.Dense(3)(x), "aux1": keras.layers.Dense(4)(x)})
    with pytest.raises(ValueError, match="logits of one shape"):
        dhm.DHM(network)


# Files


@keras.saving.register_keras_serializable(package="tests")
def squared(teacher_log_probs, student_log_probs):
    return keras.ops.sum(keras.ops.square(teacher_log_probs - student_log_probs), axis=-1)


SETTINGS = {
    "method": "dhm",
    "ce_weights": {"aux1": 0.5, "main": 2.0},
    "mimic_weights": {("aux1", "main"): 0.25},
    "temperature": 3.0,
    "direction": "bottom_up",
    "divergence": squared,
}


def test_a_keras_file_keeps_every_setting_the_weights_and_the_optimizer(tmp_path):
    schedule = dhm.schedules.Cosine(0.1, steps_per_epoch=2, epochs=8, warmup_epochs=1.0)
    optimizer = dhm.optimizers.SGD(schedule, momentum=0.9, nesterov=True, weight_decay=1e-3)
    model = compiled(optimizer, name="named", **SETTINGS)
    fit(model, epochs=2)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.name == "named" and again.objective == model.objective
    assert {key: getattr(again, key) for key in SETTINGS} == SETTINGS
    assert again.optimizer.get_config() == model.optimizer.get_config()
    for path, value in state(model).items():
        assert_array_equal(state(again)[path], value)
    assert_allclose(fit(again, epochs=2)["loss"], fit(model, epochs=2)["loss"], rtol=1e-6)  # and it goes on alike


def test_a_network_file_needs_no_custom_objects(tmp_path):
    network, (x, _) = tiny(), batch()
    network.save(tmp_path / "network.keras")
    again = keras.models.load_model(tmp_path / "network.keras")
    for head, logits in network.predict(x, verbose=0).items():
        assert_array_equal(again.predict(x, verbose=0)[head], logits)


@pytest.mark.parametrize("mixed", ["mixed_float16", "mixed_bfloat16"], indirect=True)
def test_mixed_precision_trains_and_survives_a_file(mixed, tmp_path):
    model = compiled(graph=True)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == (mixed == "mixed_float16")
    losses = fit(model, epochs=12)["loss"]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    assert {keras.backend.standardize_dtype(z.dtype) for z in model(batch()[0]).values()} == {"float32"}
    model.save(tmp_path / "model.keras")
    keras.config.set_dtype_policy("float32")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.dtype_policy.name == mixed and type(again.optimizer) is type(model.optimizer)
    assert again.network.get_layer("stem0").compute_dtype == mixed[6:]
    assert_allclose(fit(again, epochs=2)["loss"], fit(model, epochs=2)["loss"], rtol=1e-2)
