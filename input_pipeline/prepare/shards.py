"""How is a procedural source written as webdataset tars?

    python -m input_pipeline.prepare shards --out=DIR --source=scenes --split=train --count=300 --per-shard=100

The layout is that of img2dataset, which `Webdataset` reads.
"""

import argparse
import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Float32, UInt8
from PIL import Image

from input_pipeline.sources.annotations import format_annotations
from input_pipeline.sources.contract import Source
from input_pipeline.sources.digits import Digits
from input_pipeline.sources.scenes import Scenes
from mmfuse.types import AUDIO_RATE, ConfigError, DataError, Example, Rejected

IMAGE_FORMATS = ("jpg", "png", "webp")  # by turns
SOURCES = {"scenes": Scenes, "digits": Digits}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own flags."""
    parser.add_argument("--out", required=True, help="folder for the tars")
    parser.add_argument("--source", choices=tuple(SOURCES), default="scenes")
    parser.add_argument("--split", default="train")
    parser.add_argument("--count", type=int, default=300, help="number of records")
    parser.add_argument("--per-shard", type=int, default=100, help="number of records in one tar")


def run(options: argparse.Namespace) -> str:
    """Writes the tars, and says which."""
    source = SOURCES[options.source](options.split)
    shards = write_shards(source, options.out, count=options.count, per_shard=options.per_shard)
    return f"wrote {len(shards)} tars, {shards[0]} … {shards[-1].name}"


def write_shards(source: Source, folder: str | Path, *, count: int, per_shard: int) -> list[Path]:
    """Writes the first `count` examples of a source as tars `00000.tar`, …; returns the tars.

    Raises:
      ConfigError: a number below 1, or a count beyond the source.
      DataError: the folder holds tars already.
    """
    folder = Path(folder)
    if per_shard < 1 or not 1 <= count <= len(source):
        raise ConfigError(
            f"count is {count} and per-shard {per_shard}: choose count in 1 … {len(source)}, per-shard ≥ 1."
        )
    require_no_tars(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for number, first in enumerate(range(0, count, per_shard)):
        shards.append(folder / f"{number:05d}.tar")
        write_tar(shards[-1], _files(source, range(first, min(first + per_shard, count)), number))
    return shards


def require_no_tars(folder: Path) -> None:
    """Tars of two data sets in one folder would be read as one.

    Raises:
      DataError: the folder holds tars already.
    """
    if any(folder.glob("*.tar")):
        raise DataError(f"{folder} holds tars already: choose an empty folder.")


def write_tars(folder: Path, records: Sequence[Mapping[str, bytes]], *, per_tar: int, prefix: str = "") -> int:
    """Writes records, each of them name → content, as `{prefix}00000.tar`, …; returns how many tars there are."""
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(records), per_tar)
    for number, start in enumerate(starts):
        files = (file for record in records[start : start + per_tar] for file in record.items())
        write_tar(folder / f"{prefix}{number:05d}.tar", files)
    return len(starts)


def write_tar(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Writes (name, bytes) pairs as a tar, which has its name when it is whole."""
    part = path.with_suffix(".part")
    with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    os.replace(part, path)


def _files(source: Source, indices: range, shard: int) -> Iterator[tuple[str, bytes]]:
    for row, index in enumerate(indices):
        example, key = source[index], f"{shard:05d}{row:04d}"
        if not isinstance(example, Rejected):
            for extension, data in _encode_files(key, example, IMAGE_FORMATS[index % len(IMAGE_FORMATS)]):
                yield f"{key}.{extension}", data


def _encode_files(key: str, example: Example, image_format: str) -> Iterator[tuple[str, bytes]]:
    fields = {"key": key, "origin": example.key}
    if "image" in example.signals:
        image = example.signals["image"]
        fields |= {"height": image.shape[0], "width": image.shape[1]}
        yield image_format, encode_image(image, image_format)
    if "audio" in example.signals:
        yield "flac", encode_flac(example.signals["audio"])
    texts = format_annotations(example)
    if texts["captions"]:
        yield "txt", texts["captions"][0]["text"].encode()
    yield "json", json.dumps(fields | texts, ensure_ascii=False).encode()


def encode_image(image: UInt8[np.ndarray, "h w 3"], image_format: str) -> bytes:
    """Encodes an image as jpg, png or webp; png is lossless."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG" if image_format == "jpg" else image_format.upper(), quality=95)
    return buffer.getvalue()


def encode_flac(wave: Float32[np.ndarray, "f"]) -> bytes:
    """Encodes a waveform at `AUDIO_RATE` as FLAC with 16 bits."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, AUDIO_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
