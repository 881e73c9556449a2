"""Tiny models of transformers with every weight drawn anew: default biases, gates and norms of 0 and 1 hide errors."""

import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
)

BOS, EOS, PAD = 97, 98, 1
IDS = {"vocab_size": 99, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}


def scramble(model, std=0.08):
    """Draws all parameters anew; those of one axis, which may be scales, keep their mean."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator) * std
            parameter.copy_(parameter + drawn if parameter.dim() <= 1 else drawn)
    return model.eval()


def texts(rows, length, ends=None):
    """Ids and mask of texts whose EOS stands at `ends`, with padding behind it."""
    ids = torch.randint(5, 90, (rows, length), generator=torch.Generator().manual_seed(2))
    for row, end in enumerate(ends or ()):
        ids[row, end], ids[row, end + 1 :] = EOS, PAD
    return ids, (ids != PAD).long()


def pictures(rows, image, channels=3):
    """Normalised pixels (B c h w)."""
    return torch.randn(rows, channels, image, image, generator=torch.Generator().manual_seed(3))


def clip(vision, text, projection):
    """A CLIPModel: `vision` and `text` are (width, mlp, layers, heads, activation) and what else changes."""
    parts = [{**dict(zip(_NAMES, sizes)), **changes} for sizes, changes in (vision, text)]
    config = CLIPConfig(
        vision_config=CLIPVisionConfig(**parts[0]).to_dict(),
        text_config=CLIPTextConfig(**(IDS | parts[1])).to_dict(),
        projection_dim=projection,
        attn_implementation="eager",
    )
    return scramble(CLIPModel(config))


def siglip(vision, text):
    """A SiglipModel; arguments as of `clip`."""
    parts = [{**dict(zip(_NAMES, sizes)), **changes} for sizes, changes in (vision, text)]
    config = SiglipConfig(
        vision_config=SiglipVisionConfig(**parts[0]).to_dict(),
        text_config=SiglipTextConfig(**(IDS | parts[1])).to_dict(),
        attn_implementation="eager",
    )
    return scramble(SiglipModel(config))


_NAMES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act")
