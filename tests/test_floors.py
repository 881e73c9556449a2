"""The house has floors: a file imports strictly lower ones, and siblings of its room without circles."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the ground up; the first prefix that fits says the floor.
FLOORS = {
    "mmfuse.types": 0,
    "input_pipeline": 1,
    "mmfuse.nn": 1,
    "mmfuse.stack": 2,
    "mmfuse.towers": 3,
    "mmfuse.fusion": 3,
    "mmfuse.routing": 3,
    "mmfuse.models": 4,
    "mmfuse.objectives": 5,
    "mmfuse.training": 6,
    "mmfuse.inference": 6,
    "mmfuse.evaluators": 7,
    "mmfuse.analysis": 8,
    "mmfuse.build_towers": 7,
    "mmfuse.build": 8,
    "mmfuse.build_goals": 9,
    "mmfuse.weights.__main__": 11,  # a program, as main is
    "mmfuse.weights": 9,  # a folder of somebody else's is a config of ours first, and then built
    "mmfuse": 10,  # what makes a run of it all: experiment, validate, describe
    "main": 11,
}


def room(module: str) -> str:
    return next(prefix for prefix in FLOORS if module == prefix or module.startswith(prefix + "."))


def imports() -> dict[str, set[str]]:
    """Module → the modules of ours that it imports."""
    files = {
        path: path.relative_to(ROOT) for path in [*ROOT.glob("mmfuse/**/*.py"), *ROOT.glob("input_pipeline/**/*.py")]
    }
    files[ROOT / "main.py"] = Path("main.py")
    names = {
        path: ".".join(relative.with_suffix("").parts).removesuffix(".__init__") for path, relative in files.items()
    }
    found = {}
    for path, name in names.items():
        wanted = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name}: relative import"
                for alias in node.names:  # a module of a package, or a thing of a module
                    module = f"{node.module}.{alias.name}"
                    wanted.add(module if module in names.values() else node.module)
        found[name] = (wanted & set(names.values())) - {name}
    return {
        name: {target for target in wanted if target not in ("mmfuse", "input_pipeline")}
        for name, wanted in found.items()
    }


IMPORTS = imports()


@pytest.mark.parametrize("module", IMPORTS)
def test_imports_go_down(module):
    for target in IMPORTS[module]:
        same_room = room(target) == room(module)
        assert same_room or FLOORS[room(target)] < FLOORS[room(module)], f"{module} imports {target}"
        if room(module) == "input_pipeline":
            assert target == "mmfuse.types" or same_room, f"{module} imports {target}"


def test_there_are_no_circles():
    assert list(TopologicalSorter(IMPORTS).static_order())


def test_the_input_pipeline_and_the_alphabet_do_without_jax():
    for path in [*ROOT.glob("input_pipeline/**/*.py"), ROOT / "mmfuse" / "types.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] in ("jax", "flax", "tensorflow", "torch")], path


def test_nothing_in_the_runtime_needs_tensorflow_or_torch():
    pinned = (ROOT / "requirements.txt").read_text() + (ROOT / "constraints.txt").read_text()
    assert not [line for line in pinned.splitlines() if line.lower().startswith(("tensorflow==", "torch=="))]


def test_files_and_functions_stay_readable():
    for path in [*ROOT.glob("mmfuse/**/*.py"), *ROOT.glob("input_pipeline/**/*.py"), ROOT / "main.py"]:
        text = path.read_text()
        assert text.count("\n") <= 300, f"{path} is too long to be read at once"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 70, f"{path}: {node.name} is too long"


def test_main_is_short():
    assert (ROOT / "main.py").read_text().count("\n") < 80
