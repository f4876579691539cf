"""Pieces to touch, in Chromium, as a reader with a mouse, a finger or the keyboard meets them; their numbers against
the package's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import play_digit
import pytest
import torch
from browser import chromium
from playwright.sync_api import Browser, Page
from torch import Tensor, nn

from fragility.attack import iterative
from fragility.attribution import importance, simple_gradient
from fragility.objective import Objective, box, mass_center, targeted
from fragility.surrogate import softplus

pytestmark = pytest.mark.site

STATIC = Path(__file__).parents[1] / "book" / "_static"
CORNER = box((28, 28), 19, 0, 28, 9)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor]:
    model, images, _ = play_digit.loaded()
    return model, images


@pytest.fixture(scope="module")
def bare(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page with the network and nothing else, from the file system."""
    file = tmp_path_factory.mktemp("play") / "bare.html"
    scripts = "".join(f"<script src='{(STATIC / name).as_uri()}'></script>" for name in SCRIPTS)
    file.write_text(f"<!doctype html>{scripts}<p>", encoding="utf-8")
    page = browser.new_page()
    page.goto(file.as_uri())
    page.evaluate(SETUP)
    yield page
    page.close()


SCRIPTS = ["play/digit-data.js", "pieces/network.js"]
SETUP = """() => {
    window.layers = network(digitData);
    window.numbers = list => Float64Array.from(list);
    window.run = (image, region, settings, steps) => {
        const objective = reference => region ? targeted(numbers(region)) : massCentre(reference);
        const climb = attack(layers, numbers(image), {...settings, objective});
        const images = [];
        for (let i = 0; i < steps && climb.step(); i++) images.push([...climb.image]);
        return {images, number: climb.number, direction: [...climb.direction].filter(d => d).length,
                best: climb.best && {...climb.best, image: [...climb.best.image],
                                       probabilities: [...climb.best.probabilities]}};
    };
}"""


def close(found: Any, expected: Tensor) -> None:
    """Assert the issue's tolerance; doubles on both sides leave rounding alone."""
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected.flatten(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("label", [0, 4, 7])
def test_scores_gradient_and_map_are_the_packages(bare: Page, digits: tuple[nn.Module, Tensor], label: int) -> None:
    model, images = digits
    image, labels = images[label : label + 1], torch.tensor([label])
    found = bare.evaluate(
        "x => { const j = judge(layers, numbers(x)); return [[...j.scores], [...j.gradient], [...j.map], j.answer]; }",
        image.flatten().tolist(),
    )
    gradient = simple_gradient(model, image, labels)
    for numbers, expected in zip(found, (model(image), gradient, importance(gradient)), strict=False):
        close(numbers, expected)
    assert found[3] == label


@pytest.mark.parametrize("beta", [4.0, 32.0])
def test_the_hessian_times_a_direction_is_autograds(bare: Page, digits: tuple[nn.Module, Tensor], beta: float) -> None:
    model, images = digits
    image = images[4:5].clone().requires_grad_()
    direction = torch.randn(image.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    smooth = nn.Sequential(*[nn.Softplus(beta, 40) if isinstance(layer, nn.ReLU) else layer for layer in model])
    (gradient,) = torch.autograd.grad(smooth(image)[0, 4], image, create_graph=True)
    (product,) = torch.autograd.grad((gradient * direction).sum(), image)
    found = bare.evaluate(
        """([x, v, beta]) => {
            const act = activation(beta), {outputs} = forward(layers, numbers(x), act);
            const {gradient, byActivation} = backward(layers, outputs, 4, act);
            return [[...gradient], [...hessianProduct(layers, outputs, byActivation, numbers(v), act)]];
        }""",
        [image.flatten().tolist(), direction.flatten().tolist(), beta],
    )
    close(found[0], gradient)
    close(found[1], product)
    with softplus(beta):
        close(found[0], simple_gradient(model, images[4:5], torch.tensor([4])))


@pytest.mark.parametrize(("region", "objective"), [(CORNER, targeted(CORNER)), (None, mass_center())])
@pytest.mark.parametrize("label", [4, 8])
def test_ten_steps_of_the_attack_are_the_packages(
    bare: Page, digits: tuple[nn.Module, Tensor], label: int, region: Tensor | None, objective: Objective
) -> None:
    model, images = digits
    steps: list[Tensor] = []
    result = iterative(
        model, images[label : label + 1], torch.tensor([label]), attribution=simple_gradient, objective=objective,
        epsilon=16 / 255, step_size=1.6 / 255, iterations=10, surrogate_beta=32.0,
        callback=lambda iterate: steps.append(iterate.images),
    )  # fmt: skip
    found = bare.evaluate(
        "a => run(...a)",
        [
            images[label].flatten().tolist(),
            None if region is None else region.double().flatten().tolist(),
            {"epsilon": 16 / 255, "alpha": 1.6 / 255, "beta": 32},
            10,
        ],
    )
    for ours, theirs in zip(found["images"], steps, strict=True):
        close(ours, theirs)
    best = found["best"]
    close(best["image"], result.images)
    assert best["value"] == pytest.approx(result.objective.item(), rel=1e-6)
    assert best["number"] == result.iteration.item()
    assert best["probabilities"][label] == pytest.approx(result.confidence_after.item(), rel=1e-6)


def test_relu_alone_gives_no_direction_as_in_the_package(bare: Page, digits: tuple[nn.Module, Tensor]) -> None:
    model, images = digits
    settings = "{epsilon: .1, alpha: .01, beta: Infinity}"
    found = bare.evaluate(
        f"([x, r]) => run(x, r, {settings}, 3)", [images[4].flatten().tolist(), CORNER.double().flatten().tolist()]
    )
    assert (found["number"], found["direction"], found["best"]) == (0, 0, None)
    with pytest.raises(ValueError, match="exactly zero"):
        iterative(
            model, images[4:5], torch.tensor([4]), attribution=simple_gradient, objective=targeted(CORNER),
            epsilon=0.1, step_size=0.01, iterations=3,
        )  # fmt: skip


def test_a_step_of_the_attack_fits_into_a_frame(bare: Page, digits: tuple[nn.Module, Tensor]) -> None:
    median = bare.evaluate(
        """([x, r]) => {
            const median = () => {
                const climb = attack(layers, numbers(x), {objective: () => targeted(numbers(r)), epsilon: .1,
                                                          alpha: .01, beta: 32});
                const times = Array.from({length: 21}, () => {
                    const start = performance.now();
                    climb.step();
                    return performance.now() - start;
                });
                return times.sort((a, b) => a - b)[10];
            };
            return Math.min(...Array.from({length: 5}, median)); // of the runs the one that was disturbed least
        }""",
        [digits[1][4].flatten().tolist(), CORNER.double().flatten().tolist()],
    )
    assert median <= 16


def test_the_network_reads_digits_and_weighs_little(digits: tuple[nn.Module, Tensor]) -> None:
    model, images = digits
    assert model(images).argmax(1).tolist() == list(range(10))
    assert play_digit.FILE.stat().st_size < 300_000
    assert json.loads(play_digit.FILE.read_text(encoding="utf-8").partition("=")[2].rstrip(";\n"))["accuracy"] > 0.97
