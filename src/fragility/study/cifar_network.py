"""The paper's CIFAR-10 network, trained: with ReLU, and from there again with softplus [Ghorbani2019, appendix B]."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fragility import train
from fragility.data.datasets import ImageDataset
from fragility.fingerprint import recipe
from fragility.network import cifar_cnn
from fragility.surrogate import softplus

EPOCHS, SOFTPLUS_EPOCHS, BATCH_SIZE = 3, 1, 128  # Adam with its defaults, as in the paper, which names no epochs


def trained(training: ImageDataset, *, smooth: bool = False, seed: int = 0, progress: bool = True) -> nn.Module:
    """Train the network, which takes most of an hour on two cores or a minute on a GPU, or load it if it is trained.

    Products are computed in bfloat16 where that is fast; weights are kept in float32.

    Args:
        training: `fragility.data.datasets.cifar10("train")`, or a sample of it.
        smooth: retrain from the ReLU weights with softplus (beta = 1) in place of ReLU. Use the network inside
            `fragility.surrogate.softplus(1.0)` then.
        seed: of the initial weights and of the order of the batches.
        progress: show progress bars while it trains.

    Returns:
        The network in evaluation mode, with its parameters frozen, on the processor.
    """
    model = cifar_cnn(seed=seed).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    settings: dict[str, Any] = {"batch_size": BATCH_SIZE, "seed": seed, "progress": progress}
    train.fit_cached(model, training.images, training.labels, mixed_precision_loss, epochs=EPOCHS, **settings)
    if smooth:
        with softplus(1.0):
            train.fit_cached(
                model, training.images, training.labels, mixed_precision_loss, epochs=SOFTPLUS_EPOCHS, **settings
            )
    return model.to(memory_format=torch.contiguous_format)  # type: ignore[no-any-return]


@recipe("mixed_precision/1")
def mixed_precision_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy, with the network's products in bfloat16 where the device is fast at them.

    A processor without AVX-512 emulates bfloat16, fifteen times slower than float32.

    Args:
        model: Maps images to logits (B, K).
        images: (B, C, H, W) in [0, 1].
        labels: int64 (B,).

    Returns:
        A scalar, float32.
    """
    quick = images.device.type != "cpu" or torch.backends.cpu.get_cpu_capability() == "AVX512"
    with torch.autocast(images.device.type, torch.bfloat16, enabled=quick):
        logits = model(images.contiguous(memory_format=torch.channels_last))
    return F.cross_entropy(logits.float(), labels)
