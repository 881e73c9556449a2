"""Which records of a set of tars are worth training on, by a published recipe?

    python -m input_pipeline.prepare filter --shards 'DIR/*.tar' --out=DIR --recipe=coyo --dropped=dropped.tsv

A tar with the records that pass is written for each tar, with the same name, keys and bytes; files beside them with the
same key go along. A record is dropped by the first rule that it breaks, or, before all rules, because its texts or the
header of its image cannot be read. The text of a record is its first caption with runs of white space made one space.

Nothing is overwritten, and a tar appears when it is whole. After an interruption give the same command again: every
record is judged anew, since duplicates are found across tars, and tars that are there already are kept. The hashes
that find repeated texts and duplicates take some 150 bytes of memory a record.

What COYO and LAION also did is left out here where it needs a model, a word list or a data set that is not in the tars:
    coyo    English as cld3 detects it (here: as the json says, "en" where it does not); a noun in the text; words and
            image scores that are not safe for work; images of ImageNet, Flickr30K, COCO, CC3M and CC12M.
            Duplicates are found by a difference hash in place of pHash.
    laion   CLIP similarity of image and text under 0.3; images not safe for work; duplicates by address and text.
Sources: the data card of COYO-700M, Kakao Brain 2022; Schuhmann et al. 2021, arXiv 2111.02114 (LAION-400M).
"""

import argparse
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from input_pipeline.prepare.measures import difference_hash, hash64, image_size
from input_pipeline.prepare.table import format_table
from input_pipeline.sources.patterns import expand_patterns
from input_pipeline.sources.tar_index import open_indexes
from input_pipeline.sources.tar_records import NAME
from input_pipeline.sources.tar_scan import Member, scan_tar
from input_pipeline.sources.webdataset import Webdataset
from input_pipeline.transforms import BadRecord
from input_pipeline.transforms.text import clean_text
from mmfuse.types import DataError, Example, Rejected


class Candidate(NamedTuple):
    """What rules look at.

    Attributes:
      image: encoded; empty where there is none, with height and width 0.
      text, language: of the first caption; empty and "en" where there is none.
      repeats: number of records with this text.
      kept: hashes of image and text of the records that were kept before, see `_is_new`.
    """

    image: bytes
    height: int
    width: int
    text: str
    language: str
    repeats: int
    kept: set[int]


Rule = tuple[str, Callable[[Candidate], bool]]  # what is wrong with a record, and whether a record is free of it


def _is_new(candidate: Candidate) -> bool:
    """Must be the last rule of its recipe: what it lets through counts as kept."""
    key = hash64(difference_hash(candidate.image).to_bytes(8) + candidate.text.encode())
    new = key not in candidate.kept
    candidate.kept.add(key)
    return new


RECIPES: Mapping[str, tuple[Rule, ...]] = {
    "coyo": (
        ("image under 5 KB", lambda record: len(record.image) >= 5_000),
        ("aspect over 3", lambda record: max(record.height, record.width) <= 3 * min(record.height, record.width)),
        ("side under 200 pixels", lambda record: min(record.height, record.width) >= 200),
        ("not English", lambda record: record.language == "en"),
        ("text of 5 characters or fewer", lambda record: len(record.text) > 5),
        ("text not of 3 to 256 words", lambda record: 3 <= len(record.text.split()) <= 256),
        ("text over 1,000 characters", lambda record: len(record.text) <= 1_000),
        ("text more than 10 times", lambda record: record.repeats <= 10),
        ("duplicate of image and text", _is_new),
    ),
    "laion": (
        ("text under 5 characters", lambda record: len(record.text) >= 5),
        ("image under 5 KB", lambda record: len(record.image) >= 5_000),
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own flags."""
    parser.add_argument("--shards", required=True, nargs="+", help="patterns of tars")
    parser.add_argument("--out", required=True, help="folder for the new tars")
    parser.add_argument("--recipe", required=True, choices=sorted(RECIPES))
    parser.add_argument("--dropped", help="a file for the key of each dropped record and why, a line each")


def run(options: argparse.Namespace) -> str:
    """Writes the tars; says how many records each rule dropped."""
    paths, rules = expand_patterns(options.shards), RECIPES[options.recipe]
    with open(options.dropped or os.devnull, "w", encoding="utf-8", errors="backslashreplace") as file:
        counts, written = filter_shards(paths, options.out, rules, file)
    reasons = [name for name, _ in rules] + sorted(counts.keys() - {name for name, _ in rules} - {"kept"})
    rows = [("read", counts.total()), *((reason, counts[reason]) for reason in reasons), ("kept", counts["kept"])]
    return f"{format_table(rows)}\nwrote {written} tars to {options.out}"


def filter_shards(
    paths: Sequence[str], out: str | Path, rules: Sequence[Rule], dropped: IO[str] | None = None
) -> tuple[Counter[str], int]:
    """Writes the records that pass all rules.

    Arguments:
      dropped: where "tar:key", a tab and the reason are written for each record that does not pass.
    Returns:
      The number of records "kept" and of those dropped by each reason, and how many tars were written. A tar is not
      written if nothing is left for it, as of one without records, or if it is there already.
    Raises:
      DataError: two tars of one name, a tar that cannot be read, or a tar in `out` that does not hold what it should.
    """
    _check_names(paths)
    Path(out).mkdir(parents=True, exist_ok=True)
    paths = [path for path, tar in zip(paths, open_indexes(paths), strict=True) if tar.records]
    repeats, counts, kept = count_texts(paths), Counter(), set()
    written = 0
    for path in paths:
        source, keys = Webdataset(path), set()
        for index in range(len(source)):
            example = source[index]
            reason = judge(example, rules, repeats, kept)
            counts[reason or "kept"] += 1
            if reason is None:
                keys.add(example.key.removeprefix(f"{path}:"))
            elif dropped:
                dropped.write(f"{example.key}\t{reason}\n")
        written += copy_records(path, Path(out, os.path.basename(path)), keys)
    return counts, written


def count_texts(paths: Iterable[str]) -> Counter[int]:
    """Returns how many records have the text of each hash; nothing but texts is read from the tars."""
    repeats: Counter[int] = Counter()
    for path in paths:
        source = Webdataset(path, signals=())
        for index in range(len(source)):
            example = source[index]
            if isinstance(example, Example) and example.captions:
                try:
                    repeats[hash64(_text(example).encode())] += 1
                except BadRecord:
                    continue
    return repeats


def judge(example: Example | Rejected, rules: Sequence[Rule], repeats: Mapping[int, int], kept: set[int]) -> str | None:
    """Returns why a record is dropped, or None."""
    if isinstance(example, Rejected):
        return example.reason
    try:
        image, text = example.signals.get("image", b""), _text(example)
        height, width = image_size(image) if image else (0, 0)
        language = example.captions[0].language if example.captions else "en"
        candidate = Candidate(image, height, width, text, language, repeats.get(hash64(text.encode()), 0), kept)
        return next((name for name, passes in rules if not passes(candidate)), None)
    except BadRecord as bad:
        return bad.reason


def copy_records(path: str, target: Path, keys: set[str]) -> bool:
    """Copies every file of the records with these keys into a new tar, in the same order; returns whether it did.

    Raises:
      DataError: the tar is there already and does not hold those files.
    """
    matches = [(NAME.fullmatch(member.name), member) for member in scan_tar(path).members]
    members = [member for match, member in matches if match and match[1] in keys]
    if target.exists():
        present = scan_tar(str(target))
        if present.cut or _listing(present.members) != _listing(members):
            raise DataError(f"{target} is not what this command would write: choose an empty folder, or delete it.")
        return False
    if not members:
        return False
    part = target.with_name(target.name + ".part")
    with open(path, "rb") as source, tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            entry = tarfile.TarInfo(member.name)
            entry.size = member.size
            source.seek(member.offset)
            tar.addfile(entry, source)
    os.replace(part, target)
    return True


def _listing(members: Iterable[Member]) -> list[tuple[str, int]]:
    return [(member.name, member.size) for member in members]


def _text(example: Example) -> str:
    return clean_text(example.captions[0].text) if example.captions else ""


def _check_names(paths: Sequence[str]) -> None:
    name, number = Counter(map(os.path.basename, paths)).most_common(1)[0]
    if number > 1:
        raise DataError(f"{number} tars are named {name}, and would become one: filter each folder by itself.")
