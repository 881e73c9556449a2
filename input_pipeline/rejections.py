"""Are too many of a source's records unusable?

A few bad records are counted and passed over; when they are many, something is wrong with the data or with how it is
read, and hours of training on the rest would hide it. When most are bad that came last, something has broken since.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable

from input_pipeline.collate import Loaded
from mmfuse.types import DataError, Rejected

JUDGED_FROM = 200  # records read of a source: fewer say little about its share. So many are the last ones, at least
NAMED = 10


class Rejections:
    """Remembers the first rejected records of each source, and stops a run that has too many."""

    def __init__(self, share: float):
        """Args: the most of a source's records that may be rejected, in [0, 1]."""
        self.share = share
        self.first: defaultdict[str, list[Rejected]] = defaultdict(list)
        self.last: defaultdict[str, deque[tuple[int, int]]] = defaultdict(deque)  # read and rejected, step by step

    def check(self, loaded: Iterable[Loaded], tally: Counter) -> None:
        """Takes note of a step's rejected records.

        Args:
          loaded: the step's batches.
          tally: of all steps so far, this one included.

        Raises:
          DataError: more than the share of a source's records were rejected, or of its last ones more than lies half
            way from the share to all; it names reasons and the first ten.
        """
        loaded = list(loaded)
        for source, record in (found for ready in loaded for found in ready.rejected):
            if len(self.first[source]) < NAMED:
                self.first[source].append(record)
            read, rejected = _counts(source, tally)
            if read >= JUDGED_FROM and rejected > self.share * read:
                raise DataError(self._sentence(source, rejected, read, tally))
        now = sum((ready.tally for ready in loaded), Counter())
        for source in {name.removesuffix("/read") for name in now if name.endswith("/read")}:
            read, rejected = self._last(source, now)
            if read >= JUDGED_FROM and rejected > (1 + self.share) / 2 * read:
                raise DataError(f"The last records cannot be used. {self._sentence(source, rejected, read, tally)}")

    def _last(self, source, now):
        """How many were read, and rejected, in the last steps that read enough."""
        last = self.last[source]
        last.append(_counts(source, now))
        while sum(read for read, _ in last) - last[0][0] >= JUDGED_FROM:
            last.popleft()
        return map(sum, zip(*last))

    def _sentence(self, source, rejected, read, tally):
        prefix = f"{source}/rejected/"
        reasons = {name.removeprefix(prefix): count for name, count in tally.items() if name.startswith(prefix)}
        first = "".join(f"\n  {record.key}: {record.reason}" for record in self.first[source])
        return (
            f"{rejected} of {read} records read from the source '{source}' were rejected, more than "
            f"loader.rejected_share={self.share} allows: {reasons}. The first of them:{first}\n"
            "Mend these records where they are, or raise the share, and the same command goes on; without them it is "
            "another run, in a workdir of its own."
        )


def _counts(source, tally):
    read = tally[f"{source}/read"]
    return read, read - tally[f"{source}/used"]
