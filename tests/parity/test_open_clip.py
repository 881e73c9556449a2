"""CLIPs and SigLIPs of open_clip: the same numbers and gradients, and back through its own loader."""

import json
import re

import jax.numpy as jnp
import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from flax import nnx
from ml_collections import ConfigDict
from timm.models import register_model
from timm.models.vision_transformer import vit_base_patch16_siglip_224
from torch.nn import functional

from mmfuse.build import make_model
from mmfuse.nn.mlp import ACTIVATIONS
from mmfuse.training.rules import named_leaves
from mmfuse.types import CheckpointError
from mmfuse.weights import load_pretrained, save_pretrained, timm
from mmfuse.weights.open_clip import CUSTOM_TEXT, OPEN_CLIP
from tests.parity.compare import assert_same_gradients, run
from tests.parity.references import scramble

VISION = {"image_size": [21, 30], "patch_size": 8, "width": 24, "layers": 2, "head_width": 6, "mlp_ratio": 1.5}
TEXT = {"context_length": 9, "vocab_size": 53, "width": 20, "heads": 5, "layers": 3}
SIGLIP = {"timm_model_name": "vit_tiny_patch5_siglip_23", "image_size": 23, "timm_pool": "map"}
SIGLIP_TEXT = TEXT | {"no_causal_mask": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
CONFIGS = {
    "quick": {"embed_dim": 14, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT},
    "other": {
        "embed_dim": 11,
        "vision_cfg": VISION
        | {"patch_size": [7, 10], "no_ln_pre": True, "norm_kwargs": {"eps": 1e-3}, "mlp_ratio": 2.0, "image_size": 40},
        "text_cfg": TEXT | {"pool_type": "eos", "eos_id": 7, "no_causal_mask": True},
        "init_logit_bias": -3.0,
    },
    "custom": {
        "embed_dim": 20,
        "vision_cfg": VISION | {"act_kwargs": {"approximate": "tanh"}},
        "text_cfg": TEXT | {"proj_type": "none", "pool_type": "first", "no_causal_mask": True},
        "custom_text": True,
    },
    "siglip": {
        "embed_dim": 24,
        "vision_cfg": SIGLIP | {"timm_proj": "none"},
        "text_cfg": SIGLIP_TEXT
        | {"proj_bias": True, "hf_tokenizer_name": "any", "act_kwargs": {"approximate": "tanh"}},
        "init_logit_bias": -10,
        "custom_text": True,
    },
    "projected": {
        "embed_dim": 13,
        "vision_cfg": SIGLIP | {"timm_proj": "linear", "timm_proj_bias": True},
        "text_cfg": SIGLIP_TEXT,
        "quick_gelu": True,
    },
}


@register_model
def vit_tiny_patch5_siglip_23(*args, **settings):
    """A SigLIP's tower of timm that is small: a config cannot make one."""
    sizes = {"img_size": 23, "patch_size": 5, "embed_dim": 24, "depth": 2, "num_heads": 3, "mlp_ratio": 1.5}
    return vit_base_patch16_siglip_224(*args, **sizes, **settings)


@pytest.fixture(scope="module")
def tiny_tower():
    sizes = {"width": 24, "depth": 2, "heads": 3, "mlp": 36, "patch": (5, 5), "image": (23, 23), "activation": "gelu"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(timm.TOWERS, "vit_tiny_patch5_siglip_23", sizes)
        yield


def make(config):
    """Their model, and our family of such."""
    config = dict(config)
    custom = config.pop("custom_text", False)
    return (open_clip.CustomTextCLIP, CUSTOM_TEXT) if custom else (open_clip.CLIP, OPEN_CLIP), config


@pytest.fixture(scope="module", params=CONFIGS)
def case(request, tiny_tower, tmp_path_factory):
    config, folder = CONFIGS[request.param], tmp_path_factory.mktemp(request.param)
    (model_class, family), settings = make(config)
    reference = scramble(model_class(**settings))
    safetensors.torch.save_file(reference.state_dict(), folder / OPEN_CLIP.weights)
    pixels = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    (folder / OPEN_CLIP.config).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": pixels}))
    generator = torch.Generator().manual_seed(2)
    height, width = reference.visual.image_size
    ids = torch.randint(8, 50, (4, 9), generator=generator)
    ids[range(4), [3, 8, 0, 5]] = config["text_cfg"].get("eos_id", 52)
    return reference, folder, torch.randn(4, 3, height, width, generator=generator), ids, family


def test_numbers_and_gradients_are_those_of_the_reference(case):
    reference, folder, pixels, ids, family = case
    model, config = load_pretrained(folder)
    logits, _ = reference.get_logits(pixels, ids)
    if reference.logit_bias is None:
        target = torch.arange(len(ids))
        loss = (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
    else:
        loss = -functional.logsigmoid(logits * (2 * torch.eye(len(ids)) - 1)).sum() / len(ids)
    reference.zero_grad()
    loss.backward()
    gradients, ours = run(model, pixels, ids)
    for name, theirs in [("image", reference.encode_image(pixels, True)), ("text", reference.encode_text(ids, True))]:
        np.testing.assert_allclose(ours[name], theirs.detach(), rtol=0, atol=1e-5)
    scale = reference.logit_scale.exp().item()
    np.testing.assert_allclose(ours["logits"], logits.detach(), rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(ours["loss"], loss.item(), rtol=0, atol=1e-5)
    assert_same_gradients(family.table(config.model), gradients, reference)


def test_the_reference_loads_what_is_written_and_it_comes_back(case, tmp_path):
    reference, folder, *_ = case
    model, config = load_pretrained(folder)
    save_pretrained(tmp_path, model, config, form="open_clip")
    loaded = open_clip.create_model(f"local-dir:{tmp_path}")
    # one class has the text tower's tensors under a prefix, and is written for the towers of timm
    theirs, back = (
        {name.removeprefix("text."): tensor for name, tensor in model.state_dict().items()}
        for model in (reference, loaded)
    )
    assert theirs.keys() == back.keys()
    for name, tensor in theirs.items():
        assert torch.equal(tensor, back[name]), name
    assert [list(loaded.visual.image_mean), list(loaded.visual.image_std)] == [[0.5, 0.4, 0.3], [0.2, 0.3, 0.4]]
    assert load_pretrained(tmp_path)[1].to_json() == config.to_json()


@pytest.mark.parametrize(
    "part, changes",
    [
        ("vision_cfg", {"ls_init_value": 0.1}),
        ("vision_cfg", {"pool_type": "avg"}),
        ("vision_cfg", {"attentional_pool": True}),
        ("vision_cfg", {"layers": [3, 4, 6, 3]}),
        ("vision_cfg", {"act_kwargs": {"approximate": "tanh"}}),  # of an activation that has no approximation
        ("text_cfg", {"proj_type": "mlp"}),
        ("text_cfg", {"pool_type": "none"}),
        ("text_cfg", {"embed_cls": True}),
    ],
)
def test_what_we_have_no_part_for_is_refused(tmp_path, part, changes):
    config = CONFIGS["quick"] | {part: CONFIGS["quick"][part] | changes}
    (tmp_path / OPEN_CLIP.config).write_text(json.dumps({"model_cfg": config}))
    (tmp_path / OPEN_CLIP.weights).write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"{part}.{next(iter(changes))} is"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"timm_model_name": "vit_base_patch16_224"}, "there are SigLIP's towers, such as vit_base_patch16_siglip_224"),
        ({"timm_pool": "avg"}, "timm_pool is 'avg'; there are: map"),
        ({"timm_proj": "mlp"}, "timm_proj is 'mlp'; there are: none, linear"),
        ({"image_size": 46}, r"image_size is 46, and its tower reads \(23, 23\)"),
        ({"timm_proj": "none"}, "is 'none', and the tower is 24 wide where the shared space has 13"),
    ],
)
def test_what_a_tower_of_timm_does_not_have_is_refused(tiny_tower, tmp_path, changes, said):
    config = CONFIGS["projected"] | {"vision_cfg": CONFIGS["projected"]["vision_cfg"] | changes}
    (tmp_path / OPEN_CLIP.config).write_text(json.dumps({"model_cfg": config}))
    with pytest.raises(CheckpointError, match=said):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("name", [name for name in open_clip.list_models() if name.startswith("ViT-")])
def test_each_config_of_theirs_has_just_these_tensors(name):
    (model_class, family), settings = make(open_clip.get_model_config(name))
    try:
        config = ConfigDict(family.to_ours({"model_cfg": settings}))
    except CheckpointError as error:
        assert re.search("CLIPA.* vision_cfg.pool_type is 'avg'|-alt.* vision_cfg.ls_init_value is", f"{name}: {error}")
        return
    with torch.device("meta"):
        theirs = model_class(**settings)
    ours = nnx.state(nnx.eval_shape(lambda: make_model(config, nnx.Rngs(0))))
    shapes = {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    assert family.table(config.model).their_shapes(named_leaves(ours)) == shapes
    assert theirs.visual.image_size == config.model.towers.image.image
    blocks = {
        "image": theirs.visual.trunk.blocks if hasattr(theirs.visual, "trunk") else theirs.visual.transformer.resblocks,
        "text": theirs.text.transformer.resblocks if family is CUSTOM_TEXT else theirs.transformer.resblocks,
    }
    for name, tower in config.model.towers.items():
        assert settings_of(blocks[name][0], tower) == (tower.heads, tower.epsilon, True)


def settings_of(block, tower):
    """What the shapes do not show: heads, the norms' ε, and whether the activation is ours."""
    values = np.linspace(-5, 5, 101, dtype=np.float32)
    activation = block.mlp.act if hasattr(block.mlp, "act") else block.mlp.gelu
    norm = block.norm1 if hasattr(block, "norm1") else block.ln_1
    ours = ACTIVATIONS[tower.activation](jnp.asarray(values))
    return block.attn.num_heads, norm.eps, np.allclose(ours, activation(torch.tensor(values)), rtol=0, atol=1e-6)
