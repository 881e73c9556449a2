"""Which models of ours another library has, too; of the others it is said in what they differ."""

import pytest
from flax import nnx
from ml_collections import ConfigDict

from configs import clip, emoji, parts, siglip
from mmfuse.build import make_model
from mmfuse.types import CheckpointError
from mmfuse.weights import save_pretrained
from mmfuse.weights.pretrained import FAMILIES, FORMATS, counterpart

SIZES = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
THEIRS = {"vision_config": SIZES | {"image_size": 6, "num_patches": 4, "patch_size": 3}, "text_config": SIZES}


@pytest.fixture(params=FAMILIES)
def config(request):
    """A model that each family has."""
    return ConfigDict(FAMILIES[request.param].to_ours(THEIRS))


def test_a_house_tower_that_has_no_counterpart_is_refused_with_what_differs():
    towers = {
        "image": parts.vit(8, 1, 2, image=(6, 6), patch=(3, 3)),
        "text": parts.text(8, 1, 2, length=5, pool="eos"),
    }
    dual = {"embedding": 6, "temperature": 0.07, "bias": -10.0}
    config = ConfigDict({"model": {"towers": towers, "dual": dual}, "tokenizer": {"vocabulary": 300}})
    with pytest.raises(CheckpointError, match=r"no clip and no siglip(.|\n)*towers.image.pool is 'mean'"):
        counterpart(config)
    config.model.towers.audio = parts.audio(8, 1, 2, samples=96, patch=(2, 3))
    with pytest.raises(CheckpointError, match=r"parts audio \(audio\), image \(vit\), text \(text\), dual has no"):
        counterpart(config)
    with pytest.raises(CheckpointError, match=r"parts image \(convnet\), text \(text\), dual has no counterpart"):
        counterpart(emoji.get_config())


def test_a_tower_without_blocks_is_refused_before_anything_is_written(config, tmp_path):
    config.model.towers.text.depth = 0
    with pytest.raises(
        CheckpointError, match=r"differs:\n  num_hidden_layers is 0: it has to be one number above 0\.$"
    ):
        save_pretrained(tmp_path / "out", make_model(config, nnx.Rngs(0)), config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [*clip.SIZES, *siglip.SIZES])
def test_published_experiments_have_counterparts(size):
    experiment, form = (clip, "open_clip") if size in clip.SIZES else (siglip, "hf")
    family, _ = counterpart(experiment.get_config(size), form=form)
    assert family.config == {"open_clip": "open_clip_config.json", "hf": "config.json"}[form]


def test_a_siglip_is_one_of_open_clip_if_its_gelu_is_that_of_timm():
    config = siglip.get_config("b16").copy_and_resolve_references()
    with pytest.raises(CheckpointError) as refused:
        counterpart(config, form="open_clip")
    lines = str(refused.value).splitlines()
    assert lines[0] == "no CLIP and no CustomTextCLIP model is like this one; the nearest differs:"
    assert lines[1:] == ["  model.towers.image.activation is 'gelu_tanh', and has to be 'gelu'"]
    config.model.towers.image.activation = "gelu"
    _, theirs = counterpart(config, form="open_clip")
    assert theirs["model_cfg"]["vision_cfg"]["timm_model_name"] == "vit_base_patch16_siglip_224"
    config.model.towers.image.width = config.model.dual.embedding = 780
    with pytest.raises(CheckpointError, match=r"image\.width is 780, and has to be 768"):
        counterpart(config, form="open_clip")


@pytest.mark.parametrize("width, mlp", [(188, 3072), (152, 405), (64, 256)])
def test_any_width_of_an_mlp_can_be_said_as_a_ratio(width, mlp):
    sizes = {"width": width, "mlp_ratio": 4.0}
    model = {"embed_dim": 8, "vision_cfg": sizes | {"head_width": 4}, "text_cfg": sizes | {"heads": 4}}
    config = ConfigDict(FORMATS["open_clip"]["CLIP"].to_ours({"model_cfg": model}))
    for tower in config.model.towers.values():
        tower.mlp = mlp
    _, theirs = counterpart(config, form="open_clip")
    assert int(width * theirs["model_cfg"]["text_cfg"]["mlp_ratio"]) == mlp


def test_pictures_that_are_not_square_have_no_counterpart(config):
    config.model.towers.image.image = (6, 9)
    with pytest.raises(CheckpointError, match=r"image\.image is \(6, 9\), and has to be \(6, 6\)"):
        counterpart(config)


@pytest.mark.parametrize("config", ["clip"], indirect=True)
def test_an_end_with_the_id_2_cannot_be_said_in_their_words(config):
    config.model.towers.text.eos = 2
    with pytest.raises(CheckpointError, match=r"model\.towers\.text\.eos is 2, and has to be None"):
        counterpart(config)
