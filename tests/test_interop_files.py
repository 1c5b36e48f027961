"""Files of PyTorch's weights: every kind there and back, damaged, harmful, and what needs which package."""

import os
import pathlib
import pickle
import re
import sys
import types

import keras
import ml_dtypes
import numpy as np
import pytest
from networks import RAW, assert_same, resnet8, with_other_weights
from safetensors.numpy import load_file, save_file

import dhm_keras as dhm
from dhm_keras.interop import load_torch, save_torch, to_torch
from dhm_keras.models import Branch, imagenet_resnet


@pytest.fixture(scope="module")
def network():
    return with_other_weights(resnet8(normalization=RAW))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_round_trip_through_a_file(network, tmp_path, suffix):
    save_torch(dhm.DHM(network), tmp_path / f"weights{suffix}")
    other = resnet8(normalization=RAW)
    load_torch(other, str(tmp_path / f"weights{suffix}"))
    for weight, loaded in zip(network.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(loaded, weight)
    assert [path.name for path in tmp_path.iterdir()] == [f"weights{suffix}"]


def test_float16_and_bfloat16_are_cast(network, tmp_path):
    for dtype in ("float16", ml_dtypes.bfloat16):
        state = {name: array.astype(dtype) for name, array in to_torch(network).items() if array.ndim}
        save_file(state, tmp_path / "half.safetensors")
        for source in (state, tmp_path / "half.safetensors"):
            other = resnet8()
            load_torch(other, source)
            loaded = to_torch(other)
            for name, array in state.items():
                np.testing.assert_array_equal(loaded[name], array.astype("float32"))


def test_files_that_are_not_there_or_damaged(network, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*none\.npz"):
        load_torch(network, tmp_path / "none.npz")
    for suffix in (".npz", ".safetensors"):
        path = tmp_path / f"weights{suffix}"
        save_torch(network, path)
        whole = path.read_bytes()
        for damaged in (b"", whole[:1000], whole[:-1000], b"x" * 1000):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=rf"cannot be read as a \{suffix} file"):
                load_torch(network, path)
    np.savez(tmp_path / "pickled.npz", fc=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"cannot be read as a \.npz file .*Object arrays cannot be loaded"):
        load_torch(network, tmp_path / "pickled.npz")


def test_a_file_that_cannot_be_written(network, tmp_path):
    with pytest.raises(OSError, match="cannot be written"):
        save_torch(network, tmp_path / "none" / "weights.npz")


class Tensor:
    """As much of a PyTorch tensor as is asked for; it gives an array only detached, and none of 16 bits."""

    def __init__(self, array, attached=True):
        self.array, self.attached = array, attached

    def __array__(self):
        raise AssertionError

    detach = lambda self: Tensor(self.array, attached=False)
    cpu = lambda self: self
    is_floating_point = lambda self: self.array.dtype.kind == "f"
    element_size = lambda self: self.array.itemsize
    float = lambda self: Tensor(self.array.astype("float32"), self.attached)

    def numpy(self):
        assert not self.attached and self.array.itemsize > 2
        return self.array


@pytest.fixture
def a_torch(monkeypatch):
    """Puts something in PyTorch's place."""
    return lambda **contents: monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(**contents))


def test_torch_loads_weights_only(network, tmp_path, a_torch):
    state = {f"module.{name}": Tensor(array.astype("float16")) for name, array in to_torch(network).items()}
    calls = []

    def load(path, **kwargs):
        calls.append((path, kwargs))
        return {"epoch": 3, "optimizer": object(), "state_dict": state}

    a_torch(__version__="2.10.0+cpu", load=load)
    for suffix in (".pth", ".pt", ".pth.tar"):
        (path := tmp_path / f"checkpoint{suffix}").write_bytes(b"")
        other = resnet8()
        load_torch(other, path)
        assert calls.pop() == (path, {"map_location": "cpu", "weights_only": True})
        np.testing.assert_array_equal(
            to_torch(other)["fc.weight"], to_torch(network)["fc.weight"].astype("float16").astype("float32")
        )


def test_torch_is_missing_too_old_or_refuses(network, tmp_path, a_torch, monkeypatch):
    (path := tmp_path / "weights.pth").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    for call in (load_torch, save_torch):
        with pytest.raises(ImportError, match=r'weights\.pth needs PyTorch, .*pip install "torch>=2\.10", or take a'):
            call(network, path)
    assert path.read_bytes() == b""
    a_torch(__version__="2.9.1")
    with pytest.raises(ImportError, match=r"PyTorch 2\.10 or newer: .*CVE-2026-24747.* Received: 2\.9\.1"):
        load_torch(network, path)

    def refuse(error):
        def load(path, **kwargs):
            raise error

        a_torch(__version__="2.13.0", load=load)

    refuse(pickle.UnpicklingError("Weights only load failed.\nUnsupported global: GLOBAL posix.system was not"))
    with pytest.raises(ValueError, match=r"holds more than weights, posix\.system, and is not loaded"):
        load_torch(network, path)
    refuse(RuntimeError("PytorchStreamReader failed reading zip archive: no central directory.\nAt ..."))
    with pytest.raises(ValueError, match=r"cannot be read as a file of PyTorch \(RuntimeError: Pytorch.* archive\)"):
        load_torch(network, path)


def test_safetensors_is_missing(network, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    (path := tmp_path / "weights.safetensors").write_bytes(b"")
    for call in (load_torch, save_torch):
        with pytest.raises(ImportError, match="pip install safetensors"):
            call(network, path)


class Harmful:
    """Its pickle makes a folder when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.torch
@pytest.mark.parametrize("zipped", [True, False])  # False: as PyTorch wrote before 1.6, and the release with it
def test_checkpoints_of_pytorch(network, tmp_path, zipped):
    import torch

    state = {f"module.{name}": torch.from_numpy(array) for name, array in to_torch(network).items()}
    path = tmp_path / "checkpoint.pth.tar"

    def save(**more):
        torch.save({"epoch": 3, "state_dict": state, **more}, path, _use_new_zipfile_serialization=zipped)

    save(optimizer={"lr": 0.1}, best_acc=torch.tensor(70.0))
    other = resnet8()
    load_torch(other, path)
    assert_same(to_torch(network), to_torch(other))
    for name, tensor in state.items():
        state[name] = torch.nn.Parameter(tensor.bfloat16()) if tensor.is_floating_point() else tensor
    for source in (state, path):
        save()
        load_torch(other, source)
        expected = state["module.conv1.weight"].detach().float().numpy()
        np.testing.assert_array_equal(to_torch(other)["conv1.weight"], expected)

    save(more=Harmful(str(tmp_path / "harm")))
    with pytest.raises(ValueError, match=r"holds more than weights, \w+\.mkdir, and is not loaded"):
        load_torch(other, path)
    assert not (tmp_path / "harm").exists()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read as a file of PyTorch"):
        load_torch(other, path)


@pytest.mark.torch
def test_a_strict_load_in_pytorch(tmp_path):
    import torch

    class Net(torch.nn.Module):  # the names of a stem and a classifier, as torchvision's
        def __init__(self):
            super().__init__()
            self.conv1 = torch.nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
            self.bn1 = torch.nn.BatchNorm2d(64)
            self.fc = torch.nn.Linear(512, 10)

    network = imagenet_resnet((1, 1, 1, 1), False, 10, {}, (32, 32, 3))
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"weights{suffix}"
        save_torch(network, path)
        if suffix == ".pth":
            state = torch.load(path, weights_only=True)
        else:
            import safetensors.torch

            state = safetensors.torch.load_file(path)
        net = Net()
        net.load_state_dict({name: value for name, value in state.items() if name.split(".")[0] in net._modules})
        image = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype("float32")
        with torch.no_grad():
            stem = net.eval().bn1(net.conv1(torch.from_numpy(image).permute(0, 3, 1, 2)))
            logits = net.fc(torch.ones(2, 512))
        ours = keras.Model(network.input, network.get_layer("bn").output).predict(image, verbose=0)
        np.testing.assert_allclose(stem.permute(0, 2, 3, 1).numpy(), ours, atol=1e-5)
        ours = keras.ops.convert_to_numpy(network.get_layer("main")(np.ones((2, 512), "float32")))
        np.testing.assert_allclose(logits.numpy(), ours, atol=1e-5)


def test_the_docs_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    branches = {"aux1": Branch(3, (1,), (8,)), "aux2": Branch(2, (1, 1), (4, 8))}

    def small(num_classes=1000, **kwargs):
        return imagenet_resnet((1, 1, 1, 1), True, num_classes, branches, **kwargs)

    save_torch(released := with_other_weights(small()), "checkpoint.npz")
    save_torch(dhm.DHM(released).main, "resnet50.npz")
    page = (pathlib.Path(__file__).parent.parent / "docs" / "checkpoints.md").read_text()
    code = "\n".join(re.findall(r"<!-- code: \w+ -->\n```python\n(.*?)```", page, re.DOTALL))
    for printed, ours in {
        "dhm.models.resnet50(": "small(",
        "checkpoint.pth.tar": "checkpoint.npz",
        "resnet50-11ad3fa6.pth": "resnet50.npz",
    }.items():
        assert printed in code
        code = code.replace(printed, ours)
    exec(code, names := {"small": small})
    saved, state = load_file("all-heads.safetensors"), to_torch(names["model"])
    assert_same({name: saved.pop(name) for name in state}, state)
    assert not saved and state["fc_head2.weight"].shape == (751, 32)
    np.testing.assert_array_equal(load_file("resnet50.safetensors")["conv1.weight"], to_torch(released)["conv1.weight"])
