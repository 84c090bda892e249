"""Who makes which shard: a worker's share of a cache. The worker itself does not know where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

from glot.store.claims import Claims
from glot.store.layout import shard_name


class Share:
    """The shards that one worker makes: of any number of workers, no two are at one shard at the same time.

    Unless a subclass says otherwise they are this worker's alone: nothing is claimed, and nobody is waited for.
    """

    @property
    def waits(self) -> bool:
        """Whether the worker stays until the shards that others hold are made too."""
        return False

    def numbers(self, shards: int) -> list[int]:
        """The numbers of this worker's shards, of a plan's `shards`, in the order in which it should try them."""
        raise NotImplementedError

    def take(self, number: int) -> bool:
        """Take a shard to make it; False where another worker has it."""
        return True

    def give_back(self, number: int) -> None:
        """Let a shard go that was taken: it is made."""

    def holder(self, number: int) -> str:
        """Who has a shard, for people; empty where nobody does."""
        return ""


@dataclass
class FolderShare(Share):
    """A share among workers that have only the cache's folder in common: who claims a shard first makes it.

    Attributes:
        part: (i, n): only the shards s with s % n == i, and no wait for others; or None for any.
        turn: (i, n): begin i n-ths down the list of shards, so that n workers do not race for the same ones.
    """

    claims: Claims
    part: tuple[int, int] | None = None
    turn: tuple[int, int] = (0, 1)

    @property
    def waits(self) -> bool:
        """A job array does not wait: whoever holds a shard finishes it."""
        return self.part is None

    def numbers(self, shards: int) -> list[int]:
        """Those of the part, from this worker's turn on."""
        first, step = self.part or (0, 1)
        mine = list(range(first, shards, step))
        begin = len(mine) * self.turn[0] // self.turn[1]
        return mine[begin:] + mine[:begin]

    def take(self, number: int) -> bool:
        """Claim it."""
        return self.claims.acquire(shard_name(number))

    def give_back(self, number: int) -> None:
        """Release its claim."""
        self.claims.release(shard_name(number))

    def holder(self, number: int) -> str:
        """The process that has claimed it."""
        return str(self.claims.owner(shard_name(number)) or "")


@dataclass(frozen=True)
class AssignedShare(Share):
    """Shards that somebody, who waits for them, has assigned to this worker alone."""

    assigned: tuple[int, ...]

    def numbers(self, shards: int) -> list[int]:
        """Those assigned."""
        return list(self.assigned)
