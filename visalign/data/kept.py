"""What was read of records, kept in memory as far as it fits; and pictures opened ahead of their turn."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from PIL import Image

from ..models.reading import Read
from ..records import Preference

READERS = 4  # threads that open pictures
AHEAD = 32  # records whose pictures are opened ahead


class Kept:
    """What was read of the records most recently used, as long as it comes to no more than `most` bytes."""

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0
        self._rows: OrderedDict[str, tuple[Read, ...]] = OrderedDict()

    def get(self, key: str) -> tuple[Read, ...] | None:
        """What was read of a record, if it is still here."""
        if key in self._rows:
            self._rows.move_to_end(key)
        return self._rows.get(key)

    def put(self, key: str, reads: tuple[Read, ...]) -> None:
        """Hold what was read of a record that is not here, and let go of the longest unused."""
        self._rows[key] = reads
        self.held += size(reads)
        while self.held > self.most:
            _, gone = self._rows.popitem(last=False)
            self.held -= size(gone)


def size(reads: Sequence[Read]) -> int:
    """Bytes of a record's dialogues, whose pictures are the same."""
    tables = [each for read in reads for each in (read.ids, read.answer, read.prompt, *read.kinds.values())]
    return sum(each.nbytes for each in (*tables, *reads[0].media.values()))


def ahead(
    make: Callable[[Preference], list[Image.Image]], records: Iterable[Preference]
) -> Iterator[tuple[Preference, Future[list[Image.Image]]]]:
    """Each record with its pictures, which threads open a few records ahead."""
    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque[tuple[Preference, Future[list[Image.Image]]]] = deque()
        for record in records:
            waiting.append((record, pool.submit(make, record)))
            if len(waiting) > AHEAD:
                yield waiting.popleft()
        yield from waiting
