"""The start of chapter 2's studies: a network with its weights, and the images that it gets right."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.io import decode_jpeg, encode_jpeg

from fragility import network, train
from fragility._checks import trusting
from fragility.attribution import ATTRIBUTIONS, WITH_BASELINE
from fragility.data.datasets import ImageDataset, load, sample
from fragility.iterate import Attribution
from fragility.study import cifar_network
from fragility.study.piece import Piece, positions
from fragility.surrogate import suggest_beta

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "digits_cnn": network.digits_cnn,
    "squeezenet": network.squeezenet,
    "squeezenet_log_odds": lambda **options: network.LogOdds(network.squeezenet(**options)),
}
RECIPES: dict[str, Callable[[ImageDataset], nn.Module]] = {"cifar_cnn": cifar_network.trained}
CALIBRATION = 16  # training images by which a surrogate is chosen


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A network, the images it is asked about, and the constants that go with them.

    Attributes:
        data: a key of `fragility.data.datasets.LOADERS`.
        data_options: arguments of that loader.
        candidates: how many images are drawn; the first of those that the network gets right are used.
        network: a key of `NETWORKS` or of `RECIPES`.
        network_options: arguments of that function.
        training_epochs: of the network, on the training split of the data; None if its weights are published.
        jpeg_quality: each image is written to a JPEG file of this quality and read back; None leaves it as it is.
        k: how many pixels count as the most important.
        surrogate_beta: of the attacks' softplus, in units of 1 / pre-activation; None for what
            `fragility.surrogate.suggest_beta` says of 16 training images.
        baseline: the reference of integrated gradients and DeepLIFT, one value per channel; None for the mean of the
            training images, pixel by pixel.
    """

    data: str
    data_options: dict[str, Any] = field(default_factory=dict)
    candidates: int
    network: str
    network_options: dict[str, Any] = field(default_factory=dict)
    training_epochs: int | None = None
    jpeg_quality: int | None = None
    k: int
    surrogate_beta: float | None = None
    baseline: tuple[float, ...] | None = None


SETUPS = {
    "digits": Setup(
        data="digits",
        data_options={"split": "test"},
        candidates=24,
        network="digits_cnn",
        training_epochs=12,
        k=100,
        surrogate_beta=4.0,  # what fragility.surrogate.suggest_beta says for the training images
        baseline=(0.305,),  # their mean
    ),
    # The normalisation is folded into the first layer: pre-activations, and with them beta, are in Caffe's units.
    "squeezenet": Setup(
        data="imagenet",
        candidates=527,
        network="squeezenet",
        network_options={"weights": "caffe", "pooling": "floor"},
        k=1000,
        surrogate_beta=1.0,
        baseline=network.CAFFE_MEAN,
    ),
    "cifar": Setup(data="cifar10", data_options={"split": "test"}, candidates=128, network="cifar_cnn", k=100),
}
SETUPS["squeezenet-log-odds"] = replace(SETUPS["squeezenet"], network="squeezenet_log_odds")
SETUPS["squeezenet-ceil"] = replace(SETUPS["squeezenet"], network_options={"weights": "caffe", "pooling": "ceil"})


def changed(name: str, *, like: str = "", **changes: Any) -> Setup:
    """Take the set-up of a name, or the one that it is like, with some of its attributes changed."""
    return replace(SETUPS[like or name], **changes)


def changed_all(*, setups: dict[str, dict[str, Any]], **entries: Any) -> dict[str, Any]:
    """Make the profile of a declaration whose set-ups share their images' number and draw."""
    return {**entries, "setups": {name: asdict(changed(name, **changes)) for name, changes in setups.items()}}


@dataclass(frozen=True, eq=False)
class Subject:
    """A network under test with its images: a set-up made ready.

    Attributes:
        setup: what it was made from.
        model: the network under test, on the device.
        data: the images used, in the order of the draw, in main memory.
        weights: checksum of the network.
        device: where the network is.
        baseline: the reference x0, (C, 1, 1) or (C, H, W), on the device.
        surrogate_beta: of the attacks' softplus.
        measured: what the set-up leaves open and the training images decide, as plain data.
    """

    setup: Setup
    model: nn.Module
    data: ImageDataset
    weights: str
    device: torch.device
    baseline: Tensor
    surrogate_beta: float
    measured: dict[str, Any]

    def attribution(self, method: str, steps: int, score: str = "logit") -> Attribution:
        """Return one of `ATTRIBUTIONS` with this set-up's baseline, integrated gradients with M = `steps`.

        The `score` explained is the logit, or the softmax probability.
        """
        options: dict[str, Any] = {"baseline": self.baseline} if method in WITH_BASELINE else {}
        if method == "integrated_gradients":
            options["steps"] = steps
        explain: Attribution = partial(ATTRIBUTIONS[method], **options)
        if score == "logit":
            return explain

        def explain_probability(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
            softmax = nn.Sequential(model, nn.Softmax(1)).eval()
            with trusting(softmax):  # new at every call, it would be tried at every step
                return explain(softmax, images, labels)

        return explain_probability

    def batch(self, piece: Piece) -> tuple[Tensor, Tensor]:
        """Return the images of a piece and their labels, on the device."""
        rows = positions(self.data, piece)
        return self.data.images[rows].to(self.device), self.data.labels[rows].to(self.device)

    @property
    def inputs(self) -> dict[str, str]:
        """Where weights and images come from, with checksums, for the provenance."""
        images = train.fingerprint(self.data.images)
        return {"data": self.data.source, "images_sha256": images, "weights": self.weights}

    @property
    def facts(self) -> dict[str, Any]:
        """All that determines the rows of a piece, except its images."""
        settings = asdict(self.setup)
        del settings["candidates"]
        return {"weights": self.weights, **settings, **self.measured}


def prepare_all(
    setups: Mapping[str, Setup], counts: Mapping[str, int], seed: int, device: str
) -> tuple[dict[str, Subject], dict[str, Any]]:
    """Prepare set-ups by name, each with its number of images, and say where they come from."""
    subjects = {name: prepare(setup, counts[name], seed, device) for name, setup in setups.items()}
    return subjects, {name: subject.inputs for name, subject in subjects.items()}


def prepare_images(profile: dict[str, Any], device: str) -> tuple[dict[str, Subject], dict[str, Any]]:
    """Prepare the set-ups of such a profile."""
    setups = {name: Setup(**setup) for name, setup in profile["setups"].items()}
    return prepare_all(setups, dict.fromkeys(setups, profile["images"]), profile["seed"], device)


def prepare(setup: Setup, count: int, seed: int, device: str) -> Subject:
    """Load or train a network and take the first images of a draw that it gets right; more images begin with fewer."""

    @cache
    def training() -> ImageDataset:
        return load(setup.data, **{**setup.data_options, "split": "train"})

    if setup.network in RECIPES:
        model = RECIPES[setup.network](training())
    else:
        model = NETWORKS[setup.network](**setup.network_options)
    if setup.training_epochs is not None:
        known = training()
        train.fit_cached(model, known.images, known.labels, epochs=setup.training_epochs, progress=False)
    weights = train.fingerprint(model)  # before it moves: the same on every device
    model = model.to(device)
    if device == "cpu":
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster there
    measured: dict[str, Any] = {}
    if setup.baseline is None:
        baseline = training().images.sum(0, dtype=torch.float64).div(len(training())).float()
        measured["baseline"] = train.fingerprint(baseline)
    else:
        baseline = torch.tensor(setup.baseline).view(-1, 1, 1)
    beta = setup.surrogate_beta
    if beta is None:
        known = sample(training(), CALIBRATION, seed=seed)
        beta = measured["surrogate_beta"] = suggest_beta(model, known.images.to(device), known.labels.to(device))
    data = _right(setup, model, count, seed, device)
    return Subject(setup, model, data, weights, torch.device(device), baseline.to(device), beta, measured)


def _right(setup: Setup, model: nn.Module, count: int, seed: int, device: str) -> ImageDataset:
    """Take the first images of the draw that the network gets right."""
    drawn = load(setup.data, **setup.data_options, limit=setup.candidates, seed=seed)
    if setup.jpeg_quality is not None:
        drawn = _recompress(drawn, setup.jpeg_quality)
    with torch.no_grad():
        predicted = torch.cat([model(batch.to(device)).argmax(1).cpu() for batch in torch.split(drawn.images, 8)])
    rows = (predicted == drawn.labels).nonzero().flatten()[:count]
    if len(rows) < count:
        raise ValueError(
            f"candidates: expected {count} correctly classified images among {len(drawn)}, got {len(rows)}"
        )
    files = tuple(drawn.files[row] for row in rows)
    return replace(drawn, images=drawn.images[rows], labels=drawn.labels[rows], files=files)


def _recompress(data: ImageDataset, quality: int) -> ImageDataset:
    """Write the images to JPEG files in memory, and read them back."""
    pixels = data.images.mul(255).round().byte()
    read = torch.stack([decode_jpeg(encode_jpeg(image, quality)) for image in pixels])
    images = read.to(data.images.dtype).div(255)
    return replace(data, images=images, source=f"{data.source}; JPEG of quality {quality}")
