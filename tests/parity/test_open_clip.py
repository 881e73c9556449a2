"""CLIPs of open_clip: the same numbers and gradients, and back through its own loader."""

import json

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from torch.nn import functional

from mmfuse.types import CheckpointError
from mmfuse.weights import load_pretrained, save_pretrained
from mmfuse.weights.open_clip import OPEN_CLIP
from tests.parity.compare import assert_same_gradients, run
from tests.parity.references import scramble

VISION = {"image_size": [21, 30], "patch_size": 8, "width": 24, "layers": 2, "head_width": 6, "mlp_ratio": 1.5}
TEXT = {"context_length": 9, "vocab_size": 53, "width": 20, "heads": 5, "layers": 3}
CONFIGS = {
    "quick": {"embed_dim": 14, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT},
    "other": {
        "embed_dim": 11,
        "vision_cfg": VISION
        | {"patch_size": [7, 10], "no_ln_pre": True, "norm_kwargs": {"eps": 1e-3}, "mlp_ratio": 2.0, "image_size": 40},
        "text_cfg": TEXT | {"pool_type": "eos", "eos_id": 7, "no_causal_mask": True},
        "init_logit_bias": -3.0,
    },
}


@pytest.fixture(scope="module", params=CONFIGS)
def case(request, tmp_path_factory):
    config, folder = CONFIGS[request.param], tmp_path_factory.mktemp(request.param)
    reference = scramble(open_clip.CLIP(**config))
    safetensors.torch.save_file(reference.state_dict(), folder / OPEN_CLIP.weights)
    pixels = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    (folder / OPEN_CLIP.config).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": pixels}))
    generator = torch.Generator().manual_seed(2)
    height, width = reference.visual.image_size
    ids = torch.randint(8, 50, (4, 9), generator=generator)
    ids[range(4), [3, 8, 0, 5]] = config["text_cfg"].get("eos_id", 52)
    return reference, folder, torch.randn(4, 3, height, width, generator=generator), ids


def test_numbers_and_gradients_are_those_of_the_reference(case):
    reference, folder, pixels, ids = case
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
    assert_same_gradients(OPEN_CLIP.table(config.model), gradients, reference)


def test_the_reference_loads_what_is_written_and_it_comes_back(case, tmp_path):
    reference, folder, *_ = case
    model, config = load_pretrained(folder)
    save_pretrained(tmp_path, model, config, form="open_clip")
    loaded = open_clip.create_model(f"local-dir:{tmp_path}")
    for name, tensor in reference.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    assert [list(loaded.visual.image_mean), list(loaded.visual.image_std)] == [[0.5, 0.4, 0.3], [0.2, 0.3, 0.4]]
    assert load_pretrained(tmp_path)[1].to_json() == config.to_json()


@pytest.mark.parametrize(
    "part, changes",
    [
        ("vision_cfg", {"timm_model_name": "vit_base_patch16_224"}),
        ("vision_cfg", {"ls_init_value": 0.1}),
        ("vision_cfg", {"pool_type": "avg"}),
        ("vision_cfg", {"layers": [3, 4, 6, 3]}),
        ("text_cfg", {"proj_bias": True}),
        ("text_cfg", {"pool_type": "last"}),
    ],
)
def test_what_we_have_no_part_for_is_refused(tmp_path, part, changes):
    config = CONFIGS["quick"] | {part: CONFIGS["quick"][part] | changes}
    (tmp_path / OPEN_CLIP.config).write_text(json.dumps({"model_cfg": config}))
    (tmp_path / OPEN_CLIP.weights).write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"{part}.{next(iter(changes))} is"):
        load_pretrained(tmp_path)
