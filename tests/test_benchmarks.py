"""The benchmark's own functions on tiny inputs; no test looks at how long anything takes."""

import math
import sys
from dataclasses import astuple
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


def test_functions_take_turns_the_first_round_does_not_count_and_the_base_has_more() -> None:
    calls: list[str] = []
    functions = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = harness.interleaved(functions, 2)
    assert calls == list("abcabcabc")
    assert all(0 <= seconds < math.inf for seconds in times.values())
    calls.clear()
    harness.interleaved(functions, 1, base="a")
    assert calls == list("aabac" * 2)


def test_peers_are_compared_by_their_numbers() -> None:
    a, b = torch.tensor([1.0, 4.0]), torch.tensor([1.0, 5.0])
    speed, difference = peers.compared("them", "it", lambda: a, lambda: b, 1, "", "<= 0.1")
    assert speed.value > 0
    assert difference.value == pytest.approx(0.2)
    assert difference.verdict == "missed"


def test_a_climb_starts_from_the_original_and_never_falls() -> None:
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    found = steps.climb(steps.Setting(model, images, mass_center(), 0.2, 2.0, 5), 0.25, 6, "constant")
    assert len(found.gains) == len(found.seconds) == 6
    assert found.gains == sorted(found.gains)
    assert found.gains[-1] > 0
    assert (found.images - images).abs().max() <= 0.2 + 1e-6
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


def test_groups_are_stored_apart_and_make_the_page(tmp_path: Path) -> None:
    first = [
        Row("floor", "step, slow", 5.25, "forwards", "<= 4.0", "note, with comma"),
        Row("floor", "no", math.nan, "s"),
    ]
    aim = [Row("steps", "decaying: gain", 1.0, "", ">= 0.95"), Row("steps", "decaying: steps", math.inf, "steps")]
    curve = [Point(f"{x}s: digits", "paper", x, "gain", float(n), 2.0 * n) for x in ("step", "second") for n in (1, 2)]
    run.store(tmp_path, "steps", aim, curve, SESSION | {"seconds": {"steps": 1.0}})
    for seconds in (2.0, 3.0):
        run.store(tmp_path, "floor", first, [], SESSION | {"seconds": {"floor": seconds}})
    rows, points, sessions = page.read(tmp_path)
    assert rows.name.tolist() == ["step, slow", "no", "decaying: gain", "decaying: steps"]
    assert tuple(rows.iloc[0])[:6] == astuple(first[0])
    assert rows.value.isna().tolist() == [False, True, False, False]
    assert [Point(*line) for line in points.to_numpy()] == curve
    assert [part["seconds"] for part in sessions] == [{"floor": 3.0}, {"steps": 1.0}]

    page.write(tmp_path, tmp_path / "speed.md")
    text = (tmp_path / "speed.md").read_text(encoding="utf-8")
    assert "| step, slow | 5.25 forwards | <= 4.0 | missed | note, with comma |" in text
    assert "- decaying: gain: 1.00 (asked for: >= 0.95; met)." in text
    assert "2026-01-02, cpu (some), 1 thread(s)" in text
    assert "Beside other packages" not in text
    assert (tmp_path / page.FIGURE).stat().st_size > 1000


@pytest.mark.parametrize(
    ("value", "text"),
    [(math.nan, "-"), (math.inf, "never"), (5.0, "5.00"), (1e-9, "1.0e-09"), (0.0, "0.00"), (12345.6, "12346")],
)
def test_numbers(value: float, text: str) -> None:
    assert page.number(value) == text


def test_the_committed_page_shows_the_stored_rows() -> None:
    rows, _, sessions = page.read(ROOT / "results")
    assert (ROOT / "book" / "speed.md").read_text(encoding="utf-8") == page.compose(rows, sessions)
    assert set(page.SECTIONS) == set(run.GROUPS) <= {group for part in sessions for group in part["seconds"]}
