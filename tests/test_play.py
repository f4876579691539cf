"""Pieces to touch, in Chromium, as a reader with a mouse, a finger or the keyboard meets them; their numbers against
the package's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from math import cos, pi, sin
from pathlib import Path
from typing import Any

import play_board
import play_digit
import play_stored
import pytest
import scipy.stats
import torch
from browser import WIDTHS, chromium, serve
from playwright.sync_api import Browser, Locator, Page, expect
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


@pytest.fixture(scope="module")
def board(browser: Browser) -> Iterator[Page]:
    """The numbers of the board and the dial, without a page around them."""
    page = browser.new_page()
    for name in ("pieces.js", "play/board-data.js", "pieces/influence.js", "pieces/dial.js"):
        page.add_script_tag(path=STATIC / name)
    page.evaluate("""() => {
        const bytes = Uint8Array.from(atob(boardData.features), letter => letter.charCodeAt(0));
        const numbers = new Int16Array(bytes.buffer), {width, scale, labels, l2} = boardData;
        window.rows = Array.from({length: numbers.length / width}, (_, m) => Float64Array.from({length: width + 1},
            (_, i) => i < width ? scale * numbers[m * width + i] : 1));
        window.layer = lastLayer(rows.slice(0, labels.length), labels, l2);
    }""")
    yield page
    page.close()


@pytest.mark.parametrize("way", [0, 1, 2])
@pytest.mark.parametrize("test", [0, 1, 2, 3])
def test_influence_leverage_and_retraining_are_the_packages(board: Page, test: int, way: int) -> None:
    layer, asked, labels = play_board.loaded()
    features, label = asked[test, way : way + 1], labels[test : test + 1]
    influence = layer.influence(features, label)[0]
    leaders = influence.argsort(descending=True)[:8]
    place = len(layer.labels) + test * asked.shape[1] + way
    found = board.evaluate(
        """([place, label, leaders]) => [
            layer.influence(rows[place], label), leaders.map(layer.leverage),
            [leaders.slice(0, 1), leaders].map(out => layer.retrained(rows[place], label, new Set(out)).change)]""",
        [place, label.item(), leaders.tolist()],
    )
    sets = [leaders[:1].tolist(), leaders.tolist()]
    changes = [layer.leave_one_out(features, label, torch.tensor([out]))[0, 0] for out in sets]
    close(found[0], influence)
    close(found[1], layer.leverage()[leaders])
    close(found[2], torch.stack(changes))


@pytest.mark.parametrize("dimension", [2, 3, 64, 3072])
def test_the_dials_law_is_that_of_random_directions(board: Page, dimension: int) -> None:
    found = board.evaluate(
        "d => { const {share, angle} = angleLaw(d); return [.05, .5, .95].map(angle).concat(share(60), share(84)); }",
        dimension,
    )
    squares = scipy.stats.beta(0.5, (dimension - 1) / 2)  # of the cosine
    for quantile, angle in zip((0.05, 0.5, 0.95), found[:3], strict=True):
        assert squares.sf(cos(angle * pi / 180) ** 2) == pytest.approx(quantile, abs=0.02 if dimension > 999 else 2e-3)
    assert found[3:] == pytest.approx([squares.sf(cos(a * pi / 180) ** 2) for a in (60, 84)], abs=1e-5)


def test_the_stored_curves_and_angles_are_those_of_the_results(tmp_path: Path) -> None:
    play_stored.write(tmp_path)
    drawn, angles = (json.loads((tmp_path / f"{name}-data.js").read_text().partition("=")[2][:-2]) for name in NAMES)
    rows = play_stored.stored("attack_sweep-laptop")
    rows = rows[(rows.setup == "squeezenet") & (rows.method == "simple_gradient")]
    for attack in ("random", "top_k"):
        for place, size in enumerate(drawn["sizes"]):
            part = rows[(rows.attack == attack) & (rows.epsilon == size)]
            low, high = drawn[attack]["ends"][place]
            mean = part.groupby("image").top_k_intersection.mean().mean()
            assert drawn[attack]["mean"][place] == pytest.approx(mean, abs=1e-4)
            assert low < mean < high
    measured = play_stored.stored("angles-laptop")
    for dimension, found in angles.items():
        part = measured[measured.dimension == int(dimension)].angle
        assert found["median"] == pytest.approx(part.median(), abs=0.01)
        assert sum(found["counts"][:20]) == ((part >= 0) & (part < 60)).sum()
        assert sum(found["counts"]) == len(part)


NAMES = ("draw", "dial")


@pytest.fixture(scope="module")
def origins() -> Iterator[dict[str, str]]:
    """The built site, from the file system and from a server."""
    site = Path(os.environ.get("SITE", "build/book/_build/html")).resolve()
    with serve(site) as address:
        yield {"file": site.as_uri(), "server": address}


@pytest.fixture(params=["file", "server"])
def play(request: pytest.FixtureRequest, browser: Browser, origins: dict[str, str]) -> Iterator[Callable[..., Page]]:
    """Open a page whose pieces are all alive, on a screen of that width; in the end nothing must have gone wrong."""
    wrong: list[str] = []
    contexts = []

    def visit(device: str = "desktop", name: str = "book/play", **options: Any) -> Page:
        size = {"width": WIDTHS[device], "height": 800}
        context = browser.new_context(viewport=size, has_touch=device == "phone", **options)
        contexts.append(context)
        page = context.new_page()
        home = origins[request.param]
        page.on("request", lambda r: r.url.startswith((home, "data:", "blob:")) or wrong.append(r.url))
        page.on("requestfailed", lambda r: wrong.append(r.url))
        page.on("console", lambda m: m.type not in {"error", "warning"} or wrong.append(m.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"{home}/{name}.html")
        expect(page.locator("figure:is(.piece, .blink):not(.live)")).to_have_count(0)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []


def piece(page: Page, name: str) -> Locator:
    return page.locator(f"figure[data-piece={name}]")


def trace(page: Page, element: Locator, points: Sequence[tuple[float, float]], *, finger: bool) -> None:
    """Draw a line on an element through points in shares of its size, with the mouse or a finger."""
    element.scroll_into_view_if_needed()
    box = element.bounding_box()
    assert box
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    if not finger:
        page.mouse.move(*places[0])
        page.mouse.down()
        for x, y in places[1:]:
            page.mouse.move(x, y, steps=3)
        page.mouse.up()
        return
    session = page.context.new_cdp_session(page)
    for number, (x, y) in enumerate(places):
        kind = "touchStart" if number == 0 else "touchMove"
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    page.wait_for_timeout(100)  # a finger that lifts at full speed flings, and the next tap would only stop that
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


@pytest.mark.parametrize("device", WIDTHS)
def test_pieces_do_what_they_say_for_a_mouse_and_a_finger(play: Callable[..., Page], device: str) -> None:
    page = play(device)
    press = Locator.tap if device == "phone" else Locator.click
    finger = device == "phone"

    digit = piece(page, "digit")
    said = digit.locator(".piece-said")
    press(digit.locator(".piece-over label").nth(2))
    press(digit.get_by_role("button", name="Attack"))
    expect(said).to_contain_text("Still a 4", timeout=30_000)
    expect(said).to_contain_text("top right")
    expect(said).to_contain_text("more than any other ninth")
    press(digit.get_by_text("on ReLU alone"))
    press(digit.get_by_role("button", name="Attack"))
    expect(said).to_contain_text("in 784 of 784 pixels")
    press(digit.get_by_text("random noise"))
    press(digit.get_by_role("button", name="Add noise"))
    expect(said).to_contain_text("No pixel changed by more than 32 of 255")

    film = piece(page, "film")
    for number in range(4):
        press(film.get_by_role("button", name="Next line"))
        expect(film.locator("li").nth(number)).to_have_class("running")
    expect(film.locator(".piece-said")).to_contain_text("After step 1: D = ")

    original = piece(page, "original")
    for _ in range(5):
        press(original.get_by_role("button", name="The left one"))
    expect(original.locator(".piece-said")).to_contain_text("You found")
    expect(original.locator("li")).to_have_count(5)

    wall = piece(page, "wall")
    plane, said = wall.locator("canvas"), wall.locator(".piece-said")
    trace(page, plane, [(0.45, 0.45), (0.8, 0.7)], finger=finger)
    expect(said).to_contain_text("zero")
    wall.get_by_label("Neurons").fill("0")
    wall.get_by_label("Sharpness").fill("2")
    for end in (0.3, 0.9):
        trace(page, plane, [(0.5, 0.5), (end, 0.4)], finger=finger)
        expect(said).to_contain_text("points to 25 degrees")

    board = piece(page, "board")
    said = board.locator(".piece-said")
    press(board.locator(".piece-tile").first)
    expect(said).to_contain_text("Without it: influence promised")
    press(board.get_by_role("button", name="Put all back"))
    press(board.get_by_role("button", name="Take out the 8"))
    expect(said).to_contain_text("Without these 8")
    press(board.get_by_text("attacked with"))
    expect(said).to_contain_text("still do")

    draw = piece(page, "draw")
    trace(page, draw.locator("canvas"), [(0.12, 0.1), (0.3, 0.4), (0.97, 0.7)], finger=finger)
    expect(draw.locator(".piece-said")).to_contain_text("whole curve")
    press(draw.get_by_role("button", name="Show what was measured"))
    expect(draw.locator(".piece-said")).to_contain_text("points above the attack's", timeout=30_000)

    dial = piece(page, "dial")
    dial.get_by_label("Your guess").fill("60")
    press(dial.get_by_role("button", name="That is my guess"))
    expect(dial.locator(".piece-said")).to_contain_text("You guessed 60")
    press(dial.get_by_role("button", name="Drop in"))
    expect(dial.locator(".piece-said")).to_contain_text("Measured on digits")


@pytest.mark.parametrize("play", ["file"], indirect=True)
def test_the_keyboard_alone_makes_a_4_point_at_its_corner(play: Callable[..., Page]) -> None:
    page = play(reduced_motion="reduce")  # the end of the attack, without its steps
    digit = piece(page, "digit")
    said = digit.locator(".piece-said")
    expect(digit.get_by_label("bottom left")).to_be_checked()
    slider, button = digit.get_by_label("Largest change"), digit.get_by_role("button", name="Attack")
    for _ in range(9):
        slider.press("ArrowLeft")
    found = []
    for _ in range(9):
        button.press("Enter")
        expect(said).to_contain_text("best of", timeout=30_000)
        found.append("more than any other ninth" in said.inner_text() and "not yet" not in said.inner_text())
        slider.press("ArrowRight")
    assert not found[0]
    assert found[-1]
    assert digit.locator(".piece-log").inner_text().count("softplus at") == 9
    digit.get_by_label("on softplus").press("ArrowRight")
    button.press("Enter")
    expect(said).to_contain_text("second derivative of its score is zero")

    wall = piece(page, "wall")
    before = wall.locator(".piece-said").inner_text()
    for _ in range(20):
        wall.locator("canvas").press("ArrowDown")
    expect(wall.locator(".piece-said")).not_to_have_text(before)

    board = piece(page, "board")
    board.locator(".piece-tile").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(board.locator(".piece-tile").nth(1)).to_have_attribute("aria-pressed", "true")
    expect(board.locator(".piece-said")).to_contain_text("Without it")

    draw = piece(page, "draw")
    for key in ("ArrowDown", "ArrowRight", "ArrowDown", "ArrowRight", "ArrowDown", "ArrowRight", "ArrowDown"):
        draw.locator("canvas").press(key)
    expect(draw.locator(".piece-said")).to_contain_text("At \u03b5 = 8: 80 %. That is a whole curve")
    draw.get_by_role("button", name="Show what").press("Enter")
    expect(draw.locator(".piece-said")).to_contain_text("you said 80 %", timeout=30_000)


SHOWN = "e => [...e.querySelectorAll('.piece-frame')].map(f => f.style.backgroundImage + f.style.backgroundPosition)"


@pytest.mark.parametrize("play", ["file"], indirect=True)
def test_pictures_computed_beforehand_follow_every_control(play: Callable[..., Page]) -> None:
    page = play()
    for player in page.locator("figure[data-piece=player]").all():
        said = player.locator(".piece-said")
        for control in player.locator("input[type=range], input:checked").all():
            ranged = control.get_attribute("type") == "range"
            for key in ("End", "Home") if ranged else ("ArrowDown", "ArrowUp"):
                before = player.evaluate(SHOWN), said.inner_text()
                control.press(key)
                assert player.evaluate(SHOWN) != before[0]
                assert not ranged or said.inner_text() != before[1]
    page.wait_for_load_state("networkidle")


@pytest.mark.parametrize("play", ["file"], indirect=True)
def test_the_first_page_starts_with_the_picture_as_it_is_and_a_finger_sends_the_importance_away(
    play: Callable[..., Page],
) -> None:
    page = play("phone", "book/intro")
    player = page.locator("figure[data-pictures=aim]")
    said, slider = player.locator(".piece-said"), player.get_by_label("Largest change of a pixel")
    expect(slider).to_have_value("0")
    expect(said).to_contain_text("Nothing is changed yet")
    player.locator(".piece-over label").nth(8).tap()
    expect(player.get_by_label("bottom right")).to_be_checked()
    slider.fill("4")
    expect(said).to_contain_text("Still Egyptian cat")


LATE = """name => document.activeElement.closest(`figure[data-piece=${name}]`) !== null"""


@pytest.mark.parametrize("play", ["file"], indirect=True)
@pytest.mark.parametrize(
    ("name", "stops"), [("digit", 7), ("original", 2), ("draw", 1), ("film", 3), ("wall", 3), ("board", 5), ("dial", 3)]
)
def test_the_tab_order_of_a_piece_is_short(play: Callable[..., Page], name: str, stops: int) -> None:
    page = play()
    piece(page, name).evaluate("""figure => {
        const before = document.createElement('button');
        figure.before(before);
        before.focus();
    }""")
    found = 0
    page.keyboard.press("Tab")
    while page.evaluate(LATE, name):
        found += 1
        page.keyboard.press("Tab")
    assert found == stops


RING = [(0.5 + 0.2 * sin(i * pi / 8), 0.5 - 0.4 * cos(i * pi / 8)) for i in range(17)]
DRAWN = {
    0: [RING],
    1: [[(0.5, 0.1), (0.5, 0.9)]],
    4: [[(0.6, 0.1), (0.2, 0.6), (0.8, 0.6)], [(0.6, 0.1), (0.6, 0.95)]],
    7: [[(0.2, 0.1), (0.8, 0.1), (0.45, 0.95)]],
}


@pytest.mark.parametrize("play", ["file"], indirect=True)
@pytest.mark.parametrize("device", WIDTHS)
def test_digits_are_read_however_large_and_wherever_they_are_drawn(play: Callable[..., Page], device: str) -> None:
    page = play(device)
    digit = piece(page, "digit")
    pad = digit.locator(".piece-pad")
    for label, strokes in DRAWN.items():
        for size, right, down in ((1, 0, 0), (0.5, 0.4, 0.1)):
            digit.get_by_role("button", name="Clear").click()
            for stroke in strokes:
                points = [(right + size * x, down + size * y) for x, y in stroke]
                trace(page, pad, points, finger=device == "phone")
            expect(digit.locator(".piece-said")).to_contain_text(f"The network reads a {label}.")


def test_pieces_are_pictures_without_javascript(browser: Browser, origins: dict[str, str]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{origins['file']}/book/play.html")
    for figure in page.locator("figure.piece").all():
        picture = figure.locator("img")
        assert picture.is_visible()
        assert len(picture.get_attribute("alt") or "") > 20
        assert figure.locator("figcaption").is_visible()
    assert page.locator(".piece-stage").count() == 0
    context.close()


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("notebooks/02_attacks", ["wall", "film", "draw"]),
        ("notebooks/03_influence", ["board"]),
        ("notebooks/04_hessian", ["wall"]),
        ("notebooks/05_orthogonality", ["dial"]),
    ],
)
def test_chapters_hold_the_pieces_that_they_need(play: Callable[..., Page], name: str, pieces: list[str]) -> None:
    page = play("phone", name)
    assert [figure.get_attribute("data-piece") for figure in page.locator("figure.piece").all()] == pieces
    assert all(page.locator(".piece-stage").nth(i).is_visible() for i in range(len(pieces)))


def test_scripts_are_short_and_ask_for_nothing_from_outside() -> None:
    for script in [STATIC / "pieces.js", *(STATIC / "pieces").glob("*.js")]:
        text = script.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 300, script
        assert not any(word in text for word in ("http:", "https:", "fetch(", "import(")), script
    for name in ("board", "dial", "digit", "draw", "film", "original", "wall"):
        assert sum(file.stat().st_size for file in (STATIC / "play").glob(f"{name}*")) < 300_000, name
