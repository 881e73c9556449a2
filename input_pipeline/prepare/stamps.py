"""How do the stamps of Tux Paint become real pictures with real words, spoken by real people?

    apt-get install tuxpaint-stamps-default
    python -m input_pipeline.prepare stamps --folder=/usr/share/tuxpaint/stamps --out=DIR

A stamp is a drawing or photograph, a PNG with transparency; its description is written in some sixty languages and
spoken in some ten. Each language that it is spoken in is a record for `Webdataset`:

    animals_cats_lion-fr.png     as the package has it
    animals_cats_lion-fr.ogg     the description as it is spoken
    animals_cats_lion-fr.txt     and as it is written, where it is
    animals_cats_lion-fr.json    language, concept

The concept is the English description: stamps that share it show the same thing. What its hash says decides for each
concept whether it is in `train-*.tar`, `validation-*.tar` or `test-*.tar`, 70, 15 and 15 of 100. No picture is on two
sides. A word in another language may stand for two concepts, most often a letter, large and small: of the test of
version 2022.06.04 17 of 906 sounds and 13 of 894 captions are in training, too.

Stamps: © the artists and speakers of tuxpaint-stamps, GPL 2 or later. Whoever passes the tars on must name them.
"""

import argparse
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from input_pipeline.prepare.shards import require_no_tars, write_tars
from mmfuse.types import DataError

ENGLISH = "en"  # the language of what names none
BELOW = {"train": 0.7, "validation": 0.85, "test": 1.0}  # of the hash of a concept, as a share
RECORDS_PER_TAR = 500


class Spoken(NamedTuple):
    """A stamp in one language, as files of a record, and the concept it shows."""

    concept: str
    files: dict[str, bytes]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own flags."""
    parser.add_argument("--folder", required=True, help="of the stamps, as the package installs it")
    parser.add_argument("--out", required=True, help="folder for the tars")


def run(options: argparse.Namespace) -> str:
    """Writes the tars, and says how many records each split has."""
    out = Path(options.out)
    require_no_tars(out)
    spoken = list(read_stamps(Path(options.folder)))
    if not spoken:
        raise DataError(f"{options.folder} has no stamp that is spoken: name the folder `stamps` of the package.")
    counts = []
    for split in BELOW:
        records = [record.files for record in spoken if split_of(record.concept) == split]
        random.Random(split).shuffle(records)
        write_tars(out, records, per_tar=RECORDS_PER_TAR, prefix=f"{split}-")
        counts.append(f"{len(records)} for {split}")
    return f"wrote {len(spoken)} records of {len({record.concept for record in spoken})} concepts: {', '.join(counts)}"


def read_stamps(folder: Path) -> Iterator[Spoken]:
    """Yields every stamp that has a description, in each language that it is spoken in, in the order of their names.

    Raises:
      DataError: the folder is not there.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: install tuxpaint-stamps-default, or name another with --folder.")
    for picture in sorted(folder.rglob("*.png")):
        if (described := picture.with_suffix(".txt")).is_file():
            texts = read_description(described.read_text("utf-8", errors="replace"))
            png = picture.read_bytes()
            name = "_".join(picture.relative_to(folder).with_suffix("").parts).replace(".", "_")
            for sound in sorted(picture.parent.glob(f"{picture.stem}_desc*.ogg")):
                language = sound.name.removeprefix(f"{picture.stem}_desc").partition(".")[0].strip("_") or ENGLISH
                key, concept = f"{name}-{language}", texts.get(ENGLISH, name)
                fields = {"language": language, "concept": concept}
                files = {"png": png, "ogg": sound.read_bytes()}
                files |= {"txt": texts[language].encode()} if texts.get(language) else {}
                files |= {"json": json.dumps(fields, ensure_ascii=False).encode()}
                yield Spoken(concept, {f"{key}.{kind}": data for kind, data in files.items()})


def read_description(text: str) -> dict[str, str]:
    """Returns language → description, of a file with the English one first, then lines `fr.utf8=Un lion.`"""
    lines = text.splitlines()
    pairs = [(ENGLISH, lines[0])] if lines else []
    pairs += [(code, words) for code, mark, words in (line.partition(".utf8=") for line in lines[1:]) if mark]
    return {code: words.strip() for code, words in pairs if words.strip()}


def split_of(concept: str) -> str:
    """Which split a concept is in: a function of its name alone."""
    share = int.from_bytes(hashlib.sha256(concept.encode()).digest()[:4]) / 2**32
    return next(split for split, below in BELOW.items() if share < below)
