"""`TopKSearch`: the loop of a search and its folder; a search that was stopped goes on exactly where it was."""

import contextlib
import json
import math
import pathlib

import keras
import numpy as np

from dhm_keras import checkpoint, distribute, files
from dhm_keras.data.batches import check_integers
from dhm_keras.models import write_genotype
from dhm_keras.search.figure import name_of, plot_alphas
from dhm_keras.search.learning import Learner


class TopKSearch:
    """Searches the operators of a network by Top-k Sample Search (Li et al., CVPR 2021).

    A step takes two batches: the weights of the k best operators of each layer learn from the first, the alphas, by
    which operators are ranked, from the second. In the end the best operator of each layer makes the genotype. The
    alphas of the last epoch decide, or, with `test`, those of the epoch of the best mAP on the test set, as in the
    authors' code: then what the found network reaches on that set is no measure of how it does on another.

    The optimizers, their learning rates and the losses are those of the authors' code; the rates follow `epochs`.

    A folder belongs to one search:

    - `search.json`: what the search follows from.
    - `checkpoints/`: the whole state after each of the last two epochs.
    - `history.csv`: a row an epoch: losses and accuracies on both splits, the alphas.
    - `genotype.json`: what was found, see `models.read_genotype`: with the alphas, and how it was selected.
    - `alphas.png`: softmax of the alphas over the epochs, where matplotlib is installed.

    Started again, a search goes on behind the last finished epoch, and ends, on a CPU with deterministic operations,
    with the same alphas and weights to the bit.

    Example:

    ```python
    keras.utils.set_random_seed(4)
    weights, alphas = (dhm_keras.reid.IdentityBatches(part, seed=4) for part in dhm_keras.search.split(people.train))
    network = dhm_keras.search.supernet("cdnet", normalization=dhm_keras.data.IMAGENET_MEAN_STD)
    genotype = dhm_keras.search.TopKSearch(network, weights, alphas, k=2, seed=4).run("runs/search/cdnet-top2")
    network = dhm_keras.models.cdnet(genotype)
    ```

    Args:
        supernet: `Supernet`.
        weight_batches, alpha_batches: Endless batches of images and labels with `steps_per_epoch` and `settings`, such
            as `reid.IdentityBatches`. An epoch is one of the first.
        k: Integer from 1 to the number of operators. Defaults to `2`.
        epochs: Integer > 0. Defaults to `240`.
        seed: Integer >= 0. Of what is computed first, while all alphas are the same. Defaults to `0`.
        test: `SelectOnTest`, or `None`. Defaults to `None`: the last epoch.
        notes: Dict of JSON values that are kept in config and genotype, as the name of the space. Defaults to none.

    Raises:
        ValueError: if an argument is not as above, or the backend is not TensorFlow.
    """

    def __init__(self, supernet, weight_batches, alpha_batches, k=2, epochs=240, seed=0, test=None, notes=None):
        if keras.backend.backend() != "tensorflow":
            raise ValueError(
                "A search needs the TensorFlow backend: each step computes other operators, which JAX would compile "
                f"anew. Set KERAS_BACKEND=tensorflow. Received: {keras.backend.backend()}."
            )
        check_integers(k=(k, 1), epochs=(epochs, 1), seed=(seed, 0))
        if k > len(supernet.operators):
            raise ValueError(
                f"Invalid value for argument `k`. Expected at most {len(supernet.operators)}, the number of operators. "
                f"Received: {k}."
            )
        self.supernet, self.k, self.epochs, self.seed, self.test = supernet, k, epochs, seed, test
        self.weight_batches, self.alpha_batches = weight_batches, alpha_batches
        self.notes = dict(notes or {})
        self.learner = Learner(supernet, k, seed)
        self.rows, self._best = [], None  # of the history; what the test set has selected until now

    @property
    def settings(self):
        """What the search follows from: a dict of JSON values."""
        settings = {
            **self.notes,
            "operators": self.supernet.operators,
            "parameters": self.supernet.count_params(),
            "k": self.k,
            "epochs": self.epochs,
            "seed": self.seed,
            "weight_batches": self.weight_batches.settings,
            "alpha_batches": self.alpha_batches.settings,
            "test": self.test and self.test.settings,
        }
        return json.loads(json.dumps(settings))

    def run(self, folder):
        """Searches until the last epoch.

        Args:
            folder: Path; made if need be.

        Returns:
            The genotype: a list of tuples, one for each layer.

        Raises:
            ValueError: if the folder holds a search with other settings; the message names them.
            OSError: if another process has the folder, or it cannot be written.
            FloatingPointError: if the loss is not finite any more.
        """
        folder = pathlib.Path(folder).expanduser()
        with contextlib.closing(files.lock(folder)):
            self._enter(folder)
            for epoch in range(len(self.rows), self.epochs):
                self._tell(self._epoch(epoch))
                self._save(folder)
            return self._finish(folder)

    def genotype(self):
        """What is selected until now: a list of tuples, one for each layer."""
        return [tuple(layer) for layer in self._best["genotype"]] if self._best else self.learner.best()

    def _enter(self, folder):
        """Goes to where the folder's search is."""
        before = files.read_json(folder / "search.json")
        if before is not None and (differ := files.differences(before, self.settings)):
            raise ValueError(
                f"The folder {folder} holds a search with other settings ({differ}). Choose another, or remove it."
            )
        (folder / "checkpoints").mkdir(exist_ok=True)
        files.write_json(folder / "search.json", self.settings)
        found = checkpoint.read_newest(folder / "checkpoints")
        if found is None:
            return
        for i, variable in enumerate(self.learner.variables):
            distribute.assign(variable, found.arrays[f"search/{i}"])
        self.rows, self._best = found.notes["rows"], found.notes["best"]
        print(f"The search goes on from {found.path}", flush=True)

    def _save(self, folder):
        arrays = {f"search/{i}": distribute.to_numpy(v) for i, v in enumerate(self.learner.variables)}
        notes = {"rows": self.rows, "best": self._best}
        checkpoint.write(folder / "checkpoints", checkpoint.Checkpoint(len(self.rows), 0, arrays, notes))
        files.write_table(folder / "history.csv", self.rows[-1], [row.values() for row in self.rows])

    def _epoch(self, epoch):
        """Trains an epoch, from 0, and returns its row of the history."""
        steps = self.weight_batches.steps_per_epoch
        self.learner.begin(epoch, self.epochs)
        sums = {}
        for step in range(epoch * steps, (epoch + 1) * steps):
            learnt = {
                "weights": self.learner.learn_weights(*self.weight_batches[step]),
                "alphas": self.learner.learn_alphas(*self.alpha_batches[step]),
            }
            for split, terms in learnt.items():
                if not math.isfinite(terms["loss"]):
                    raise FloatingPointError(self._not_finite(split, terms["loss"], epoch, step % steps))
                for name, value in terms.items():
                    sums[f"{split}_{name}"] = sums.get(f"{split}_{name}", 0.0) + value
        row = {"epoch": epoch + 1, **{name: value / steps for name, value in sums.items()}}
        row |= self._tested(epoch)
        self.rows.append(row | self._alphas())
        return self.rows[-1]

    def _alphas(self):
        """The alphas as columns of the history."""
        alphas = distribute.to_numpy(self.learner.alphas).tolist()
        return dict(zip(self._columns, (alpha for layer in alphas for alpha in layer), strict=True))

    @property
    def _columns(self):
        layers = range(1, len(self.supernet.layers) + 1)
        return [f"layer{layer}_{name_of(operator)}" for layer in layers for operator in self.supernet.operators]

    def _tested(self, epoch):
        """The column `test_map`, where the test set selects; it notes the best epoch's genotype."""
        if self.test is None:
            return {}
        if (epoch + 1) % self.test.every and epoch + 1 < self.epochs:
            return {"test_map": None}
        score = self.test(self.supernet.network(self.learner.chosen()))
        if self._best is None or score > self._best["test_map"]:
            alphas = distribute.to_numpy(self.learner.alphas).tolist()
            self._best = {"test_map": score, "epoch": epoch + 1, "genotype": self.learner.best(), "alphas": alphas}
        return {"test_map": score}

    def _finish(self, folder):
        """Writes what was found, and draws how."""
        operators, genotype = self.supernet.operators, self.genotype()
        alphas = np.array([[row[name] for name in self._columns] for row in self.rows])
        alphas = alphas.reshape(len(self.rows), len(self.supernet.layers), len(operators))
        last = {"epoch": len(self.rows), "alphas": alphas[-1].tolist()}
        selected = {"selected_by": "last epoch"} | last
        if self._best:
            selected = {"selected_by": "best mAP on the test set, query and gallery, in epoch"} | self._best
            del selected["genotype"]
        found_by = {"k": self.k, "seed": self.seed, "epochs": self.epochs, "operators": operators}
        write_genotype(folder / "genotype.json", genotype, **self.notes, **found_by, **selected)
        try:
            plot_alphas(alphas, operators, folder / "alphas.png")
        except ImportError as error:
            print(f"No picture of the alphas: {error}")
        return genotype

    def _tell(self, row):
        loss, loss_of_alphas = row["weights_loss"], row["alphas_loss"]
        right, right_of_alphas = 100 * row["weights_accuracy"], 100 * row["alphas_accuracy"]
        best = " ".join(map(name_of, self.learner.best()))
        tested = f", test mAP {100 * row['test_map']:.1f} %" if row.get("test_map") is not None else ""
        print(
            f"epoch {row['epoch']} of {self.epochs}: loss {loss:.3f}, of the alphas' split {loss_of_alphas:.3f}; "
            f"accuracy {right:.1f} %, {right_of_alphas:.1f} %{tested}; best {best}",
            flush=True,
        )

    def _not_finite(self, split, loss, epoch, step):
        return (
            f"The loss on the split of the {split} is {loss} in epoch {epoch + 1}, step {step + 1} of "
            f"{self.weight_batches.steps_per_epoch}. The last finished epoch is kept, and the same search would come "
            "here again: choose another seed, or larger batches, and another folder."
        )
