"""`loss`: what a model is worth after its tokens. The second pure function, beside the hinge."""

from __future__ import annotations

from coopt.ops.shapes import layers, parameters
from coopt.spec.nouns import NAN, Law, Leaf, Model
from coopt.tree import struct
from coopt.xp import at_least, exp, log, logical_and, sqrt, where

Z90 = 1.6448536269514722  # half-width of a central 90% interval, in standard deviations


@struct
class Quality:
    """A loss with its interval; `value` is NaN where the law has nothing to say."""

    value: Leaf = NAN
    low: Leaf = NAN
    high: Leaf = NAN
    in_range: Leaf = 0.0  # 1 where shape, size and tokens lie inside what the law was fitted on
    tokens: Leaf = NAN  # tokens that count, after what the batch costs


def effective_tokens(law: Law, tokens: Leaf, batch_tokens: Leaf) -> Leaf:
    """Tokens that count: D / (1 + B / B_crit), with the critical batch B_crit = c D^e of the law's file.

    McCandlish et al. 2018, arXiv 1812.06162: at batch B the data needed grows by 1 + B / B_crit. A law without a
    critical batch (c = 0) leaves the tokens alone.
    """
    coefficient, exponent = law.critical
    critical = coefficient * exp(exponent * log(at_least(tokens, 1.0)))
    penalty = where(critical > 0.0, batch_tokens / at_least(critical, 1.0), 0.0)
    return tokens / (1.0 + penalty)


def counted_parameters(model: Model) -> Leaf:
    """N of the law: parameters without the input embedding and learned positions."""
    return (
        parameters(model)
        - where(model.tied > 0.5, 0.0, 1.0) * model.vocab * model.d_model
        - (model.positions * model.d_model)
    )


def loss(law: Law, model: Model, tokens: Leaf, batch_tokens: Leaf = 0.0) -> Quality:
    """L = E + A N^-alpha + B D^-beta with its 90% interval; unknown (NaN) outside the range the law was fitted on.

    N excludes the input embedding; D are the tokens that count after the critical-batch law. Standard errors
    propagate to first order, constants taken as independent, which is wide: the file's errors are correlated.

    A model with experts is priced by a `sparse` law alone, a dense one by a `dense` law alone.
    """
    n = counted_parameters(model)
    d = effective_tokens(law, tokens, batch_tokens)
    experts = max_experts(model)
    known = _within(law, model, n, d, experts)
    if law.form == "sparse":
        value, spread = _sparse(law, model, n, d)
    else:
        scale_n, scale_d = exp(-law.alpha * log(at_least(n, 1.0))), exp(-law.beta * log(at_least(d, 1.0)))
        value = law.E + law.A * scale_n + law.B * scale_d
        e, a, alpha, b, beta = law.errors
        # Constants of one term are strongly correlated (A with alpha): the term moves by the exponent's error at a
        # size one e-fold from the middle of the fitted range, not at N = 1.
        middle_n = 0.5 * (log(at_least(law.parameters[0], 1.0)) + log(law.parameters[1]))
        middle_d = 0.5 * (log(at_least(law.tokens[0], 1.0)) + log(law.tokens[1]))
        from_n = law.A * scale_n * alpha * (log(at_least(n, 1.0)) - middle_n)
        from_d = law.B * scale_d * beta * (log(at_least(d, 1.0)) - middle_d)
        spread = sqrt(e * e + from_n * from_n + from_d * from_d)
    nowhere = where(known, 0.0, NAN)
    return Quality(
        value=value + nowhere,
        low=value - Z90 * spread + nowhere,
        high=value + Z90 * spread + nowhere,
        in_range=where(known, 1.0, 0.0),
        tokens=d,
    )


def max_experts(model: Model) -> Leaf:
    """Experts of the widest mixture in the model; 0 for a dense one."""
    most: Leaf = 0.0
    for kind in model.kinds:
        if kind.feedforward == "moe":
            most = where(kind.experts > most, kind.experts, most)
    return most


def _within(law: Law, model: Model, n: Leaf, d: Leaf, experts: Leaf) -> Leaf:
    """True where size, tokens, aspect ratio, vocabulary and experts lie in the law's ranges, ends included."""
    aspect = model.d_model / at_least(layers(model), 1.0)
    inside = experts < 0.5 if law.form == "dense" else experts > 0.5
    for value, (low, high) in (
        (n, law.parameters),
        (d, law.tokens),
        (aspect, law.aspect),
        (model.vocab, law.vocabulary),
        *(((experts, law.experts),) if law.form == "sparse" else ()),
    ):
        inside = logical_and(inside, logical_and(value >= low * (1 - 1e-9), value <= high * (1 + 1e-9)))
    return inside


def _sparse(law: Law, model: Model, n: Leaf, d: Leaf) -> tuple[Leaf, Leaf]:
    """The sparse law of the file: L = E + (g / G^gamma + A) N^-alpha + B D^-beta, G = d_ff / d_expert granularity.

    Krajewski et al. 2024, arXiv 2402.07871, with N the parameters without embedding.
    """
    g, gamma = law.sparsity[:2]
    kind = next(k for k in model.kinds if k.feedforward == "moe")
    granularity = at_least(4.0 * model.d_model / at_least(kind.d_expert, 1.0), 1e-9)
    coefficient = law.A + g * exp(-gamma * log(granularity))
    term_n = coefficient * exp(-law.alpha * log(at_least(n, 1.0)))
    term_d = law.B * exp(-law.beta * log(at_least(d, 1.0)))
    e, a, alpha, b, beta = law.errors
    spread = sqrt(e * e + (term_n * a / at_least(law.A, 1e-9)) ** 2 + (term_d * b / at_least(law.B, 1e-9)) ** 2)
    return law.E + term_n + term_d, spread
