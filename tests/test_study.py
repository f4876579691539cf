"""The attack sweep: its rows against direct calls of the library, and `fragility run` as a process that is killed."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from fragility import network, objective, train
from fragility.attack import iterative, random_walk
from fragility.attribution import ATTRIBUTIONS, deeplift, importance, integrated_gradients, simple_gradient
from fragility.cli import main
from fragility.data import datasets
from fragility.similarity import center_shift, spearman, top_k_intersection
from fragility.study import STUDIES, attack_sweep, run, surrogate_fidelity
from fragility.study.cifar import mixed_precision_loss
from fragility.study.profile import ATTACK_SWEEP, CIFAR_SWEEP, SENSITIVITY, Profile, Sweep
from fragility.study.setup import NETWORKS, RECIPES, prepare
from fragility.study.store import Row, provenance, read
from fragility.surrogate import softplus, suggest_beta

# The mean of the training images is the baseline: a constant one would be full of ties.
SETUPS = {"digits": replace(ATTACK_SWEEP["fast"].setups["digits"], baseline=None)}


def plan(*sweeps: Sweep, seed: int = 0) -> attack_sweep.Plan:
    return attack_sweep.plan(Profile(seed, SETUPS, sweeps))


def rows_of(*sweeps: Sweep, seed: int = 0) -> list[Row]:
    what = plan(*sweeps, seed=seed)
    return [row for piece in what.pieces for row in what.compute(piece)]


@pytest.fixture
def model(double_digits: None) -> torch.nn.Module:
    training = datasets.digits("train")
    built = network.digits_cnn()
    train.fit_cached(built, training.images, training.labels, epochs=12, progress=False)
    return built


@pytest.fixture
def sample(model: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """The first four correctly classified images of the seeded draw."""
    drawn = datasets.digits("test", limit=24, seed=0)
    right = (model(drawn.images).argmax(1) == drawn.labels).nonzero().flatten()[:4]
    return drawn.images[right], drawn.labels[right], [drawn.files[row] for row in right]


OBJECTIVES = {
    "top_k": objective.top_k(100),
    "mass_center": objective.mass_center(),
    "targeted": objective.targeted(objective.opposite_quadrant),
}


@pytest.mark.parametrize("attack", OBJECTIVES)
@pytest.mark.parametrize("method", ["simple_gradient", "deeplift", "integrated_gradients"])
def test_rows_are_what_the_library_says(model, sample, method: str, attack: str) -> None:  # type: ignore[no-untyped-def]
    images, labels, files = sample
    x0 = prepare(SETUPS["digits"], 1, 0, "cpu").baseline
    attacked, judged = {
        "simple_gradient": (simple_gradient, simple_gradient),
        "deeplift": (partial(deeplift, baseline=x0), partial(deeplift, baseline=x0)),
        "integrated_gradients": tuple(partial(integrated_gradients, baseline=x0, steps=steps) for steps in (3, 7)),
    }[method]
    rows = rows_of(Sweep("digits", attack, (method,), (51.0,), 4, 4, 6, 10.0, attack_steps=3, evaluation_steps=7))
    settings = {
        "attribution": attacked,
        "objective": OBJECTIVES[attack],
        "epsilon": 51 / 255,
        "step_size": 10 / 255,
        "surrogate_beta": 4.0,
    }
    before = importance(judged(model, images, labels))
    for prefix, iterations in (("", 6), ("first_", 1)):
        found = iterative(model, images, labels, iterations=iterations, **settings)
        assert found.labels_kept.all()
        after = importance(judged(model, found.images, labels))
        expected = {
            "top_k_intersection": top_k_intersection(before, after, 100),
            "spearman": spearman(before, after),
            "center_shift": center_shift(before, after),
        }
        for name, values in expected.items():
            assert [row[prefix + name] for row in rows] == pytest.approx(values.tolist())
        if not prefix:
            assert [row["objective"] for row in rows] == pytest.approx(found.objective.tolist())
            assert [row["iteration"] for row in rows] == found.iteration.tolist()
            assert [row["confidence_after"] for row in rows] == pytest.approx(found.confidence_after.tolist())
            _check_gains(rows, attack, lambda x: importance(judged(model, x, labels)), images, found.images)
    assert [(row["image"], row["label"]) for row in rows] == list(zip(files, labels.tolist(), strict=True))
    common = {name: rows[0][name] for name in ("method", "attack", "epsilon", "step_size", "iterations", "k", "seed")}
    assert common == dict(zip(common, (method, attack, 51.0, 10.0, 6, 100, 0), strict=True))
    integrated = method == "integrated_gradients"
    assert (rows[0]["attack_steps"], rows[0]["evaluation_steps"]) == ((3, 7) if integrated else (None, None))


def _check_gains(  # type: ignore[no-untyped-def]
    rows: list[Row], attack: str, maps, images: torch.Tensor, changed: torch.Tensor
) -> None:
    """What D gained, by its definition, and how much importance lies in the quadrant opposite the centre of mass."""

    def masked(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        if attack == "mass_center":
            return center_shift(before, after)
        if attack == "top_k":
            region = before >= before.flatten(1).topk(100).values[:, -1].view(-1, 1, 1)
            return ((before - after) * region).sum((1, 2))
        return ((after - before) * quadrant(before)).sum((1, 2))

    def quadrant(before: torch.Tensor) -> torch.Tensor:
        above, left = ((before * torch.arange(32.0).view(shape)).sum((1, 2)) < 15.5 for shape in ((-1, 1), (1, -1)))
        region = torch.zeros_like(before)
        for one, up, aside in zip(region, above, left, strict=True):
            one[slice(16, None) if up else slice(16), slice(16, None) if aside else slice(16)] = 1
        return region

    before, after = maps(images), maps(changed)
    assert [row["gain"] for row in rows] == pytest.approx(masked(before, after).tolist())
    with softplus(4.0):
        smooth = masked(maps(images), maps(changed))
    assert [row["surrogate_gain"] for row in rows] == pytest.approx(smooth.tolist())
    targets = [[row["target_before"], row["target_after"]] for row in rows]
    if attack == "targeted":
        expected = [(part * quadrant(before)).sum((1, 2)) for part in (before, after)]
        assert targets == pytest.approx(torch.stack(expected, 1))
    else:
        assert all(value != value for pair in targets for value in pair)


def test_one_draw_moves_every_pixel_and_counts_as_unchanged_where_the_label_is_lost() -> None:
    rows = rows_of(Sweep("digits", "random", ("simple_gradient",), (200.0,), 16, 8))
    lost = [row for row in rows if not row["labels_kept"]]
    assert 0 < len(lost) < len(rows)
    for row in rows:
        draw = [row[f"first_{name}"] for name in attack_sweep.METRICS]
        best = [row[name] for name in attack_sweep.METRICS]
        assert best == (draw if row["labels_kept"] else pytest.approx([1, 1, 0], abs=1e-9))
        assert draw[0] < 1
        assert row["iteration"] == int(bool(row["labels_kept"]))
    assert [row["confidence_after"] for row in lost] == [row["confidence_before"] for row in lost]


def test_noise_is_an_images_own_whatever_the_batch_and_the_company(double_digits: None) -> None:
    one = rows_of(Sweep("digits", "random", ("simple_gradient",), (51.0,), 4, 4))
    other = rows_of(Sweep("digits", "random", ("deeplift", "simple_gradient"), (25.5, 51.0), 4, 2))[-4:]
    for a, b in zip(one, other, strict=True):
        assert a["image"] == b["image"]
        assert [a[name] for name in attack_sweep.METRICS] == pytest.approx([b[name] for name in attack_sweep.METRICS])
    another_seed = rows_of(Sweep("digits", "random", ("simple_gradient",), (51.0,), 4, 4), seed=1)
    assert [row["image"] for row in another_seed] != [row["image"] for row in one]


def test_the_walk_is_the_librarys(model, sample) -> None:  # type: ignore[no-untyped-def]
    images, labels, files = sample
    rows = rows_of(Sweep("digits", "random_walk", ("simple_gradient",), (51.0,), 4, 4, 5, 10.0))
    seed = int(train.fingerprint(0, *files)[:15], 16)
    settings = {"attribution": simple_gradient, "objective": objective.top_k(100), "epsilon": 51 / 255}
    generator = torch.Generator().manual_seed(seed)
    found = random_walk(model, images, labels, step_size=10 / 255, iterations=5, generator=generator, **settings)
    assert [row["objective"] for row in rows] == pytest.approx(found.objective.tolist())
    assert rows[0]["surrogate_beta"] is None


def test_the_best_iterate_can_be_chosen_by_the_metric(model, sample) -> None:  # type: ignore[no-untyped-def]
    images, labels, _ = sample
    sweep = Sweep("digits", "top_k", ("simple_gradient",), (51.0,), 4, 4, 6, 10.0)
    by_d, by_metric = (rows_of(replace(sweep, by_metric=flag)) for flag in (False, True))
    found = iterative(
        model,
        images,
        labels,
        attribution=simple_gradient,
        objective=objective.top_k(100),
        selection=lambda maps, reference: -top_k_intersection(maps, reference, 100),
        epsilon=51 / 255,
        step_size=10 / 255,
        iterations=6,
        surrogate_beta=4.0,
    )
    assert [row["iteration"] for row in by_metric] == found.iteration.tolist()
    for one, other in zip(by_metric, by_d, strict=True):
        assert one["top_k_intersection"] <= other["top_k_intersection"]


def test_a_file_of_eight_bits_keeps_whole_steps_and_loses_small_ones() -> None:
    small, whole = (
        Sweep("photographs", "top_k", ("simple_gradient",), (2.0,), 4, 4, steps, size)
        for steps, size in ((1, 0.25), (2, 1.0))
    )
    setups = {"photographs": replace(SETUPS["digits"], data_options={"split": "test"}, jpeg_quality=95)}

    def rows(sweep: Sweep) -> list[Row]:
        what = attack_sweep.plan(Profile(0, setups, (sweep,)))
        return what.compute(what.pieces[0])

    lost = rows(replace(small, rounded=True))  # of pixels that are multiples of 1 / 255, as in a file
    assert [row["top_k_intersection"] for row in lost] == [1.0] * 4
    assert any(float(row["top_k_intersection"] or 0) < 1 for row in rows(small))
    for one, other in zip(rows(whole), rows(replace(whole, rounded=True)), strict=True):
        assert one["top_k_intersection"] == other["top_k_intersection"]
        assert one["labels_kept"] == other["labels_kept"]


def test_images_can_be_recompressed_before_anything_else(model) -> None:  # type: ignore[no-untyped-def]
    setups = [replace(SETUPS["digits"], jpeg_quality=quality) for quality in (None, 95, 20)]
    plain, fine, coarse = (prepare(setup, 8, 0, "cpu").data for setup in setups)
    assert "JPEG of quality 20" in coarse.source
    assert model(coarse.images).argmax(1).equal(coarse.labels)
    common = set(plain.files) & set(fine.files) & set(coarse.files)
    assert len(common) > 2
    for name in common:
        one, two, three = (part.images[part.files.index(name)] for part in (plain, fine, coarse))
        assert 0 < (one - two).abs().mean() < (one - three).abs().mean() < 0.2


def test_what_is_unset_does_not_change_a_pieces_name() -> None:
    (piece,) = plan(Sweep("digits", "top_k", ("simple_gradient",), (51.0,), 4, 4, 3, 10.0)).pieces
    assert not {"by_metric", "rounded", "jpeg_quality"} & set(piece)
    (other,) = plan(Sweep("digits", "top_k", ("simple_gradient",), (51.0,), 4, 4, 3, 10.0, rounded=True)).pieces
    assert other == piece | {"rounded": True}


def test_differences_are_taken_image_by_image() -> None:
    def row(image: str, setup: str, value: float) -> Row:
        key = {"image": image, "setup": setup, "method": "deeplift", "attack": "top_k", "epsilon": 8.0}
        return key | {"top_k_intersection": value, "spearman": 2 * value, "center_shift": 0.0}

    reference = [row("a", "plain", 0.1), row("b", "plain", 0.9)]
    changed = [row("b", "other", 0.95), row("a", "other", 0.2), row("without a partner", "other", 5.0)]
    (cell,) = attack_sweep.differences(changed, reference)
    assert (cell["setup"], cell["n"]) == ("other", 2)
    assert cell["top_k_intersection"] == pytest.approx(0.075)
    assert cell["spearman"] == pytest.approx(0.15)
    assert cell["top_k_intersection_low"] == pytest.approx(0.05)


def test_fidelity_rows_are_the_maps_of_two_networks(model) -> None:  # type: ignore[no-untyped-def]
    profile = replace(surrogate_fidelity.PROFILES["fast"], setups=SETUPS, images=4, batch=2, multiples=(1.0, 1e6))
    what = surrogate_fidelity.plan(profile)
    assert len(what.pieces) == 6
    rows = [row for piece in what.pieces for row in what.compute(piece)]
    assert {tuple(row) for row in rows} == {tuple(row) for row in rows[:1]}
    assert set(rows[0]) == set(what.columns)
    test, x0 = datasets.digits("test"), prepare(SETUPS["digits"], 1, 0, "cpu").baseline
    for row in rows:
        index = test.files.index(row["image"])
        images, labels = test.images[index : index + 1], test.labels[index : index + 1]
        assert (labels.item(), row["beta"]) == (row["label"], 4.0 * row["multiple"])
        options: dict[str, object] = {} if row["method"] == "simple_gradient" else {"baseline": x0}
        if row["method"] == "integrated_gradients":
            options["steps"] = 10
        own = importance(ATTRIBUTIONS[row["method"]](model, images, labels, **options))
        with softplus(row["beta"]):
            smooth = importance(ATTRIBUTIONS[row["method"]](model, images, labels, **options))
        assert row["spearman"] == pytest.approx(spearman(own, smooth).item())
        assert row["top_k_intersection"] == top_k_intersection(own, smooth, 100).item()
        assert row["center_shift"] == pytest.approx(center_shift(own, smooth).item())
        if row["multiple"] == 1e6:  # as good as the ReLU itself
            assert row["spearman"] > 0.999
    cells = surrogate_fidelity.summary(rows)
    assert [(cell["method"], cell["multiple"], cell["n"]) for cell in cells] == [
        (method, multiple, 4) for method in surrogate_fidelity.METHODS for multiple in (1.0, 1e6)
    ]


def test_rows_of_a_piece_do_not_depend_on_the_order_of_pieces() -> None:
    what = plan(
        Sweep("digits", "top_k", ("simple_gradient",), (51.0,), 4, 2, 3, 10.0),
        Sweep("digits", "random_walk", ("simple_gradient",), (51.0,), 4, 2, 3, 10.0),
    )
    forwards = [what.compute(piece) for piece in what.pieces]
    backwards = [what.compute(piece) for piece in reversed(what.pieces)]
    assert str(forwards) == str(backwards[::-1])  # as text, because NaN is not NaN


def test_images_are_classified_correctly_and_more_of_them_begin_with_the_same(model) -> None:  # type: ignore[no-untyped-def]
    few, many = (plan(Sweep("digits", "random", ("simple_gradient",), (51.0,), n, 4)) for n in (4, 16))
    assert few.pieces == many.pieces[:1]
    names = [name for piece in many.pieces for name in piece["images"]]
    test = datasets.digits("test")
    rows = [test.files.index(name) for name in names]
    assert (model(test.images[rows]).argmax(1) == test.labels[rows]).all()
    assert len(set(names)) == 16


def test_a_plan_that_cannot_be_is_refused() -> None:
    sweep = Sweep("digits", "top_k", ("simple_gradient",), (51.0,), 4, 2, 3, 10.0)
    with pytest.raises(ValueError, match=r"every condition once per image, got \('digits', .* 51.0, 2\) twice"):
        plan(sweep, replace(sweep, images=8, start=2))
    with pytest.raises(ValueError, match="expected 400 correctly classified images among 24, got"):
        plan(replace(sweep, images=400))
    with pytest.raises(ValueError, match="images: expected a multiple of the batch of 3, got 4"):
        replace(sweep, batch=3)
    with pytest.raises(ValueError, match="images: expected a multiple of the batch of 2, got -1"):
        replace(sweep, start=5)


AT_SCALE = {
    f"{study}-{name}": profiles[name]
    for study, profiles in (("attack", ATTACK_SWEEP), ("cifar", CIFAR_SWEEP), ("sensitivity", SENSITIVITY))
    for name in ("laptop", "paper")
}


@pytest.mark.parametrize("profile", AT_SCALE.values(), ids=AT_SCALE)
def test_profiles_at_scale_name_what_there_is(profile: Profile) -> None:
    # Without the data no plan can be made of them; what they name can be checked.
    conditions = list(attack_sweep.conditions(profile))
    assert len(set(conditions)) == len(conditions)
    for sweep in profile.sweeps:
        setup = profile.setups[sweep.setup]
        assert setup.data in datasets.LOADERS
        assert setup.network in NETWORKS | RECIPES
        assert setup.candidates > sweep.images
        assert set(sweep.methods) <= set(ATTRIBUTIONS)
        assert sweep.attack in ("random", "random_walk", *attack_sweep.GRADIENT_ATTACKS)
        assert (sweep.step_size is None) == (sweep.attack == "random")
        assert sweep.step_size is None or sweep.step_size * sweep.iterations >= max(sweep.epsilons)


def test_a_later_sweep_continues_an_earlier_one() -> None:
    sweep = Sweep("digits", "top_k", ("simple_gradient",), (51.0,), 8, 2, 3, 10.0)
    whole, parts = plan(sweep), plan(replace(sweep, images=4), replace(sweep, start=4))
    assert whole.pieces == parts.pieces


def test_what_a_setup_leaves_open_is_found_on_the_training_images(model) -> None:  # type: ignore[no-untyped-def]
    ready = prepare(replace(SETUPS["digits"], baseline=None, surrogate_beta=None), 4, 0, "cpu")
    training = datasets.digits("train")
    # Stored in single precision, whose numbers below 1 are 2^-24 apart.
    assert torch.allclose(ready.baseline.double(), training.images.mean(0), rtol=0, atol=2**-24)
    few = datasets.sample(training, 16, seed=0)
    assert ready.surrogate_beta == suggest_beta(model, few.images, few.labels)
    assert set(ready.measured) == {"baseline", "surrogate_beta"}
    open_setup = {"digits": replace(SETUPS["digits"], baseline=None, surrogate_beta=None)}
    sweep = Sweep("digits", "top_k", ("deeplift",), (51.0,), 2, 2, 3, 10.0)
    (piece,) = attack_sweep.plan(Profile(0, open_setup, (sweep,))).pieces
    assert {name: piece[name] for name in ready.measured} == ready.measured


def test_a_network_with_a_recipe_is_trained_on_the_training_split(model, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    seen = []
    monkeypatch.setitem(RECIPES, "digits_recipe", lambda training: seen.append(training.files) or model)
    ready = prepare(replace(SETUPS["digits"], network="digits_recipe", training_epochs=None), 4, 0, "cpu")
    assert ready.model is model
    assert seen == [datasets.digits("train").files]


KILLER = """
import os, signal, sys, time
from pathlib import Path
import torch
from fragility.cli import main
table, before = Path(sys.argv[1]) / "attack_sweep-fast.csv", None
chance = torch.Generator().manual_seed(0)
for _ in range(5):
    child = os.fork()
    if child == 0:
        main(["run", "attack_sweep", "--profile", "fast", "--results", sys.argv[1]])
        os._exit(0)
    while not table.exists() or table.stat().st_mtime_ns == before:  # until it has added a piece
        time.sleep(0.01)
    time.sleep(torch.rand(1, generator=chance).item())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    before = table.stat().st_mtime_ns
    print(len(table.read_text().splitlines()) - 1)
"""


def test_twice_is_once_and_killed_is_undisturbed(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    killed.mkdir()
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        shown = [sys.executable, *arguments]
        return subprocess.run(shown, capture_output=True, text=True, check=True, env=one_thread)

    run_it = ("-m", "fragility", "run", "attack_sweep", "--profile", "fast", "--results")
    assert "156 rows; 28 pieces computed now, 0 still missing" in command(*run_it, str(whole)).stdout
    table = whole / "attack_sweep-fast.csv"
    before = table.read_bytes(), table.stat().st_mtime_ns
    assert main(["run", "attack_sweep", "--profile", "fast", "--results", str(whole)]) == 0
    assert (table.read_bytes(), table.stat().st_mtime_ns) == before

    counts = [int(line) for line in command("-c", KILLER, str(killed)).stdout.splitlines() if line.isdigit()]
    assert len(counts) == 5
    assert counts == sorted(counts)
    assert 0 < counts[0] <= counts[-1] < 156
    assert "0 still missing" in command(*run_it, str(killed)).stdout
    assert (killed / table.name).read_bytes() == table.read_bytes()
    story = provenance("attack_sweep", "fast", killed)
    assert len({name for session in story["sessions"] for name in session["seconds"]}) == 28
    assert sum(len(session["seconds"]) for session in story["sessions"]) == 28


def test_a_limited_run_tells_its_story_and_is_summarised(tmp_path: Path) -> None:
    outcome = run("attack_sweep", "fast", folder=tmp_path, limit_images=1)
    rows = read("attack_sweep", "fast", tmp_path)
    assert (outcome.rows, outcome.computed, outcome.missing) == (len(rows), 14, 14)
    story = provenance("attack_sweep", "fast", tmp_path)
    assert story["complete"] is False
    assert list(story["columns"]) == list(attack_sweep.COLUMNS) == list(rows[0])
    (session,) = story["sessions"]
    assert {"started", "commit", "device", "threads", "packages", "seconds"} <= set(session)
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", session["commit"])
    assert {"torch", "torchvision", "fragility"} <= set(session["packages"])
    assert all(re.fullmatch("[0-9a-f]{64}", story["inputs"]["digits"][name]) for name in ("images_sha256", "weights"))
    table = {(row["method"], row["attack"], row["epsilon"]): row for row in attack_sweep.summary(rows)}
    noise, attack = (table["simple_gradient", name, 51.0] for name in ("random", "top_k"))
    assert (noise["n"], attack["n"]) == (8, 4)
    assert attack["top_k_intersection_high"] < noise["top_k_intersection_low"]
    kept = attack_sweep.summary([row | {"labels_kept": index > 0} for index, row in enumerate(rows)], kept_only=True)
    assert kept[0]["n"] == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "required: STUDY, --profile"),
        (["run", "attack_sweeps", "--profile", "fast"], "study: expected one of attack_sweep, "),
        (["run", "attack_sweep", "--profile", "slow"], "profile: expected one of fast, laptop, paper, got 'slow'"),
        (["run", "attack_sweep", "--profile", "fast", "--device", "tpu9"], "device: expected one that PyTorch can use"),
        (["run", "attack_sweep", "--profile", "fast", "--limit-images", "0"], "limit_images: expected an integer >= 1"),
    ],
)
def test_a_wrong_request_is_one_line_and_status_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = main([*arguments, *(["--results", str(tmp_path)] if len(arguments) > 1 else [])])
    except SystemExit as stop:
        status = stop.code
    shown = capsys.readouterr()
    assert (status, shown.out) == (2, "")
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_work_on_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nested(profile: Profile, device: str) -> attack_sweep.Plan:
        run("attack_sweep", "fast", folder=tmp_path)
        raise AssertionError

    monkeypatch.setitem(STUDIES, "attack_sweep", STUDIES["attack_sweep"]._replace(plan=nested))
    with pytest.raises(BlockingIOError, match=r"attack_sweep-fast\.csv: another process is computing it"):
        run("attack_sweep", "fast", folder=tmp_path)


def test_the_loss_in_mixed_precision_is_the_cross_entropy():
    model = network.digits_cnn(seed=0).requires_grad_(True)
    test = datasets.sample(datasets.digits("test"), 32, seed=0)
    value = mixed_precision_loss(model, test.images, test.labels)
    exact = -model(test.images).double().log_softmax(1)[range(32), test.labels].mean()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=0.02)  # bfloat16 has eight bits
    (slope,) = torch.autograd.grad(value, next(model.parameters()))
    assert slope.isfinite().all()
