"""The paper's networks with their weights: images in [0, 1] in, logits out, normalisation inside."""

import hashlib
import io
from collections.abc import Sequence
from contextlib import ExitStack
from copy import deepcopy
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.nn.utils import vector_to_parameters
from torchvision import models

from fragility._checks import check_choice, check_model

CAFFE_SHA256 = "928c82c485a16064df88794d83c333025055e60c08f73217222244ab0ed2dbc6"
MNIST_SHA256 = {
    "natural": "ff91e4d916bf4c3b4bce3d4ec3dd0561db985fbd9b29780aedd622adf9fcfd8f",
    "adversarial": "979257c5c8aa6ee3a7319a9098db063fe83dc613f73fbf6eb7fbab99b91fdecf",
    "ig_norm": "066362b7fd2fa13ca0a4fdad9666750db9b59e53b70395e86ae14e8eacab0c38",
}
CAFFE_MEAN = (123.0 / 255, 117.0 / 255, 104.0 / 255)  # RGB, for pixels in [0, 1]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Normalize(nn.Module):
    """A model of normalised images, turned into a model of images in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"std: expected {len(mean)} positive numbers, one per channel, got {tuple(std)}")
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return `model((images - mean) / std)`.

        Args:
            images: (B, C, H, W) in [0, 1].

        Returns:
            What the model returns, normally logits (B, K).
        """
        output: Tensor = self.model((images - self.mean) / self.std)
        return output


class Logits(nn.Module):
    """A model of class probabilities, turned into a model of logits.

    The logarithms of the probabilities equal the logits before the softmax up to a number per image. It depends on the
    image, so attributions of log p are not those of the logit: remove the softmax instead if you can.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the logarithm of the model's probabilities.

        Args:
            images: (B, C, H, W) in [0, 1].

        Returns:
            Log-probabilities (B, K); a probability that has underflowed to zero counts as the smallest normal number,
            with gradient zero.

        Raises:
            ValueError: The model does not return probabilities that sum to 1.
        """
        probabilities: Tensor = self.model(images)
        seen = probabilities.detach()
        slack = max(1e-3, 4 * torch.finfo(seen.dtype).eps)
        if not ((seen >= 0).all() and ((seen.sum(1) - 1).abs() <= slack).all()):
            raise ValueError(
                f"model: expected probabilities that sum to 1 for each image, got numbers from {seen.min():.4g} to "
                f"{seen.max():.4g} with sums from {seen.sum(1).min():.4g} to {seen.sum(1).max():.4g}; a model of "
                "logits needs no wrapper"
            )
        return probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()


class LogOdds(nn.Module):
    """A model of logits f, turned into a model of the classes' log-odds, f_c - log sum_{k != c} exp f_k.

    A function g(x) added to all logits changes no probability, and every logit's gradient by that of g, which may be
    anything [Srinivas2021]. The log-odds, log p_c / (1 - p_c), do not change, and unlike p_c they do not saturate. The
    order of the classes stays as it is. An attack's `confidence` remains p_c, see `probabilities`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)

    def forward(self, images: Tensor) -> Tensor:
        """Return the log-odds of every class against all others.

        Args:
            images: (B, C, H, W) in [0, 1].

        Returns:
            Log-odds (B, K), correct to rounding errors of the logits.

        Raises:
            ValueError: The model returns fewer than two logits.
        """
        logits: Tensor = self.model(images)
        if logits.ndim != 2 or logits.shape[1] < 2:
            raise ValueError(f"model: expected logits (B, K) of two classes or more, got shape {tuple(logits.shape)}")
        before, after = _sums(logits[:, :-1]), _sums(logits[:, 1:].flip(1)).flip(1)
        others = torch.cat([after[:, :1], _add(before[:, :-1], after[:, 1:]), before[:, -1:]], 1)
        return logits - others


def probabilities(model: nn.Module, outputs: Tensor) -> Tensor:
    """Return the probabilities that a model's outputs stand for.

    Args:
        model: images to outputs.
        outputs: (B, K), log-odds if the model is a `LogOdds`, logits otherwise.

    Returns:
        (B, K) the sigmoid of log-odds, the softmax of logits.
    """
    return outputs.sigmoid() if isinstance(model, LogOdds) else outputs.softmax(1)


def _sums(logits: Tensor) -> Tensor:
    """Return log(exp f_1 + ... + exp f_k) for every k, in log2(K) steps."""
    reach = 1
    while reach < logits.shape[1]:
        added = _add(logits[:, reach:], logits[:, :-reach])
        logits, reach = torch.cat([logits[:, :reach], added], 1), 2 * reach
    return logits


def _add(a: Tensor, b: Tensor) -> Tensor:
    """Return log(exp a + exp b) by softplus alone, for which DeepLIFT has a rule; past 40 it is linear to 2^-57."""
    return a + softplus(b - a, 1.0, 40.0)


def digits_cnn(*, seed: int = 0) -> nn.Module:
    """Return a small untrained convolutional network for 32 x 32 grey images of digits.

    Two convolutions, two max-pools (the second with overlapping windows) and two linear layers; trained by
    `train.fit_cached` in seconds.

    Args:
        seed: Seed of the initial weights; the global random state is left alone.

    Returns:
        A network from (B, 1, 32, 32) to logits (B, 10).
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        layers = nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )
    return _finish(Normalize(layers, (0.5,), (0.5,)), 1, 32)


def cifar_cnn(*, seed: int = 0) -> nn.Module:
    """Return the paper's untrained CIFAR-10 network ([Ghorbani2019], appendix B).

    3 x 3 convolutions with 96, 96, 96 (stride 2), 192, 192 and 192 (stride 2) channels, a hidden layer of
    1024 units and 10 logits; ReLU after every layer but the last. The paper does not give the padding, the initial
    weights and the scaling of pixels. Here they are one pixel of zeros on every side, which makes maps of 32, 16 and 8
    pixels; PyTorch's default; and the mean and standard deviation of CIFAR-10's channels.

    Args:
        seed: Seed of the initial weights; the global random state is left alone.

    Returns:
        A network from (B, 3, 32, 32) to logits (B, 10), with 13.8 million parameters.
    """
    table = [(3, 96, 1), (96, 96, 1), (96, 96, 2), (96, 192, 1), (192, 192, 1), (192, 192, 2)]
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for channels_in, channels_out, stride in table:
            layers += [nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1), nn.ReLU()]
        layers += [nn.Flatten(), nn.Linear(192 * 8 * 8, 1024), nn.ReLU(), nn.Linear(1024, 10)]
    return _finish(Normalize(nn.Sequential(*layers), CIFAR_MEAN, CIFAR_STD), 3, 32)


def mnist_cnn(*, weights: str | None = "natural", seed: int = 0) -> nn.Module:
    """Return a small convolutional network for MNIST's digits.

    Two convolutions of 4 x 4 with stride 2 and 16 and 32 channels, a hidden layer of 64 units and 10 logits; ReLU after
    every layer but the last.

    Args:
        weights: How the network was trained, on 4,000 digits: a key of `MNIST_SHA256`; or None for random weights.
        seed: Seed of random weights; the global random state is left alone.

    Returns:
        A network from (B, 1, 28, 28) to logits (B, 10), with 110 thousand parameters.

    Raises:
        ValueError: `weights` has another value, or the weights' file is damaged.
    """
    check_choice("weights", weights, (*MNIST_SHA256, None))
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        first, second = nn.Conv2d(1, 16, 4, stride=2, padding=1), nn.Conv2d(16, 32, 4, stride=2, padding=1)
        dense = [nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10)]
    layers = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), *dense)
    if weights is not None:
        numbers = np.load(io.BytesIO(_carried(f"mnist_{weights}.npy", MNIST_SHA256[weights])), allow_pickle=False)
        vector_to_parameters(torch.from_numpy(numbers.astype("f4")), layers.parameters())
    return _finish(layers, 1, 28)


def squeezenet(*, weights: str | None = "caffe", pooling: str = "floor", seed: int = 0) -> nn.Module:
    """Return SqueezeNet v1.1, the network of the paper's ImageNet experiments.

    It is torchvision's class with out-of-place ReLUs; the normalisation is folded into the first convolution.

    Args:
        weights: `"caffe"` for the paper's weights, which come with the package and are meant for images of 227 x 227;
            `"torchvision"`; or None for random ones.
        pooling: How max-pooling treats an incomplete last window. `"floor"` drops it, as the paper's Keras
            network does (maps of 113, 56, 27 and 13 pixels); `"ceil"` keeps it, as Caffe and torchvision do.
        seed: Seed of random weights; the global random state is left alone.

    Returns:
        A network from (B, 3, H, W) to logits (B, 1000).

    Raises:
        ValueError: `weights` or `pooling` has another value, or the weights' file is damaged.
    """
    check_choice("weights", weights, ("caffe", "torchvision", None))
    check_choice("pooling", pooling, ("floor", "ceil"))
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        network = models.squeezenet1_1()
    if weights == "caffe":
        _load_caffe(network, _carried("squeezenet_v1.1.bin", CAFFE_SHA256))
    elif weights == "torchvision":
        network.load_state_dict(_torchvision_weights(models.SqueezeNet1_1_Weights.IMAGENET1K_V1))
        _fold(network.features[0], IMAGENET_MEAN, IMAGENET_STD)
    for module in network.modules():
        if isinstance(module, nn.MaxPool2d):
            module.ceil_mode = pooling == "ceil"
        elif isinstance(module, nn.ReLU):
            module.inplace = False
    return _finish(network, 3)


def inception_v3(*, weights: str | None = "torchvision", seed: int = 0) -> nn.Module:
    """Return Inception v3, whose features the paper's influence experiments use.

    Args:
        weights: `"torchvision"`, or None for random ones.
        seed: Seed of random weights; the global random state is left alone.

    Returns:
        A network from (B, 3, 299, 299) to logits (B, 1000).

    Raises:
        ValueError: `weights` has another value.
    """
    check_choice("weights", weights, ("torchvision", None))
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        network = models.inception_v3(weights=None, transform_input=False, init_weights=False)
    if weights == "torchvision":
        network.load_state_dict(_torchvision_weights(models.Inception_V3_Weights.IMAGENET1K_V1))
    network.aux_logits, network.AuxLogits = False, None  # the second head serves training only
    # These weights come from TensorFlow and take pixels in [-1, 1], which torchvision's transform_input restores from
    # ImageNet's normalisation.
    return _finish(Normalize(network, (0.5,) * 3, (0.5,) * 3), 3, 299)


class FeatureExtractor(nn.Module):
    """A network up to one of its layers; see `feature_extractor`."""

    def __init__(self, network: nn.Module, layer: str | None = None) -> None:
        super().__init__()
        self.network = network
        named = dict(network.named_modules())
        if layer is None:
            trained = [name for name, module in named.items() if any(True for _ in module.parameters(recurse=False))]
            if not trained:
                raise ValueError("network: expected a layer with parameters to cut off, got none")
            self.layer, self.before = trained[-1], True
        elif layer in named:
            self.layer, self.before = layer, False
        else:
            raise ValueError(f"layer: expected one of {', '.join(filter(None, named))}, got {layer!r}")

    def forward(self, images: Tensor) -> Tensor:
        """Return the features, with a graph back to the images if they require a gradient.

        Args:
            images: (B, C, H, W) in [0, 1].

        Returns:
            Features (B, P).

        Raises:
            ValueError: The network does not use the layer, its output is not a vector or a map per image, or which
                dimensions of a map are positions is ambiguous.
        """
        caught: list[Tensor] = []
        called: list[nn.Module] = []

        def catch(module: nn.Module, inputs: tuple[Any, ...], output: Any = None) -> None:
            value = inputs[0] if output is None else output
            if not isinstance(value, Tensor):
                raise ValueError(f"layer: expected a tensor at {self.layer!r}, got {type(value).__name__}")
            # Copied at once: an in-place ReLU could change it afterwards.
            caught.append(value.mean(_positions(value, module, called)) if value.ndim == 4 else value.clone())

        def follow(module: nn.Module, _inputs: object, output: Tensor) -> None:
            if output.ndim > 2:
                called.append(module)

        module = self.network.get_submodule(self.layer)
        with ExitStack() as hooks:
            for layer in self.network.modules():
                if isinstance(layer, (*CHANNELS_FIRST, *CHANNELS_LAST)):
                    hooks.enter_context(layer.register_forward_hook(follow))
            register = module.register_forward_pre_hook if self.before else module.register_forward_hook
            hooks.enter_context(register(catch))
            self.network(images.clone())  # it may overwrite its input
        if not caught or caught[-1].ndim != 2 or len(caught[-1]) != len(images):
            got = tuple(caught[-1].shape) if caught else "no call"
            raise ValueError(f"layer: expected features (B, P) or (B, P, H, W) at {self.layer!r}, got {got}")
        return caught[-1]


CHANNELS_FIRST = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.GroupNorm)
CHANNELS_LAST = (nn.Linear, nn.LayerNorm)


def _positions(maps: Tensor, module: nn.Module, called: list[nn.Module]) -> tuple[int, int]:
    """Tell from the layers before which dimensions of maps (B, P, H, W) or (B, H, W, P) are positions."""
    if type(module) in CHANNELS_LAST:  # not a LayerNorm2d, which puts the channels first again
        return 1, 2
    if isinstance(module, CHANNELS_FIRST) or not any(isinstance(layer, CHANNELS_LAST) for layer in called):
        return 2, 3
    names = ("out_features", "out_channels", "num_features", "num_channels", "normalized_shape")
    (count,) = (getattr(called[-1], name) for name in names if hasattr(called[-1], name))
    count = count[-1] if isinstance(count, tuple) else count
    if (maps.shape[1] == count) == (maps.shape[3] == count):
        raise ValueError(
            f"layer: expected maps with one dimension of size {count}, the features of the layer before, got "
            f"{tuple(maps.shape)}; take a layer behind the pooling, which gives (B, P)"
        )
    return (2, 3) if maps.shape[1] == count else (1, 2)


PRETRAINED = {"inception_v3": inception_v3, "squeezenet": squeezenet}


def feature_extractor(network: str | nn.Module, *, layer: str | None = None) -> FeatureExtractor:
    """Return the part of a network that maps images to a vector of features.

    Maps, (B, P, H, W) or behind linear layers and layer norms (B, H, W, P), are averaged over their positions.
    Without `layer`, the features are what enters the last layer with parameters (in the order of definition):
    2048 for Inception v3, 512 for SqueezeNet.

    Args:
        network: `"inception_v3"` or `"squeezenet"` with their pretrained weights, or your own network, which is copied
            and frozen.
        layer: Name of another layer whose output to take, as in `network.named_modules()`; for example `"classifier"`
            for SqueezeNet's 1000 logits.

    Returns:
        A module from images to features (B, P), differentiable with respect to the images.

    Raises:
        ValueError: The network or layer is unknown, or the network uses statistics of the batch or quantised weights.
    """
    if isinstance(network, nn.Module):
        copy = _freeze(deepcopy(network))
        check_model(copy)
        return FeatureExtractor(copy, layer).eval()
    if network not in PRETRAINED:
        raise ValueError(f"network: expected an nn.Module or one of {', '.join(PRETRAINED)}, got {network!r}")
    return FeatureExtractor(PRETRAINED[network](), layer).eval()


def _load_caffe(network: nn.Module, dump: bytes) -> None:
    """Fill a SqueezeNet v1.1 with Caffe's weights, a file of `fragility.weights.make_squeezenet.dump`, for RGB images.

    The Caffe network takes BGR pixels in [0, 255] minus (104, 117, 123). Its first convolution has no padding, so
    W (255 flip(x) - m) + b = (255 flip(W)) x + (b - sum W m) is exact at the border too.
    """
    start = 0

    def numbers(count: int, kind: str) -> Tensor:
        nonlocal start
        array = np.frombuffer(dump, kind, count, start)
        start += array.nbytes
        return torch.from_numpy(array.copy()).double()

    for index, convolution in enumerate(m for m in network.modules() if isinstance(m, nn.Conv2d)):
        start += 4  # a flag: half precision
        weight = numbers(convolution.weight.numel(), "<f2").reshape(convolution.weight.shape)
        bias = numbers(convolution.out_channels, "<f4")
        convolution.load_state_dict({"weight": weight.flip(1) if index == 0 else weight, "bias": bias})
        if index == 0:
            _fold(convolution, CAFFE_MEAN, (1 / 255,) * 3)


def _carried(name: str, sha256: str) -> bytes:
    """Read a file of weights beside the code; see `fragility/weights/README.md`."""
    path = Path(str(files("fragility") / "weights" / name))
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"weights: {path} is damaged; install the package again")
    return content


def _fold(convolution: nn.Conv2d, mean: Sequence[float], std: Sequence[float]) -> None:
    # In place: convolution((images - mean) / std) becomes convolution(images), exact because nothing is padded.
    scale = 1 / torch.tensor(std, dtype=torch.float64).view(-1, 1, 1)
    shift = torch.tensor(mean, dtype=torch.float64).view(-1, 1, 1)
    weight = convolution.weight.detach().double() * scale
    bias = convolution.get_parameter("bias").detach().double() - (weight * shift).sum((1, 2, 3))
    convolution.load_state_dict({"weight": weight, "bias": bias})


def _torchvision_weights(entry: models.WeightsEnum) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = entry.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except URLError as error:
        place = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
        raise ConnectionError(
            f"weights: {entry.url} cannot be downloaded ({error.reason}). Without a network, put the file at "
            f"{place} yourself, or pass weights=None for random weights"
        ) from error
    return state


def _freeze(network: nn.Module) -> nn.Module:
    return network.requires_grad_(False).eval()


def _finish(network: nn.Module, channels: int, size: int | None = None) -> nn.Module:
    network.register_forward_pre_hook(partial(_check_shape, channels=channels, size=size))
    return _freeze(network)


def _check_shape(_module: nn.Module, inputs: tuple[Tensor, ...], *, channels: int, size: int | None) -> None:
    # Without this, a wrong size surfaces as "mat1 and mat2 shapes cannot be multiplied".
    (images,) = inputs
    shape = images.shape
    if len(shape) != 4 or shape[1] != channels or (size is not None and shape[2:] != (size, size)):
        wanted = f"(B, {channels}, {size or 'H'}, {size or 'W'})"
        raise ValueError(f"images: expected shape {wanted}, got {tuple(shape)}")
