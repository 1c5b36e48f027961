"""How far the heads agree: against hand-made cases and finite differences, and without a trace in the training."""

import keras
import numpy as np
import pytest
from networks import Kill, Killed, batch, densenet10, resnet8, sgd, tiny, wrn10

import dhm_keras as dhm
from dhm_keras.analysis import agreement, measuring, stem
from dhm_keras.analysis.agreement import replay
from dhm_keras.callbacks import MeasureAgreement, Resume
from dhm_keras.forking.graph import trace
from dhm_keras.network import Network


def tap(network):
    """Name of the layer that gives the stem's output."""
    graph = trace(network)
    at = stem(network, graph)
    return next((call.name for call in graph.calls if call.output is at), "image")


def convnet():
    """A CNN as anyone writes one, forked."""
    image = x = keras.Input((16, 16, 3))
    for width in (4, 8, 16):
        x = keras.layers.Conv2D(width, 3, strides=2, padding="same", name=f"conv{width}")(x)
        x = keras.layers.BatchNormalization(name=f"bn{width}")(x)
        x = keras.layers.ReLU(name=f"relu{width}")(x)
    x = keras.layers.Dense(3, activation="softmax")(keras.layers.GlobalAveragePooling2D()(x))
    return dhm.fork(keras.Model(image, x), [dhm.Branch("relu8"), dhm.Branch("relu4")])


@pytest.mark.parametrize(
    "build, name",
    [
        (tiny, "re_lu"),
        (resnet8, "stack1_block1_out"),
        (densenet10, "transition1_pool"),
        (wrn10, "stack1_block1_add"),
        (convnet, "relu4"),
    ],
)
def test_the_stem_ends_where_the_lowest_branch_is_forked(build, name):
    keras.utils.clear_session()
    assert tap(build()) == name


def test_the_stem_of_a_users_network():
    backbone = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="inner")], name="backbone")
    image = keras.Input((8, 8, 3))
    x = backbone(image, training=False)  # a model within the model
    skip = keras.layers.Conv2D(4, 1, name="skip")(x)
    y = keras.layers.add([x, skip], name="joined")
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")
    logits = {"main": keras.layers.Dense(3, name="main")(pooled(y)), "aux1": keras.layers.Dense(3)(pooled(skip))}
    assert tap(Network(image, logits)) == "inner"  # skip alone is passed by by main
    flat = keras.layers.Flatten()(image)
    logits = {"main": keras.layers.Dense(3)(pooled(y)), "aux1": keras.layers.Dense(3)(flat)}
    assert tap(Network(image, logits)) == "image"


def linear(kernels, bias=0.0):
    """Heads that are linear functions of a stem's output, which is the image averaged over its positions."""
    image = keras.Input((2, 2, 3))
    x = keras.layers.GlobalAveragePooling2D()(image)
    network = Network(image, {head: keras.layers.Dense(2, name=head)(x) for head in kernels})
    for head, kernel in kernels.items():
        network.get_layer(head).set_weights([np.array(kernel, "float32"), np.full(2, bias, "float32")])
    return dhm.DHM(network)


def test_identical_heads_have_a_cosine_of_1_and_opposed_ones_of_minus_1():
    kernel = np.array([[1.0, -1], [2, 0.5], [0, 3]])
    images, labels = batch(6, 2, (2, 2, 3))
    same = agreement(linear({"main": kernel, "aux1": kernel}), images, labels)
    assert same["cosine_main_aux1"] == pytest.approx(1, abs=1e-6) and same["agree_main_aux1"] == 1
    assert same["kl_main_to_aux1"] == pytest.approx(0, abs=1e-6) and list(same) == [
        "cosine_main_aux1",
        "agree_main_aux1",
        "kl_main_to_aux1",
        "kl_aux1_to_main",
    ]
    # With all labels 0 the gradient of an example is (p_1) (k_1 - k_0): the mirrored head pulls the other way.
    one = images[:1]
    opposed = agreement(linear({"main": kernel, "aux1": kernel[:, ::-1]}), one, np.array([0]))
    assert opposed["cosine_main_aux1"] == pytest.approx(-1, abs=1e-6) and opposed["agree_main_aux1"] == 0


def test_a_gradient_of_zero_has_no_direction():
    kernel = np.ones((3, 2))  # both classes alike: nothing in the image matters
    numbers = agreement(linear({"main": kernel, "aux1": kernel}), *batch(4, 2, (2, 2, 3)))
    assert np.isnan(numbers["cosine_main_aux1"]) and numbers["agree_main_aux1"] == 1


def test_agreement_and_divergence_are_those_of_the_predictions():
    model = dhm.DHM(tiny(), method="dsl", temperature=3.0)
    model.compile(optimizer=sgd())
    images, labels = batch(32)
    model.fit(images, labels, verbose=0)  # running statistics that are not the first
    numbers = agreement(model, images, labels)
    logits = {head: z.astype("float64") for head, z in model.predict(images, verbose=0).items()}
    log_p = {head: z - np.log(np.exp(z).sum(-1, keepdims=True)) for head, z in logits.items()}
    for one in model.heads:
        for other in model.heads:
            if one != other:
                kl = (np.exp(log_p[one]) * (log_p[one] - log_p[other])).sum(-1).mean()
                assert numbers[f"kl_{one}_to_{other}"] == pytest.approx(kl, abs=1e-5)
            if f"agree_{one}_{other}" in numbers:
                same = (logits[one].argmax(-1) == logits[other].argmax(-1)).mean()
                assert numbers[f"agree_{one}_{other}"] == pytest.approx(same)
    assert len(numbers) == 3 + 3 + 6


def test_the_cosine_is_that_of_finite_differences(float64):
    """Of each head's cross-entropy, in training mode, along every number of the stem's output."""
    image = keras.Input((4, 4, 3))
    h = keras.layers.Conv2D(4, 3, name="stem")(image)  # (batch, 2, 2, 4)
    x = keras.layers.BatchNormalization(name="bn")(keras.layers.Conv2D(4, 1, activation="tanh")(h))
    logits = {
        "main": keras.layers.Dense(3, name="main")(keras.layers.Flatten()(x)),
        "aux1": keras.layers.Dense(3, name="aux1")(keras.layers.GlobalAveragePooling2D()(h)),
    }
    network = Network(image, logits)
    images, labels = batch(3, 3, (4, 4, 3))
    images = images.astype(keras.config.floatx())
    cosine = agreement(dhm.DHM(network), images, labels)["cosine_main_aux1"]

    upper = keras.Model(h, logits)  # Keras's own way from the stem to the heads
    at = np.asarray(network.get_layer("stem")(images))
    step, tolerance = (1e-4, 1e-6) if at.dtype == "float64" else (1e-2, 1e-3)  # JAX's settings here allow float32

    def losses(values):
        with keras.StatelessScope():
            outputs = upper(values, training=True)
        of_head = lambda z: -np.take_along_axis(z - np.log(np.exp(z).sum(-1, keepdims=True)), labels[:, None], 1).mean()
        return np.array([of_head(np.asarray(outputs[head])) for head in ("main", "aux1")])

    gradients = []
    for index in np.ndindex(at.shape):
        moved = np.zeros_like(at)
        moved[index] = step
        gradients.append((losses(at + moved) - losses(at - moved)) / (2 * step))
    main, aux1 = np.array(gradients).T
    assert cosine == pytest.approx(main @ aux1 / np.linalg.norm(main) / np.linalg.norm(aux1), abs=tolerance)
    assert abs(cosine) > 1e-3


def within():
    """A network with a model within it that was called as frozen ones are; Keras trains it all the same."""
    backbone = tiny(names=("main",))
    inner = keras.Model(backbone.input, backbone.get_layer("re_lu").output)
    image = keras.Input((8, 8, 3))
    x = keras.layers.Dropout(0.5, seed=1)(inner(image, training=False))
    pooled = keras.layers.GlobalAveragePooling2D()(x)
    return Network(image, {"main": keras.layers.Dense(3)(pooled), "aux1": keras.layers.Dense(3)(pooled)})


@pytest.mark.parametrize("build", [lambda: tiny(dropout=0.5), convnet, within])
def test_a_replay_of_the_graph_is_the_training_pass(build):
    keras.utils.clear_session()
    network = build()
    images = batch(4, shape=network.input_shape[1:])[0]
    graph = trace(network)
    with keras.StatelessScope():
        expected = network(images, training=True)
    with keras.StatelessScope():
        values = replay(graph.calls, {id(graph.image): keras.ops.convert_to_tensor(images)})
    for head, tensor in graph.output.items():
        np.testing.assert_allclose(values[id(tensor)], expected[head], rtol=1e-4, atol=1e-6)


def test_soft_labels():
    model = dhm.DHM(tiny())
    images, integers = batch(8)
    soft = np.eye(3, dtype="float32")[integers]
    numbers = [agreement(model, images, y) for y in (integers, soft)]
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-6)


@pytest.mark.parametrize("mixed", ["mixed_float16", "mixed_bfloat16"], indirect=True)
def test_mixed_precision(mixed):
    network, data = tiny(), batch(32)
    numbers = agreement(dhm.DHM(network), *data)
    keras.config.set_dtype_policy("float32")
    plain = tiny()
    plain.set_weights(network.get_weights())
    expected = agreement(dhm.DHM(plain), *data)
    for name, number in numbers.items():
        assert number == pytest.approx(expected[name], abs=0.1 if name.startswith("agree") else 0.02), name


def test_gradients_that_float16_cannot_tell_from_zero():
    """What the heads give hardly depends on the stem: its gradients are below float16's 6e-8 but for their scale."""

    def network():
        image = keras.Input((4, 4, 3))
        h = keras.layers.Conv2D(4, 3, name="stem")(image)
        logits = {}
        for head in ("main", "aux1"):
            x = keras.layers.Rescaling(1e-3)(keras.layers.Rescaling(1e-4)(h))
            x = keras.layers.GlobalAveragePooling2D()(x)
            logits[head] = keras.layers.Dense(3, name=head, dtype="float32")(x)
        return Network(image, logits)

    plain = network()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        half = network()
    finally:
        keras.config.set_dtype_policy("float32")
    half.set_weights(plain.get_weights())
    numbers, expected = (agreement(dhm.DHM(each), *batch(16, 3, (4, 4, 3))) for each in (half, plain))
    assert numbers["cosine_main_aux1"] == pytest.approx(expected["cosine_main_aux1"], abs=0.05)


def test_later_calls_see_the_weights_of_then_and_compile_nothing():
    model = dhm.DHM(tiny())
    measure, (images, labels) = measuring(model), batch(8)
    first = measure(images, labels)
    calls = []
    layer = model.network.get_layer("main_pool")
    layer.call, call = (lambda x: calls.append(1) or call(x)), layer.call
    model.network.get_layer("aux1").kernel.assign(model.network.get_layer("aux1").kernel * 2)
    second = measure(images, labels)
    assert not calls and second["kl_main_to_aux1"] != first["kl_main_to_aux1"]
    assert second["kl_main_to_aux2"] == first["kl_main_to_aux2"]


def test_what_cannot_be_measured_is_refused():
    images, labels = batch(8)
    with pytest.raises(ValueError, match="two heads or more"):
        agreement(dhm.DHM(tiny(names=("main",)), method="baseline"), images, labels)
    with pytest.raises(ValueError, match="Received: 3 at position 0"):
        agreement(dhm.DHM(tiny()), images, np.full(8, 3))


# In a training

IMAGES, LABELS = np.random.default_rng(0).integers(0, 256, (29, 8, 8, 3)).astype("uint8"), np.arange(29) % 3


def train(*callbacks, compiled=False, kill=None, folder=None, epochs=2):
    """`(history, state)` of a training with everything that has a state; `None` if it was killed."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(3)
    model = dhm.DHM(tiny(names=("main", "aux1"), dropout=0.3))
    is_eager = keras.backend.backend() == "tensorflow" and not compiled
    model.compile(optimizer=sgd(0.05), metrics=["accuracy"], run_eagerly=is_eager)
    data = dhm.data.TrainBatches(IMAGES, LABELS, 8, pad=1, flip=True, seed=1)
    callbacks = [*callbacks, *([Resume(folder, 2)] if folder else []), *([Kill(kill)] if kill else [])]
    try:
        history = model.fit(data, epochs=epochs, validation_data=(IMAGES, LABELS), callbacks=callbacks, verbose=0)
    except Killed:
        return None
    return history.history, [keras.ops.convert_to_numpy(v) for v in [*model.variables, *model.optimizer.variables]]


def test_a_training_is_the_same_with_and_without(tmp_path):
    history, state = train(compiled=True)
    measured, measured_state = train(MeasureAgreement(IMAGES[:16], LABELS[:16], tmp_path / "a.csv"), compiled=True)
    assert measured == history
    for value, expected in zip(measured_state, state, strict=True):
        np.testing.assert_array_equal(value, expected)
    assert (tmp_path / "a.csv").read_text().splitlines()[0] == (
        "epoch,cosine_main_aux1,agree_main_aux1,kl_main_to_aux1,kl_aux1_to_main"
    )


def test_a_resumed_training_has_the_same_rows(tmp_path):
    measure = lambda name: MeasureAgreement(IMAGES[:16], LABELS[:16], tmp_path / name)
    train(measure("whole.csv"), folder=tmp_path / "whole")
    whole = (tmp_path / "whole.csv").read_text()
    assert [line.split(",")[0] for line in whole.splitlines()] == ["epoch", "0", "1"]
    assert train(measure("killed.csv"), kill=7, folder=tmp_path / "killed") is None  # within the second epoch
    assert (tmp_path / "killed.csv").read_text() == "".join(whole.splitlines(keepends=True)[:2])
    train(measure("killed.csv"), folder=tmp_path / "killed")
    assert (tmp_path / "killed.csv").read_text() == whole
    with pytest.raises(ValueError, match=r"MeasureAgreement\.images"):  # rows of other images have no place there
        train(MeasureAgreement(IMAGES[16:], LABELS[:16], tmp_path / "x.csv"), folder=tmp_path / "killed", epochs=3)


def fit_and_compare(scope, path):
    """The last row of a training on several devices is what the same weights give on one."""
    images, labels = batch(16)
    with scope:
        keras.utils.set_random_seed(0)
        model = dhm.DHM(tiny(names=("main", "aux1"), synchronized=True))
        model.compile(optimizer=sgd())
    model.fit(images, labels, batch_size=8, verbose=0, callbacks=[MeasureAgreement(images, labels, path)])
    weights = [np.asarray(weight) for weight in model.network.get_weights()]
    keras.distribution.set_distribution(None)
    alone = tiny(names=("main", "aux1"))
    alone.set_weights(weights)
    expected = agreement(dhm.DHM(alone), images, labels)
    row = dict(zip(*(line.split(",") for line in path.read_text().splitlines())))
    assert {name: float(row[name]) for name in expected} == pytest.approx(expected, abs=1e-5)


@pytest.mark.tensorflow
def test_on_two_replicas(mirrored, tmp_path):
    fit_and_compare(mirrored.scope(), tmp_path / "agreement.csv")


@pytest.mark.jax
def test_on_two_devices(tmp_path):
    fit_and_compare(dhm.distribute.data_parallel(2), tmp_path / "agreement.csv")


def test_the_chief_alone_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(dhm.distribute, "is_chief", lambda: False)
    train(MeasureAgreement(IMAGES[:4], LABELS[:4], tmp_path / "agreement.csv"), epochs=1)
    assert not list(tmp_path.iterdir())


def test_measuring_wants_a_dhm_of_several_heads(tmp_path):
    measure = MeasureAgreement(IMAGES, LABELS, tmp_path / "agreement.csv")
    model = dhm.DHM(tiny(names=("main",)), method="baseline")
    model.compile(optimizer=sgd())
    with pytest.raises(ValueError, match="two heads or more"):
        model.fit(*batch(8), callbacks=[measure], verbose=0)


def test_a_cosine_of_a_zero_gradient_is_a_gap_in_the_figure(tmp_path):
    names = ("cosine_main_aux1", "agree_main_aux1", "kl_main_to_aux1", "kl_aux1_to_main")
    rows = [{"epoch": epoch, **dict.fromkeys(names, 0.5)} for epoch in range(3)]
    rows[1]["cosine_main_aux1"] = float("nan")
    dhm.analysis.plot_agreement({"dhm": {"dhm-0": rows}}, tmp_path / "agreement.png")
    lines = (tmp_path / "agreement.csv").read_text().splitlines()
    assert "dhm,cosine_main_aux1,2,nan,nan,nan,1" in lines and "dhm,cosine_main_aux1,3,0.5,0.5,0.5,1" in lines
    rows[1]["agree_main_aux1"] = float("nan")
    with pytest.raises(ValueError, match="'dhm-0' has no number for 'agree_main_aux1' in epoch 1"):
        dhm.analysis.plot_agreement({"dhm": {"dhm-0": rows}}, tmp_path / "agreement.png")
