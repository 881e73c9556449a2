"""The alphabet: what a batch is, what tokens are, and what may go wrong.

Everything that crosses a border of mmfuse is made of the types on this page. It imports no jax, so that the
input pipeline, which is host numpy only, can share them. Named tuples are pytrees already.

Letters of the shapes:
    B batch, I items of one modality in an example, C texts of one role in an example, M modalities,
    T target text, S source tokens, P patches, Q latent queries, N heads, K key heads, H head size, D width,
    F mlp width, E shared embedding, V vocabulary, R position axes, L scanned layers.
    Lower case h w c t f are raw signals: height, width, channels, time, audio frames or samples.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxtyping import Bool, Float, Int, Num

# Mesh axes. A batch is split over both data axes; parameters over `fsdp` and `tensor`.
DATA, FSDP, TENSOR = "data", "fsdp", "tensor"
BATCH_AXES = (DATA, FSDP)

# The code of each modality in `Tokens.modality`.
MODALITIES = ("text", "image", "audio", "video")

AUDIO_RATE = 16_000  # Hz; every waveform in a batch has this rate.

# The first token ids, outside of any text's reach. BOS begins what is said or to be said.
PAD, BOS, EOS = 0, 1, 2

# The roles of texts that a tower reads, BOS text EOS; the others are written.
ENCODED_ROLES = ("source", "foil", "caption")


class MmfuseError(Exception):
    """An error that a person can mend: it says what, where, and what to do."""


class ConfigError(MmfuseError):
    """A config that cannot be run."""


class DataError(MmfuseError):
    """Data that cannot be read at all (one bad record is a `Rejected`, never an error)."""


class CheckpointError(MmfuseError):
    """A checkpoint or a workdir that does not fit this run."""


class Caption(NamedTuple):
    """One text that describes an example.

    `whole` captions name everything that there is to name; others name a part. `mentions` are
    (start, end, object): characters [start, end) of the text speak of that object of the ground truth.
    """

    text: str
    language: str = "en"
    whole: bool = True
    mentions: tuple[tuple[int, int, int], ...] = ()


class Question(NamedTuple):
    """A question, its answer, its type, and the objects of the ground truth that it is about."""

    text: str
    answer: str
    kind: str
    about: tuple[int, ...] = ()


class Example(NamedTuple):
    """One record of a source, not yet decoded.

    Attributes:
      key: leads a person back to the record.
      concept: examples of one concept are positives of one another in contrastive losses and in retrieval.
      signals: modality → encoded bytes, or an array: image (h w 3) uint8, audio (f) float32 at `AUDIO_RATE`.
        A modality that is not there is not in the mapping.
      captions, questions, description: the texts; the description is an input modality, not a caption.
      foil: a text like the description, which is wrong in a detail: what it describes is not there.
      truth: ground truth, where the source knows it.
    """

    key: str
    concept: str
    signals: Mapping[str, Any]
    captions: tuple[Caption, ...] = ()
    questions: tuple[Question, ...] = ()
    description: str | None = None
    foil: str | None = None
    truth: Mapping[str, Any] = {}


class Rejected(NamedTuple):
    """A record that could not be used: counted by `reason` (a few fixed words), found again by `key`."""

    reason: str
    key: str


class Signal(NamedTuple):
    """The raw signals of one modality, I items an example. Absent is a mask, never a magic value."""

    values: Num[Any, "B I ..."]  # image (h w 3) uint8; audio (f) float32 in [-1, 1]
    item_mask: Bool[Any, "B I"]
    anchor: Int[Any, "B I"]  # index of the text token from which on the item may be looked at
    size: Int[Any, "B I r"]  # valid extent of each raw axis: image (height, width), audio (samples)

    @property
    def present(self) -> Bool[Any, "B"]:
        return self.item_mask.any(axis=1)


class Text(NamedTuple):
    """C texts of one role for each example. Padding has segment 0; packed texts count 1, 2, …"""

    ids: Int[Any, "B C T"]
    segment: Int[Any, "B C T"]
    weight: Float[Any, "B C T"]  # of each token in a loss that predicts it

    @property
    def present(self) -> Bool[Any, "B C"]:
        return (self.segment > 0).any(axis=-1)


class Batch(NamedTuple):
    """One stream's rows: host-local numpy from the input pipeline, global arrays inside a step.

    `text` has the roles `source` (an input modality), `foil` (like it, but wrong), `caption` (matched with signals),
    `prompt` (what generation starts from) and `target` (prompt and answer in one sequence, with weight on the answer
    alone).
    A hole, where a record was rejected, has `valid` false and every mask and weight zero.
    """

    signals: dict[str, Signal]
    text: dict[str, Text]
    valid: Bool[Any, "B"]
    concept: Int[Any, "B"]  # equal where two rows show the same thing
    origin: Int[Any, "B 2"]  # (source, index): leads back to the record

    def present(self, name: str) -> Bool[Any, "B C"]:
        """Whether the signal, or each text of the role, is there; C = 1 for a signal. Holes are not there."""
        there = self.signals[name].present[:, None] if name in self.signals else self.text[name].present
        return there & self.valid[:, None]


class Tokens(NamedTuple):
    """A sequence of vectors with what there is to know about each of them."""

    values: Float[Any, "B S D"]
    segment: Int[Any, "B S"]  # 0 is padding; tokens see their own segment only
    position: Float[Any, "B S R"]  # R = 1 text and audio, 2 image, 3 video
    modality: Int[Any, "B S"]  # index into MODALITIES
    anchor: Int[Any, "B S"]  # index of the text token from which on this token may be looked at
