"""Rules of logits against numpy by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmfuse.inference import logits as rules
from mmfuse.types import EOS, PAD

R, V, T = 3, 11, 7
random = np.random.default_rng(0)
LOGITS = random.standard_normal((R, V)).astype(np.float32)
NOTHING = rules.Written(jnp.full((R, T), PAD), jnp.int32(0))


def ruled(rule, logits=LOGITS, written=NOTHING):
    return np.asarray(rule(jnp.asarray(logits), written))


def written(*texts):
    """Texts of as many tokens; one that has ended has PAD sooner."""
    length = max(map(len, texts))
    ids = np.full((len(texts), T), PAD)
    for row, text in zip(ids, texts):
        row[: len(text)] = text
    return rules.Written(jnp.asarray(ids), jnp.int32(length))


def probabilities(logits):
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def test_temperature_divides():
    np.testing.assert_allclose(ruled(rules.temperature(0.5)), 2 * LOGITS, rtol=1e-6)


@pytest.mark.parametrize("number", [1, 4, V, V + 5])
def test_top_k_keeps_the_likeliest(number):
    got = ruled(rules.top_k(number))
    for before, after in zip(LOGITS, got):
        kept = set(np.argsort(-before)[:number])
        np.testing.assert_array_equal(after, [x if token in kept else -np.inf for token, x in enumerate(before)])


def test_those_as_likely_as_the_last_stay():
    flat = np.array([[1, 3, 2, 2, 0]], np.float32)
    nothing = rules.Written(jnp.full((1, T), PAD), jnp.int32(0))
    np.testing.assert_array_equal(np.isfinite(ruled(rules.top_k(2), flat, nothing)), [[0, 1, 1, 1, 0]])
    np.testing.assert_array_equal(np.isfinite(ruled(rules.top_p(0.6), flat, nothing)), [[0, 1, 1, 1, 0]])


@pytest.mark.parametrize("share", [1e-6, 0.3, 0.75, 0.99, 1.0])
def test_top_p_keeps_the_smallest_set_that_has_the_share(share):
    got = ruled(rules.top_p(share))
    for before, after, p in zip(LOGITS, got, probabilities(LOGITS)):
        kept, mass = set(), 0.0
        for token in np.argsort(-p):
            if mass < share:
                kept.add(token)
                mass += p[token]
        np.testing.assert_array_equal(after, [x if token in kept else -np.inf for token, x in enumerate(before)])


def test_a_nucleus_is_of_what_other_rules_left():
    """Half of what is left after the likeliest token is banned."""
    left = LOGITS.copy()
    left[:, 4] = -np.inf
    got = ruled(rules.top_p(0.5), ruled(rules.ban([4]), LOGITS))
    np.testing.assert_array_equal(got, ruled(rules.top_p(0.5), left))
    assert np.isfinite(got).any(axis=1).all() and not np.isfinite(got[:, 4]).any()


def test_repetition_penalty_makes_what_was_written_less_likely():
    texts = ([3, 4, 4], [9, EOS], [10, 3, 5])
    got = ruled(rules.repetition_penalty(1.7), LOGITS, written(*texts))
    for before, after, text in zip(LOGITS, got, texts):
        for token in range(V):
            expected = (before[token] / 1.7 if before[token] > 0 else before[token] * 1.7) if token in text else None
            assert after[token] == pytest.approx(before[token] if expected is None else expected)
    seen = np.array([[token in text for token in range(V)] for text in texts])
    assert (LOGITS[seen] > 0).any() and (LOGITS[seen] < 0).any()


@pytest.mark.parametrize(
    ("size", "text", "banned"),
    [
        (1, [3, 5, 3], {3, 5}),
        (2, [3, 5, 7, 3], {5}),
        (2, [3, 5, 3, 7, 3], {5, 7}),
        (2, [3, 3], {3}),
        (2, [3], set()),
        (2, [], set()),
        (3, [3, 5, 7, 8, 3, 5], {7}),
        (3, [3, 5, 7, 8, 4, 5], set()),
        (3, [5, 5, 5], {5}),
        (3, [5], set()),
        (T + 1, [3] * 7, set()),
        (4, [3, 5, 7], set()),
    ],
)
def test_no_sequence_is_written_twice(size, text, banned):
    other = [8] * len(text)  # another row has its own past
    got = ruled(rules.no_repeat_ngram(size), LOGITS[:2], written(text, other))
    assert {token for token in range(V) if got[0, token] == -np.inf} == banned
    repeats = size <= len(text) and size <= T
    assert {token for token in range(V) if got[1, token] == -np.inf} == ({8} if repeats else set())


def test_no_text_ends_before_its_least_length():
    rule = rules.min_length(2)
    for text, ends in (([], False), ([4], False), ([4, 5], True)):
        got = ruled(rule, LOGITS[:1], written(text))
        assert np.isfinite(got[0, EOS]) == ends
        np.testing.assert_array_equal(np.delete(got, EOS), np.delete(LOGITS[0], EOS))


def test_rules_are_applied_in_order():
    both = rules.temperature(0.5), rules.top_p(0.7)
    there = rules.apply_rules(both, jnp.asarray(LOGITS), NOTHING)
    np.testing.assert_array_equal(there, ruled(rules.top_p(0.7), ruled(rules.temperature(0.5))))
    back = rules.apply_rules(both[::-1], jnp.asarray(LOGITS), NOTHING)
    assert (np.isfinite(np.asarray(there)) != np.isfinite(np.asarray(back))).any()
