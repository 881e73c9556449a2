"""Can every record of a set of tars be used, and are the tars still those that were checked?

    python -m input_pipeline.prepare verify --shards 'DIR/*.tar' --out=manifest.json
    python -m input_pipeline.prepare verify --manifest=manifest.json

The first decodes every image, sound and text as training does, and writes what it found. The second compares tars with
a manifest by their hashes, and decodes nothing. Both end with exit code 2 when something is wrong. Nothing is mended.

The manifest is JSON, a function of the tars alone:

    {"format": "mmfuse manifest 1",
     "shards": {PATH, relative to the manifest's folder: {
        "bytes": size of the tar, "sha256": its hash; both null where it cannot be read,
        "error": null, or why the tar itself is damaged; the numbers are then of what comes before the damage,
        "records": number of records = "used" + the sum of all "count",
        "used": number of records that can be used,
        "having": {"image", "audio", "captions" and so on: number of the used records that have it},
        "rejected": {REASON: {"count": number of records, "first": keys of the first ten}},
        "ignored": {WHY: number of members that are no part of a record}}}}
"""

import argparse
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from input_pipeline.prepare.output import require_writable
from input_pipeline.prepare.table import format_table
from input_pipeline.sources.patterns import expand_patterns
from input_pipeline.sources.tar_scan import scan_tar
from input_pipeline.sources.webdataset import Webdataset
from input_pipeline.transforms import BadRecord
from input_pipeline.transforms.audio import decode_audio
from input_pipeline.transforms.image import decode_image
from input_pipeline.transforms.text import clean_text
from mmfuse.types import ConfigError, DataError, Example, Rejected

FORMAT = "mmfuse manifest 1"
FIRST_KEYS = 10
TEXTS = ("captions", "questions", "description", "foil")
MAX_SECONDS = 60.0  # of one sound; more than a training bucket holds, little enough for any memory


class Report(NamedTuple):
    """What is known of one tar: the fields of the manifest."""

    bytes: int | None = None
    sha256: str | None = None
    error: str | None = None
    records: int = 0
    used: int = 0
    having: Mapping[str, int] = {}
    rejected: Mapping[str, dict[str, Any]] = {}
    ignored: Mapping[str, int] = {}

    @property
    def faults(self) -> list[str]:
        """What is wrong with the tar, in a few words each."""
        damage = [self.error] if self.error else []
        return damage + [f"{entry['count']} × {reason}" for reason, entry in sorted(self.rejected.items())]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own flags."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--shards", nargs="+", help="patterns of tars to decode")
    what.add_argument("--manifest", help="a manifest to compare its tars with")
    parser.add_argument("--out", help="the manifest to write, with --shards")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="number of tars read at a time")


def run(options: argparse.Namespace) -> str:
    """Checks the tars; prints what is wrong and raises DataError where something is."""
    if options.workers < 1:
        raise ConfigError(f"workers is {options.workers}: write 1 or more.")
    if options.manifest:
        return _run_manifest(options.manifest, options.workers)
    if not options.out:
        raise ConfigError("there is no place for the manifest: add --out=manifest.json.")
    require_writable(options.out)
    reports = verify_shards(expand_patterns(options.shards), options.workers)
    write_manifest(options.out, reports)
    print(format_summary(reports))
    damaged = sum(bool(report.faults) for report in reports.values())
    if damaged:
        raise DataError(
            f"{damaged} of {len(reports)} tars are damaged or hold records that cannot be used: "
            f"{options.out} says which and why."
        )
    return f"every record can be used; wrote {options.out}"


def verify_shards(paths: Iterable[str], workers: int) -> dict[str, Report]:
    """Returns the report of each tar."""
    # Decoding and hashing let go of the interpreter: 2,000 JPEGs of 384 × 384 take 3.6 s in one thread on two cores,
    # 2.1 s in two threads, and 4.9 s in two processes, whose imports cost more than they gain.
    paths = list(paths)
    with ThreadPoolExecutor(workers) as pool:
        return dict(zip(paths, pool.map(verify_shard, paths), strict=True))


def verify_shard(path: str) -> Report:
    """Hashes one tar and decodes every record in it. Damage is reported, never raised."""
    report = Report()
    try:
        # The hash reads the tar from the disk; the records are then read from the page cache.
        report = Report(os.path.getsize(path), hash_file(path))
        cut = scan_tar(path).cut
        if cut:
            report = report._replace(error=f"{cut.reason} at byte {cut.byte}")
        source = Webdataset(path)
    except (DataError, OSError) as error:
        return report._replace(error=report.error or str(error))
    rejected: dict[str, dict[str, Any]] = {}
    having: Counter[str] = Counter()
    for index in range(len(source)):
        example = source[index]
        key, reason = _try_record(example)
        if reason:
            entry = rejected.setdefault(reason, {"count": 0, "first": []})
            entry["count"] += 1
            entry["first"] += [key.removeprefix(f"{path}:")] if entry["count"] <= FIRST_KEYS else []
        elif isinstance(example, Example):
            having.update([*example.signals, *(name for name in TEXTS if getattr(example, name))])
    used = len(source) - sum(entry["count"] for entry in rejected.values())
    return report._replace(
        records=len(source), used=used, having=dict(having), rejected=rejected, ignored=dict(source.ignored)
    )


def _try_record(example: Example | Rejected) -> tuple[str, str | None]:
    """The key of a record, and why it cannot be used."""
    if isinstance(example, Rejected):
        return example.key, example.reason
    try:
        decode_record(example)
    except BadRecord as bad:
        return example.key, bad.reason
    return example.key, None


def decode_record(example: Example) -> None:
    """Decodes every signal and cleans every text. Training may draw any of them, so that one bad one is enough.

    Raises:
      BadRecord: a signal or a text that cannot be used.
    """
    if "image" in example.signals:
        decode_image(example.signals["image"])
    if "audio" in example.signals:
        decode_audio(example.signals["audio"], max_seconds=MAX_SECONDS)
    questions = [text for question in example.questions for text in (question.text, question.answer)]
    described = filter(None, (example.description, example.foil))
    for text in [*(caption.text for caption in example.captions), *questions, *described]:
        clean_text(text)


def hash_file(path: str | Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def format_summary(reports: Mapping[str, Report]) -> str:
    """A table of the tars in which something is wrong, the sum over all tars, and what there is in all of them."""
    rows = [
        (path, report.records, report.used, "; ".join(report.faults))
        for path, report in reports.items()
        if report.faults
    ]
    records, used = (sum(getattr(report, name) for report in reports.values()) for name in ("records", "used"))
    total = (f"all {len(reports)} tars", records, used, "")
    lines = [format_table([("tar", "records", "used", "what is wrong"), *rows, total])]
    for title, name in (("used records that have", "having"), ("members that are no part of a record", "ignored")):
        numbers = sum((Counter(getattr(report, name)) for report in reports.values()), Counter())
        if numbers:
            lines.append(f"{title}: " + ", ".join(f"{what} {number:,}" for what, number in sorted(numbers.items())))
    return "\n".join(lines)


def write_manifest(manifest: str | Path, reports: Mapping[str, Report]) -> None:
    """Writes the manifest whole or not at all."""
    manifest = Path(manifest)
    shards = {os.path.relpath(path, manifest.parent): report._asdict() for path, report in reports.items()}
    text = json.dumps({"format": FORMAT, "shards": shards}, indent=1, sort_keys=True, ensure_ascii=False)
    part = manifest.with_name(manifest.name + ".part")
    # Names of files need not be UTF-8: what is not becomes an escape of JSON, and comes back from it.
    part.write_bytes(f"{text}\n".encode(errors="backslashreplace"))
    os.replace(part, manifest)


def read_manifest(manifest: str | Path) -> dict[str, Report]:
    """Reads what `write_manifest` wrote: path of each tar → report.

    Raises:
      DataError: no such file, or it is no manifest.
    """
    manifest = Path(manifest)
    try:
        content = json.loads(manifest.read_bytes())
        if content["format"] != FORMAT:
            raise ValueError(content["format"])
        return {
            os.path.normpath(manifest.parent / name): Report(**fields) for name, fields in content["shards"].items()
        }
    except OSError as error:
        raise DataError(
            f"{manifest} cannot be read ({error.strerror}): write it with verify --shards … --out."
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DataError(f"{manifest} is no manifest of the format '{FORMAT}': write it again with --shards.") from None


def compare_manifest(manifest: str | Path, workers: int) -> dict[str, str]:
    """Returns what is wrong with each tar: "missing", "changed", or "extra", a tar in their folders that is not listed.

    A tar that was damaged when the manifest was written and is the same now is not named.
    """
    reports = read_manifest(manifest)
    with ThreadPoolExecutor(workers) as pool:
        states = pool.map(_compare, reports, reports.values())
        faults = {path: fault for path, fault in zip(reports, states, strict=True) if fault}
    folders = {os.path.dirname(path) for path in reports}
    found = {str(tar) for folder in folders for tar in Path(folder).glob("*.tar")}
    return faults | dict.fromkeys(sorted(found - reports.keys()), "extra")


def _compare(path: str, report: Report) -> str | None:
    try:
        same = os.path.getsize(path) == report.bytes and hash_file(path) == report.sha256
    except FileNotFoundError:
        return "missing"
    except OSError:
        return "cannot be read"
    return None if same else "changed"


def _run_manifest(manifest: str, workers: int) -> str:
    faults = compare_manifest(manifest, workers)
    if faults:
        print(format_table([(fault, path) for path, fault in faults.items()]))
        raise DataError(f"{len(faults)} tars are not as {manifest} says: copy them again, or write a new manifest.")
    return f"every tar is as {manifest} says"
