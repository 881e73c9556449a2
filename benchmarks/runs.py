"""How does a finished run that no sweep has made become a result?

python main.py --config=configs/emoji.py --workdir=runs/emoji
python -m benchmarks.runs emoji runs/emoji
"""

import argparse
import json

from mmfuse.results import RESULTS, add_run, run_line


def main() -> None:
    """Appends to `results/{name}.jsonl`, if the run is not there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of the file in results/")
    parser.add_argument("workdir", help="of the finished run")
    options = parser.parse_args()
    line = run_line(options.workdir)
    added = add_run(RESULTS / f"{options.name}.jsonl", line)
    print(json.dumps(line, indent=2) if added else "this run is there already")


if __name__ == "__main__":
    main()
