"""A study's pieces on the workers of a `dask.distributed` cluster: several machines, several GPUs.

Each worker makes the plan once, since networks and images do not travel; pieces go out, their rows come back, and one
process stores them. If a worker dies, its pieces go to another.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from threading import Lock
from typing import Any

from distributed import Client, as_completed

from fragility.study.catalogue import find
from fragility.study.machine import describe, repeatable
from fragility.study.piece import Computed, Piece, Plan
from fragility.study.store import piece_name

PATIENCE = 60  # seconds for the scheduler to answer and for the first worker to come
RETRIES = 2  # of a piece whose computation raises
_BUSY = Lock()  # the plan's network belongs to one thread at a time


class Cluster(AbstractContextManager["Cluster"]):
    """A connection to the cluster at `address`, which computes the pieces of one study on each worker's `device`."""

    def __init__(self, address: str, study: str, profile: str, device: str) -> None:
        self._request = (study, profile, device)
        self._client = Client(address, timeout=PATIENCE)

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def workers(self) -> list[dict[str, Any]]:
        """Wait for the first worker, and return `fragility.study.machine.describe` of every one."""
        self._client.wait_for_workers(1, timeout=PATIENCE)
        return list(self._client.run(describe, self._request[-1]).values())

    def compute(self, pieces: Sequence[Piece]) -> Iterator[Computed]:
        """Compute pieces on the workers, and yield each when it is ready."""
        futures = [self._client.submit(work, *self._request, piece, pure=False, retries=RETRIES) for piece in pieces]
        for _, computed in as_completed(futures, with_results=True):
            yield computed


def work(study: str, profile: str, device: str, piece: Piece) -> Computed:
    """Compute a piece in a worker; ValueError if its weights or images are not the sender's."""
    with _BUSY, repeatable():
        plan, names = _prepared(study, profile, device)
        if piece_name(piece) not in names:
            raise ValueError("piece: expected the weights and images of this worker, got one made with others")
        return plan.timed(piece)


@lru_cache(maxsize=1)
def _prepared(study: str, profile: str, device: str) -> tuple[Plan, frozenset[str]]:
    chosen = find(study, profile)
    plan = chosen.plan(chosen.profiles[profile], device)
    return plan, frozenset(map(piece_name, plan.pieces))
