"""How much memory and time do files take that are made to take as much as they can?

    python -m benchmarks.hostile.bombs [NAME …]

Each bomb goes off in a process of its own, so that none finds memory that another left behind. Some are refused; others
are the largest that may be used, and must fit. Prints a JSON line for each. Linux only: the peak is read from /proc.
"""

import ctypes
import gc
import io
import json
import multiprocessing
import struct
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from benchmarks.hostile.records import encode_picture, encode_sound, png_header, png_part
from input_pipeline.sources.annotations import MAX_BYTES, MAX_TEXTS, parse_annotations
from input_pipeline.sources.arrow import Arrow
from input_pipeline.sources.files import MAX_FILE_BYTES
from input_pipeline.sources.jsonl import Jsonl
from input_pipeline.sources.parquet import Parquet
from input_pipeline.sources.webdataset import Webdataset
from input_pipeline.transforms import BadRecord
from input_pipeline.transforms.audio import decode_audio
from input_pipeline.transforms.image import MAX_PIXELS, MAX_WEBP_PIXELS, decode_image
from input_pipeline.transforms.text import clean_text
from mmfuse.types import MmfuseError, Rejected

MEGABYTES, MILLISECONDS = 300, 50  # what a bomb may take; the time is for those that are refused
SECONDS = 8.0  # of sound that are wanted
Attempt = Callable[[], Any]


def picture(side: int, mode: str, file_format: str, **options) -> bytes:
    """A plain picture, small as a file."""
    return encode_picture(Image.new(mode, (side, side)), file_format, **options)


def jpeg_with(part: bytes, times: int) -> bytes:
    """A small JPEG with a part repeated in its header."""
    data = picture(8, "RGB", "JPEG")
    return data[:2] + part * times + data[2:]


def jpeg_of_scans(times: int) -> bytes:
    """A progressive JPEG that repeats its last scan."""
    data = picture(2048, "RGB", "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * times + data[-2:]


def png_with(part: bytes, times: int = 1) -> bytes:
    """A small PNG with a part repeated before its pixels."""
    data = picture(8, "RGB", "PNG")
    return data[:33] + part * times + data[33:]


def zeros_deflated(megabytes: int) -> bytes:
    """What zlib makes of zeros, without making all of them first."""
    packer = zlib.compressobj(9)
    return b"".join([packer.compress(bytes(1_000_000)) for _ in range(megabytes)]) + packer.flush()


def silence(seconds: int, file_format: str, subtype: str) -> bytes:
    """A long silence, small as a file."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 16_000, 1, format=file_format, subtype=subtype) as sound:
        for _ in range(seconds):
            sound.write(np.zeros(16_000, np.float32))
    return file.getvalue()


def wav(*, claims: int = 0, parts: int = 0) -> bytes:
    """A small WAV whose header claims some size, or that has empty parts before its samples."""
    data = encode_sound(np.zeros(1600, np.float32), subtype="PCM_16")
    data = data[:36] + b"abcd\0\0\0\0" * parts + data[36:]
    return data[:4] + struct.pack("<I", claims or len(data) - 8) + data[8:]


def most_captions() -> bytes:
    """As many as may be of both fields that hold captions, no two the same."""
    first, more = ([f"{letter}{number}" for number in range(MAX_TEXTS)] for letter in "ab")
    return json.dumps({"caption": first, "captions": more}).encode()


SIDE, WEBP_SIDE = int(MAX_PIXELS**0.5), int(MAX_WEBP_PIXELS**0.5)
IMAGES: Mapping[str, Callable[[], bytes]] = {
    "PNG header of 2.5 gigapixels": lambda: png_header(50_000) + png_part(b"IDAT", b""),
    "PNG of 67 megapixels in 200 KB": lambda: (
        png_header(8192) + png_part(b"IDAT", zeros_deflated(202)) + png_part(b"IEND", b"")
    ),
    "JPEG of 268 megapixels": lambda: picture(16_384, "L", "JPEG", quality=1),
    "WEBP of 33 megapixels": lambda: picture(5793, "RGB", "WEBP", lossless=True),
    "JPEG of 3,000 scans": lambda: jpeg_of_scans(3000),
    "JPEG of a million comments": lambda: jpeg_with(b"\xff\xfe\0\2", 1_000_000),
    "JPEG with 4 MB between its parts": lambda: jpeg_with(b"\xff", 4_000_000),
    "PNG of 500,000 parts": lambda: png_with(png_part(b"abCd", b""), 500_000),
    "PNG text of 300 MB": lambda: png_with(png_part(b"zTXt", b"a\0\0" + zeros_deflated(300))),
    "PNG profile of 300 MB": lambda: png_with(png_part(b"iCCP", b"a\0\0" + zeros_deflated(300))),
    "the largest PNG": lambda: picture(SIDE, "RGBA", "PNG"),
    "the largest JPEG": lambda: picture(SIDE, "CMYK", "JPEG", progressive=True, subsampling=0),
    "the largest WEBP": lambda: picture(WEBP_SIDE, "RGBA", "WEBP", lossless=True),
}
SOUNDS: Mapping[str, Callable[[], bytes]] = {
    "WAV that claims 2 GB": lambda: wav(claims=2_000_000_000),
    "WAV of 255 channels": lambda: encode_sound(np.zeros((9, 255), np.float32)),
    "WAV of 200,000 parts": lambda: wav(parts=200_000),
    "FLAC of an hour's silence": lambda: silence(3600, "FLAC", "PCM_16"),
    "Ogg of an hour's silence": lambda: silence(3600, "OGG", "VORBIS"),
    "64 MiB of FLAC padding": lambda: b"fLaC\0\0\0\x22" + bytes(34) + b"\x81\0\0\0" + bytes(MAX_FILE_BYTES - 46),
    "the largest WAV": lambda: encode_sound(np.zeros((2_000_000, 8), np.float32), 191_999),
}
TEXTS: Mapping[str, Callable[[], tuple[bytes | None, bytes | None]]] = {
    "json of 64 MiB": lambda: (None, b'{"x":[' + b"{}," * (MAX_FILE_BYTES // 3 - 9) + b"{}]}"),
    "json 500,000 lists deep": lambda: (None, b"[" * 500_000),
    "json number of a million digits": lambda: (None, b'{"concept":' + b"9" * 1_000_000 + b"}"),
    "json of 200,000 captions": lambda: (None, json.dumps({"captions": ["a"] * 200_000}).encode()),
    "text of 64 MiB": lambda: (b"a " * (MAX_FILE_BYTES // 2), None),
    "the largest json": lambda: (None, b'{"x":[' + b"{}," * (MAX_BYTES // 3 - 9) + b"{}]}"),
    "the most captions": lambda: (None, most_captions()),
    "the largest text, combining marks": lambda: (("\u0301\u0316" * (MAX_BYTES // 4)).encode(), None),
}


def tar_of(folder: Path, *headers: bytes, size: int) -> Attempt:
    """A tar of so many bytes, all zeros after its headers: a hole in the disk."""
    with open(folder / "bomb.tar", "wb") as file:
        file.write(b"".join(headers))
        file.truncate(size)
    return lambda: Webdataset(str(folder / "bomb.tar"))[0]


def tar_header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A member's header, with a size that need not be true."""
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def lines_of(folder: Path, size: int) -> Attempt:
    """One line of so many bytes."""
    with open(folder / "bomb.jsonl", "wb") as file:
        file.write(b'{"caption": "')
        file.truncate(size)
    return lambda: Jsonl(str(folder / "bomb.jsonl"))[0]


def parquet_of(folder: Path, caption: str, rows: int, **options) -> Attempt:
    """A row group that repeats a caption."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"caption": [caption] * rows}), folder / "bomb.parquet", compression="zstd", **options)
    return lambda: Parquet(str(folder / "bomb.parquet"))[0]


def arrow_of(folder: Path, table: Any, compression: str | None = None) -> Attempt:
    """A saved data set of one table."""
    import pyarrow as pa

    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(str(folder / "bomb.arrow"), table.schema, options=options) as stream:
        stream.write_table(table)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "bomb.arrow"}]}')
    return lambda: Arrow(str(folder))[0]


def _nulls(number: int):
    import pyarrow as pa

    return pa.table({"caption": pa.ListArray.from_arrays([0, number], pa.nulls(number))})


def _text(length: int):
    import pyarrow as pa

    return pa.table({"caption": ["a" * length]})


FILES: Mapping[str, Callable[[Path], Attempt]] = {
    "tar header that claims 8 EB": lambda folder: tar_of(folder, tar_header("a.jpg", 2**63 - 1), size=10_240),
    "tar name of 8 GB": lambda folder: tar_of(folder, tar_header("a", 8 << 30, tarfile.GNUTYPE_LONGNAME), size=9 << 30),
    "tar member of 8 GB": lambda folder: tar_of(folder, tar_header("a.jpg", 8 << 30), size=9 << 30),
    "jsonl line of 2 MB": lambda folder: lines_of(folder, 2_000_000),
    "Parquet group of 950 MB in 50 KB": lambda folder: parquet_of(
        folder, "a" * 10**6, 950, use_dictionary=False, write_statistics=False
    ),
    "Parquet caption of 1 MB, 2,000 times": lambda folder: parquet_of(folder, "a" * 10**6, 2000),
    "Arrow of 400 MB in 2 MB": lambda folder: arrow_of(folder, _text(400_000_000), "lz4"),
    "Arrow list of two billion nulls": lambda folder: arrow_of(folder, _nulls(2**31 - 1)),
    "Arrow text of 400 MB": lambda folder: arrow_of(folder, _text(400_000_000)),
}


def _attempt(name: str, folder: Path) -> Attempt:
    """Makes a bomb; calling what is returned sets it off."""
    if name in FILES:
        return FILES[name](folder)
    if name in TEXTS:
        texts = TEXTS[name]()
        return lambda: [clean_text(caption.text) for caption in parse_annotations(*texts).captions]
    data = {**IMAGES, **SOUNDS}[name]()
    return (lambda: decode_image(data)) if name in IMAGES else (lambda: decode_audio(data, max_seconds=SECONDS))


def _memory(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def set_off(name: str, folder: Path) -> dict[str, Any]:
    """Returns why the bomb was refused, or None, and the megabytes and the milliseconds of processors that it took."""
    attempt, reason = _attempt(name, folder), None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
    before, start = _memory("VmRSS"), time.process_time()
    try:
        found = attempt()
        reason = found.reason if isinstance(found, Rejected) else None
    except (BadRecord, MmfuseError) as error:
        reason = error.reason if isinstance(error, BadRecord) else type(error).__name__
    milliseconds = (time.process_time() - start) * 1e3
    return {
        "bomb": name,
        "refused": reason,
        "megabytes": (_memory("VmHWM") - before) / 1e6,
        "milliseconds": milliseconds,
    }


def _report(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(set_off(name, Path(folder))), flush=True)


def main() -> None:
    """Sets off the bombs that are named, or all."""
    for name in sys.argv[1:] or [*IMAGES, *SOUNDS, *TEXTS, *FILES]:
        process = multiprocessing.get_context("fork").Process(target=_report, args=(name,))
        process.start()
        process.join()
        if process.exitcode:
            raise RuntimeError(f"the bomb '{name}' ended its process with {process.exitcode}")


if __name__ == "__main__":
    main()
