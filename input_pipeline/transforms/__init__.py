"""What can be wrong with one record, and how does the pipeline hear of it?

The transforms take one signal or text of one record: they check it, decode it, and bring it to size. A record that
cannot be used raises `BadRecord`, which is caught once a record and becomes a counted `Rejected`.
"""


class BadRecord(Exception):
    """One record that cannot be used. It never leaves the input pipeline.

    Arguments:
      reason: a few fixed words, without anything of the record itself, so that records can be counted by them.
    """

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason
