"""One training loop for every network and every defense: seeded, resumable, with cached results."""

import hashlib
import io
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer
from tqdm import tqdm

from fragility._checks import check_count, check_model, check_positive
from fragility.data.datasets import data_folder
from fragility.fingerprint import fingerprint as fingerprint
from fragility.fingerprint import is_named, recipe

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""`loss(model, images, labels)` returns the scalar to be minimised, averaged over the batch."""


@dataclass(frozen=True)
class History:
    """The course of a training run."""

    losses: tuple[float, ...]  # mean training loss of every epoch
    accuracy: float  # on the training images, after the last epoch, in [0, 1]
    seconds: float  # wall-clock time of all epochs, interrupted runs included


@dataclass(frozen=True)
class Batches:
    """Tensors cut into batches, in a new order every time they are iterated.

    The order comes from PyTorch's global random state, which `fit` seeds and then restores.
    """

    images: Tensor  # (N, C, H, W)
    labels: Tensor  # (N,)
    batch_size: int = 32

    def __post_init__(self) -> None:
        check_count("batch_size", self.batch_size)
        if len(self.images) != len(self.labels) or len(self.images) == 0:
            raise ValueError(
                f"labels: expected one per image and at least one, got {len(self.labels)} labels "
                f"for {len(self.images)} images"
            )

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the batches in a new random order."""
        order = torch.randperm(len(self.images)).to(self.images.device)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            yield self.images[rows], self.labels[rows.to(self.labels.device)]


@recipe("cross_entropy/1")
def cross_entropy(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy of the model's logits, the ordinary training loss.

    Args:
        model: Maps images to logits (B, K).
        images: (B, C, H, W) in [0, 1].
        labels: int64 (B,).

    Returns:
        A scalar.
    """
    return F.cross_entropy(model(images), labels)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int = 256) -> float:
    """Return the share of images whose largest logit is their label's.

    Args:
        model: Maps images to logits (B, K), in evaluation mode.
        images: (N, C, H, W) in [0, 1].
        labels: int64 (N,).
        batch_size: Images per forward pass.

    Returns:
        The accuracy in [0, 1].
    """
    Batches(images, labels, batch_size)  # for its checks; its random order is not wanted here
    starts = range(0, len(images), batch_size)
    return _accuracy(model, ((images[i : i + batch_size], labels[i : i + batch_size]) for i in starts))


def fit(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    loss: Loss,
    *,
    epochs: int,
    learning_rate: float = 1e-3,
    optimizer: Callable[..., Optimizer] = Adam,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> History:
    """Train a network in place; it comes back in evaluation mode with its parameters frozen.

    All randomness (batch order, dropout, random starts in the loss) depends on `seed` and the number of the epoch
    alone: on one CPU with the same number of threads, two runs agree bit for bit, even if one was killed and resumed
    from its checkpoint. The caller's random state is left as it was. On a GPU exact repetition also needs
    `torch.use_deterministic_algorithms(True)`.

    Args:
        model: The network; all its parameters are trained, on the device they are on.
        loader: Batches of images (B, C, H, W) and labels (B,), iterated once per epoch: a list, a `Batches`, a
            `DataLoader`. If it has a `generator`, that is seeded anew in every epoch.
        loss: What to minimise, for example `cross_entropy` or a loss of `fragility.defense`.
        epochs: Passes over the loader.
        learning_rate: The optimizer's step size.
        optimizer: Called as `optimizer(parameters, lr=learning_rate)`; a `functools.partial` sets the rest.
        seed: Seed of all randomness in training; the initial weights are those the network comes with.
        checkpoint: A file that is replaced atomically after every epoch, and from which a killed run with the same
            arguments resumes. Once training is complete it holds the result, and `fit` only loads it.
        progress: Show a progress bar.

    Returns:
        The losses, the final training accuracy and the time.

    Raises:
        TypeError: The loader can be read only once.
        ValueError: An argument is out of range, the loader is empty, the loss is not a finite scalar, or the
            checkpoint is damaged or belongs to another run.
    """
    if isinstance(loader, Iterator):
        raise TypeError("loader: expected a list, Batches or DataLoader, got an iterator, which can be read only once")
    check_count("epochs", epochs)
    check_positive("learning_rate", learning_rate)
    stepper = optimizer(model.parameters(), lr=learning_rate)
    run = fingerprint(model.state_dict(), stepper.state_dict(), epochs, seed)
    path = None if checkpoint is None else Path(checkpoint)
    losses: list[float] = []
    seconds = 0.0
    if path is not None and path.exists():
        saved = _load(path)
        if saved["run"] != run:
            raise ValueError(
                f"checkpoint: {path} belongs to another run (other initial weights, optimizer, learning rate, "
                "number of epochs or seed); delete it, or name another file"
            )
        model.load_state_dict(saved["model"])
        losses, seconds = saved["losses"], saved["seconds"]
        if saved["accuracy"] is not None:
            model.requires_grad_(False).eval()
            return History(tuple(losses), saved["accuracy"], seconds)
        stepper.load_state_dict(saved["optimizer"])

    def save(accuracy: float | None) -> None:
        if path is not None:  # a finished run no longer needs the optimizer, twice the size of the network
            state: dict[str, object] = {
                "run": run,
                "model": model.state_dict(),
                "optimizer": stepper.state_dict() if accuracy is None else None,
                "losses": losses,
                "seconds": seconds,
                "accuracy": accuracy,
            }
            _save(path, state)

    cuda = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    steps = len(loader) if isinstance(loader, Sized) else None
    bar = tqdm(
        total=None if steps is None else steps * epochs,
        initial=0 if steps is None else steps * len(losses),
        desc="training",
        unit="batch",
        disable=not progress,
    )
    with bar, torch.random.fork_rng(cuda):
        try:
            model.requires_grad_(True).train()
            for epoch in range(len(losses), epochs):
                start = time.perf_counter()
                _seed_epoch(loader, seed, epoch)
                losses.append(_train_epoch(model, loader, loss, stepper, bar))
                seconds += time.perf_counter() - start
                bar.set_postfix(epoch=epoch + 1, loss=f"{losses[-1]:.4f}")
                if epoch + 1 < epochs:
                    save(None)
        finally:
            stepper.zero_grad()
            model.requires_grad_(False).eval()
        score = _accuracy(model, loader)
    save(score)
    return History(tuple(losses), score, seconds)


def fit_cached(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    loss: Loss = cross_entropy,
    *,
    epochs: int,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    optimizer: Callable[..., Optimizer] = Adam,
    seed: int = 0,
    progress: bool = True,
) -> History:
    """Train a network in place, or load the weights that an earlier call with the same ingredients left.

    The result is a file in `trained` in the data folder, named by a hash of all that made it: the network's structure,
    its initial weights and its outputs on the first images (so a softplus in force counts), the data, the loss's recipe
    and options, every hyper-parameter, the kind of device and the version of PyTorch. An interrupted training resumes.
    With a loss or an optimizer that has no fingerprint, the network is trained every time and nothing is stored: a file
    could not tell whether the function has changed.

    Args:
        model: A freshly built network; all its parameters are trained.
        images: Training images (N, C, H, W) in [0, 1].
        labels: int64 (N,).
        loss: As for `fit`; to be cached, a function with a `fragility.fingerprint.recipe`, as those of the library
            have, or a `functools.partial` of one with its options.
        epochs: Passes over the images.
        batch_size: Images per step.
        learning_rate: The optimizer's step size.
        optimizer: As for `fit`.
        seed: As for `fit`.
        progress: Show a progress bar.

    Returns:
        The history of the training, loaded with the weights if they were there.
    """
    loader = Batches(images, labels, batch_size)
    device = next(model.parameters()).device
    model.eval()
    with torch.no_grad():
        behaviour = model(images[:4].to(device))
    path = None
    if is_named(loss) and is_named(optimizer):
        ingredients = (model, behaviour, images, labels, loss, optimizer)
        settings = (epochs, batch_size, learning_rate, seed, device.type, str(torch.__version__))
        path = data_folder() / "trained" / f"{fingerprint(*ingredients, *settings)}.pt"
    return fit(
        model,
        loader,
        loss,
        epochs=epochs,
        learning_rate=learning_rate,
        optimizer=optimizer,
        seed=seed,
        checkpoint=path,
        progress=progress,
    )


def _seed_epoch(loader: object, seed: int, epoch: int) -> None:
    # A hash, not seed + epoch: run 1 would repeat the batch orders of run 0, one epoch late.
    number = int(fingerprint(seed, epoch)[:15], 16)
    torch.manual_seed(number)
    generator = getattr(loader, "generator", None)
    if isinstance(generator, torch.Generator):
        generator.manual_seed(number)


def _train_epoch(
    model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], loss: Loss, stepper: Optimizer, bar: "tqdm[Any]"
) -> float:
    device = next(model.parameters()).device
    values, count = [], 0
    for images, labels in loader:
        stepper.zero_grad()
        value = loss(model, images.to(device), labels.to(device))
        if value.ndim != 0:
            raise ValueError(f"loss: expected a scalar, got shape {tuple(value.shape)}")
        value.backward()  # type: ignore[no-untyped-call]
        stepper.step()
        values.append(value.detach() * len(images))  # no .item() here: it would stall a GPU
        count += len(images)
        bar.update()
    if count == 0:
        raise ValueError("loader: expected at least one batch, got none")
    mean = torch.stack(values).sum().item() / count
    if not math.isfinite(mean):
        raise ValueError(f"loss: expected finite values, got a mean of {mean} over the epoch")
    return mean


def _accuracy(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]]) -> float:
    check_model(model)
    device = next(model.parameters()).device
    right, count = 0, 0
    with torch.no_grad():
        for images, labels in loader:
            right += int((model(images.to(device)).argmax(1) == labels.to(device)).sum())
            count += len(images)
    return right / count


def _save(path: Path, state: dict[str, object]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # two processes may train the same network
    part.write_bytes(hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue())
    part.replace(path)


def _load(path: Path) -> dict[str, Any]:
    # The checksum is there because torch.load does not notice changed bytes inside a tensor.
    content = path.read_bytes()
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        raise ValueError(f"checkpoint: {path} is damaged; delete it and training starts anew")
    state: dict[str, Any] = torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)
    return state
