import re

import numpy as np
import pytest
from PIL import Image

from benchmarks.record import read
from benchmarks.routing_page import measured
from benchmarks.tables import DOCS, PAGES, README, readme
from tests import small_released


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_generated_from_the_results(page):
    assert (DOCS / page).read_text() == PAGES[page]()


def test_the_readmes_table_is_generated_from_the_results():
    assert README.read_text() == readme()


def test_tables_show_the_spread_over_seeds(monkeypatch):
    first = {**read("emoji")[-1], "seed": 0, "command": "python main.py --config=a.py", "steps": 100, "minutes": 2.0}
    second = first | {"seed": 1, "command": "python main.py --config=a.py --config.seed=1", "steps": 102}
    key = "retrieval/image_to_text/de/recall_at_1"
    first["summary"], second["summary"] = (first["summary"] | {key: value} for value in (0.25, 0.5))
    lines = {"emoji": [second, first]}
    monkeypatch.setattr("benchmarks.tables.read", lambda name: lines.get(name) or read(name))
    page = PAGES["benchmarks.md"]()
    assert "`python main.py --config=a.py`," in page
    assert "seeds 0, 1, mean ± standard deviation: 101 ± 1 steps in 2.0 ± 0.0 minutes." in page
    assert "| de | 0.375 ± 0.177 | " in page


def test_runs_of_the_routing_experiment_are_told_apart_by_config_seed_and_phase(monkeypatch):
    def run(seed, answers, steps=50):
        summary = {"vqa/accuracy": answers}
        command = f"python main.py --config.seed={seed}"
        return {"command": command, "seed": seed, "git": "ab", "summary": summary, "steps": steps}

    def cost(which, seed, phase, share, git="ab"):
        command = f"python main.py --config=configs/router.py:{which} --workdir=runs/x"
        return {"run": command, "run_git": git, "seed": seed, "phase": phase, "flops_share": share}

    costs = [cost("dense", 0, "train", 1.0), cost("routed_34", 0, "train", 0.9), cost("routed_34", 0, "train", 0.4)]
    lines = {
        "routing": [
            *costs,
            cost("routed_34", 1, "train", 0.6),
            cost("routed_34", 1, "train", 0.2, git="before"),
            cost("routed_34", 0, "inference", 0.5),
            cost("routed_50", 0, "train", 0.7),
            cost("image,audio", 0, "train", 0.8),
        ],
        "router_dense": [run(1, 0.2, steps=40), run(0, 0.9)],
        "router_routed_34": [run(0, 0.1), run(1, 0.5), run(0, 0.7)],
        "router_image_audio": [run(0, 0.3)],
        "router_routed_50": [run(0, 0.6, steps=40)],  # of an experiment before this one
    }
    monkeypatch.setattr("benchmarks.routing_page.read", lines.get)
    found = measured()
    assert found.keys() == {"dense", "routed_34", "image,audio"} and found["routed_34"].keys() == {
        "train",
        "inference",
        "run",
        "kept",
    }
    # of the dense run of the same seed, which is there for seed 0 alone
    assert f"{found['routed_34']['kept']['vqa/accuracy']:.3f}" == f"{0.7 / 0.9:.3f}"
    # the newer measurement of seed 0 counts
    assert f"{found['routed_34']['train']['flops_share']:.2f}" == "0.50 ± 0.14"
    assert f"{found['routed_34']['run']['vqa/accuracy']:.2f}" == "0.60 ± 0.14"


def test_the_readme_names_what_is_there():
    text = README.read_text()
    for path in ("configs/tiny.py", "configs/parts.py", "mmfuse/build.py", "mmfuse/types.py", "mmfuse/experiment.py"):
        assert path in text and (README.parent / path).exists()


def test_the_example_of_released_weights_runs_as_it_stands(tmp_path, monkeypatch):
    code = re.search(r"```python\n(.*?)```", (DOCS / "weights.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    small_released.write_model(tmp_path / "clip-vit-base-patch32", "clip")
    Image.fromarray(np.full((20, 17, 3), 99, np.uint8)).save("cat.jpg")
    found = {}
    exec(code[1], found)
    assert found["logits"].shape == (1, 2) and np.isfinite(found["logits"]).all()
    names = {path.name for path in (tmp_path / "clip-vit-base-patch32").iterdir()}
    assert {path.name for path in (tmp_path / "exported").iterdir()} == names
