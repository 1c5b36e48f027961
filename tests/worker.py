"""One of several processes that train together, or one alone: writes its weights and logs. See test_multi_worker.py."""

import json
import sys

import keras
import numpy as np
from networks import batch, sgd, tiny, values

import dhm_keras as dhm


def main(path):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    keras.utils.set_random_seed(0)
    x, y = batch(10)
    weights = np.linspace(0.5, 1.5, 10)
    images = np.random.default_rng(1).integers(0, 256, (9, 8, 8, 3)).astype("uint8")
    with dhm.distribute.data_parallel():
        model = dhm.DHM(tiny(regularizer=keras.regularizers.L2(1e-2), synchronized=True, head_dtype="float64"))
        model.compile(optimizer=sgd(0.01), metrics=["sparse_categorical_crossentropy"])
    sampler = dhm.callbacks.SampleBranches("bernoulli", scope="branch")
    train = dhm.data.TrainBatches(images, y[:9], batch_size=4, pad=1, flip=True)  # shares of 2 + 2, 2 + 2, 1 + 0
    logs = [
        model.fit(
            train, epochs=3, verbose=0, validation_data=(x, y, weights), validation_batch_size=7, callbacks=[sampler]
        ),
        model.fit(x, y, batch_size=3, epochs=2, shuffle=False, sample_weight=weights, verbose=0),  # 2 + 1, ..., 1 + 0
    ]
    evaluation = model.evaluate(x, y, batch_size=3, sample_weight=weights, verbose=0, return_dict=True)
    logits = model.predict(x, batch_size=3, verbose=0)
    np.savez(path + ".npz", **values(model.variables), **{f"logits_{head}": z for head, z in logits.items()})
    place = [*dhm.distribute.process(), model.distribute_strategy.num_replicas_in_sync]
    with open(path + ".json", "w") as file:
        json.dump([logs[0].history, logs[1].history, evaluation, place], file, default=float)


if __name__ == "__main__":
    main(sys.argv[1])
