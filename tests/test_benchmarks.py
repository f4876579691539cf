"""The benchmark's own functions on tiny inputs; no test looks at how long anything takes."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import floor, harness, page, peers, run, steps  # noqa: E402
from benchmarks.harness import Point, Row  # noqa: E402

from fragility.attribution import importance, simple_gradient  # noqa: E402
from fragility.objective import mass_center, top_k  # noqa: E402
from fragility.surrogate import softplus  # noqa: E402

SESSION = {
    "started": "2026-01-02T03:04:05+00:00",
    "commit": "0123456789abcdef+changes",
    "device": "cpu (some)",
    "threads": 1,
    "python": "3.11",
    "packages": {"torch": "2"},
    "quick": True,
    "load": 0.5,
}


def smooth_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()


@pytest.mark.parametrize(
    ("value", "target", "verdict"),
    [
        (4.0, "<= 4.0", "met"),
        (4.1, "<= 4.0", "missed"),
        (1.5, ">= 1.5", "met"),
        (1.4, ">= 1.5", "missed"),
        (math.inf, "<= 20", "missed"),
        (math.nan, "<= 4.0", "not measured here"),
        (7.0, "", "-"),
    ],
)
def test_verdicts(value: float, target: str, verdict: str) -> None:
    assert Row("floor", "x", value, "s", target).verdict == verdict


def test_functions_take_turns_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    times = harness.interleaved({name: lambda name=name: calls.append(name) for name in "ab"}, 2)
    assert calls == list("ababab")
    assert all(0 <= seconds < math.inf for seconds in times.values())


def test_the_base_is_timed_before_each_of_the_others() -> None:
    calls: list[str] = []
    harness.interleaved({name: lambda name=name: calls.append(name) for name in "abc"}, 1, warm=False, base="a")
    assert calls == list("aabac")


def test_slope_is_the_exponent_of_a_power_law() -> None:
    x = [1.0, 2.0, 4.0, 8.0]
    assert harness.slope(x, [100.0, *(3 * value**1.7 for value in x[1:])]) == pytest.approx(1.7, abs=1e-12)


def test_a_fresh_process_measures_what_the_code_allocates_beyond_the_setup() -> None:
    run = harness.fresh("block = bytearray(b'x') * 200_000_000", "small = bytearray(b'x') * 50_000_000")
    assert 180 < run.above < 220
    assert run.peak > run.above + 40
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        harness.fresh("1 / 0")


def test_peers_are_compared_by_their_numbers() -> None:
    a, b = torch.tensor([1.0, 4.0]), torch.tensor([1.0, 5.0])
    rows = peers.compared("them", "it", lambda: a, lambda: b, 1, ("", "<= 0.1"))
    assert rows[1].value == pytest.approx(0.2)
    assert rows[1].verdict == "missed"


def test_influence_is_scaled_to_200_images_and_pays_for_its_fit() -> None:
    printed = (
        "fragility (dual): fit 1.00 s, influences 0.050 s\n"
        "dattri, conjugate gradients: 30.0 s, given the fitted layer\n"
        "largest difference, relative to the largest influence: 2.5e-09\n"
    )
    speed, error = peers.influence_rows("influence", printed, 5)
    assert speed.value == pytest.approx(40 * 30.0 / (1.0 + 40 * 0.05))
    assert error.value == 2.5e-9
    assert [row.verdict for row in peers.influence_rows("influence", "nothing", 5)] == ["not measured here"]


def test_a_climb_starts_from_the_original_and_never_falls() -> None:
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    found = steps.climb(smooth_net(), images, mass_center(), epsilon=0.2, beta=2.0, run=(0.25, 6, {}))
    assert len(found.gains) == len(found.seconds) == 6
    assert found.gains == sorted(found.gains)
    assert found.gains[-1] > 0
    assert (found.images - images).abs().max() <= 0.2 + 1e-6


def test_the_first_step_that_reaches_a_gain() -> None:
    assert steps.first_reaching([0.1, 0.5, 0.9], 0.5) == 2
    assert steps.first_reaching([0.1], 0.5) == math.inf


def test_the_attack_step_is_the_derivative_of_the_surrogates_objective(every_relu: nn.Module) -> None:
    x = torch.rand(1, 3, 40, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    labels, reference = torch.tensor([1]), torch.rand(1, 40, 40, dtype=torch.float64)

    slope = floor.attack_step(every_relu, x, labels, simple_gradient, reference)
    direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(3))

    def value(t: float) -> float:
        with softplus(1.0):
            maps = importance(simple_gradient(every_relu, x + t * direction, labels))
        return top_k(floor.K)(maps, reference).item()

    finite = (value(1e-6) - value(-1e-6)) / 2e-6
    assert (slope * direction).sum().item() == pytest.approx(finite, rel=1e-5)


def test_groups_are_stored_apart_and_read_back(tmp_path: Path) -> None:
    first = [
        Row("floor", "step, slow", 5.25, "forwards", "<= 4.0", "note, with comma"),
        Row("floor", "no", math.nan, "s"),
    ]
    curve = [Point("growth: seconds", "step", "images", "seconds", float(x), 2.0 * x) for x in (1, 2, 4)]
    run.store(
        tmp_path, "growth", [Row("growth", "b", 1.0, "", "<= 1.15")], curve, SESSION | {"seconds": {"growth": 1.0}}
    )
    run.store(tmp_path, "floor", first, [], SESSION | {"seconds": {"floor": 2.0}})
    run.store(tmp_path, "floor", first, [], SESSION | {"seconds": {"floor": 3.0}})
    rows, points, story = page.read(tmp_path)
    assert [row.name for row in rows] == ["step, slow", "no", "b"]
    assert rows[0] == first[0]
    assert math.isnan(rows[1].value)
    assert points == curve
    assert [part["seconds"] for part in story["sessions"]] == [{"floor": 3.0}, {"growth": 1.0}]
    assert page.read(tmp_path / "elsewhere") == ([], [], {})


def test_the_page_says_what_was_missed_and_on_which_machine(tmp_path: Path) -> None:
    run.store(
        tmp_path, "floor", [Row("floor", "step", 5.25, "forwards", "<= 4.0")], [], SESSION | {"seconds": {"floor": 2.0}}
    )
    curve = [Point("growth: seconds", "step", "images", "seconds", float(x), 2.0 * x) for x in (1, 2, 4)]
    run.store(
        tmp_path, "growth", [Row("growth", "b", 1.0, "", "<= 1.15")], curve, SESSION | {"seconds": {"growth": 1.0}}
    )
    page.write(tmp_path, tmp_path / "speed.md")
    text = (tmp_path / "speed.md").read_text(encoding="utf-8")
    assert "| step | 5.25 forwards | <= 4.0 | missed | - |" in text
    assert "- step: 5.25 forwards, target <= 4.0." in text
    assert "2026-01-02, cpu (some), 1 thread(s)" in text
    assert (tmp_path / "_static/figures/speed-growth.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("value", "text"),
    [(math.nan, "-"), (math.inf, "never"), (5.0, "5.00"), (1e-9, "1.0e-09"), (0.0, "0.00"), (12345.6, "12346")],
)
def test_numbers(value: float, text: str) -> None:
    assert page.number(value) == text


def test_the_committed_page_shows_the_stored_rows() -> None:
    rows, points, story = page.read(ROOT / "results")
    assert rows
    assert (ROOT / "book" / "speed.md").read_text(encoding="utf-8") == page.compose(rows, points, story)
    measured = {row.group for row in rows}
    assert measured == {group for part in story["sessions"] for group in part["seconds"]}
