"""Block-sparse attention against the dense one under the equivalent mask, and what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmfuse.nn.attention import attend
from mmfuse.nn.masks import Mask, allowed
from mmfuse.objectives.cost import count_flops
from mmfuse.routing.blocks import (
    BlockPlan,
    BlockRouter,
    BlockSparseAttention,
    Route,
    block_sparse_attention,
    choose_blocks,
    plan_budget,
    visible_blocks,
)

B, T, S, N, K, H = 2, 5, 11, 6, 3, 4
PLAN = BlockPlan(query_block=2, key_block=3, keep=2)
ROWS, COLUMNS = 3, 4  # blocks of 5 queries and of 11 keys, the last of each with one filled up
random = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(random.standard_normal(shape), jnp.float32)


QUERY, KEY, VALUE, SCORES = normal(B, T, N, H), normal(B, S, K, H), normal(B, S, K, H), 100 * normal(B, ROWS, COLUMNS)
KEYS = jnp.array([[1, 1, 2, 0, 0, 0, 2, 0, 1, 1, 0], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]])  # blocks of padding alone
QUERIES = jnp.array([[1, 1, 2, 2, 0], [1, 1, 1, 0, 0]])
MASKS = {
    "none": Mask(key_segment=jnp.ones((B, S), jnp.int32)),
    "padding": Mask(key_segment=KEYS),
    "segments": Mask(query_segment=QUERIES, key_segment=KEYS),
    "causal": Mask(key_segment=jnp.ones((B, S), jnp.int32), causal=True, window=4),
    "anchors": Mask(
        key_segment=KEYS,
        query_index=jnp.asarray(random.integers(0, 9, (B, T))),
        key_anchor=jnp.asarray(random.integers(0, 9, (B, S))),
    ),
    "modalities": Mask(
        key_segment=KEYS,
        query_modality=jnp.asarray(random.integers(0, 3, (B, T))),
        key_modality=jnp.asarray(random.integers(0, 3, (B, S))),
        modalities=jnp.array([[True, False, True], [False, False, True], [True, True, False]]),
    ),
}


SPARSE = jax.jit(block_sparse_attention, static_argnums=5)


def chosen_by_hand(scores, mask, plan):
    """Which blocks of keys each block of queries reads (B I J): by score, of those that it may look at."""
    chosen, may_look = np.zeros(scores.shape, bool), np.broadcast_to(allowed(mask, queries=T, keys=S), (B, T, S))
    for b, i in np.ndindex(scores.shape[:2]):
        rows = may_look[b, i * plan.query_block : (i + 1) * plan.query_block]
        size = plan.key_block
        there = [j for j in range(scores.shape[2]) if rows[:, j * size : (j + 1) * size].any()]
        chosen[b, i, sorted(there, key=lambda j: -scores[b, i, j])[: plan.keep]] = True
    return chosen


def choose(scores, mask, plan):
    return choose_blocks(scores, visible_blocks(mask, T, S, plan), plan)


def of_tokens(chosen, plan):
    """Which queries may look at which keys (B T S), by their blocks."""
    return np.repeat(np.repeat(chosen, plan.query_block, axis=1), plan.key_block, axis=2)[:, :T, :S]


def dense(query, key, value, mask, chosen, plan):
    """`attend` under the same mask, and a bias under which blocks that are not chosen weigh exactly nothing."""
    may_look = of_tokens(chosen, plan)
    bias = jnp.asarray(np.where(may_look, 0, -1e30)[:, None], jnp.float32)
    out, _ = attend(query, key, value, mask.replace(bias=bias))
    sees = (allowed(mask, queries=T, keys=S) & may_look).any(axis=2)
    return jnp.where(sees[:, :, None, None], out, 0)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("plan", [PLAN, BlockPlan(5, 1, 3), BlockPlan(1, 4, 1), BlockPlan(3, 11, 1)], ids=str)
def test_equals_dense_attention_under_the_equivalent_mask(mask, plan):
    shape = B, -(-T // plan.query_block), -(-S // plan.key_block)
    scores = 100 * normal(*shape)
    route = choose(scores, mask, plan)
    got = SPARSE(QUERY, KEY, VALUE, mask, route, plan)
    expected = dense(QUERY, KEY, VALUE, mask, chosen_by_hand(np.asarray(scores), mask, plan), plan)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    blind = (np.asarray(expected) == 0).all(axis=(2, 3))
    assert (np.asarray(got)[blind] == 0).all()


def gradients(mask):
    target = normal(B, T, N, H)

    def total(query, key, value, scores):
        route = choose(scores, mask, PLAN)
        return (block_sparse_attention(query, key, value, mask, route, PLAN) * target).sum()

    return jax.jit(jax.grad(total, argnums=(0, 1, 2, 3)))(QUERY, KEY, VALUE, SCORES), target


@pytest.mark.parametrize("name", ["none", "padding", "segments"])
def test_gradients_are_those_of_the_dense_and_exactly_zero_for_what_is_dropped(name):
    mask = MASKS[name]
    (query, key, value, _), target = gradients(mask)
    chosen = chosen_by_hand(np.asarray(SCORES), mask, PLAN)
    expected = jax.grad(lambda *heads: (dense(*heads, mask, chosen, PLAN) * target).sum(), argnums=(0, 1, 2))(
        QUERY, KEY, VALUE
    )
    for got, wanted in zip((query, key, value), expected):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    read = np.repeat(chosen.any(axis=1), PLAN.key_block, axis=1)[:, :S] & (np.asarray(mask.key_segment) > 0)
    assert not read.all()
    assert (np.asarray(value)[~read] == 0).all() and (np.asarray(key)[~read] == 0).all()
    if name != "segments":
        assert (np.asarray(value)[read] != 0).all()


def test_scores_learn_straight_through():
    mask = MASKS["padding"]
    (_, _, _, scores), target = gradients(mask)
    chosen = chosen_by_hand(np.asarray(SCORES), mask, PLAN)
    assert (np.asarray(scores)[~chosen] == 0).all() and (np.asarray(scores)[chosen] != 0).all()
    may_look = of_tokens(chosen, PLAN) & (np.asarray(KEYS) > 0)[:, None]
    bias = jnp.asarray(np.where(may_look, 0, -1e30), jnp.float32)[:, None]
    _, weights = attend(QUERY, KEY, VALUE, Mask(bias=bias), jnp.zeros(()))
    value = np.repeat(np.asarray(VALUE), N // K, axis=2)
    from_key = np.einsum("bnts,bsnh,btnh->bts", weights, value, target)  # what each key adds to the total
    expected = np.zeros((B, ROWS, COLUMNS))
    for t, s in np.ndindex(T, S):
        expected[:, t // PLAN.query_block, s // PLAN.key_block] += from_key[:, t, s]
    np.testing.assert_allclose(scores, np.where(chosen, expected, 0), atol=1e-4)


def test_gates_are_exactly_one_whatever_the_scores():
    for scale in (1e-3, 1.0, 1e6):
        assert (choose(scale * SCORES, MASKS["none"], PLAN).gate == 1).all()


def test_masks_that_are_not_supported_are_refused():
    route = Route(jnp.zeros((B, ROWS, 2), jnp.int32), jnp.ones((B, ROWS, 2)))
    several = (
        Mask(key_segment=KEYS, bias=jnp.zeros((1, 1, T, S))),
        Mask(key_segment=KEYS, pairs=jnp.ones((1, T, S), bool)),
    )
    for mask in (Mask(), *several):
        with pytest.raises(ValueError, match="key_segment, and no bias"):
            block_sparse_attention(QUERY, KEY, VALUE, mask, route, PLAN)


def test_the_router_scores_means_of_what_is_not_padding(shake):
    width, memory_width, rank = 7, 5, 3
    router = shake(BlockRouter(width, memory_width, rank=rank, rngs=nnx.Rngs(0)))
    queries, keys = normal(B, T, width), normal(B, S, memory_width)
    got = router(
        jnp.where((QUERIES > 0)[..., None], queries, jnp.nan),
        QUERIES,
        jnp.where((KEYS > 0)[..., None], keys, jnp.nan),
        KEYS,
        PLAN,
    )

    def mean(values, segment, size, number):
        values, there = np.asarray(values), np.asarray(segment) > 0
        blocks = [
            [row[s : s + size][seen[s : s + size]] for s in range(0, len(row), size)]
            for row, seen in zip(values, there)
        ]
        means = [[part.mean(axis=0) if len(part) else np.zeros(values.shape[2]) for part in row] for row in blocks]
        assert len(means[0]) == number
        return np.array(means)

    query = mean(queries, QUERIES, 2, ROWS) @ np.asarray(router.query.kernel[...])
    key = mean(keys, KEYS, 3, COLUMNS) @ np.asarray(router.key.kernel[...])
    np.testing.assert_allclose(got, np.einsum("bir,bjr->bij", query, key) / np.sqrt(rank), atol=1e-5)


def sparse(plan, width, heads, memory_width):
    return BlockSparseAttention(width, heads, memory_width=memory_width, plan=plan, rank=4, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("name", ["segments", "anchors"])
def test_the_module_equals_its_attention_under_the_equivalent_mask(shake, name):
    module, mask = shake(sparse(PLAN, 12, 3, 5)), MASKS[name]
    tokens, kept = normal(B, T, 12), module.keys_values(normal(B, S, 5))
    query = module.query(tokens).reshape(B, T, 3, 4)
    there = jnp.ones((B, T), jnp.int32) if mask.query_segment is None else mask.query_segment
    scores = module.router(query.reshape(B, T, 12), there, kept.key.reshape(B, S, 12), KEYS, PLAN)
    read = dense(query, kept.key, kept.value, mask, chosen_by_hand(np.asarray(scores), mask, PLAN), PLAN)
    expected = module.out(read.reshape(B, T, 12))
    np.testing.assert_allclose(module(tokens, kept, mask)[0], expected, atol=1e-5)
    looked, weights = module(tokens, kept, mask, probe=jnp.zeros(()))
    np.testing.assert_allclose(looked, expected, atol=1e-5)
    np.testing.assert_array_equal((weights > 0).any(axis=1), np.asarray(weights > 0).all(axis=1))
    assert (weights > 0).sum() < np.broadcast_to(allowed(mask, queries=T, keys=S), (B, T, S)).sum() * 3


def test_what_may_not_be_seen_does_not_change_what_is_chosen(shake):
    """A block of keys that all come later is not chosen, whatever its score: its values change nothing."""
    plan, anchor = BlockPlan(1, 3, 1), jnp.broadcast_to(jnp.arange(S) // 3, (B, S))
    module, tokens, memory = shake(sparse(plan, 12, 3, 5)), normal(B, T, 12), normal(B, S, 5)
    mask = Mask(key_segment=jnp.ones((B, S), jnp.int32), key_anchor=anchor)

    def read(memory):
        return module(tokens, module.keys_values(memory), mask)[0]

    changed = read(jnp.where((anchor >= 2)[..., None], 100 * normal(B, S, 5), memory))
    np.testing.assert_array_equal(changed[:, :2], read(memory)[:, :2])
    assert (np.asarray(changed)[:, 2:] != np.asarray(read(memory))[:, 2:]).any()


def test_with_room_for_all_blocks_the_module_is_its_attention(shake):
    module = shake(sparse(BlockPlan(1, 3, 99), 12, 3, 5))
    tokens, kept, mask = normal(B, T, 12), module.keys_values(normal(B, S, 5)), MASKS["padding"]
    read, _ = attend(module.query(tokens).reshape(B, T, 3, 4), *kept, mask)
    np.testing.assert_allclose(module(tokens, kept, mask)[0], module.out(read.reshape(B, T, 12)), atol=1e-5)


def test_the_router_of_the_module_gets_a_gradient(shake):
    module = shake(sparse(PLAN, 12, 3, 5))
    tokens, memory, mask = normal(B, T, 12), normal(B, S, 5), MASKS["padding"]
    graph, state = nnx.split(module)

    def total(state):
        module = nnx.merge(graph, state)
        return jnp.sin(module(tokens, module.keys_values(memory), mask)[0]).sum()

    gradient = jax.grad(total)(state)
    assert (gradient.router.query.kernel[...] != 0).any() and (gradient.router.key.kernel[...] != 0).any()


@pytest.mark.parametrize("queries", [1, 5, 8, 61, 64, 200, 1024])
@pytest.mark.parametrize("keys", [1, 7, 196, 4096])
@pytest.mark.parametrize("budget", [1024, 1500])
def test_plans_stay_within_their_budget_and_use_it(queries, keys, budget):
    plan = plan_budget(queries, budget=budget).within(keys)
    assert 1 <= plan.keep <= 4 and plan.keep <= -(-keys // plan.key_block)
    assert plan.pairs(queries) <= budget
    dense = plan.keep * plan.key_block >= keys
    assert dense or plan.pairs(queries) > budget / 2


def test_a_budget_without_a_key_for_each_query_is_refused():
    with pytest.raises(ValueError, match="a budget of 1024 pairs has no key for each of 1025 queries"):
        plan_budget(1025)


PIXELS, PATCH, TEXT, WIDTH, HEADS = 1024, 16, 64, 128, 4


def flops(function, *arguments):
    return count_flops(jax.make_jaxpr(function)(*arguments))


def cost(pixels):
    """FLOPs of dense attention, of attention on the kept blocks, and of the module with its scoring and projections."""
    patches = (pixels // PATCH) ** 2
    plan = plan_budget(TEXT).within(patches)
    query, key = jnp.zeros((1, TEXT, HEADS, WIDTH // HEADS)), jnp.zeros((1, patches, HEADS, WIDTH // HEADS))
    mask = Mask(key_segment=jnp.ones((1, patches), jnp.int32))
    scores = jnp.zeros((1, TEXT // plan.query_block, -(-patches // plan.key_block)))
    route = choose_blocks(scores, visible_blocks(mask, TEXT, patches, plan), plan)
    tokens, memory = jnp.zeros((1, TEXT, WIDTH)), jnp.zeros((1, patches, WIDTH))
    module = sparse(plan, WIDTH, HEADS, WIDTH)
    return (
        flops(lambda query, key: attend(query, key, key, mask)[0], query, key),
        flops(lambda query, key: block_sparse_attention(query, key, key, mask, route, plan), query, key),
        flops(lambda tokens, memory: module(tokens, module.keys_values(memory), mask)[0], tokens, memory),
    )


def test_a_large_picture_is_read_for_1024_pairs_and_costs_no_more_than_a_small_one_but_for_scoring():
    plan = plan_budget(TEXT)
    assert plan.pairs(TEXT) == 1024
    small, middle, large = cost(PIXELS // 4), cost(PIXELS // 2), cost(PIXELS)
    assert small[1] == middle[1] == large[1]
    assert 4 * plan.pairs(TEXT) * WIDTH <= large[1] < 1.2 * 4 * plan.pairs(TEXT) * WIDTH
    assert large[0] > 200 * large[1]
    # Scoring grows with the number of patches, by 4 from each to the next, and no faster.
    assert large[2] - middle[2] == 4 * (middle[2] - small[2])


def test_the_pairs_that_are_attended_are_counted_by_gradient():
    plan, patches = plan_budget(TEXT), 256
    query, key, mask = (
        normal(1, TEXT, 1, 2),
        normal(1, patches, 1, 2),
        Mask(key_segment=jnp.ones((1, patches), jnp.int32)),
    )
    scores = normal(1, TEXT // plan.query_block, patches // plan.key_block)
    route = choose_blocks(scores, visible_blocks(mask, TEXT, patches, plan), plan)

    def read(value):
        return block_sparse_attention(query, key, value, mask, route, plan)[0, :, 0, 0]

    seen = jax.jacrev(read)(normal(1, patches, 1, 2))[:, 0, :, 0, 0]
    assert (seen != 0).sum() == plan.pairs(TEXT) == 1024
