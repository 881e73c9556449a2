"""How do emoji become real pictures with real words in 28 languages?

    python -m input_pipeline.prepare emoji --out=DIR [--packages=FOLDER]
    python -m input_pipeline.prepare emoji --out=OTHER --artist=emojione

An artist's drawings of the 1,911 base emoji (of those that come in several skin tones, the one with none chosen) meet
the names and keywords of the Unicode CLDR. Both come as npm packages of pinned content, 68 MB. `npm pack` downloads
them, or `--packages` names a folder where they are already. Nothing is installed, run or unpacked. Each emoji is a
record for `Webdataset`:

    1F600.png     64×64, with transparency, as the artist's package has it
    1F600.json    key, concept, emoji, artist, group, subgroup, captions

The concept is the hexcode without the variation selector FE0F, so that every artist's drawing of an emoji has the
same. The character itself is the json's field `emoji`, and in no caption. The captions in each language:

    grinning face                               the name
    grinning face: cheerful, cheery, face, …    the name with its keywords
    cheerful, cheery, face, …                   the keywords, which name a part: `whole` is false

An emoji without keywords in a language (12 times, in en-gb and es-mx) has its name alone there. The records stand in
the order of a hash, at most 200 in a tar: each tar is a fair sample of the concepts, and can be held out.

The second line is the test of the first: another artist's drawings, of the 1,506 concepts that were there in 2018.

Drawings: Twemoji, © Twitter and contributors, CC-BY 4.0, packed by emoji-datasource, MIT; EmojiOne 4.5, © JoyPixels,
under its own free licence, which allows this use and asks to be named. Words: emojibase-data, MIT, from the Unicode
CLDR. Whoever passes the tars on must name them.
"""

import argparse
import hashlib
import io
import json
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from input_pipeline.prepare.shards import require_no_tars, write_tars
from mmfuse.types import DataError

LANGUAGES = (
    *("bn", "da", "de", "en", "en-gb", "es", "es-mx", "et", "fi", "fr", "hi", "hu", "it", "ja"),
    *("ko", "lt", "ms", "nb", "nl", "pl", "pt", "ru", "sv", "th", "uk", "vi", "zh", "zh-hant"),
)
RECORDS_PER_TAR = 200


class Package(NamedTuple):
    """An npm package: `sha256` is of its whole .tgz."""

    name: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        """The name that `npm pack` gives it."""
        return f"{self.name}-{self.version}.tgz"


class Drawing(NamedTuple):
    """An artist's drawing of one emoji, and where the Unicode charts put that emoji."""

    png: bytes
    group: str
    subgroup: str


WORDS = Package("emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a")
ARTISTS = {
    "twitter": Package(
        "emoji-datasource-twitter", "16.0.0", "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"
    ),
    "emojione": Package("emojione-assets", "4.5.0", "f55c1e3f230f1d552f17d18c936181234c9b155e304002d865124e6b0048acb5"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own flags."""
    parser.add_argument("--out", required=True, help="folder for the tars")
    parser.add_argument("--artist", choices=tuple(ARTISTS), default="twitter", help="whose drawings")
    parser.add_argument("--packages", help="folder with the packages' .tgz files; without it they are downloaded")


def run(options: argparse.Namespace) -> str:
    """Writes the tars, and says how many emoji they have and how many had no partner."""
    out = Path(options.out)
    require_no_tars(out)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.packages or scratch)
        if options.packages is None:
            download_packages((ARTISTS[options.artist], WORDS), folder)
        drawings = READERS[options.artist](folder)
        words = read_words(folder)
    concepts = set(drawings).intersection(*words.values())
    tars = write_tars(out, list(join_records(concepts, drawings, words, options.artist)), per_tar=RECORDS_PER_TAR)
    return (
        f"wrote {len(concepts)} emoji in {len(words)} languages to {tars} tars in {out}; "
        f"left out: drawings without words in every language: {len(drawings) - len(concepts)}, "
        f"words without a drawing: {len(words['en'].keys() - drawings.keys())}"
    )


def download_packages(packages: Sequence[Package], folder: Path) -> None:
    """Downloads packages into a folder by `npm pack`, which runs none of their scripts.

    Raises:
      DataError: npm is missing or fails.
    """
    names = [f"{package.name}@{package.version}" for package in packages]
    command = ["npm", "pack", "--ignore-scripts", "--pack-destination", str(folder), *names]
    mend = f"Run `npm pack {' '.join(names)}` where it works, and name that folder with --packages."
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise DataError(f"npm is not installed, and the packages come by it. {mend}") from None
    except subprocess.CalledProcessError as error:
        raise DataError(f"npm could not download the packages: {error.stderr.strip()}\n{mend}") from None


def read_twitter(folder: Path) -> dict[str, Drawing]:
    """Returns concept → drawing, of the package in `folder`. Raises as `read_package` does."""
    files = read_package(ARTISTS["twitter"], folder, r"package/(emoji\.json|img/twitter/64/[^/]*\.png)")
    return {
        concept_of(entry["unified"]): Drawing(
            files[f"package/img/twitter/64/{entry['image']}"], entry["category"], entry["subcategory"]
        )
        for entry in json.loads(files["package/emoji.json"])
        if entry["has_img_twitter"]
    }


def read_emojione(folder: Path) -> dict[str, Drawing]:
    """As `read_twitter`; this artist has no subgroups, and one drawing for each skin tone, which are left out."""
    files = read_package(ARTISTS["emojione"], folder, r"package/(emoji\.json|png/64/[^/]*\.png)")
    return {
        concept_of(code.upper()): Drawing(files[f"package/png/64/{code}.png"], entry["category"], "")
        for code, entry in json.loads(files["package/emoji.json"]).items()
        if entry["diversity"] is None and f"package/png/64/{code}.png" in files
    }


READERS: Mapping[str, Callable[[Path], dict[str, Drawing]]] = {"twitter": read_twitter, "emojione": read_emojione}


def read_words(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns language → concept → the entry of emojibase: `emoji`, `label`, `tags` … Raises as `read_package` does."""
    files = read_package(WORDS, folder, r"package/[^/]*/data\.json")
    missing = [language for language in LANGUAGES if f"package/{language}/data.json" not in files]
    if missing:
        raise DataError(f"{folder / WORDS.file} has no data.json of {', '.join(missing)}: mend LANGUAGES.")
    return {
        language: {concept_of(entry["hexcode"]): entry for entry in json.loads(files[f"package/{language}/data.json"])}
        for language in LANGUAGES
    }


def read_package(package: Package, folder: Path, wanted: str) -> dict[str, bytes]:
    """Returns name → content of those files in a package that match the regular expression `wanted`.

    Raises:
      DataError: the package is not in the folder, or is not the one that was pinned.
    """
    path = folder / package.file
    if not path.is_file():
        raise DataError(
            f"{path} is not there: run `npm pack {package.name}@{package.version}` in that folder, "
            "or leave --packages out."
        )
    data = path.read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != package.sha256:
        raise DataError(f"{path} has sha256 {found} instead of {package.sha256}: remove it and download it again.")
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        # One pass: going back in a .gz starts it again.
        return {
            member.name: file.read()
            for member in tar
            if re.fullmatch(wanted, member.name) and (file := tar.extractfile(member))
        }


def concept_of(hexcode: str) -> str:
    """Returns a hexcode without FE0F, which some packages write and some leave out."""
    return "-".join(part for part in hexcode.split("-") if part != "FE0F")


def join_records(
    concepts: set[str],
    drawings: Mapping[str, Drawing],
    words: Mapping[str, Mapping[str, Any]],
    artist: str,
) -> Iterator[dict[str, bytes]]:
    """Yields the files of each concept's record, in the order of a hash."""
    for concept in sorted(concepts, key=lambda concept: hashlib.sha256(concept.encode()).digest()):
        drawing = drawings[concept]
        captions = [
            caption for language, entries in words.items() for caption in write_captions(entries[concept], language)
        ]
        fields = {
            "key": concept,
            "concept": concept,
            "emoji": words["en"][concept]["emoji"],
            "artist": artist,
            "group": drawing.group,
            "subgroup": drawing.subgroup,
            "captions": captions,
        }
        yield {f"{concept}.png": drawing.png, f"{concept}.json": json.dumps(fields, ensure_ascii=False).encode()}


def write_captions(entry: Mapping[str, Any], language: str) -> Iterator[dict[str, Any]]:
    """Yields the name, the name with its keywords, and the keywords, as `annotations.py` reads them."""
    label, tags = entry["label"], ", ".join(entry.get("tags", ()))
    yield {"text": label, "language": language, "whole": True}
    if tags:
        yield {"text": f"{label}: {tags}", "language": language, "whole": True}
        yield {"text": tags, "language": language, "whole": False}
