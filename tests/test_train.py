"""The training loop against closed forms, a real kill -9, and every way a stored result can be wrong."""

import functools
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from fragility import train
from fragility.fingerprint import recipe
from fragility.surrogate import softplus

Weights = dict[str, Tensor]
pytestmark = pytest.mark.usefixtures("data_folder")


@pytest.fixture
def images():
    return torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels():
    return torch.randint(0, 3, (50,), generator=torch.Generator().manual_seed(2))


def small(seed: int = 0) -> nn.Module:
    """A network whose training depends on randomness (dropout) and on buffers (batch norm)."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(16, 3)]
        return nn.Sequential(*layers)


def weights(model: nn.Module) -> Weights:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


fit = partial(train.fit, progress=False)
fit_cached = partial(train.fit_cached, progress=False)


def test_gradient_descent_agrees_with_its_closed_form():
    # Full-batch least squares: w(t) = w* + (I - 2 lr X'X / n)^t (w(0) - w*).
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(40, 3)), generator.normal(size=(40, 1))
    model = nn.Linear(3, 1, bias=False).double()
    start = model.weight.detach().numpy().T.copy()
    rate, epochs = 0.05, 7

    def least_squares(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(model(inputs), targets)

    batch = (torch.from_numpy(x), torch.from_numpy(y))
    history = fit(model, [batch], least_squares, epochs=epochs, learning_rate=rate, optimizer=torch.optim.SGD)
    best = np.linalg.lstsq(x, y, rcond=None)[0]
    contraction = np.eye(3) - 2 * rate * x.T @ x / len(x)

    def at(step: int) -> Any:
        return best + np.linalg.matrix_power(contraction, step) @ (start - best)

    np.testing.assert_allclose(model.weight.detach().numpy().T, at(epochs), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(history.losses, [np.mean((x @ at(t) - y) ** 2) for t in range(epochs)], rtol=1e-12)


def test_epoch_losses_are_means_over_images_not_over_batches():
    model = nn.Linear(1, 1)
    batches = [(torch.full((n, 1), value), torch.zeros(n, dtype=torch.int64)) for n, value in ((1, 5.0), (3, 1.0))]

    def mean_input(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return images.mean() + 0 * model(images).sum()

    assert fit(model, batches, mean_input, epochs=1).losses == (2.0,)


def test_same_seed_same_bits_other_seed_other_bits(images, labels):
    results, before = [], torch.get_rng_state()
    for seed in (0, 0, 1):
        model = small()
        fit(model, train.Batches(images, labels), train.cross_entropy, epochs=2, seed=seed)
        results.append(weights(model))
        train.accuracy(model, images, labels)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_randomness_of_neighbouring_seeds_does_not_overlap():
    orders: list[Tensor] = []

    def remember(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        orders.append(labels)
        return train.cross_entropy(model, images, labels)

    numbers = train.Batches(torch.rand(20, 1), torch.arange(20), batch_size=20)
    for seed in range(3):
        fit(nn.Linear(1, 20), numbers, remember, epochs=3, seed=seed)
    assert len({tuple(order.tolist()) for order in orders}) == 9


def test_a_network_is_trained_thawed_and_comes_back_frozen(images, labels):
    model = small().eval().requires_grad_(False)
    seen = []

    def watch(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        seen.append(model.training and all(parameter.requires_grad for parameter in model.parameters()))
        if len(seen) > 1:
            raise KeyboardInterrupt
        return train.cross_entropy(model, images, labels)

    with pytest.raises(KeyboardInterrupt):
        fit(model, train.Batches(images, labels), watch, epochs=2)
    assert seen == [True, True]
    assert not model.training
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())


def test_accuracy_counts_right_answers():
    model = nn.Flatten().eval()  # the pixels are the logits
    images = torch.tensor([[3.0, 1.0], [0.0, 1.0], [2.0, 5.0]]).reshape(3, 2, 1, 1)
    labels = torch.tensor([0, 1, 0])
    model.register_parameter("unused", nn.Parameter(torch.zeros(1)))
    assert train.accuracy(model, images, labels, batch_size=2) == 2 / 3
    with pytest.raises(ValueError, match="model: expected evaluation mode"):
        train.accuracy(model.train(), images, labels)


def test_batches_give_every_image_once_in_a_new_order(images):
    batches = train.Batches(images, torch.arange(50), batch_size=16)
    first, second = list(batches), list(batches)
    assert [len(labels) for _, labels in first] == [16, 16, 16, 2]
    assert len(batches) == 4
    for pixels, labels in first:
        assert torch.equal(pixels, images[labels])
    orders = [torch.cat([labels for _, labels in epoch]) for epoch in (first, second)]
    assert not torch.equal(orders[0], orders[1])
    for order in orders:
        assert torch.equal(order.sort().values, torch.arange(50))


def train_five_epochs(checkpoint: Path | None, stop: Path | None = None) -> tuple[nn.Module, train.History, int]:
    """Train on four batches an epoch; with `stop`, report there from the middle of the third epoch and hang."""
    steps = 0

    def loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        if stop is not None and steps == 11:
            stop.touch()
            time.sleep(600)
        return train.cross_entropy(model, images, labels)

    images, labels = torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(1)), torch.arange(50) % 3
    model = small()
    history = fit(model, train.Batches(images, labels, 16), loss, epochs=5, seed=3, checkpoint=checkpoint)
    return model, history, steps


def test_a_run_killed_without_warning_resumes_to_the_same_weights(tmp_path):
    checkpoint, stop = tmp_path / "run.pt", tmp_path / "stop"
    program = "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import test_train as t; "
    program += "t.train_five_epochs(*map(Path, sys.argv[2:]))"
    paths = [str(Path(__file__).parent), str(checkpoint), str(stop)]
    # The last bits of a sum depend on the number of threads.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    with subprocess.Popen([sys.executable, "-c", program, *paths], env=environment) as process:
        try:
            deadline = time.monotonic() + 120
            while not stop.exists():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            process.kill()  # kill -9: no clean-up of any kind
    assert process.returncode != 0
    resumed, history, steps = train_five_epochs(checkpoint)
    undisturbed, expected, all_steps = train_five_epochs(None)
    assert (steps, all_steps) == (12, 20)  # it did resume: two epochs were finished, the third began anew
    assert same(weights(resumed), weights(undisturbed))
    assert (history.losses, history.accuracy) == (expected.losses, expected.accuracy)


def interrupted(
    model: nn.Module, loader: Any, checkpoint: Path, *, after: int, optimizer: Any = torch.optim.Adam
) -> train.History:
    """Train for four epochs, but fail once after some steps, and try again with a fresh copy of the network."""
    start, steps = weights(model), 0

    def fail_once(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        if steps == after:
            raise InterruptedError
        return train.cross_entropy(model, images, labels)

    run = partial(fit, model, loader, fail_once, epochs=4, checkpoint=checkpoint, optimizer=optimizer)
    with pytest.raises(InterruptedError):
        run()
    model.load_state_dict(start)
    return run()


@pytest.mark.parametrize("own_generator", [False, True])
def test_a_data_loader_resumes_exactly_too(images, labels, tmp_path, own_generator):
    def loader() -> DataLoader[tuple[Tensor, ...]]:
        generator = torch.Generator().manual_seed(8) if own_generator else None
        return DataLoader(TensorDataset(images, labels), batch_size=20, shuffle=True, generator=generator)

    momentum = partial(torch.optim.SGD, momentum=0.9)
    resumed, undisturbed = small(), small()
    first = interrupted(resumed, loader(), tmp_path / "a.pt", after=8, optimizer=momentum)
    second = fit(undisturbed, loader(), train.cross_entropy, epochs=4, optimizer=momentum)
    assert same(weights(resumed), weights(undisturbed))
    assert first.losses == second.losses
    assert first.accuracy == second.accuracy


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"epochs": 3}, {"learning_rate": 2e-3}, {"optimizer": torch.optim.SGD}, {"model": small(1)}],
    ids=lambda change: next(iter(change)),
)
def test_a_checkpoint_of_another_run_is_refused(images, labels, tmp_path, change):
    def run(model: nn.Module, epochs: int = 2, **options: Any) -> None:
        batches = train.Batches(images, labels)
        fit(model, batches, train.cross_entropy, epochs=epochs, checkpoint=tmp_path / "run.pt", **options)

    run(small())
    with pytest.raises(ValueError, match=r"checkpoint: .*run\.pt belongs to another run"):
        run(**{"model": small(), **change})


def flip_a_weight(content: bytes) -> bytes:
    middle = content.index(np.float32(0.0625).tobytes())
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [flip_a_weight, lambda content: content[:-100], lambda content: content[:9]])
def test_a_damaged_cache_is_named_not_used(images, labels, data_folder, damage):
    def build() -> nn.Module:
        model = small()
        model.register_buffer("landmark", torch.tensor(0.0625))
        return model

    fit_cached(build(), images, labels, epochs=1)
    (path,) = (data_folder / "trained").iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"checkpoint: .*{path.name} is damaged; delete it"):
        fit_cached(build(), images, labels, epochs=1)


calls = 0


@recipe("counted cross entropy/1")
def counted(model: nn.Module, images: Tensor, labels: Tensor, *, scale: float = 1.0) -> Tensor:
    global calls
    calls += 1
    return scale * train.cross_entropy(model, images, labels)


def test_the_second_call_loads_what_the_first_one_trained(images, labels, data_folder):
    first, second = small(), small()
    history = fit_cached(first, images, labels, counted, epochs=2)
    trained = calls
    assert trained == 4
    assert fit_cached(second, images, labels, counted, epochs=2) == history
    assert calls == trained
    assert same(weights(first), weights(second))
    assert not same(weights(first), weights(small()))
    assert not second.training
    assert not any(parameter.requires_grad for parameter in second.parameters())
    assert len(list((data_folder / "trained").iterdir())) == 1


def test_every_ingredient_makes_another_cache_entry(images, labels, data_folder, monkeypatch):
    def entries() -> int:
        return len(list((data_folder / "trained").iterdir()))

    def run(model: nn.Module | None = None, **changes: Any) -> None:
        arguments: dict[str, Any] = {"images": images, "labels": labels, "loss": counted, "epochs": 1} | changes
        fit_cached(small() if model is None else model, **arguments)

    softplus_instead = small()
    softplus_instead[2] = nn.Softplus()  # the same weights, another function
    run()
    changes: list[dict[str, Any]] = [
        {"model": small(1)},
        {"model": softplus_instead},
        {"images": images.flip(0)},
        {"labels": labels.flip(0)},
        {"loss": train.cross_entropy},
        {"loss": partial(counted, scale=2.0)},
        {"loss": partial(counted, scale=3.0)},
        {"epochs": 2},
        {"batch_size": 10},
        {"learning_rate": 1e-2},
        {"optimizer": torch.optim.SGD},
        {"optimizer": partial(torch.optim.SGD, momentum=0.9)},
        {"seed": 1},
    ]
    for number, change in enumerate(changes, start=2):
        run(**change)
        assert entries() == number, change
    with softplus(5.0):
        run()
    assert entries() == len(changes) + 2
    monkeypatch.setattr(torch, "__version__", "0")
    run()
    assert entries() == len(changes) + 3


def test_fingerprint_looks_at_content():
    model = nn.Linear(2, 2)
    plain = [1, 1.0, True, "1", None, [], {"a": 1}, torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(2, 3).double()]
    plain += [torch.tensor(0.0), torch.tensor(True), model, nn.Linear(2, 2), nn.Linear]
    functions = [train.cross_entropy, partial(train.cross_entropy), counted]
    functions += [partial(counted, scale=2.0), partial(counted, scale=3.0)]
    distinct = [(), ("ab", "c"), ("a", "bc"), *((value,) for value in [*plain, *functions])]
    prints = [train.fingerprint(*values) for values in distinct]
    assert len(set(prints)) == len(prints)
    assert prints == [train.fingerprint(*values) for values in distinct]
    transposed = torch.arange(6.0).reshape(2, 3).T
    assert train.fingerprint(transposed) == train.fingerprint(transposed.contiguous())
    assert train.fingerprint(partial(counted, a=1, b=2)) == train.fingerprint(partial(counted, b=2, a=1))
    with pytest.raises(TypeError, match="values: expected what can be named by its content, got <object"):
        train.fingerprint([object()])


def test_a_recipe_names_a_function_whatever_its_source():
    def original(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return train.cross_entropy(model, images, labels)

    def moved(net: nn.Module, x: Tensor, y: Tensor, *, scale: float = 1.0) -> Tensor:
        return scale * train.cross_entropy(net, x, y)

    first, second, raised = recipe("mine/1")(original), recipe("mine/1")(moved), recipe("mine/2")(small)
    assert first is original
    assert train.fingerprint(first) == train.fingerprint(second) != train.fingerprint(raised)


def test_a_function_that_no_name_can_stand_for_has_none():
    @functools.wraps(counted)
    def doubled(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return 2 * train.cross_entropy(model, images, labels)

    for function in (doubled, scalar, partial(scalar), partial(counted, scale=scalar)):
        with pytest.raises(TypeError, match=r"values: expected .* got <function .*; declare a function with"):
            train.fingerprint(function)
    factor = 3.0

    def scaled(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return factor * train.cross_entropy(model, images, labels)

    with pytest.raises(ValueError, match=r"function: expected one that takes all it needs as arguments, got <function"):
        recipe("mine/3")(scaled)


def adam(parameters: Any, *, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=lr)


@pytest.mark.parametrize("unnamed", [{"loss": lambda *batch: train.cross_entropy(*batch)}, {"optimizer": adam}])
def test_what_has_no_name_is_trained_and_not_stored(images, labels, data_folder, unnamed):
    cached, trained = small(), small()
    expected = fit_cached(cached, images, labels, epochs=2)
    stored = list((data_folder / "trained").iterdir())
    history = fit_cached(trained, images, labels, epochs=2, **unnamed)
    assert (history.losses, history.accuracy) == (expected.losses, expected.accuracy)
    assert same(weights(trained), weights(cached))
    assert list((data_folder / "trained").iterdir()) == stored


def scalar(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return model(images).sum()


BATCH = [(torch.ones(2, 1, 4, 4), torch.tensor([0, 1]))]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs: expected an integer >= 1, got 0"),
        ({"learning_rate": -1.0}, "learning_rate: expected a finite number > 0, got -1.0"),
        ({"loader": iter(BATCH)}, "loader: expected a list, Batches or DataLoader, got an iterator"),
        ({"loader": []}, "loader: expected at least one batch, got none"),
        ({"loss": lambda model, images, labels: model(images)}, r"loss: expected a scalar, got shape \(2, 3\)"),
        ({"loss": lambda m, i, _: scalar(m, i, _) * torch.nan}, "loss: expected finite values, got a mean of nan"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    arguments: dict[str, Any] = {"loader": BATCH, "loss": scalar, "epochs": 1} | changes
    with pytest.raises((TypeError, ValueError), match=message):
        fit(small(), arguments.pop("loader"), arguments.pop("loss"), **arguments)


def test_batches_need_a_label_per_image():
    with pytest.raises(ValueError, match="labels: expected one per image and at least one, got 2 labels for 3 images"):
        train.Batches(torch.ones(3, 1), torch.zeros(2))
    with pytest.raises(ValueError, match="batch_size: expected an integer >= 1, got 0"):
        train.Batches(torch.ones(3, 1), torch.zeros(3), batch_size=0)


def test_the_progress_bar_counts_batches(images, labels, tmp_path, capsys):
    train.fit(small(), train.Batches(images, labels, 25), train.cross_entropy, epochs=3)
    assert "6/6" in capsys.readouterr().err
    interrupted(small(), train.Batches(images, labels, 25), tmp_path / "run.pt", after=5)
    assert capsys.readouterr().err == ""
