"""t-SNE of features whose groups are known, and what is drawn of them."""

import csv

import keras
import numpy as np
import pytest
from sklearn.metrics import silhouette_score

import dhm_keras as dhm
from dhm_keras.analysis import plot_embeddings, project
from dhm_keras.analysis.embeddings import COLUMNS


def groups(persons=4, images=6, size=8, spread=0.1):
    """Features of persons that are `spread` about their centres, and whose they are."""
    rng = np.random.default_rng(0)
    pids = np.repeat(np.arange(persons), images)
    return 3 * rng.standard_normal((persons, size))[pids] + spread * rng.standard_normal((len(pids), size)), pids


def test_neighbours_stay_neighbours():
    features, pids = groups()
    points = project(features)
    assert points.shape == (24, 2) and points.dtype == "float32"
    far = np.linalg.norm(points[:, None] - points, axis=-1) + 1e9 * np.eye(len(points))
    assert (pids[far.argmin(1)] == pids).all()


def test_the_same_seed_gives_the_same_points():
    features, _ = groups(spread=2.0)
    np.testing.assert_array_equal(project(features, seed=3), project(features.tolist(), seed=3))
    np.testing.assert_allclose(project(features + 100), project(features), atol=0.5)  # moved as a whole


@pytest.mark.parametrize("count", [7, 8, 100])
def test_few_examples_are_enough(count):
    features = np.random.default_rng(0).standard_normal((count, 3)).astype("float32")
    assert np.isfinite(project(features)).all()


@pytest.mark.parametrize(
    "wrong",
    [np.eye(6), np.arange(20.0), np.ones((20, 1)), np.full((20, 4), np.nan), np.full((20, 2), "a")],
)
def test_what_cannot_be_projected(wrong):
    with pytest.raises(ValueError, match=r"`features`. Expected finite numbers \(n, d\), n >= 7, d >= 2. Received: an"):
        project(wrong)


def test_examples_that_are_all_the_same():
    with pytest.raises(ValueError, match="Received: 20 times the same"):
        project(np.ones((20, 4)))


def draw(monkeypatch, *arguments, **named):
    from matplotlib.figure import Figure

    kept, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **kwargs: (kept.append(self), save(self, path, **kwargs)))
    plot_embeddings(*arguments, **named)
    return kept[0]


def test_the_figure_and_its_numbers(tmp_path, monkeypatch):
    features, labels = groups()
    pids = np.array(["$x", "b", "c", "d"])[labels]
    loose, _ = groups(spread=3.0)
    panels = {"triplet features": features, "softmax features": loose}
    figure = draw(monkeypatch, panels, pids, tmp_path / "tsne.png", seed=1)
    with open(tmp_path / "tsne.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == COLUMNS and len(rows) == 2 * len(pids)
    assert (tmp_path / "tsne.png").read_bytes().startswith(b"\x89PNG")
    for panel, (title, of_panel) in zip(figure.axes, panels.items()):
        own = [row for row in rows if row[0] == title]
        points = np.array([row[2:4] for row in own], "float64")
        np.testing.assert_allclose(points, project(of_panel, seed=1), rtol=1e-6)
        score = silhouette_score(of_panel, pids, metric="cosine")
        assert np.mean([float(row[4]) for row in own]) == pytest.approx(score)
        assert panel.get_title() == f"{title}\nsilhouette {score:.2f}"
        drawn = [np.asarray(each.get_offsets()) for each in panel.collections]  # a person each
        assert len(drawn) == 4 and len({tuple(each.get_facecolor()[0]) for each in panel.collections}) == 4
        np.testing.assert_allclose(np.concatenate(drawn), points, rtol=1e-5)
    assert [row[1] for row in rows[: len(pids)]] == pids.tolist()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["$x", "b", "c", "d"]


def test_many_panels_stand_in_two_columns(tmp_path, monkeypatch):
    features, pids = groups(persons=2)
    figure = draw(monkeypatch, {str(i): features for i in range(5)}, pids, tmp_path / "a.png")
    assert [bool(axes.get_title()) for axes in figure.axes] == [True] * 5 + [False]
    places = {tuple(axes.get_subplotspec().get_geometry()[:2]) for axes in figure.axes}
    assert places == {(3, 2)}


def test_what_cannot_be_drawn(tmp_path):
    features, pids = groups()
    plot = lambda *arguments: plot_embeddings(*arguments, tmp_path / "a.png")
    with pytest.raises(ValueError, match="one panel at least"):
        plot({}, pids)
    with pytest.raises(ValueError, match="Received: of 'b' an array float64"):
        plot({"a": features, "b": features[:5]}, pids)
    for wrong in (pids[:-1], pids / 2, pids[:, None]):
        with pytest.raises(ValueError, match=r"`pids`. Expected integers or strings \(n,\)"):
            plot({"a": features}, wrong)
    for wrong in (pids * 0, np.arange(len(pids)), np.arange(24) % 21):
        with pytest.raises(ValueError, match="Expected 2 to 20 persons, one of them several times"):
            plot({"a": features}, wrong)
    assert list(tmp_path.iterdir()) == []


def computed(model, images):
    return keras.ops.convert_to_numpy(model(images.astype("float32"), training=False))


def test_the_features_of_both_losses_behind_a_balance_neck():
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same")(image)
    network = keras.Model(image, {**dhm.reid.fbl_neck(x, x, 3), **dhm.reid.bl_neck(x, 3, "aux1")})
    images = np.random.default_rng(0).random((3, 8, 8, 3))
    outputs = network(images.astype("float32"), training=False)
    for head in ("main", "main_local", "aux1"):
        parts = dhm.reid.loss_features(dhm.DHM(network), head)
        assert list(parts) == ["triplet features", "softmax features"]
        triplet, softmax = (computed(part, images) for part in parts.values())
        np.testing.assert_allclose(triplet, keras.ops.convert_to_numpy(outputs[f"{head}_features"]), rtol=1e-5)
        kernel, bias = network.get_layer(head).get_weights()
        logits = keras.ops.convert_to_numpy(outputs[head])
        np.testing.assert_allclose(softmax @ kernel + bias, logits, atol=1e-5)
    with pytest.raises(ValueError, match=r"`head`. Expected one of .*Received: 'aux2'"):
        dhm.reid.loss_features(network, "aux2")
    with pytest.raises(ValueError, match="ends in a Dense layer"):
        dhm.reid.loss_features(dhm.DHM(network).main)


def test_the_features_of_both_losses_around_a_normalization():
    image = keras.Input((8, 8, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(image))
    logits, _ = dhm.reid.bn_neck(pooled, 3)
    neck = keras.Model(image, logits)
    mean = [1.0, 2.0, 3.0, 4.0]
    neck.get_layer("main_neck").set_weights([np.full(4, 2.0), np.array(mean), np.full(4, 1 - 1e-5)])
    images = np.random.default_rng(0).random((3, 8, 8, 3))
    for model in (neck, keras.Model(image, {"main": logits})):
        before, after = (computed(part, images) for part in dhm.reid.loss_features(model).values())
        np.testing.assert_allclose(after, 2 * (before - mean), rtol=1e-5)
    plain = keras.Model(image, keras.layers.Dense(3)(pooled))
    (name, part), *others = dhm.reid.loss_features(plain).items()
    assert name == "features" and others == []
    np.testing.assert_allclose(computed(part, images), before, rtol=1e-6)
