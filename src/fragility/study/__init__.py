"""The paper's studies: resumable, with their provenance. `fragility run STUDY --profile P` on the command line."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from fragility._checks import check_count
from fragility.data.download import data_folder
from fragility.study import (
    angles,
    attack_sweep,
    defense_profile,
    defense_table,
    depth,
    dimension,
    influence_angles,
    influence_attack,
    leave_one_out,
    mislabel,
    paper_sweep,
    poisoning,
    profile,
    surrogate_fidelity,
)
from fragility.study.machine import check_device, describe, repeatable
from fragility.study.store import Piece, Plan, Recomputable, Row, Store, checkout, piece_name


class Study(NamedTuple):
    """A study's profiles, how one becomes a plan on a device, and how closely its rows can be computed again."""

    profiles: dict[str, Any]
    plan: Callable[[Any, str], Plan]
    recomputable: Recomputable = Recomputable()


STUDIES = {
    "attack_sweep": Study(profile.ATTACK_SWEEP, attack_sweep.plan, attack_sweep.RECOMPUTABLE),
    "paper_sweep": Study(paper_sweep.PAPER_SWEEP, paper_sweep.plan, paper_sweep.RECOMPUTABLE),
    "cifar_sweep": Study(profile.CIFAR_SWEEP, attack_sweep.plan, attack_sweep.RECOMPUTABLE),
    "sensitivity": Study(profile.SENSITIVITY, attack_sweep.plan, attack_sweep.RECOMPUTABLE),
    "surrogate_fidelity": Study(surrogate_fidelity.PROFILES, surrogate_fidelity.plan, surrogate_fidelity.RECOMPUTABLE),
    "angles": Study(angles.ANGLES, angles.plan, angles.RECOMPUTABLE),
    "dimension": Study(dimension.DIMENSION, dimension.plan),
    "influence_angles": Study(influence_angles.INFLUENCE_ANGLES, influence_angles.plan, influence_angles.RECOMPUTABLE),
    "influence_attack": Study(influence_attack.PROFILES, influence_attack.plan, influence_attack.RECOMPUTABLE),
    "leave_one_out": Study(leave_one_out.PROFILES, leave_one_out.plan),
    "mislabel": Study(mislabel.PROFILES, mislabel.plan),
    "poisoning": Study(poisoning.PROFILES, poisoning.plan, poisoning.RECOMPUTABLE),
    "depth": Study(depth.PROFILES, depth.plan, depth.RECOMPUTABLE),
    "defense_table": Study(defense_profile.DEFENSE_TABLE, defense_table.plan, defense_table.RECOMPUTABLE),
    "fashion_table": Study(defense_profile.FASHION_TABLE, defense_table.plan, defense_table.RECOMPUTABLE),
}


class Computed(NamedTuple):
    """A piece with its rows, and how long they took."""

    piece: Piece
    rows: list[Row]
    seconds: float


class Outcome(NamedTuple):
    """What a run left."""

    table: Path
    rows: int  # in the table
    computed: int  # pieces, now
    missing: int  # pieces, for a later run


def run(
    study: str,
    profile: str,
    *,
    folder: Path | None = None,
    device: str = "cpu",
    limit_images: int | None = None,
    scheduler: str | None = None,
    progress: bool = False,
) -> Outcome:
    """Compute what is missing of a study and store it piece by piece; killed at any moment, it resumes.

    Convolutions are computed in full single precision and repeatably; numbers below 1e-38, which would slow the
    softplus surrogate on a processor several times over, count as zero.

    Args:
        study: a key of `STUDIES`.
        profile: one of the study's profiles.
        folder: where the results go; None for `results` of the checkout, or of the present folder where there is none.
        device: `"cpu"`, `"cuda"` or another of PyTorch's.
        limit_images: leave out all pieces that begin beyond the first so many images; a later run adds them.
        scheduler: address of a `dask.distributed` cluster whose workers compute the pieces, each on its `device`; None
            to compute them here.
        progress: show a progress bar with the time left.

    Returns:
        The table and how much of it is there.

    Raises:
        BlockingIOError: if another process is computing the same table.
        ImportError: if `scheduler` is given and `dask.distributed` is not installed.
        ValueError: if the study, the profile or the device is unknown, or the table was made with other parameters.
    """
    chosen = find(study, profile)
    if limit_images is not None:
        check_count("limit_images", limit_images)
    check_device(device)
    if folder is None:
        folder = (checkout() or Path()) / "results"
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / f"{study}-{profile}"), repeatable():
        plan = chosen.plan(chosen.profiles[profile], device)
        session = describe(device)
        if scheduler is None:
            return complete(Store(study, profile, plan, folder, session), plan, limit_images, progress)
        from fragility.study.cluster import Cluster  # an optional extra

        with Cluster(scheduler, study, profile, device) as cluster:
            store = Store(study, profile, plan, folder, session | {"workers": cluster.workers()})
            return complete(store, plan, limit_images, progress, cluster.compute)


def find(study: str, profile: str) -> Study:
    """Look a study up.

    Args:
        study: a key of `STUDIES`.
        profile: one of the study's profiles.

    Returns:
        Its entry.

    Raises:
        ValueError: if there is no such study or profile.
    """
    if study not in STUDIES:
        raise ValueError(f"study: expected one of {', '.join(STUDIES)}, got {study!r}")
    if profile not in STUDIES[study].profiles:
        raise ValueError(f"profile: expected one of {', '.join(STUDIES[study].profiles)}, got {profile!r}")
    return STUDIES[study]


def complete(
    store: Store,
    plan: Plan,
    limit_images: int | None = None,
    progress: bool = False,
    compute: Callable[[Sequence[Piece]], Iterable[Computed]] | None = None,
) -> Outcome:
    """Compute the missing pieces of a plan and store each.

    Args:
        store: the plan's.
        plan: what to compute.
        limit_images: as for `run`.
        progress: as for `run`.
        compute: computes pieces in any order; None for one after the other, here.

    Returns:
        The table and how much of it is there.
    """
    todo = [piece for piece in store.missing() if limit_images is None or piece["first"] < limit_images]
    done = sum(map(plan.cost, plan.pieces)) - sum(map(plan.cost, store.missing()))
    total = done + sum(map(plan.cost, todo))
    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
    with tqdm(total=total, initial=done, desc=store.table.stem, bar_format=form, disable=not progress) as bar:
        bar.set_postfix_str(f"{len(todo)} pieces to go", refresh=False)
        computed = (timed(plan.compute, piece) for piece in todo) if compute is None else compute(todo)
        for count, (piece, rows, seconds) in enumerate(computed, 1):
            store.add(piece, rows, seconds)
            bar.set_postfix_str(f"{len(todo) - count} pieces to go", refresh=False)
            bar.update(plan.cost(piece))
    return Outcome(store.table, store.rows(), len(todo), len(store.missing()))


def timed(compute: Callable[[Piece], list[Row]], piece: Piece) -> Computed:
    """Compute a piece, within the memory there is, and measure how long it takes.

    Args:
        compute: piece -> rows.
        piece: with its list `images`.

    Returns:
        The piece, its rows and the seconds.
    """
    start = time.perf_counter()
    return Computed(piece, within_memory(compute, piece), time.perf_counter() - start)


def within_memory(compute: Callable[[Piece], list[Row]], piece: Piece) -> list[Row]:
    """Compute a piece, by halves where the GPU's memory does not hold it.

    Args:
        compute: piece -> rows.
        piece: with its list `images`.

    Returns:
        The rows of all its images.

    Raises:
        torch.OutOfMemoryError: if it does not hold a single image.
    """
    try:
        return compute(piece)
    except torch.OutOfMemoryError:
        if len(piece["images"]) == 1:
            raise
    # Outside the except clause, where the failed attempt's tensors are free again.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(piece["images"]) // 2
    halves = (piece | {"images": piece["images"][part]} for part in (slice(middle), slice(middle, None)))
    return [row for half in halves for row in within_memory(compute, half)]


@contextmanager
def _alone(table: Path) -> Iterator[None]:
    """Refuse to work on a table that another process works on; the lock dies with its process."""
    locks = data_folder() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(locks / f"{piece_name({'table': str(table.resolve())})}.lock", timeout=0):
            yield
    except Timeout as error:
        raise BlockingIOError(f"{table}.csv: another process is computing it; wait for its end") from error
