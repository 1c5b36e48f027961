"""One of the processes of `test_data_parallel_jax`: trains as TF_CONFIG says, and writes what it has to a file.

Run as `python data_parallel_worker.py DEVICES FILE`.
"""

import sys

import keras
import numpy as np
from keras.src.backend.common import dtypes
from networks import batch, sgd, values
from test_data_parallel_jax import small

import dhm_keras as dhm
from dhm_keras import distribute


class Rewrite(keras.callbacks.Callback):
    """Within an epoch takes the weights and the optimizer's state away, and puts them back."""

    def on_train_batch_end(self, step, logs=None):
        if step == 1:
            model = self.model
            variables = [*model.variables, *model.optimizer.variables]
            saved = [distribute.to_numpy(variable) for variable in variables]
            for variable, array in zip(variables, saved):
                distribute.assign(variable, np.zeros_like(array))
            for variable, array in zip(variables, saved):
                distribute.assign(variable, array)


def main(devices, file):
    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"  # as the fixture `float64`
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    x, y = batch(9)
    x = x.astype("float64")
    source = dhm.data.TrainBatches(x, y, batch_size=4, pad=1, flip=True)
    sampler = dhm.callbacks.SampleBranches("bernoulli", scope="branch")
    with distribute.data_parallel(int(devices)):
        keras.utils.set_random_seed(0)
        model = dhm.DHM(small())
        model.compile(optimizer=sgd(), metrics=["accuracy"])
        logs = model.fit(source, epochs=3, validation_data=(x[:7], y[:7]), callbacks=[Rewrite(), sampler], verbose=0)
        weights = np.linspace(0.5, 1.5, 9)
        more = model.fit(x, y, batch_size=4, sample_weight=weights, verbose=0)
        if distribute.is_chief():
            distribute.alone(lambda: model.save_weights(file + ".weights.h5"))
        predictions = model.main.predict(x, batch_size=4, verbose=0)
    np.savez(
        file,
        process=distribute.process(),
        predictions=predictions,
        **{f"log {key}": values for key, values in logs.history.items()},
        **{f"more {key}": values for key, values in more.history.items()},
        **values([*model.variables, *model.optimizer.variables]),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
