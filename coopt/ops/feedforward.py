"""Rows of a layer's feed-forward: dense, or experts with router, dispatch, grouped products and combine."""

from __future__ import annotations

from coopt.ops.cut import Cut
from coopt.ops.rows import Rows, elementwise, matmul, never, norm, residual
from coopt.spec.nouns import LayerKind, Layout, Leaf, Model
from coopt.tree import replace
from coopt.xp import maximum, minimum, where


def feedforward(name: str, model: Model, kind: LayerKind, layout: Layout, cut: Cut) -> Rows:
    """The rows of one feed-forward on one chip, a micro-batch and layer at a time; `name` prefixes them."""
    byte = layout.precision.activation
    between = byte * cut.tokens / cut.split * model.d_model
    rows, whole = norm(f"{name}norm", cut, between), remade(layout, cut)
    if kind.feedforward == "dense":
        rows += _mlp(name, model, kind, layout, whole, width=kind.d_ff / layout.tp, tokens=cut.tokens)
    else:
        rows += _experts(name, model, kind, layout, whole)
    return rows + residual(f"{name}residual", cut, between, kind.dropout)


def remade(layout: Layout, cut: Cut) -> Cut:
    """The cut with all of a feed-forward made again where it is: its last product too, as a checkpoint runs it."""
    if never(layout.recompute_mlp, 1.0):
        return cut
    every = {field: maximum(getattr(cut, field), cut.mlp) for field in ("full", "pointwise", "last")}
    return replace(cut, **every)


def _mlp(
    name: str,
    model: Model,
    kind: LayerKind,
    layout: Layout,
    cut: Cut,
    *,
    width: Leaf,
    tokens: Leaf,
    batch: Leaf = 1.0,
    count: Leaf = 1.0,
    launches: Leaf = 1.0,
    weighed: bool = False,
) -> Rows:
    """Up (and gate), activation, down; `batch` equal products side by side are the experts of one chip.

    The result of the last product is read once more where it is `weighed`, for the gradient of its weight.
    """
    d, linear, byte = model.d_model, layout.precision.linear, layout.precision.activation
    up = (1.0 + kind.gated) * width
    rows = matmul(
        f"{name}up", cut, layout, m=tokens, n=up, k=d, type=linear, batch=batch, count=count, launches=launches
    )
    into, out = byte * tokens * up * batch, byte * tokens * width * batch
    rows += elementwise(
        f"{name}act", cut, read=into, written=out, back_read=into + out, back_written=into, count=count,
        again=maximum(cut.pointwise, cut.act),
    )  # fmt: skip
    rows += matmul(
        f"{name}down", cut, layout, m=tokens, n=d, k=width, type=linear, batch=batch, count=count, launches=launches,
        again=cut.full if weighed else cut.last,
    )  # fmt: skip
    return rows


def routed_tokens(kind: LayerKind, layout: Layout, cut: Cut) -> Leaf:
    """Token copies the fullest chip works on: tokens * top_k, split over tp where experts are not, times its load.

    A fixed capacity is worked on whole, filled or not; without one the step waits for the fullest chip.
    """
    load = where(layout.capacity > 0.0, layout.capacity, layout.imbalance)
    return cut.tokens * cut.expert_tensor / layout.tp * kind.top_k * load


def _experts(name: str, model: Model, kind: LayerKind, layout: Layout, cut: Cut) -> Rows:
    """Router, permutation, the experts of this chip as one grouped product, the way back, shared experts."""
    d, byte = model.d_model, layout.precision.activation
    own = cut.tokens * cut.expert_tensor / layout.tp  # tokens this chip routes
    routed = routed_tokens(kind, layout, cut)
    local = kind.experts / layout.ep  # experts on this chip
    rows = matmul(f"{name}router", cut, layout, m=own, n=kind.experts, k=d, type=layout.precision.attention)
    scores = 4.0 * own * kind.experts
    rows += elementwise(
        f"{name}top_k", cut, read=scores, written=scores, back_read=2.0 * scores, back_written=scores, launches=6.0,
        back_launches=6.0,
    )  # fmt: skip
    moved = byte * routed * d
    rows += elementwise(
        f"{name}permute", cut, kind="gather", read=moved, written=moved, back_read=moved, back_written=moved,
        launches=3.0, back_launches=3.0,
    )  # fmt: skip
    # every chip of the group sends as much as it receives: routed tokens in all, spread over its local experts
    rows += _mlp(
        f"{name}expert_",
        model,
        kind,
        layout,
        cut,
        width=kind.d_expert / cut.expert_tensor,
        tokens=routed / local,
        batch=local,
        launches=local,
        weighed=True,
    )
    rows += elementwise(
        f"{name}unpermute",
        cut,
        kind="gather",
        read=moved + byte * own * d,
        written=moved,
        back_read=moved,
        back_written=moved,
        launches=3.0,
        back_launches=3.0,
    )
    return rows + _mlp(
        f"{name}shared_",
        model,
        kind,
        layout,
        cut,
        width=kind.shared * kind.d_shared / layout.tp,
        tokens=cut.tokens,
        count=minimum(kind.shared, 1.0),
    )
