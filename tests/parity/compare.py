"""What our model says of a reference's inputs, and whether the gradients are the same."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mmfuse.nn.losses.contrastive import cosines, info_nce, pairwise_sigmoid
from mmfuse.training.rules import named_leaves


def run(model, pixels, ids, mask=None):
    """Gradients by parameter, and everything else by name; the inputs are torch's, pixels (B c h w)."""
    pixels, ids = jnp.asarray(pixels.permute(0, 2, 3, 1).numpy()), jnp.asarray(ids.numpy())
    mask = None if mask is None else jnp.asarray(mask.numpy())
    graph, state = nnx.split(model)

    @jax.jit
    def outputs(state):
        model = nnx.merge(graph, state)
        image, text = model.embed_image(pixels), model.embed_text(ids, mask)
        logits = model.similarity(image, text)
        loss = contrastive(model.dual, image, text)
        return loss, {"image": image, "text": text, "logits": logits, "scale": model.dual.scale, "loss": loss}

    gradients, ours = jax.jit(jax.grad(outputs, has_aux=True))(state)
    return named_leaves(gradients), ours


def contrastive(dual, image, text):
    """The loss that the reference was trained with."""
    same, valid, cosine = jnp.eye(len(image), dtype=bool), jnp.ones(len(image), bool), cosines(image, text)
    if dual.logit_bias is not None:
        return pairwise_sigmoid(cosine.T, same, valid, scale=dual.scale, bias=dual.bias).mean()
    ways = [info_nce(way, same, valid, scale=dual.scale).mean() for way in (cosine, cosine.T)]
    return (ways[0] + ways[1]) / 2


def assert_same_gradients(table, ours, reference):
    """‖Δ‖ ≤ 1e-4 ‖g‖ + 1e-6 · the largest norm, for every parameter."""
    mine = {name: make() for name, _, make in table.to_theirs(ours)}
    theirs = {name: parameter.grad.numpy() for name, parameter in reference.named_parameters()}
    assert mine.keys() == theirs.keys()
    largest = max(np.linalg.norm(gradient) for gradient in theirs.values())
    for name, gradient in theirs.items():
        error, norm = np.linalg.norm(mine[name] - gradient), np.linalg.norm(gradient)
        assert error <= 1e-4 * norm + 1e-6 * largest, f"{name}: {error:.2e} of {norm:.2e}"
