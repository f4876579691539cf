"""`fragility audit`: what it stores is what its files show, a killed run goes on, wrong requests, the report."""

import html
import json
import multiprocessing
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fragility.attribution import simple_gradient
from fragility.audit import Audit, audit
from fragility.audit.images import read_folder
from fragility.audit.summary import by_image
from fragility.cli import main


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def tiny(side: int = 28) -> nn.Module:
    """A network of three classes whose steps take next to no time."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        last = nn.Linear(4 * ((side - 5) // 3 + 1) ** 2, 3)
        return nn.Sequential(nn.Conv2d(1, 4, 5, 3), nn.ReLU(), nn.Flatten(), last).eval()


def small_audit(folder: Path, model: nn.Module | None = None, **options: Any) -> Audit:
    chosen: dict[str, Any] = {"methods": ["simple_gradient"], "epsilons": [8 / 255], "doublings": 0, "progress": False}
    return audit(model or tiny(), noise(2, 1, 28, 28), folder=folder, **(chosen | options))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    return small_audit(tmp_path_factory.mktemp("audit"), doublings=1)


def test_the_files_show_the_stored_label_and_metric(found: Audit) -> None:
    model = tiny()

    def read(name: str) -> Tensor:
        return torch.from_numpy(np.array(Image.open(found.folder / name)))[None, None].float() / 255

    def top(x: Tensor, label: int) -> set[int]:
        x = x.requires_grad_()
        (slope,) = torch.autograd.grad(model(x)[0, label], x)
        return set(slope.abs().flatten().topk(15).indices.tolist())

    rows = found.rows[(found.rows.method == "simple_gradient") & found.rows.measure.isin(["top_k", "mass_center"])]
    assert len(rows) == 2 * 2 * 2
    for row in rows.itertuples():
        place = int(row.image.removeprefix("image "))
        before, after = read(f"images/{place:04d}-original.png"), read(row.file)
        label = int(model(before).argmax())
        assert int(model(after).argmax()) == row.prediction
        assert row.label_kept == (row.prediction == label)
        assert (after - before).abs().max() <= 8 / 255 + 1e-6
        shared = len(top(before, label) & top(after, label)) / 15
        assert row.top_k_intersection == pytest.approx(shared, abs=1 / 15 + 1e-6)  # a tie within rounding


def test_predictions_are_the_models_own_whatever_is_explained(found: Audit) -> None:
    with torch.no_grad():
        images = (255 * noise(2, 1, 28, 28)).round() / 255
        confidence = tiny()(images).softmax(1).amax(1).tolist()
    assert {"softplus", "smooth_gradient"} <= set(found.rows.method)
    for row in found.rows.itertuples():
        assert row.confidence_before == pytest.approx(confidence[int(row.image[-1])], abs=1e-5)


def test_noise_has_as_many_tries_as_the_attacks_have_steps(found: Audit) -> None:
    budgets = found.rows[found.rows.image == "image 0"].groupby(["method", "measure"]).budget.sum()
    for measure in ("draws", "sampling"):
        assert budgets["simple_gradient", measure] == budgets["simple_gradient"][["top_k", "mass_center"]].sum()
    assert found.summary["cells"][0]["draws"] == 2 * (40 + 80)


def test_the_report_says_what_the_rows_say(found: Audit) -> None:
    told = json.loads((found.folder / "report.json").read_text())
    rows = pd.read_csv(found.folder / "rows.csv")
    part = rows[rows.method == "simple_gradient"]
    worst = (
        part[part.measure.isin(["top_k", "mass_center"]) & part.label_kept].groupby("image").top_k_intersection.min()
    )
    cell = told["cells"][0]
    assert cell["worst_top_k_intersection"]["mean"] == pytest.approx(worst.mean())
    sampled, moved = (
        part[part.measure.isin(names)].groupby("image").relative_change.max()
        for names in (["sampling"], ["top_k", "mass_center", "climb"])
    )
    assert cell["understated_relative_change"] == pytest.approx((moved / sampled).median())
    assert (told["schema"], told["images"], set(told["columns"])) == ("fragility-audit/1", 2, set(rows.columns))
    page = (found.folder / "report.html").read_text()
    assert f"{1 - worst.mean():.0%} of the explanation replaced" in page
    assert all(sentence in html.unescape(page) for sentence in told["sentences"])
    assert "http" not in page.replace("http://www.w3.org", "")


def test_what_no_attack_kept_counts_as_unchanged_and_images_are_compared_with_themselves() -> None:
    def row(image: str, measure: str, shared: float, kept: bool = True) -> dict[str, Any]:
        names = ("recall", "spearman", "center_shift", "relative_change", "lipschitz")
        return {"image": image, "measure": measure, "top_k_intersection": shared, "label_kept": kept, "correct": "yes",
                "fidelity": 1.0, "file": f"{image}{shared}.png"} | dict.fromkeys(names, 0.5)  # fmt: skip

    rows = [row("a", "noise", 0.8), row("a", "top_k", 0.3), row("a", "mass_center", 0.1, kept=False)]
    rows += [row("b", "noise", 0.7), row("b", "top_k", 0.2, kept=False), row("c", "noise", 0.1)]
    frame = by_image(pd.DataFrame(rows))
    assert frame.worst_top_k_intersection.to_dict() == {"a": 0.3, "b": 1.0}
    assert frame.noise_top_k_intersection.to_dict() == {"a": 0.8, "b": 0.7}
    assert (frame.worst_center_shift["b"], frame.file["a"]) == (0.0, "a0.3.png")
    assert not isinstance(frame.file["b"], str)


class Patches(nn.Module):
    """A network whose weights say nothing of what it computes."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self.first, self.last, self.power = nn.Conv2d(1, 4, 5), nn.Linear(4, 3), power

    def forward(self, x: Tensor) -> Tensor:
        return self.last(nn.functional.relu(self.first(x)).mean((2, 3))) * self.power


def test_a_method_of_ones_own_with_a_coarse_map(tmp_path: Path) -> None:
    """Grad-CAM of the digits' last convolution, and its rows go on while its source stays."""

    def grad_cam(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        kept: list[Tensor] = []
        layer = [part for part in model.modules() if isinstance(part, nn.Conv2d)][-1]
        handle = layer.register_forward_hook(lambda *call: kept.append(call[2]))
        with torch.enable_grad():
            x = images if images.requires_grad else images.clone().requires_grad_()
            score = model(x).gather(1, labels[:, None]).sum()
            handle.remove()
            (slope,) = torch.autograd.grad(score, kept[0], create_graph=True)
        return (slope.mean((2, 3), keepdim=True) * kept[0]).sum(1, keepdim=True).relu()

    wrong = (tiny()((255 * noise(2, 1, 28, 28)).round() / 255).argmax(1) + 1) % 3
    found = small_audit(tmp_path, methods={"grad_cam": grad_cam}, labels=wrong)
    attacked = found.rows[found.rows.measure == "top_k"]
    assert set(found.rows.method) == {"grad_cam"}
    assert attacked.label_kept.all()
    assert attacked.relative_change.min() > 0
    assert (found.rows.correct == "no").all()
    assert found.summary["cells"][0]["n"] == 2, "labels that are all wrong are not used"
    assert found.summary["checks"][-1].startswith("The labels were not used")
    again = small_audit(tmp_path, methods={"grad_cam": grad_cam}, labels=wrong)
    pd.testing.assert_frame_equal(found.rows, again.rows)


def test_the_shortest_run_ends_with_a_report_of_what_it_did_not_reach(tmp_path: Path) -> None:
    found = small_audit(tmp_path, minutes=1e-5)
    assert found.rows.empty
    told = json.loads((tmp_path / "report.json").read_text())
    assert "allow more minutes" in told["sentences"][0]
    assert told["not_reached"]["simple gradient at 8/255"][:2] == ["top-k of 5", "noise of 1"]
    assert "No explanation could be audited" in (tmp_path / "report.html").read_text()


def test_rows_of_a_model_that_answers_otherwise_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Patches(1.0).eval()
    small_audit(tmp_path, model)
    model.power = 3.0  # the same weights
    with pytest.raises(ValueError, match=r"folder: .* answered otherwise for image 0; name another folder"):
        small_audit(tmp_path, model)


MODELS = """from pathlib import Path

import torch
from torch import nn

class Two(nn.Module):
    def forward(self, x):
        return {"logits": x.flatten(1)[:, :2]}

def a_dict():
    return Two().eval()

def training():
    return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(192, 2))

def single():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 1)).eval()

def fails():
    raise OSError("no weights here")

def good():
    assert Path(__file__).is_file()
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("models_of_ours.py").write_text(MODELS)
    Path("photos").mkdir()
    for number in range(3):
        pixels = (255 * torch.rand(9, 7, 3, generator=torch.Generator().manual_seed(number))).byte()
        Image.fromarray(pixels.numpy()).save(f"photos/{number}.png")
    return tmp_path


OPTIONS = ["--images", "photos", "--size", "8", "--out", "out", "--epsilon", "16/255", "--method", "simple_gradient"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a_dict", "dict"),
        ("training", "training mode"),
        ("single", "two logits"),
        ("absent", "expected a function"),
        ("fails", "failed with OSError: no weights here"),
    ],
)
def test_a_wrong_model_gets_one_sentence_and_status_2(folder: Path, capfd: Any, name: str, message: str) -> None:
    status = main(["audit", "--model", f"models_of_ours.py:{name}", *OPTIONS])
    shown = capfd.readouterr().err
    assert (status, shown.count("\n")) == (2, 1)
    assert message in shown


def test_wrong_images_are_left_out_with_a_line_or_refused(folder: Path, capfd: Any) -> None:
    Path("empty").mkdir()
    assert main(["audit", "--images", "empty", "--out", "out"]) == 2
    assert "images: expected images" in capfd.readouterr().err
    whole = Path("photos/0.png").read_bytes()
    Path("photos/broken.png").write_bytes(whole[: len(whole) // 2])
    Path("photos/text.jpg").write_text("no image")
    assert main(["audit", "--model", "models_of_ours.py:good", *OPTIONS, "--doublings", "0", "--minutes", "0"]) == 0
    told = json.loads(Path("out/report.json").read_text())
    assert [line.split(":")[0] for line in told["left_out"]] == ["broken.png", "text.jpg"]
    assert told["images"] == 3
    assert "broken.png" in Path("out/report.html").read_text()
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).eval()
    with pytest.raises(ValueError, match=r"images: expected pixels in \[0, 1\]"):
        audit(model, 255 * torch.ones(1, 3, 8, 8), folder=folder, progress=False)


def test_images_of_classes_are_taken_in_turn_and_the_wrong_ones_stand_apart(folder: Path) -> None:
    for number, name in enumerate(("cat", "dog", "owl")):
        Path(f"classes/{name}").mkdir(parents=True)
        for copy in range(2):
            Image.open(f"photos/{number}.png").rotate(90 * copy).save(f"classes/{name}/{copy}.png")
    given = read_folder(Path("classes"), size=8, limit=4)
    assert given.names == ("cat/0.png", "dog/0.png", "owl/0.png", "cat/1.png")
    assert (given.classes, given.labels.tolist()) == (("cat", "dog", "owl"), [0, 1, 2, 0])
    options = ["audit", "--model", "models_of_ours.py:good", *OPTIONS, "--doublings", "0", "--minutes", "0"]
    assert main([*options, "--images", "classes"]) == 0
    rows, told = pd.read_csv("out/rows.csv"), json.loads(Path("out/report.json").read_text())
    right = rows.groupby("image").correct.first()
    assert told["misclassified"] == (right == "no").sum() > 0
    assert told["cells"] == [] or told["cells"][0]["n"] == (right == "yes").sum()


def small_run(folder: Path) -> None:
    """An audit of 18 short pieces, in a process of its own."""
    folder.with_suffix(".begun").touch()
    options: dict[str, Any] = {"methods": {"gradient": simple_gradient}, "doublings": 0, "progress": False}
    audit(tiny(12), noise(2, 1, 12, 12), folder=folder, **options)


@pytest.mark.parametrize("seed", [0])
def test_a_run_that_is_killed_at_five_random_moments_ends_with_the_same_rows(tmp_path: Path, seed: int) -> None:
    """A moment: when so many more pieces are stored, and a part of a second later."""
    processes, random = multiprocessing.get_context("forkserver"), np.random.default_rng(seed)
    processes.set_forkserver_preload(["fragility.audit", "pytest"])
    record = tmp_path / "killed" / "audit-pieces.json"

    def begin(name: str) -> Any:
        begun = (tmp_path / name).with_suffix(".begun")
        begun.unlink(missing_ok=True)
        run = processes.Process(target=small_run, args=(tmp_path / name,))
        run.start()
        while run.is_alive() and not begun.exists():
            time.sleep(0.001)
        return run

    def pieces() -> int:
        return int(json.loads(record.read_text())["pieces"]["done"]) if record.exists() else 0

    def watch(run: Any, stored: int) -> None:
        while run.is_alive() and pieces() < stored:
            time.sleep(0.001)

    whole, kills = begin("whole"), []
    for _ in range(5):
        before, more, later = pieces(), int(random.integers(0, 3)), 0.3 * random.random()
        run = begin("killed")
        watch(run, before + more)
        time.sleep(later if more == 0 else later / 10)
        run.kill()
        run.join()
        assert run.exitcode == -signal.SIGKILL
        kills.append(f"{more} more pieces and {later:.3f} s: {pieces()} of 18")
    print(*kills, sep="\n")
    assert len(kills) == 5
    for run in (begin("killed"), whole):
        run.join()
        assert run.exitcode == 0
    assert pieces() == 18
    assert (tmp_path / "killed/rows.csv").read_text() == (tmp_path / "whole/rows.csv").read_text()


@pytest.mark.site
def test_the_report_opens_from_a_file_for_everybody(found: Audit) -> None:
    from axe_playwright_python.sync_playwright import Axe
    from browser import chromium

    report = (found.folder / "report.html").resolve().as_uri()
    with chromium() as browser:
        for width, scheme in ((1280, "light"), (360, "light"), (1280, "dark"), (360, "dark")):
            page = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme).new_page()
            asked: list[str] = []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(report)
            page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
            assert [url for url in asked if not url.startswith(("data:", report))] == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            problems = Axe().run(page).response["violations"]
            assert [one["id"] for one in problems if one["impact"] in ("serious", "critical")] == []
            image = page.locator(".card .stack img").nth(1)
            assert not image.is_visible()
            page.get_by_role("button", name="Changed").first.click()
            assert image.is_visible()
