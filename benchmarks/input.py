"""How much of what decoding allows does the input pipeline reach, and does it stay small?

    python -m benchmarks.input

Webdataset tars of JPEGs of 640 × 480 become batches of 224 × 224 with captions. In one run, in turns, medians of the
turns:

    decoders     each on the same bytes in memory, on as many threads: alone, and with our resizing to 224 × 224.
                 "reduced" decodes to half the sides, the least that suffices. Raw decoding is the fastest that decodes
                 whole images and does nothing else; the control is the fastest that ends at 224 × 224.
    stream       tars → `Webdataset` → `training_stream` → `load`: all that a run does on the host, texts too
    many         a mixture of 100 sources, each of the same records
    memory       of the process, before and after more records than there are
    start        of a source of 10^8 records, see `benchmarks/start.py`
"""

import argparse
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from benchmarks.record import append
from benchmarks.start import resident, write_tars
from input_pipeline.loader import Stream, load
from input_pipeline.sources.contract import Source
from input_pipeline.sources.webdataset import Webdataset
from input_pipeline.streams import Recipe, training_stream
from input_pipeline.texts import TextSpec
from input_pipeline.tokenizers import source_texts, train_tokenizer
from input_pipeline.transforms.image import resize_image

ROOT = Path(__file__).parent.parent
HEIGHT, WIDTH, SIDE = 480, 640, 224
TARS, SOURCES = 20, 100
ROWS = 64


def make_image(seed: int) -> bytes:
    """Gradients and noise, as large as photographs of this size are: some 80 kB."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [np.sin(x / rng.uniform(20, 60) + y / rng.uniform(20, 60)) for _ in range(3)]
    coarse = cv2.resize(rng.normal(0, 14, (HEIGHT // 2, WIDTH // 2, 3)), (WIDTH, HEIGHT))
    pixels = 127 + 90 * np.stack(waves, -1) + coarse + rng.normal(0, 5, (HEIGHT, WIDTH, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=87)
    return buffer.getvalue()


def make_tars(folder: Path, records: int) -> list[bytes]:
    """Writes `records` records in 20 tars, and returns the images."""
    images = [make_image(seed) for seed in range(records)]
    for number in range(TARS):
        with tarfile.open(folder / f"{number:03d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for record in range(number, records, TARS):
                caption = f"photograph {record} of waves and noise, number {number} of its kind".encode()
                for name, data in ((f"{record:09d}.jpg", images[record]), (f"{record:09d}.txt", caption)):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return images


def _opencv(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def _opencv_reduced(data):
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_2
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)


def _pillow(data):
    return np.asarray(Image.open(io.BytesIO(data), formats=("JPEG",)))


def _pillow_reduced(data):
    image = Image.open(io.BytesIO(data), formats=("JPEG",))
    image.draft("RGB", (WIDTH // 2, HEIGHT // 2))
    return np.asarray(image)


def _simplejpeg(data):
    return simplejpeg.decode_jpeg(data, "RGB")


def _simplejpeg_reduced(data):
    return simplejpeg.decode_jpeg(data, "RGB", min_height=HEIGHT // 2, min_width=WIDTH // 2)


DECODERS: Mapping[str, Callable[[bytes], Any]] = {
    "opencv": _opencv,
    "opencv_reduced": _opencv_reduced,
    "pillow": _pillow,
    "pillow_reduced": _pillow_reduced,
    "simplejpeg": _simplejpeg,
    "simplejpeg_reduced": _simplejpeg_reduced,
}


def decode_rate(
    decode: Callable[[bytes], Any], images: list[bytes], examples: int, threads: int, *, resize: bool
) -> float:
    """Images decoded a second by that many threads, with nothing else to do."""

    def work(first: int) -> None:
        for number in range(first, examples, threads):
            pixels = decode(images[number % len(images)])
            if resize:
                resize_image(pixels, SIDE, SIDE)

    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    return examples / (time.perf_counter() - start)


def make_stream(sources: Mapping[str, Source]) -> Any:
    """A stream of images and captions, each source with the same weight."""
    tokenizer = train_tokenizer(source_texts([next(iter(sources.values()))], 100), vocab_size=500)
    recipe = Recipe({"image": (SIDE, SIDE)}, {"caption": TextSpec("captions", 1, 64)}, tokenizer)
    return training_stream(sources, dict.fromkeys(sources, 1.0), recipe, rows=ROWS, seed=0)


def stream_rate(stream: Stream, turn: int, examples: int, threads: int) -> float:
    """Examples a second that come out of the loader, in steps that no other turn takes."""
    steps, ahead = max(2, examples // ROWS), 4
    first = turn * (steps + 1 + ahead)
    batches = load({"it": stream}, range(first, first + steps + 1 + ahead), workers=threads, ahead=ahead)
    next(batches)
    start = time.perf_counter()  # as much is under way now as will be at the end
    used = sum(int(ready["it"].batch.valid.sum()) for ready in itertools.islice(batches, steps))
    seconds = time.perf_counter() - start
    deque(batches, maxlen=0)  # no thread goes on into what is measured next
    if used != steps * ROWS:
        raise RuntimeError(f"{steps * ROWS - used} records were rejected")
    return used / seconds


def measure_rates(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Decoders, one source and many, in turns."""
    images = make_tars(folder, options.records)
    one = make_stream({"all": Webdataset(f"{folder}/*.tar")})
    many = make_stream({f"{number}": Webdataset(f"{folder}/*.tar") for number in range(SOURCES)})
    sizes = options.examples, options.threads
    turns: list[dict[str, float]] = []
    for turn in range(options.turns):
        rates = {"stream": stream_rate(one, turn, *sizes), "many_sources": stream_rate(many, turn, *sizes)}
        for name, decode in DECODERS.items():
            rates[f"{name}_alone"] = decode_rate(decode, images, *sizes, resize=False)
            rates[name] = decode_rate(decode, images, *sizes, resize=True)
        rates["control"] = max(rates[name] for name in DECODERS)
        rates["raw"] = max(rates[f"{name}_alone"] for name in DECODERS if "reduced" not in name)
        rates["stream_share"] = rates["stream"] / rates["control"]
        rates["raw_share"] = rates["stream"] / rates["raw"]
        rates["many_sources_share"] = rates["many_sources"] / rates["stream"]
        turns.append(rates)
    medians = {name: statistics.median(rates[name] for rates in turns) for name in turns[0]}
    before = resident()
    stream_rate(one, options.turns + 1, options.long, options.threads)
    return medians | {
        "image_kilobytes": statistics.mean(map(len, images)) / 1e3,
        "megabytes_before": before,
        "megabytes_after": resident(),
    }


def measure_start(folder: Path, entries: int) -> dict[str, float]:
    """A fresh process that opens a source of very many records."""
    write_tars(folder, entries)
    command = [sys.executable, "-m", "benchmarks.start", str(folder)]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {f"start_{name}": number for name, number in json.loads(output).items()}


def main() -> None:
    """Measures, and appends to results/input.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=2_000, help="different images")
    parser.add_argument("--examples", type=int, default=2_000, help="examples that each rate is measured on")
    parser.add_argument("--long", type=int, default=20_000, help="examples that memory is measured over")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--entries", type=int, default=10**8, help="records of the source that starts; 49 bytes of disk"
    )
    parser.add_argument("--folder", help="where there is room for it all, for a while")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        tars, holes = Path(folder, "tars"), Path(folder, "holes")
        tars.mkdir()
        holes.mkdir()
        os.environ["MMFUSE_CACHE"] = str(Path(folder, "cache"))
        numbers = measure_rates(tars, options) | measure_start(holes, options.entries)
    shown = {name: getattr(options, name) for name in ("records", "examples", "long", "turns", "threads")}
    append("input", command="python -m benchmarks.input", seed=0, numbers=shown | numbers)


if __name__ == "__main__":
    main()
