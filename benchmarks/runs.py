"""How does a finished run become a result?

    python main.py --config=configs/emoji.py --workdir=runs/emoji
    python -m benchmarks.runs emoji runs/emoji

The run's own flags, git hash and seed, what it reached, and how long its steps took, as it wrote them down.
"""

import argparse
import json
from pathlib import Path

from benchmarks.record import append


def main() -> None:
    """Appends to `results/{name}.jsonl`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of the file in results/")
    parser.add_argument("workdir", type=Path, help="of the finished run")
    options = parser.parse_args()
    config, provenance, summary = (
        json.loads((options.workdir / f"{name}.json").read_text()) for name in ("config", "provenance", "summary")
    )
    steps = [json.loads(line) for line in (options.workdir / "timing.jsonl").read_text().splitlines()]
    numbers = {"steps": len(steps), "minutes": sum(step["seconds"] for step in steps) / 60, "summary": summary}
    command = " ".join(["python main.py", *provenance["flags"]])
    its_own = {name: provenance[name] for name in ("git", "flags", "changed")}
    append(options.name, command=command, seed=config["config"]["seed"], numbers=numbers | its_own)


if __name__ == "__main__":
    main()
