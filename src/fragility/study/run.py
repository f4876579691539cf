"""Compute what is missing of a study, piece by piece, and store it; a run killed at any moment resumes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout
from tqdm import tqdm

from fragility._checks import check_count
from fragility.data.download import data_folder
from fragility.study.catalogue import find
from fragility.study.machine import check_device, describe, repeatable
from fragility.study.piece import Computed, Piece, Plan
from fragility.study.store import Store, checkout, piece_name


class Outcome(NamedTuple):
    """The outcome of a run."""

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
    """Compute what is missing of a study and store it piece by piece.

    Convolutions are computed in full single precision and repeatably. Numbers below 1e-38 count as zero: on a
    processor they would slow the softplus surrogate several times over.

    Args:
        study: a key of `fragility.study.catalogue.STUDIES`.
        profile: one of the study's profiles.
        folder: where the results go; None for `results` in the checkout, or in the current folder without a checkout.
        device: `"cpu"`, `"cuda"` or another of PyTorch's.
        limit_images: compute only pieces that begin among the first so many images; a later run adds the others.
        scheduler: address of a `dask.distributed` cluster whose workers compute the pieces, each on its `device`; None
            to compute them here.
        progress: show a progress bar with the time left.

    Returns:
        The table and how much of it is computed.

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
    with alone(folder / f"{study}-{profile}"), repeatable():
        plan, session = chosen.plan(chosen.profiles[profile], device), describe(device)
        if scheduler is None:
            return complete(Store(study, profile, plan, folder, session), plan, limit_images, progress)
        from fragility.study.cluster import Cluster  # needs an optional extra

        with Cluster(scheduler, study, profile, device) as cluster:
            store = Store(study, profile, plan, folder, session | {"workers": cluster.workers()})
            return complete(store, plan, limit_images, progress, cluster.compute)


def complete(
    store: Store,
    plan: Plan,
    limit_images: int | None = None,
    progress: bool = False,
    compute: Callable[[Sequence[Piece]], Iterable[Computed]] | None = None,
) -> Outcome:
    """Compute the missing pieces of a plan, here or by `compute` in any order, and store each."""
    cost = plan.study.cost
    todo = [piece for piece in store.missing() if limit_images is None or piece["first"] < limit_images]
    done = sum(map(cost, plan.pieces)) - sum(map(cost, store.missing()))
    total = done + sum(map(cost, todo))
    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
    with tqdm(total=total, initial=done, desc=store.table.stem, bar_format=form, disable=not progress) as bar:
        bar.set_postfix_str(f"{len(todo)} pieces to go", refresh=False)
        computed = (plan.timed(piece) for piece in todo) if compute is None else compute(todo)
        for count, (piece, rows, seconds) in enumerate(computed, 1):
            store.add(piece, rows, seconds)
            bar.set_postfix_str(f"{len(todo) - count} pieces to go", refresh=False)
            bar.update(cost(piece))
    return Outcome(store.table, store.rows(), len(todo), len(store.missing()))


@contextmanager
def alone(table: Path) -> Iterator[None]:
    """Refuse to work on a table that another process works on; the lock dies with its process."""
    locks = data_folder() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(locks / f"{piece_name({'table': str(table.resolve())})}.lock", timeout=0):
            yield
    except Timeout as error:
        raise BlockingIOError(f"{table}.csv: another process is computing it; wait until it ends") from error
