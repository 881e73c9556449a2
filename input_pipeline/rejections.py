"""Are too many of a source's records unusable?

A few bad records are counted and passed over; when they are many, something is wrong with the data or with how it is
read, and hours of training on the rest would hide it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable

from input_pipeline.collate import Loaded
from mmfuse.types import DataError, Rejected

JUDGED_FROM = 200  # records read of a source: fewer say little about its share
NAMED = 10


class Rejections:
    """Remembers the first rejected records of each source, and stops a run that has too many."""

    def __init__(self, share: float):
        """Args: the most of a source's records that may be rejected, in [0, 1]."""
        self.share = share
        self.first: defaultdict[str, list[Rejected]] = defaultdict(list)

    def check(self, loaded: Iterable[Loaded], tally: Counter) -> None:
        """Takes note of a step's rejected records.

        Args:
          loaded: the step's batches.
          tally: of all steps so far, this one included.

        Raises:
          DataError: more than the share of a source's records were rejected; it names reasons and the first ten.
        """
        for source, record in (found for ready in loaded for found in ready.rejected):
            if len(self.first[source]) < NAMED:
                self.first[source].append(record)
            read = tally[f"{source}/read"]
            rejected = read - tally[f"{source}/used"]
            if read >= JUDGED_FROM and rejected > self.share * read:
                raise DataError(self._sentence(source, rejected, read, tally))

    def _sentence(self, source, rejected, read, tally):
        prefix = f"{source}/rejected/"
        reasons = {name.removeprefix(prefix): count for name, count in tally.items() if name.startswith(prefix)}
        first = "".join(f"\n  {record.key}: {record.reason}" for record in self.first[source])
        return (
            f"{rejected} of {read} records read from the source '{source}' were rejected, more than "
            f"loader.rejected_share={self.share} allows: {reasons}. The first of them:{first}\n"
            "Mend or leave out these records, or raise the share; the same command then goes on."
        )
