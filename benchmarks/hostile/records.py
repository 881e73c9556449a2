"""What can be wrong with a record? Sixteen kinds, written into every format that a source reads.

Of each kind it is known for which reason it must be rejected, so that what a run counts can be compared with what was
written, exactly.
"""

import io
import json
import struct
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from PIL import Image

from input_pipeline.sources.annotations import MAX_TEXTS
from mmfuse.types import AUDIO_RATE


class Record(NamedTuple):
    """The parts of one record, as they are written; empty bytes are none. `sidecar` replaces the json of the texts."""

    image: bytes
    audio: bytes
    captions: Any  # texts; bytes where they are no UTF-8
    sidecar: bytes | None = None


class Kind(NamedTuple):
    """One way of being bad: how a record becomes so, for which reason it is rejected, and what can hold it."""

    reason: str
    spoil: Callable[[Record], Record]
    needs_json: bool = False


def encode_sound(wave: np.ndarray, rate: int = AUDIO_RATE, file_format: str = "WAV", subtype: str = "FLOAT") -> bytes:
    """The bytes of a sound file."""
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=file_format, subtype=subtype)
    return file.getvalue()


def encode_picture(picture: Image.Image, file_format: str = "PNG", **options) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def png_part(name: bytes, data: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(side: int) -> bytes:
    """The beginning of a PNG of side × side pixels of red, green and blue."""
    return b"\x89PNG\r\n\x1a\n" + png_part(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))


def flip(data: bytes, place: int) -> bytes:
    """The bytes with one bit turned."""
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


WAVE = np.sin(np.arange(1600) / 7).astype(np.float32)
FLAC = encode_sound(WAVE, file_format="FLAC", subtype="PCM_16")
NOT_FINITE = np.where(np.arange(1600) == 100, np.nan, WAVE).astype(np.float32)

KINDS: Mapping[str, Kind] = {
    "cut image": Kind("damaged image", lambda good: good._replace(image=good.image[:-30])),
    "flipped bit": Kind(
        "damaged image", lambda good: good._replace(image=flip(good.image, good.image.index(b"IDAT") + 9))
    ),
    "image of 2.5 gigapixels": Kind(
        "too many pixels", lambda good: good._replace(image=png_header(50_000) + png_part(b"IDAT", b""))
    ),
    "web page for an image": Kind("not JPEG, PNG or WEBP", lambda good: good._replace(image=b"<html>404</html>")),
    "cut sound": Kind("truncated audio", lambda good: good._replace(audio=good.audio[:-100])),
    "damaged sound": Kind("damaged audio", lambda good: good._replace(audio=FLAC[: len(FLAC) // 2])),
    "sound without samples": Kind("empty audio", lambda good: good._replace(audio=encode_sound(WAVE[:0]))),
    "sound that is not a number": Kind(
        "audio is not finite", lambda good: good._replace(audio=encode_sound(NOT_FINITE))
    ),
    "sound at 1 Hz": Kind("audio rate or channels", lambda good: good._replace(audio=encode_sound(WAVE[:9], rate=1))),
    "caption that is not UTF-8": Kind("text is not UTF-8", lambda good: good._replace(captions=[b"caf\xe9"])),
    "no caption": Kind("no captions", lambda good: good._replace(captions=[" "])),
    "too many captions": Kind("too many texts", lambda good: good._replace(captions=["a"] * (MAX_TEXTS + 1))),
    "empty record": Kind("empty record", lambda good: Record(b"", b"", [])),
    "lone surrogate": Kind("lone surrogate", lambda good: good._replace(captions=["\ud800"]), True),
    "cut json": Kind("json does not parse", lambda good: good._replace(sidecar=b'{"captions": ["a'), True),
    "number for captions": Kind("field captions of a wrong type", lambda good: good._replace(captions=5), True),
}


def good_record(number: int) -> Record:
    """A small record that can be used."""
    image = np.full((8, 8, 3), number % 251, np.uint8)
    image[number % 8, number // 8 % 8] = 255
    return Record(encode_picture(Image.fromarray(image)), encode_sound(WAVE[: 400 + number % 7]), [f"number {number}"])


def plan_records(file_format: str, number: int, share: float, *, seed: int) -> list[str | None]:
    """Draws which of `number` records are bad, and in which ways: all that the format can hold, by turns."""
    kinds = [name for name, kind in KINDS.items() if file_format in ("webdataset", "jsonl") or not kind.needs_json]
    plan: list[str | None] = [None] * number
    for turn, place in enumerate(np.random.default_rng(seed).permutation(number)[: round(share * number)]):
        plan[place] = kinds[turn % len(kinds)]
    return plan


def expected_reasons(plan: Iterable[str | None]) -> Counter[str]:
    """How often each reason must be counted when every record is read once."""
    return Counter(KINDS[name].reason for name in plan if name)


def make_records(plan: Iterable[str | None]) -> list[Record]:
    """The records of a plan."""
    good = (good_record(number) for number in range(2**31))
    return [KINDS[name].spoil(record) if name else record for name, record in zip(plan, good)]


# --- how each format is written: a folder and records → the source in a config ---------------------------------------


def _sidecar(record: Record, **files) -> bytes:
    """The json of a record. What is no UTF-8 is written as it is."""
    if record.sidecar is not None:
        return record.sidecar
    captions = record.captions
    if isinstance(captions, list):
        captions = [text.decode("latin-1") if isinstance(text, bytes) else text for text in captions]
    raw = isinstance(record.captions, list) and any(isinstance(text, bytes) for text in record.captions)
    text = json.dumps({**files, "captions": captions}, ensure_ascii=not raw)
    return text.encode("latin-1" if raw else "utf-8")


def write_tar(folder: Path, records: Sequence[Record]) -> dict[str, Any]:
    """One tar; an empty record is a json without fields."""
    with tarfile.open(folder / "records.tar", "w") as tar:
        for number, record in enumerate(records):
            for extension, data in (("png", record.image), ("wav", record.audio), ("json", _sidecar(record))):
                if data:
                    member = tarfile.TarInfo(f"{number:06d}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return {"kind": "webdataset", "shards": str(folder / "records.tar")}


def write_jsonl(folder: Path, records: Sequence[Record]) -> dict[str, Any]:
    """Lines, with a file for every image and sound."""
    lines = []
    for number, record in enumerate(records):
        files = {name: f"{number}.{name}" for name in ("image", "audio") if getattr(record, name)}
        for name, file in files.items():
            (folder / file).write_bytes(getattr(record, name))
        lines.append(_sidecar(record, **files))
    (folder / "records.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return {"kind": "jsonl", "files": str(folder / "records.jsonl")}


def _table(records: Sequence[Record]):
    import pyarrow as pa

    captions = [[text if isinstance(text, bytes) else text.encode() for text in record.captions] for record in records]
    lists = pa.array(captions, pa.list_(pa.binary()))
    texts = pa.Array.from_buffers(pa.string(), len(lists.values), lists.values.buffers())  # whether it is UTF-8 or not
    parts = [
        pa.array([getattr(record, name) or None for record in records], pa.binary()) for name in ("image", "audio")
    ]
    return pa.table([*parts, pa.ListArray.from_arrays(lists.offsets, texts)], names=["image", "audio", "captions"])


def write_parquet(folder: Path, records: Sequence[Record]) -> dict[str, Any]:
    """One file of groups of 100 rows."""
    import pyarrow.parquet as pq

    pq.write_table(_table(records), folder / "records.parquet", row_group_size=100)
    return {"kind": "parquet", "files": str(folder / "records.parquet")}


def write_arrow(folder: Path, records: Sequence[Record]) -> dict[str, Any]:
    """A folder as `save_to_disk` writes it."""
    import pyarrow as pa

    table = _table(records)
    with pa.ipc.new_stream(str(folder / "records.arrow"), table.schema) as stream:
        stream.write_table(table, max_chunksize=100)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "records.arrow"}]}')
    return {"kind": "arrow", "folder": str(folder)}


def write_tfds(folder: Path, records: Sequence[Record]) -> dict[str, Any]:
    """A prepared set of ArrayRecords; empty bytes are no signal."""
    import tensorflow_datasets as tfds

    encoded = tfds.features.Scalar(np.object_)
    features = tfds.features.FeaturesDict(
        {"image": encoded, "audio": encoded, "captions": tfds.features.Sequence(tfds.features.Text())}
    )

    class Hostile(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        code_path = None

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number, record in enumerate(records):
                yield number, {"image": record.image, "audio": record.audio, "captions": record.captions}

    Hostile(data_dir=folder, file_format="array_record").download_and_prepare()
    return {"kind": "tfds", "name": "hostile", "folder": str(folder), "split": "train"}


WRITERS: Mapping[str, Callable[[Path, Sequence[Record]], dict[str, Any]]] = {
    "webdataset": write_tar,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
    "arrow": write_arrow,
    "tfds": write_tfds,
}
