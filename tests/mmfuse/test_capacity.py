"""What is shut is not computed, and nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmfuse.objectives.cost import count_flops
from mmfuse.routing.capacity import choose, gather, on_open, on_taken, room, scatter, taken

ROWS, GROUPS = 12, 2
LADDER = (0.0, 0.25, 0.5, 1.0)
random = np.random.default_rng(0)
TREE = {"a": jnp.asarray(random.standard_normal((ROWS, 5, 3)), jnp.float32), "b": jnp.arange(1, ROWS + 1)}
SCORE = jnp.asarray(random.permutation(ROWS), jnp.float32)


def double(tree):
    return {"a": 2 * tree["a"], "b": 3 * tree["b"]}


def expected(kept):
    return {name: np.where(kept.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, 0) for name, leaf in double(TREE).items()}


def opened(*rows):
    return jnp.asarray(np.isin(np.arange(ROWS), rows))


def test_each_group_takes_its_best_candidates():
    candidate = jnp.asarray(random.random(ROWS) < 0.6)
    for number in range(ROWS // GROUPS + 1):
        found = np.asarray(taken(choose(SCORE, candidate, groups=GROUPS, number=number), ROWS))
        for group in range(GROUPS):
            rows = range(group * 6, group * 6 + 6)
            best = sorted((row for row in rows if candidate[row]), key=lambda row: -SCORE[row])[:number]
            assert set(np.flatnonzero(found[group * 6 : group * 6 + 6]) + group * 6) == set(best)


@pytest.mark.parametrize("number", [0, 1, 4, 6])
def test_rows_come_back_to_where_they_were(number):
    candidate = opened(0, 1, 2, 4, 5, 7, 11)
    places = choose(SCORE, candidate, groups=GROUPS, number=number)
    out = on_taken(double, TREE, places, ROWS)
    jax.tree.map(np.testing.assert_array_equal, out, expected(np.asarray(taken(places, ROWS))))
    if number:
        jax.tree.map(
            np.testing.assert_array_equal,
            scatter(gather(TREE, places), places, ROWS),
            on_taken(lambda x: x, TREE, places, ROWS),
        )


@pytest.mark.parametrize("rows", [(), (3,), (0, 1, 2, 3), (6, 7, 8, 9, 10, 11), range(ROWS)])
def test_all_that_is_open_is_read_whatever_the_rung(rows):
    mask = opened(*rows)
    out = jax.jit(lambda tree, mask: on_open(double, tree, mask, groups=GROUPS, ladder=LADDER))(TREE, mask)
    jax.tree.map(np.testing.assert_array_equal, out, expected(np.asarray(mask)))


def test_the_lowest_rung_that_has_room_is_run():
    ran = []

    def count(tree):
        jax.debug.callback(lambda: ran.append(len(tree["b"])), ordered=True)
        return tree

    run = jax.jit(lambda mask: on_open(count, TREE, mask, groups=GROUPS, ladder=LADDER)["b"])
    for rows in ((), (3,), (0, 1), (0, 1, 2), (0, 7, 8), (0, 1, 2, 3), range(ROWS)):
        run(opened(*rows)).block_until_ready()
    jax.effects_barrier()
    # of 6 rows a group the rungs take 0, 2, 3 and 6; the first of them reads nothing
    assert ran == [4, 4, 6, 4, 12, 12]


def test_what_is_not_taken_costs_nothing():
    weight = jnp.ones((3, 7))

    def flops(number):
        def run(tree):
            places = choose(SCORE, jnp.ones(ROWS, bool), groups=GROUPS, number=number)
            return on_taken(lambda tree: tree["a"] @ weight, tree, places, ROWS)

        return count_flops(jax.make_jaxpr(run)(TREE))

    per_row = 2 * 5 * 3 * 7
    overhead = flops(0)
    for number in (1, 3):
        assert abs(flops(number) - overhead - number * GROUPS * per_row) < 200


def test_gradients_reach_what_was_taken_alone():
    mask = opened(0, 1, 2, 3)

    def loss(a):
        return (on_open(double, {**TREE, "a": a}, mask, groups=GROUPS, ladder=LADDER)["a"] ** 2).sum()

    a = TREE["a"].at[11].set(jnp.nan)  # what is not read may be anything
    gradient = np.asarray(jax.grad(loss)(a))
    np.testing.assert_allclose(gradient[:4], 8 * np.asarray(a)[:4], rtol=1e-6)
    assert (gradient[4:] == 0).all()


@pytest.mark.parametrize(("share", "number"), [(0.0, 0), (0.25, 2), (0.5, 3), (1 / 3, 2), (0.51, 4), (1.0, 6)])
def test_a_share_is_rounded_up(share, number):
    assert room(ROWS, GROUPS, share) == number


def test_nothing_moves_between_devices():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))

    def run(tree, score, mask):
        return on_taken(double, tree, choose(score, mask, groups=GROUPS, number=2), ROWS)

    arguments = jax.device_put((TREE, SCORE, opened(1, 2, 3, 8)), rows)
    compiled = jax.jit(run, in_shardings=rows, out_shardings=rows).lower(*arguments).compile()
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter"):
        assert collective not in compiled.as_text()
    jax.tree.map(np.testing.assert_array_equal, compiled(*arguments), run(TREE, SCORE, opened(1, 2, 3, 8)))
