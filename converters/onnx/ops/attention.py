"""Attention. Masks never reach infinity: a masked score becomes -10000, whose exponential is 0."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from converters.errors import NodeError
from converters.onnx.ops.activation import softmax
from converters.onnx.ops.index import is_known, take
from converters.onnx.registry import op

Array = Any

MASKED = np.float32(-1e4)
"""Low enough that softmax gives 0, and far from the limits of a fixed-point ring."""


def _heads(x: Array, count: int) -> Array:
    """(batch, length, heads * size) -> (batch, heads, length, size)."""
    return x.reshape(x.shape[0], x.shape[1], count, -1).transpose(0, 2, 1, 3)


def _packed(x: Array) -> Array:
    """(batch, heads, length, size) -> (batch, length, heads * size)."""
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


def _causal(queries: int, keys: int, past: int) -> np.ndarray[Any, Any]:
    """True where a query may look: at all past keys, and at new ones up to its own place."""
    return np.arange(keys)[None, :] <= np.arange(queries)[:, None] + past


@op(since=23, prefers_static=("nonpad_kv_seqlen",))
def Attention(
    Q: Array,
    K: Array,
    V: Array,
    attn_mask: Array = None,
    past_key: Array = None,
    past_value: Array = None,
    nonpad_kv_seqlen: Array = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
    output_count: int,
) -> Any:
    packed = Q.ndim == 3
    if packed:
        if q_num_heads is None or kv_num_heads is None:
            raise NodeError("three-dimensional inputs need q_num_heads and kv_num_heads.")
        Q, K, V = _heads(Q, q_num_heads), _heads(K, kv_num_heads), _heads(V, kv_num_heads)
    past = 0 if past_key is None else past_key.shape[2]
    K = K if past_key is None else jnp.concatenate([past_key, K], axis=2)
    V = V if past_value is None else jnp.concatenate([past_value, V], axis=2)
    present = (K, V)
    repeats = Q.shape[1] // K.shape[1]
    if repeats > 1:
        K, V = jnp.repeat(K, repeats, axis=1), jnp.repeat(V, repeats, axis=1)
    factor = 1 / np.sqrt(Q.shape[3]) if scale is None else scale
    scores = (Q * np.float32(factor)) @ K.transpose(0, 1, 3, 2)
    shown = scores
    if softcap:
        scores = jnp.tanh(scores * np.float32(1 / softcap)) * softcap
        shown = scores if qk_matmul_output_mode else shown
    exact = qk_matmul_output_mode == 2 and output_count == 4
    scores = _masked(scores, attn_mask, bool(is_causal), past, nonpad_kv_seqlen, exact=exact)
    shown = scores if qk_matmul_output_mode == 2 else shown
    weights = softmax(scores, -1)
    shown = weights if qk_matmul_output_mode == 3 else shown
    result = weights @ V
    return (_packed(result) if packed else result, *present, shown)[:output_count]


def _masked(scores: Array, mask: Array, is_causal: bool, past: int, lengths: Array, *, exact: bool) -> Array:
    """Scores (batch, heads, queries, keys) with what a query may not see put out of reach."""
    out_of_reach = -np.inf if exact else MASKED
    queries, keys = scores.shape[2:]
    if mask is not None and mask.dtype != jnp.bool_:
        bias = mask if exact else jnp.maximum(mask, MASKED)
        scores = scores + _widened(bias, keys, out_of_reach)
    allowed: list[Array] = []
    if mask is not None and mask.dtype == jnp.bool_:
        allowed.append(_widened(mask, keys, False))
    if is_causal:
        allowed.append(_causal(queries, keys, past))
    if lengths is not None:
        namespace: Any = np if is_known(lengths) else jnp
        allowed.append(namespace.arange(keys) < lengths.reshape(-1, 1, 1, 1))
    for one in allowed:
        scores = jnp.where(one, scores, out_of_reach)
    return scores


def _widened(mask: Array, keys: int, fill: Any) -> Array:
    missing = keys - mask.shape[-1]
    if missing <= 0:
        return mask
    return jnp.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, missing)], constant_values=fill)


@op(since=23, prefers_static=("position_ids",))
def RotaryEmbedding(
    X: Array,
    cos_cache: Array,
    sin_cache: Array,
    position_ids: Array = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Array:
    packed = X.ndim == 3
    x = _heads(X, num_heads) if packed else X
    size = rotary_embedding_dim or x.shape[-1]
    if position_ids is not None:
        cos_cache, sin_cache = take(cos_cache, position_ids, 0), take(sin_cache, position_ids, 0)
    cos, sin = cos_cache[:, None], sin_cache[:, None]
    turned, rest = x[..., :size], x[..., size:]
    if interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
    else:
        first, second = turned[..., : size // 2], turned[..., size // 2 :]
    real, imaginary = cos * first - sin * second, sin * first + cos * second
    if interleaved:
        turned = jnp.stack([real, imaginary], axis=-1).reshape(turned.shape)
    else:
        turned = jnp.concatenate([real, imaginary], axis=-1)
    result = jnp.concatenate([turned, rest], axis=-1)
    return _packed(result) if packed else result


@op(since=27)
def LinearAttention(
    query: Array,
    key: Array,
    value: Array,
    past_state: Array = None,
    decay: Array = None,
    beta: Array = None,
    *,
    chunk_size: int = 64,
    kv_num_heads: int,
    q_num_heads: int,
    scale: float = 0.0,
    update_rule: str = "gated_delta",
) -> tuple[Array, Array]:
    q, k, v = _heads(query, q_num_heads), _heads(key, kv_num_heads), _heads(value, kv_num_heads)
    factor = np.float32(scale or 1 / np.sqrt(q.shape[-1]))
    state: Array = past_state
    if state is None:
        state = jnp.zeros((q.shape[0], kv_num_heads, k.shape[-1], v.shape[-1]), q.dtype)
    kept = None if decay is None else jnp.exp(_heads(decay, kv_num_heads))[..., None]
    rate = None if beta is None else _heads(beta, beta.shape[-1])
    outputs = []
    for step in range(q.shape[2]):
        k_now, v_now = k[:, :, step], v[:, :, step]
        state = state if kept is None else state * kept[:, :, step]
        if rate is not None:
            v_now = rate[:, :, step] * (v_now - jnp.einsum("bhdm,bhd->bhm", state, k_now))
        state = state + k_now[..., :, None] * v_now[..., None, :]
        seen = jnp.repeat(state, q_num_heads // kv_num_heads, axis=1)
        outputs.append(factor * jnp.einsum("bhd,bhdm->bhm", q[:, :, step], seen))
    return _packed(jnp.stack(outputs, axis=2)), state
