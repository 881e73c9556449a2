"""Do data get code run, or files written, when they are read?

    python -m benchmarks.hostile.traps

Every trap is laid in a folder, and read as training reads it, in a process whose audit hook writes down what runs and
what is opened for writing. Each payload would make a folder, the canary. Prints a JSON line.
"""

import io
import json
import logging
import os
import pickle
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.hostile.bombs import tar_header
from benchmarks.hostile.records import good_record, make_records, write_tfds
from input_pipeline.sources.arrow import Arrow
from input_pipeline.sources.contract import Source
from input_pipeline.sources.jsonl import Jsonl
from input_pipeline.sources.parquet import Parquet
from input_pipeline.sources.tfds import Tfds
from input_pipeline.sources.webdataset import Webdataset
from input_pipeline.streams import Recipe
from input_pipeline.texts import TextSpec
from input_pipeline.tokenizers import train_tokenizer
from mmfuse.types import MmfuseError

BOTH = ("image", "audio")
Make = Callable[[], Source]
RUNS = (
    "pickle.find_class",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "pty.spawn",
)
CHANGES = (
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.utime",
)


class Canary:
    """What unpickles by making a folder."""

    def __init__(self, folder: Path):
        self.path = str(folder / "canary")

    def __reduce__(self):
        return os.mkdir, (self.path,)


def _payloads(folder: Path) -> Mapping[str, bytes]:
    """The canary, as the formats hold it that people load with pickle."""
    pickled, array, archive = pickle.dumps(Canary(folder)), io.BytesIO(), io.BytesIO()
    np.savez(array, allow_pickle=True, x=np.array([Canary(folder)], dtype=object))
    with zipfile.ZipFile(archive, "w") as checkpoint:  # as torch saves
        checkpoint.writestr("archive/data.pkl", pickled)
    return {"pkl": pickled, "pyd": pickled, "npz": array.getvalue(), "pt": archive.getvalue()}


def _tar(folder: Path) -> Make:
    """Pickles under every name, names that climb out, links, a header that claims 8 GB."""
    good = good_record(1)
    with tarfile.open(folder / "trap.tar", "w") as tar:

        def add(name: str, data: bytes = b"", **fields):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for field, value in fields.items():
                setattr(member, field, value)
            tar.addfile(member, io.BytesIO(data))

        add("a.png", good.image)
        add("a.txt", b"a good one")
        for extension, data in _payloads(folder).items():
            add(f"b.{extension}", data)
            for known in ("png", "wav", "txt", "json"):
                add(f"b-{extension}.{known}", data)
        for name in ("../climbs.txt", "/tmp/canary.txt", "c/../../climbs.png", "pipe:touch canary;.txt"):
            add(name, b"text")
        add("d.txt", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add("d.png", type=tarfile.LNKTYPE, linkname="../outside.png")
        add("e", type=tarfile.DIRTYPE)
    with open(folder / "trap.tar", "r+b") as file:  # in place of the mark at its end
        file.seek(-tarfile.RECORDSIZE, os.SEEK_END)
        place = file.tell() + file.read().rstrip(b"\0").__len__()
        file.seek(-(-place // 512) * 512)
        file.write(tar_header("f.png", 8 << 30))
    return lambda: Webdataset(str(folder / "trap.tar"), signals=BOTH)


def _pattern(source: Callable[[str], Source], start: str) -> Callable[[Path], Make]:
    """A name that other libraries hand to a shell."""
    return lambda folder: lambda: source(f"{start}mkdir {folder}/canary")


def _lines(folder: Path) -> Make:
    """Paths that run something, lead out, or lead to pickles."""
    for extension, data in _payloads(folder).items():
        (folder / f"file.{extension}").write_bytes(data)
    (folder / "link.png").symlink_to("/etc/passwd")
    (folder / "up").symlink_to("..")
    names = [f"pipe:mkdir {folder}/canary", f"|mkdir {folder}/canary", "../outside.png", "/etc/passwd", "link.png"]
    names += ["up/outside.png", *(f"file.{extension}" for extension in _payloads(folder)), "file:///etc/passwd"]
    rows = [{"image": name, "audio": name, "caption": "a"} for name in names]
    (folder / "trap.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return lambda: Jsonl(str(folder / "trap.jsonl"), signals=BOTH)


def _table(folder: Path):
    """Pickles as cells, and as the extension type that pyarrow once unpickled (CVE-2023-47248)."""
    import pyarrow as pa

    pickles = list(_payloads(folder).values())
    extension = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Canary(folder)),
    }
    caption = pa.field("caption", pa.string(), metadata=extension)
    schema = pa.schema([pa.field("image", pa.binary()), pa.field("audio", pa.binary()), caption])
    return pa.table([pickles, pickles, ["a"] * len(pickles)], schema=schema)


def _parquet(folder: Path) -> Make:
    import pyarrow.parquet as pq

    pq.write_table(_table(folder), folder / "trap.parquet")
    return lambda: Parquet(str(folder / "trap.parquet"), signals=BOTH)


def _arrow(folder: Path, name: str = "trap.arrow") -> Make:
    import pyarrow as pa

    table = _table(folder)
    with pa.ipc.new_stream(str(folder / "trap.arrow"), table.schema) as stream:
        stream.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    return lambda: Arrow(str(folder), signals=BOTH)


def _tfds(folder: Path) -> Make:
    """A set whose features name a module beside it, which tfds would import."""
    write_tfds(folder, make_records([None]))
    (folder / "payload.py").write_text(f"import os\nos.mkdir({str(folder / 'canary')!r})\n")
    sys.path.insert(0, str(folder))
    for path in folder.rglob("features.json"):
        path.write_text('{"pythonClassName": "payload.Feature", "featuresDict": {"features": {}}}')
    return lambda: Tfds("hostile", folder, split="train", signals=BOTH)


TRAPS: Mapping[str, Callable[[Path], Make]] = {
    "webdataset": _tar,
    "jsonl": _lines,
    "parquet": _parquet,
    "arrow": _arrow,
    "arrow that climbs out": lambda folder: _arrow(folder, "../outside.arrow"),
    "tfds": _tfds,
    **{
        f"{source.__name__}, {start}": _pattern(source, start)
        for source in (Webdataset, Jsonl, Parquet)
        for start in ("pipe:", "|", ";")
    },
}


class Watch:
    """Writes down what runs, and what changes a disk outside of one folder, while it is entered."""

    def __init__(self, allowed: str):
        self.allowed, self.events, self.entered = allowed, [], False
        sys.addaudithook(self._see)

    def __enter__(self):
        self.entered = True

    def __exit__(self, *exception):
        self.entered = False

    def _see(self, event: str, arguments: tuple) -> None:
        if not self.entered:
            return
        writes = event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        inside = bool(arguments) and str(arguments[0]).startswith(self.allowed)
        if event.startswith(RUNS) or ((writes or event.startswith(CHANGES)) and not inside):
            self.events.append(f"{event} {arguments[:1]}")


def read_all(make: Make, recipe: Recipe) -> tuple[int, int]:
    """Reads and decodes every record, as training does; returns how many were used, and how many refused."""
    try:
        source = make()
    except MmfuseError:
        return 0, 1
    generator = np.random.default_rng(0)
    rows = [recipe.prepare(("trap", 0, index, source[index]), generator) for index in range(len(source))]
    refused = sum(row.rejected is not None for row in rows)
    return len(rows) - refused, refused


def spring(folder: Path) -> dict[str, Any]:
    """Lays and reads all traps below a folder; returns what happened while they were read."""
    spec = {"caption": TextSpec("captions", 1, 16)}
    recipe = Recipe({"image": (8, 8), "audio": (800,)}, spec, train_tokenizer(["a"] * 3, vocab_size=300))
    os.environ["MMFUSE_CACHE"] = str(folder / "cache")
    watch, used, refused = Watch(str(folder / "cache")), 0, 0
    for name, lay in TRAPS.items():
        place = folder / name
        place.mkdir()
        make = lay(place)
        with watch:
            counts = read_all(make, recipe)
        used, refused = used + counts[0], refused + counts[1]
    canaries = [str(path) for path in folder.rglob("canary")]
    return {"traps": len(TRAPS), "used": used, "refused": refused, "events": watch.events, "canaries": canaries}


def main() -> None:
    """Prints what `spring` found."""
    logging.disable(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(spring(Path(folder))))


if __name__ == "__main__":
    main()
