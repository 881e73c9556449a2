"""How does a folder of somebody else's become a model of ours, and a model of ours such a folder?

    model, config = load_pretrained("clip-vit-base-patch32")
    save_pretrained("exported", model, config)

A folder is as `save_pretrained` of transformers or open_clip writes it. No torch and no network; one tensor is read at
a time, and put where the mesh wants it.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, Sharding, SingleDeviceSharding
from ml_collections import ConfigDict

from input_pipeline.tokenizers import CaptionTokenizer
from input_pipeline.transforms.resizing import GridResizing, Resizing
from mmfuse.build import make_model
from mmfuse.build_towers import lookup
from mmfuse.models.dual_tower import DualTower, check_projections
from mmfuse.models.multimodal import Multimodal
from mmfuse.training.rules import named_leaves
from mmfuse.training.sharding import shard_by_rules
from mmfuse.types import CheckpointError
from mmfuse.weights.clip import CLIP
from mmfuse.weights.open_clip import CUSTOM_TEXT, OPEN_CLIP
from mmfuse.weights.preprocessing import PREPROCESSOR, load_pixels, open_clip_resizing, preprocessor_config
from mmfuse.weights.siglip import SIGLIP, SIGLIP2
from mmfuse.weights.tensors import (
    as_json,
    read_json,
    sha256,
    tensor_entries,
    understanding,
    write_files,
    write_hash,
    write_tensors,
)
from mmfuse.weights.tokenizer import ReleasedTokenizer, released_files
from mmfuse.weights.transformers import CONFIG, Family, difference, projection

FAMILIES = {"clip": CLIP, "siglip": SIGLIP, "siglip2": SIGLIP2}  # of transformers, by their `model_type`
FORMATS = {"hf": FAMILIES, "open_clip": {"CLIP": OPEN_CLIP, "CustomTextCLIP": CUSTOM_TEXT}}
REPLICATED = ((".*", ()),)


def load_pretrained(
    folder: str | Path, *, mesh: Mesh | None = None, sharding: Sequence[Sequence[Any]] = REPLICATED
) -> tuple[Multimodal, ConfigDict]:
    """Reads a model.

    Args:
      folder: with a config and the weights as safetensors, in one file or in several with their index: `config.json`
        of transformers, or `open_clip_config.json` with `open_clip_model.safetensors`.
      mesh: where the parameters are to lie; None: on one device.
      sharding: (regex, mesh axes) rules, as a config's `sharding`.

    Returns:
      The model, its parameters in float32; and a config of which `build.make_model` makes such a model.

    Raises:
      CheckpointError: a file is missing or damaged, the family is unknown, or tensors and config do not agree.
    """
    config = _config(Path(folder))
    places = None if mesh is None else named_leaves(shard_by_rules(sharding, _abstract(config)[1], mesh))
    return load_weights(folder, config, places), config


def load_config(folder: str | Path) -> ConfigDict:
    """A config of which `build.make_model` makes the model of a folder; no tensor is read.

    Raises:
      CheckpointError: as `load_pretrained`.
    """
    folder = Path(folder)
    config = _config(folder)
    _entries(folder, _family(folder)[0], config)
    return config


def load_weights(folder: str | Path, config: ConfigDict, places: Mapping[str, Sharding] | None = None) -> Multimodal:
    """Makes the model of a config with the parameters of a folder.

    Args:
      folder: see `load_pretrained`.
      config: that of the folder, or one with the same parameters.
      places: name → where a parameter is to lie; None: all on one device.

    Raises:
      CheckpointError: tensors and config do not agree.
    """
    folder = Path(folder)
    family, _ = _family(folder)
    entries, (graph, abstract) = _entries(folder, family, config), _abstract(config)
    shapes, one = named_leaves(abstract), SingleDeviceSharding(jax.devices()[0])
    read = {
        name: jax.device_put(array, places[name] if places else one)
        for name, array in family.table(config.model).to_ours(lambda name: entries[name].read(), shapes)
    }
    return nnx.merge(graph, jax.tree.unflatten(jax.tree.structure(abstract), [read[name] for name in shapes]))


def weight_hashes(folder: str | Path) -> dict[str, str]:
    """File → SHA-256 of all files with weights."""
    folder = Path(folder)
    entries = tensor_entries(folder, one=_family(folder)[0].weights)
    return {path.name: sha256(path) for path in sorted({entry.path for entry in entries.values()})}


def save_pretrained(
    folder: str | Path,
    model: Multimodal,
    config: ConfigDict,
    *,
    form: str = "hf",
    tokenizer: CaptionTokenizer | None = None,
    resizing: Resizing | GridResizing | None = None,
) -> None:
    """Writes a model as a folder that other libraries load, with the SHA-256 of each file beside it.

    Args:
      folder: is made; what stands in it under the same names is overwritten.
      model: a dual tower.
      config: of which it was made; `model` and `tokenizer` of it.
      form: "hf" for transformers, "open_clip" for open_clip.
      tokenizer: of its texts; None: none is written.
      resizing: of its pictures; None: as its family was released.

    Raises:
      CheckpointError: no family of theirs has such a model; in what it differs from the nearest.
    """
    family, theirs = counterpart(config, form=form)
    parameters = named_leaves(nnx.state(model, nnx.Param))
    dual = cast(DualTower, model.dual)  # or there would be no counterpart
    # theirs is clipped in training alone
    parameters["dual/log_scale"] = jnp.minimum(dual.log_scale[...], dual.max_log_scale)
    tensors = list(family.table(config.model).to_theirs(parameters))
    folder, image = Path(folder), config.model.towers.image
    clean = tokenizer.clean if isinstance(tokenizer, ReleasedTokenizer) else None
    files = {} if tokenizer is None else released_files(tokenizer, config.model.towers.text.length)
    if form == "open_clip":
        theirs["preprocess_cfg"] |= {} if resizing is None else open_clip_resizing(resizing)
        # any name that is not empty makes open_clip read the tokenizer of this folder
        theirs["model_cfg"]["text_cfg"] |= {"hf_tokenizer_name": folder.name} if files else {}
        theirs["model_cfg"]["text_cfg"] |= {"tokenizer_kwargs": {"clean": clean}} if clean else {}
    else:
        if clean not in (None, "whitespace"):
            raise CheckpointError(f"transformers has no '{clean}' before a tokenizer: take --format=open_clip.")
        files[PREPROCESSOR] = as_json(preprocessor_config(image, theirs["model_type"], resizing))
    write_files(folder, {family.config: as_json(theirs), **files})
    write_tensors(folder / family.weights, tensors)
    write_hash(folder / family.weights)


def counterpart(config: ConfigDict, *, form: str = "hf") -> tuple[Family, dict[str, Any]]:
    """The family that has such a model, and their config of it.

    Raises:
      CheckpointError: there is none.
    """
    model, families = config.model, lookup(FORMATS, form, "format")
    kinds = {name: tower.kind for name, tower in model.towers.items()}
    if kinds != {"image": "vit", "text": "text"} or "dual" not in model or "single" in model:
        parts = [f"{name} ({kind})" for name, kind in kinds.items()]
        raise CheckpointError(
            f"a model of the parts {', '.join(parts + [head for head in ('dual', 'single') if head in model])} has no "
            "counterpart: what is exported is a dual tower of image (vit) and text (text)."
        )
    differences = []
    for family in families.values():
        theirs = family.to_theirs(config)
        differences.append(_difference(family, config, theirs))
        if not differences[-1][1]:
            return family, theirs
    raise CheckpointError(
        f"no {' and no '.join(families)} model is like this one; the nearest differs:\n"
        + "\n".join(min(differences)[1])
    )


def _family(folder) -> tuple[Family, dict[str, Any]]:
    named = (folder / OPEN_CLIP.config).is_file()
    if named and ((folder / OPEN_CLIP.weights).is_file() or not (folder / CONFIG).is_file()):
        theirs = read_json(folder / OPEN_CLIP.config)
        with understanding(folder / OPEN_CLIP.config):
            return CUSTOM_TEXT if theirs["model_cfg"].get("custom_text") else OPEN_CLIP, theirs
    theirs = read_json(folder / CONFIG)
    kind = theirs.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise CheckpointError(f"{folder / CONFIG} is of a {kind!r}; there are: {', '.join(FAMILIES)}.")
    return FAMILIES[kind], theirs


def _difference(family, config, theirs):
    """How many settings differ, and a line for each."""
    try:
        back = ConfigDict(family.to_ours(theirs))
    except (CheckpointError, TypeError, ValueError) as error:
        return sys.maxsize, [f"  {error}"]  # they have no such model at all
    lines = difference(_form(config), _form(back))
    return len(lines), lines


def _form(config):
    """What of a model's config makes the function that it computes, given its parameters."""
    model = config.model.to_dict()
    towers, dual = model["towers"], model["dual"]
    projections = {name: projection(config.model, name) for name in towers}
    bias = None if dual["bias"] is None else "a number"
    return {"towers": towers, "dual": {"projection": projections, "bias": bias}}


def _config(folder):
    family, theirs = _family(folder)
    with understanding(folder / family.config):
        config = ConfigDict(family.to_ours(theirs))
        dual, widths = config.model.dual, {name: tower.width for name, tower in config.model.towers.items()}
        check_projections("model.dual.projection", dual.projection.to_dict(), widths, dual.embedding)
        _abstract(config)
    if family.config == CONFIG:
        image = config.model.towers.image
        image.update(load_pixels(folder, image.channels))
    return config


def _abstract(config):
    return nnx.split(nnx.eval_shape(lambda: make_model(config, nnx.Rngs(0))))


def _entries(folder, family, config):
    """Name → where a tensor lies, of just those that a model of this config needs."""
    entries = tensor_entries(folder, one=family.weights)
    family.table(config.model).check(entries, named_leaves(_abstract(config)[1]), folder)
    return entries
