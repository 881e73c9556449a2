"""Folders without torch: written and read to the bit, onto a mesh, and refused where something does not fit.

That the numbers are those of the reference is shown in tests/parity.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from mmfuse.build import make_model
from mmfuse.training.rules import named_leaves
from mmfuse.training.sharding import make_mesh
from mmfuse.types import CheckpointError
from mmfuse.weights import load_pretrained, save_pretrained, timm
from mmfuse.weights.open_clip import CUSTOM_TEXT
from mmfuse.weights.pretrained import FAMILIES

SIZES = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
FOLDERS = {  # model_type → config.json; what is left out has its default
    "clip": {
        "vision_config": SIZES | {"image_size": 7, "patch_size": 3},
        "text_config": SIZES | {"vocab_size": 14, "max_position_embeddings": 5, "hidden_act": "gelu"},
        "projection_dim": 6,
    },
    "siglip": {
        "vision_config": SIZES | {"image_size": 6, "patch_size": 3},
        "text_config": SIZES | {"vocab_size": 14, "max_position_embeddings": 5},
    },
    "siglip2": {
        "vision_config": SIZES | {"num_patches": 16, "patch_size": 3},
        "text_config": SIZES | {"vocab_size": 14, "max_position_embeddings": 5},
    },
}
OPEN_CLIP = {"vision_cfg": {"image_size": 32, "width": 64, "layers": 1}, "text_cfg": {"layers": 1}}


@pytest.fixture(scope="module", params=FOLDERS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def written(kind, tmp_path_factory, shake):
    """A folder, the model that is in it, and its config."""
    config = ConfigDict(FAMILIES[kind].to_ours(FOLDERS[kind]))
    model = shake(nnx.jit(lambda: make_model(config, nnx.Rngs(0)))())
    folder = tmp_path_factory.mktemp(kind)
    save_pretrained(folder, model, config)
    return folder, model, config


def leaves(model):
    return named_leaves(nnx.state(model))


def copy(folder, to, **changes):
    """The folder without hashes, its config.json changed; what is a part of it, in part."""
    for file in folder.iterdir():
        if file.suffix != ".sha256":
            (to / file.name).write_bytes(file.read_bytes())
    config = json.loads((to / "config.json").read_text())
    for key, value in changes.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    (to / "config.json").write_text(json.dumps(config))
    return to


def test_what_is_written_comes_back_to_the_bit(written):
    folder, model, config = written
    read, read_config = load_pretrained(folder)
    assert read_config.to_json() == config.to_json()
    assert leaves(read).keys() == leaves(model).keys()
    for name, leaf in leaves(model).items():
        np.testing.assert_array_equal(leaves(read)[name], leaf, err_msg=name)
        assert len(leaves(read)[name].devices()) == 1


def test_a_scale_that_is_clipped_when_used_is_written_so(kind, tmp_path):
    config = ConfigDict(FAMILIES[kind].to_ours(FOLDERS[kind]))
    config.model.dual.max_scale = 20.0
    model = make_model(config, nnx.Rngs(0))
    model.dual.log_scale[...] = jnp.log(30.0)
    save_pretrained(tmp_path, model, config)
    read, _ = load_pretrained(tmp_path)
    for head in (model.dual, read.dual):
        np.testing.assert_allclose(head.scale, 20, rtol=1e-6)


def test_a_mesh_gets_each_parameter_where_its_rule_says(written):
    folder, model, _ = written
    rules = ((r"up/kernel$", ("fsdp", "tensor")), (".*", ()))
    read, _ = load_pretrained(folder, mesh=make_mesh(data=2, fsdp=2, tensor=2), sharding=rules)
    for name, leaf in leaves(model).items():
        placed = leaves(read)[name]
        np.testing.assert_array_equal(placed, leaf, err_msg=name)
        assert len(placed.devices()) == 8
        parts_of = 2 if name.endswith("up/kernel") else 1
        shard = placed.addressable_shards[0].data.shape
        assert [parts_of * length for length in shard[-2:]] == list(leaf.shape[-2:]), name


def test_what_is_read_can_be_used(written, kind):
    read, config = load_pretrained(written[0])
    height, width = config.model.towers.image.image
    image = read.embed_image(jnp.full((2, height, width, 3), 77, jnp.uint8))
    text = read.embed_text(jnp.array([[3, 4, 13, 1, 1]]), jnp.array([[1, 1, 1, 0, 0]]))
    assert read.similarity(image, text).shape == (2, 1)
    for unit in (image, text):
        np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("kind", ["siglip2"], indirect=True)
def test_pictures_of_different_shapes_are_read_in_one_batch(written):
    """In patches as they are, or as pictures in an array that is larger than some."""
    read, config = load_pretrained(written[0])
    pixels = np.random.default_rng(0).standard_normal((2, 6, 9, 3)).astype(np.float32)
    pixels[1, :, 6:] = pixels[1, 3:] = 7.0  # one patch high and two wide
    patches = pixels.reshape(2, 2, 3, 3, 3, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 6, 27)
    mask = jnp.array([[1] * 6, [1] * 2 + [0] * 4])
    ragged = read.embed_patches(jnp.asarray(patches), mask, jnp.array([[2, 3], [1, 2]]))
    alone = [read.embed_image(jnp.asarray(part)) for part in (pixels[:1], pixels[1:, :3, :6])]
    np.testing.assert_allclose(ragged, np.concatenate(alone), atol=1e-5)
    assert config.model.towers.image.image == (12, 12)


def test_counts_are_those_of_the_published_models(kind):
    config = ConfigDict(FAMILIES[kind].to_ours({}))
    model = nnx.eval_shape(lambda: make_model(config, nnx.Rngs(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model)))
    # CLIP ViT-B/32, SigLIP B/16 at 224 (196 places), and with a table of 256 places
    assert count == {"clip": 151_277_313, "siglip": 203_155_970, "siglip2": 203_155_970 + 60 * 768}[kind]


def test_a_file_that_was_changed_is_refused(written, tmp_path):
    for name in ("config.json", "model.safetensors"):
        copy(written[0], tmp_path)
        (tmp_path / f"{name}.sha256").write_bytes((written[0] / f"{name}.sha256").read_bytes())
        content = bytearray((tmp_path / name).read_bytes())
        content[-2] ^= 1
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name} is not the file that was written"):
            load_pretrained(tmp_path)
        (tmp_path / f"{name}.sha256").unlink()


def test_a_config_of_other_weights_is_refused_with_the_difference(written, tmp_path, kind):
    vision = {"num_hidden_layers": 3, "intermediate_size": 11}
    with pytest.raises(CheckpointError) as refused:
        load_pretrained(copy(written[0], tmp_path, vision_config=vision))
    layer = "vision_model.encoder.layers"
    assert f"{layer}.2.mlp.fc1.bias: missing in the file, [11] in the model" in str(refused.value)
    assert f"{layer}.0.mlp.fc1.bias: [12] in the file, [11] in the model" in str(refused.value)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"model_type": "blip"}, "is of a 'blip'; there are: clip, siglip, siglip2"),
        ({"model_type": None}, "is of a None"),
        ({"model_type": ["clip"]}, "is of a .'clip'.; there are"),
        ({"vision_config": {"hidden_act": "tanh"}}, "hidden_act is 'tanh'; there are: quick_gelu, gelu"),
        ({"vision_config": {"patch_size": [3, 3]}}, r"patch_size is \[3, 3\]"),
        ({"vision_config": {"hidden_size": "wide"}}, "hidden_size is 'wide': it has to be one number above 0"),
        ({"vision_config": {"patch_size": 0}}, "patch_size is 0: it has to be one number above 0"),
        ({"text_config": {"layer_norm_eps": None}}, "layer_norm_eps is None"),
        ({"text_config": {"num_hidden_layers": 10**9}}, "has 1000000000 layers, and there are"),
        ({"text_config": []}, "do not fit its config|they never meet"),
        ({"text_config": 3}, "cannot be understood"),
    ],
)
def test_a_config_that_makes_no_model_is_refused(written, tmp_path, changes, said):
    with pytest.raises(CheckpointError, match=said):
        load_pretrained(copy(written[0], tmp_path, **changes))


@pytest.mark.parametrize(
    "kind, changes, said",
    [
        ("clip", {"text_config": {"eos_token_id": [2, 3]}}, "has to be one id"),
        ("siglip", {"vision_config": {"vision_use_head": False}}, "without its head"),
        ("siglip", {"text_config": {"projection_size": 9}}, "they never meet"),
    ],
    indirect=["kind"],
)
def test_what_has_no_embedding_of_ours_is_refused(written, tmp_path, changes, said):
    with pytest.raises(CheckpointError, match=said):
        load_pretrained(copy(written[0], tmp_path, **changes))


def test_pixels_of_other_channels_are_refused(written, tmp_path):
    path = copy(written[0], tmp_path) / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.5, 0.5]}))
    with pytest.raises(CheckpointError, match=r"image_mean is .*, and there are 3 channels"):
        load_pretrained(tmp_path)


def test_old_files_have_their_settings_twice():
    text = {"vocab_size": 14, "hidden_size": 24, "num_attention_heads": 3}
    config = FAMILIES["clip"].to_ours({"text_config": {"hidden_size": 99}, "text_config_dict": text})
    assert config["model"]["towers"]["text"]["width"] == 24 and config["tokenizer"]["vocabulary"] == 14


def test_a_folder_of_open_clip_without_weights_says_what_it_lacks(tmp_path):
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 8, **OPEN_CLIP}}))
    with pytest.raises(CheckpointError, match=r"neither open_clip_model.safetensors nor model.safetensors.index"):
        load_pretrained(tmp_path)


def test_pixels_of_open_clip_of_other_channels_are_refused(tmp_path):
    theirs = {"model_cfg": {"embed_dim": 8, **OPEN_CLIP}, "preprocess_cfg": {"mean": [0.5] * 4, "std": 0.5}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(theirs))
    with pytest.raises(CheckpointError, match=r"preprocess_cfg.mean is .*, and there are 3 channels"):
        load_pretrained(tmp_path)


def test_a_setting_of_open_clip_beyond_its_towers_is_refused(tmp_path):
    model = {"embed_dim": 8, **OPEN_CLIP, "cast_dtype": "bf16", "multimodal_cfg": {"width": 8}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))
    with pytest.raises(CheckpointError, match=r"model_cfg.multimodal_cfg is .*, for which mmfuse has no part"):
        load_pretrained(tmp_path)


@pytest.fixture
def siglip_of_open_clip(monkeypatch):
    """Their config of a SigLIP; sizes are in the name of its tower of timm, of which there are large ones only."""
    sizes = {"width": 12, "depth": 2, "heads": 3, "mlp": 20, "patch": (5, 5), "image": (13, 13), "activation": "gelu"}
    monkeypatch.setitem(timm.TOWERS, "vit_tiny_patch5_siglip_13", sizes)
    vision = {"timm_model_name": "vit_tiny_patch5_siglip_13", "timm_pool": "map", "timm_proj": "none", "image_size": 13}
    words = {"context_length": 5, "vocab_size": 14, "width": 8, "heads": 2, "layers": 1, "no_causal_mask": True}
    text = words | {"pool_type": "last", "proj_bias": True, "norm_kwargs": {"eps": 1e-6}}
    return {"embed_dim": 12, "vision_cfg": vision, "text_cfg": text, "init_logit_bias": -10, "custom_text": True}


@pytest.mark.parametrize("changes", [{}, {"timm_proj": "linear"}, {"timm_proj": "linear", "timm_proj_bias": True}])
def test_a_siglip_of_open_clip_comes_back_to_the_bit(siglip_of_open_clip, changes, tmp_path, shake):
    vision = siglip_of_open_clip["vision_cfg"] | changes
    config = ConfigDict(CUSTOM_TEXT.to_ours({"model_cfg": siglip_of_open_clip | {"vision_cfg": vision}}))
    model = shake(make_model(config, nnx.Rngs(0)))
    save_pretrained(tmp_path, model, config, form="open_clip")
    read, read_config = load_pretrained(tmp_path)
    assert read_config.to_json() == config.to_json() and read_config.model.towers.image.crop
    for name, leaf in leaves(model).items():
        np.testing.assert_array_equal(leaves(read)[name], leaf, err_msg=name)


def test_a_siglip_of_open_clip_is_one_of_transformers_too(siglip_of_open_clip, tmp_path):
    siglip_of_open_clip["text_cfg"]["width"] = 12
    config = ConfigDict(CUSTOM_TEXT.to_ours({"model_cfg": siglip_of_open_clip}))
    model = make_model(config, nnx.Rngs(0))
    save_pretrained(tmp_path, model, config, form="hf")
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "siglip"
    for name, leaf in leaves(load_pretrained(tmp_path)[0]).items():
        np.testing.assert_array_equal(leaf, leaves(model)[name], err_msg=name)


def test_a_config_without_a_model_is_refused(tmp_path):
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"cannot be understood: KeyError\('model_cfg'\)"):
        load_pretrained(tmp_path)
