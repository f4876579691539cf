"""A study's pieces on the workers of a `dask.distributed` cluster: several machines, several GPUs.

Each worker makes the plan once for itself, since networks and images do not travel; the pieces go out, their rows come
back, and one process stores them. What a worker that dies was working on goes to another one.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from threading import Lock
from typing import Any

from distributed import Client, as_completed

from fragility.study import Computed, find, timed
from fragility.study.machine import describe, repeatable
from fragility.study.store import Piece, Plan, piece_name

PATIENCE = 60  # seconds for the scheduler to answer and for the first worker to come
RETRIES = 2  # of a piece whose computation raises
_BUSY = Lock()  # the plan's network belongs to one thread at a time


class Cluster(AbstractContextManager["Cluster"]):
    """A connection to a cluster for the pieces of one study.

    Args:
        address: of the scheduler, such as `tcp://10.0.0.1:8786`.
        study: a key of `STUDIES`.
        profile: one of the study's profiles.
        device: what every worker computes on.
    """

    def __init__(self, address: str, study: str, profile: str, device: str) -> None:
        self._of = (study, profile, device)
        self._client = Client(address, timeout=PATIENCE)

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def workers(self) -> list[dict[str, Any]]:
        """Ask the workers who they are, and wait for the first one.

        Returns:
            Per worker, what `fragility.study.machine.describe` says there.
        """
        self._client.wait_for_workers(1, timeout=PATIENCE)
        return list(self._client.run(describe, self._of[-1]).values())

    def compute(self, pieces: Sequence[Piece]) -> Iterator[Computed]:
        """Compute pieces on the workers.

        Args:
            pieces: of the study.

        Yields:
            Each with its rows, in the order in which they get ready.
        """
        futures = [self._client.submit(work, *self._of, piece, pure=False, retries=RETRIES) for piece in pieces]
        for _, computed in as_completed(futures, with_results=True):
            yield computed


def work(study: str, profile: str, device: str, piece: Piece) -> Computed:
    """Compute a piece, in a worker.

    Args:
        study: a key of `STUDIES`.
        profile: one of the study's profiles.
        device: where.
        piece: of the plan that the sender made.

    Returns:
        The piece, its rows and the seconds.

    Raises:
        ValueError: if this machine has other weights or images than the sender's.
    """
    with _BUSY, repeatable():
        plan, names = _prepared(study, profile, device)
        if piece_name(piece) not in names:
            raise ValueError("piece: expected the weights and images of this worker, got one made with others")
        return timed(plan.compute, piece)


@lru_cache(maxsize=1)
def _prepared(study: str, profile: str, device: str) -> tuple[Plan, frozenset[str]]:
    chosen = find(study, profile)
    plan = chosen.plan(chosen.profiles[profile], device)
    return plan, frozenset(map(piece_name, plan.pieces))
