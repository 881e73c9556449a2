"""Does anything that is read hang, or fail in a way that nobody foresaw?

Files that were good are damaged at random, texts and configs are made of what was once a problem to somebody. A case
is a function of its family, a seed and a number. It may be used, or refused by an error of ours; anything else is a
finding.
"""

import contextlib
import copy
import faulthandler
import functools
import json
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from benchmarks.hostile import records
from configs import own_data, tiny
from input_pipeline.sources import arrow, parquet
from input_pipeline.sources.annotations import parse_annotations
from input_pipeline.streams import Recipe
from input_pipeline.texts import TextSpec
from input_pipeline.tokenizers import train_tokenizer
from input_pipeline.transforms import BadRecord
from input_pipeline.transforms.audio import decode_audio
from input_pipeline.transforms.image import decode_image
from mmfuse.build_data import make_source
from mmfuse.training.workdir import flatten
from mmfuse.types import Caption, Example, MmfuseError, Question
from mmfuse.validate import validate

SECONDS = 2.0  # the most that a case may take
HANGS = 60.0  # then the process says where it is, and ends
Case = Callable[[random.Random], Any]

# fmt: off
TEXTS = (
    "", " ", "\n", "a dog", "<eos>", "\0", "\ud800", "\udfff\ud800", "\ufeff", "\u202eabc", "e\u0301" * 9, "-1", "null",
    "\u0301" * 5000, "\U0001f3f3\ufe0f\u200d\U0001f308" * 99, "\U0010ffff", "a" * 9000, "a " * 9000, "\u3000",
    "\ufdfa" * 4000, "\r\n\t\v", "\U0001d160" * 500, "\\u0000",
)
VALUES = (
    None, True, False, 0, -1, 7, 0.5, 1e999, -1e999, float("nan"), 2**63, 10**300, 10**4000, [], {}, [[]], [None],
    {"": {}}, {"text": 1}, {"text": None}, {"text": "a", "whole": "no"}, {"question": "q"}, ["a"] * 20_000,
)
SETTINGS = (
    0, -1, 1, 2, 7, 10**30, 10**400, 0.0, -0.5, float("nan"), float("inf"), 1e-300, "", "x", "nan", "mean", None, True,
    b"x", (), (1,), (0, 0), (1, 2, 3), [], {}, ("a",), (("a", "b"),), ((".*", 0.0),), [[1]], {"a": 1},
)
# fmt: on
FIELDS = ("caption", "captions", "language", "question", "answer", "questions", "description", "concept", "image", "")


def damage(data: bytes, draw: random.Random) -> bytes:
    """Changes, cuts, doubles and inserts bytes, more often near the end, where footers lie."""
    spoilt = bytearray(data)
    for _ in range(draw.randint(1, 6)):
        size = max(1, len(spoilt))
        place = draw.randrange(size) if draw.random() < 0.6 else size - 1 - draw.randrange(min(size, 2000))
        match draw.randrange(6):
            case 0:
                spoilt[place : place + 1] = bytes([draw.choice((0, 1, 127, 128, 255))])
            case 1:
                spoilt[place : place + 8] = draw.choice((2**63 - 1, 2**31 - 1, -1, 2**62)).to_bytes(
                    8, "little", signed=True
                )
            case 2:
                del spoilt[place : place + draw.randint(1, 50)]
            case 3:
                spoilt[place:place] = draw.randbytes(draw.randint(1, 50))
            case 4:
                spoilt[place : place + 64] = spoilt[:64]
            case _:
                spoilt[place : place + 1] = bytes([draw.randrange(256)])
    return bytes(spoilt)


def _text(draw: random.Random) -> str:
    return "".join(draw.choice(TEXTS) for _ in range(draw.randint(1, 3)))


def _value(draw: random.Random, depth: int = 0) -> Any:
    kind = draw.random()
    if kind < 0.4 or depth > 4:
        return _text(draw)
    if kind < 0.7:
        return draw.choice(VALUES)
    parts = [_value(draw, depth + 1) for _ in range(draw.randint(0, 3))]
    return parts if kind < 0.85 else {draw.choice((*FIELDS, "text", "kind", "whole")): part for part in parts}


def _json(folder: Path) -> Case:
    def case(draw: random.Random) -> None:
        fields = {draw.choice(FIELDS): _value(draw) for _ in range(draw.randint(0, 5))}
        text = json.dumps(fields).encode() if draw.random() < 0.95 else b'{"caption":' * draw.randint(1, 50_000)
        txt = _text(draw).encode(errors="surrogatepass") if draw.random() < 0.3 else None
        parse_annotations(txt, damage(text, draw) if draw.random() < 0.5 else text)

    return case


def _captions(folder: Path) -> Case:
    """Texts through the recipe of all roles; whatever is used must be ids of the tokenizer, within the length."""
    tokenizer = train_tokenizer(["a dog runs", "how many dogs? two"] * 3, vocab_size=300)
    takes = {"source": "description", "caption": "captions", "target": "questions"}
    recipes = [Recipe({}, {role: TextSpec(take, 2, 24)}, tokenizer) for role, take in takes.items()]
    recipes += [Recipe({}, {role: TextSpec("captions", 2, 24)}, tokenizer) for role in ("prompt", "target")]

    def case(draw: random.Random) -> None:
        captions = tuple(
            Caption(_text(draw), draw.choice(("en", "de", _text(draw)))) for _ in range(draw.randint(0, 3))
        )
        questions = tuple(Question(_text(draw), _text(draw), "k") for _ in range(draw.randint(0, 3)))
        example = Example(_text(draw), _text(draw), {}, captions, questions, _text(draw))
        for recipe in recipes:
            row = recipe.prepare(("fuzz", 0, 0, example), np.random.default_rng(0))
            ids = [id for sequences in row.sequences.values() for sequence in sequences for id in sequence.ids]
            assert all(0 <= id < tokenizer.vocab_size for id in ids) and len(ids) <= 2 * 24
            recipe.collate([row], 1)

    return case


def _config(folder: Path) -> Case:
    """Settings that are missing, or of another value or type: what a person's own config file may hold."""

    def case(draw: random.Random) -> None:
        config = tiny.get_config("shards/*.tar") if draw.random() < 0.5 else own_data.get_config("small")
        config = config.copy_and_resolve_references().unlock()
        for _ in range(draw.randint(1, 3)):
            name = draw.choice(list(flatten(config.to_dict()))).split(".")
            node: Any = config
            for part in name[: draw.randint(0, len(name) - 1)]:
                node = node[part]
            if not isinstance(node, ConfigDict) or not len(node):
                continue
            key = draw.choice(list(node))
            if draw.random() < 0.3:
                del node[key]
            else:
                with (
                    node.ignore_type(),
                    contextlib.suppress(OverflowError),
                ):  # of ml_collections, which makes it a float
                    node[key] = copy.deepcopy(draw.choice(SETTINGS))
        validate(config, shards=draw.choice((1, 2, 8)))

    return case


def _source(name: str, files: str) -> Callable[[Path], Case]:
    """Damages one file of a small source, and reads all of its records."""

    def make(folder: Path) -> Case:
        config = ConfigDict(records.WRITERS[name](folder, records.make_records([None] * 12)))
        good = {path: path.read_bytes() for path in sorted(folder.rglob(files)) if path.is_file()}

        def case(draw: random.Random) -> None:
            path = draw.choice(list(good))
            path.write_bytes(damage(good[path], draw))
            try:
                source = make_source(config, ("image", "audio"))
                for index in [*range(min(len(source), 50)), len(source) - 1]:
                    source[index]
            finally:
                path.write_bytes(good[path])
                parquet._open_file.cache_clear(), arrow._open_table.cache_clear()
                parquet._cache = parquet.GroupCache(parquet.CACHE_BYTES)

        return case

    return make


def _signals(decode: Callable[[bytes], Any], *good: bytes) -> Callable[[Path], Case]:
    return lambda folder: lambda draw: decode(damage(draw.choice(good), draw))


PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8))
PICTURES = [records.encode_picture(PICTURE, kind) for kind in ("PNG", "JPEG", "WEBP")]
SOUNDS = [
    records.encode_sound(records.WAVE, file_format=kind, subtype=subtype)
    for kind, subtype in (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"))
]
FAMILIES: Mapping[str, tuple[int, Callable[[Path], Case]]] = {  # cases of 20,000
    "tar": (4000, _source("webdataset", "*.tar")),
    "JSON": (4000, _json),
    "captions": (4000, _captions),
    "config": (3000, _config),
    "JSON lines": (1000, _source("jsonl", "*.jsonl")),
    "Parquet": (1000, _source("parquet", "*.parquet")),
    "Arrow": (1000, _source("arrow", "*.*")),
    "TFDS": (500, _source("tfds", "*.*")),
    "images": (1000, _signals(decode_image, *PICTURES)),
    "sounds": (500, _signals(functools.partial(decode_audio, max_seconds=1.0), *SOUNDS)),
}


def run(family: str, cases: int, *, seed: int, folder: Path) -> dict[str, Any]:
    """Runs so many cases; returns how many were refused, the slowest, and every one that ended in any other way."""
    case, refused, slowest, findings = FAMILIES[family][1](folder), 0, 0.0, []
    for number in range(cases):
        faulthandler.dump_traceback_later(HANGS, exit=True)
        start = time.process_time()
        try:
            case(random.Random(f"{family} {seed} {number}"))
        except (MmfuseError, BadRecord):
            refused += 1
        except Exception as error:
            findings.append(f"{family} {seed} {number}: {type(error).__name__}: {str(error)[:200]}")
        seconds = time.process_time() - start
        slowest = max(slowest, seconds)
        if seconds > SECONDS:
            findings.append(f"{family} {seed} {number}: {seconds:.1f} s")
    faulthandler.cancel_dump_traceback_later()
    return {"family": family, "cases": cases, "refused": refused, "slowest_seconds": slowest, "findings": findings}
