"""A run's checkpoint becomes a folder; what cannot is refused in a sentence."""

import jax
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from configs import parts
from input_pipeline.texts import encode
from mmfuse.experiment import Experiment
from mmfuse.training.checkpoint import Checkpointer
from mmfuse.training.rules import named_leaves
from mmfuse.training.workdir import claim
from mmfuse.types import Caption
from mmfuse.weights import load_pretrained
from mmfuse.weights.__main__ import main
from mmfuse.weights.preprocessing import load_preprocessor
from mmfuse.weights.texts import load_texts
from tests import small

IMAGE, LENGTH = (12, 12), 6


def dual_towers():
    """The small experiment with a model as open_clip has them, and what reads pictures and captions alone."""
    config = small.get_config().unlock()
    released = {"class_token": True, "class_position": True, "pre_norm": True, "patch_bias": False, "pool": "first"}
    shared = {"activation": "gelu", "epsilon": 1e-5}
    config.model.towers = {
        "image": parts.vit(8, 1, 2, image=IMAGE, patch=(4, 6), **released, **shared),
        "text": parts.text(8, 1, 2, length=LENGTH, causal=True, packed=False, pool="end", **shared),
    }
    del config.model.single
    config.model.dual.embedding = 4
    pairs = config.streams.pairs
    config.streams = {"pairs": pairs}
    pairs.signals = {"image": IMAGE}
    pairs.text = {"caption": {"take": "captions", "number": 1, "length": LENGTH}}
    pairs.objectives = {"contrastive": 1.0}
    config.objectives = {"contrastive": {"kind": "contrastive", "loss": "sigmoid", "between": (("image", "caption"),)}}
    config.evaluators = {}
    return ConfigDict(config.to_dict())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run that has been saved at its start, and its parameters."""
    workdir, config = tmp_path_factory.mktemp("run"), dual_towers()
    claim(workdir, config, {})
    experiment = Experiment(config, workdir)
    state = experiment.maker.create(3)
    checkpointer = Checkpointer(workdir / "checkpoints", **config.checkpoint)
    checkpointer.save(0, state, {})
    checkpointer.close()
    return workdir, named_leaves(state.trainable)


def test_a_run_is_exported_and_read_again(run, tmp_path, capsys):
    workdir, parameters = run
    main(["export", f"--workdir={workdir}", "--format=open_clip", str(tmp_path / "out")])
    assert "step 0 of" in capsys.readouterr().out
    model, config = load_pretrained(tmp_path / "out")
    read = named_leaves(nnx.state(model))
    assert read.keys() == parameters.keys()
    for name, leaf in parameters.items():
        np.testing.assert_array_equal(read[name], leaf, err_msg=name)
    assert config.model.towers.text.eos == 2 and config.model.towers.image.patch == (4, 6)
    tokenizer = Experiment(dual_towers(), workdir).tokenizer
    expected = encode(Caption("a red circle"), "caption", LENGTH, tokenizer).ids
    ids, mask = load_texts(tmp_path / "out", length=LENGTH)(["a red circle"])
    np.testing.assert_array_equal(ids[0][mask[0] == 1], expected)
    prepare = load_preprocessor(tmp_path / "out")
    assert prepare.size == prepare.resizing.extent == IMAGE and prepare.crop is None  # as the stream resizes
    files = {path.name for path in (tmp_path / "out").iterdir()}
    names = {"open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert files == names | {f"{name}.sha256" for name in names}
    assert len(jax.tree.leaves(nnx.state(model))) == len(parameters)


def test_what_has_no_counterpart_is_refused_before_anything_is_written(run, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["export", f"--workdir={run[0]}", "--format=hf", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert "weights export: no clip and no siglip and no siglip2 model is like this one" in said
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["export", f"--workdir={tmp_path}", str(tmp_path / "out")])
    assert "there is no run in" in capsys.readouterr().err
