"""Checks a certificate of an optimum, with nothing of the project that wrote it: the standard library and NumPy.

    python scripts/check_certificate.py runs/wide/certificate.json.gz

Prints what is proved, or what is wrong, and then ends with 1. A certificate states a space (the product of its axes'
choices), a straight-line program from a choice on each axis to a verdict (0: runs), an objective and the limits, the
best candidate, and a tree of boxes, each before its halves: `[axis, cut]` is split into the choices below `cut` and the
others; in `["least", bound]` no candidate has an objective below the bound; in `["none", reason]` none runs, or keeps
to the limits; `["priced"]` says nothing: each of its candidates is looked at here.

Closed boxes are bounded by interval arithmetic that rounds outwards, the objective as a product of powers of fields
(`powers`: any would be as true) times a remainder, so that what cancels does; an operation is done once for all boxes
that agree on its axes. Trusted: IEEE arithmetic above 1e-300, NumPy's log, exp, power to 1e-13; see `coopt check`.
"""

import collections
import gzip
import hashlib
import itertools
import json
import math
import sys
import time

import numpy as np

BATCH, MOST, LEAF = 16384, 512 * 2**20, 4096  # boxes at a time; bytes of a file, unpacked; candidates of a priced box
CLOSE, STEP, LIBM = 1e-8, 2.0**-52, 1e-13  # a gap that counts as none; one rounding; a library's functions, relative
SIDE = np.array([[-1.0], [1.0]])  # a value is an array (2, boxes): the least and the most it can be in each
POSITIVE, WEIGHTS = 1.0 + STEP * SIDE, np.random.default_rng(0).integers(2**62, size=64)
ALL, NONE, COMMON = frozenset((-1,)), frozenset(), 12  # axes; operations that are worth knowing which boxes agree
MEET = ("subtract", "minimum", "maximum", "where")  # where the program as it stands may know more


def need(condition, sentence):
    if not condition:
        raise ValueError(sentence)


def out(x, by=STEP):  # ends moved outwards past any rounding
    return np.where(np.isfinite(x), x + abs(x) * (by * SIDE), x)


def pair(least, most):
    return np.stack(np.broadcast_arrays(least, most))


def sure(x):  # NaN at one end alone says nothing about that end; at both: no value is known
    return np.where(np.isnan(x) & ~np.isnan(x[::-1]), SIDE * np.inf, x)


def extremes(x, y, *ends):  # 0 * inf and inf / inf stand for 0, as others near them do
    a, b = (np.where(np.isnan(end) & ~np.isnan(x[0]) & ~np.isnan(y[0]), 0.0, end) for end in ends)
    return out(pair(np.minimum(a, b).min(axis=0), np.maximum(a, b).max(axis=0)))


RULES = {  # how many operands; what is done; and for finite ones that are nowhere negative (a divisor: above 0)
    "add": (2, lambda x, y: out(x + y), lambda x, y: (x + y) * POSITIVE),
    "subtract": (2, lambda x, y: out(x - y[::-1])),
    "multiply": (2, lambda x, y: extremes(x, y, x * y, x * y[::-1]), lambda x, y: (x * y) * POSITIVE),
    "divide": (2, lambda x, y: np.where((y[0] <= 0) & (y[1] >= 0), SIDE * np.inf, extremes(x, y, x / y, x / y[::-1])),
               lambda x, y: (x / y[::-1]) * POSITIVE),
    "power": (2, lambda x, y: RULES["multiply"][1](*[RULES["absolute"][1](x)] * 2)),  # the second one: see `rule`
    "sqrt": (1, lambda x: out(np.sqrt(np.maximum(x, 0.0))), lambda x: np.sqrt(x) * POSITIVE),
    "absolute": (1, lambda x: pair(np.maximum(np.maximum(x[0], -x[1]), 0.0), np.maximum(-x[0], x[1]))),
    "negative": (1, lambda x: -x[::-1]), "minimum": (2, np.minimum), "maximum": (2, np.maximum),
    "floor": (1, np.floor), "ceil": (1, np.ceil), "exp": (1, lambda x: out(np.exp(x), LIBM)),
    "log": (1, lambda x: out(np.log(np.maximum(x, 0.0)), LIBM)),
    "where": (3, lambda c, x, y: np.where(c[0], x, np.where(
        c[1], pair(np.fmin(x[0], y[0]), np.fmax(x[1], y[1])), y))),
    "greater": (2, lambda x, y: x > y[::-1]), "greater_equal": (2, lambda x, y: x >= y[::-1]),
    "less": (2, lambda x, y: (x < y[::-1])[::-1]), "less_equal": (2, lambda x, y: (x <= y[::-1])[::-1]),
    "equal": (2, lambda x, y: pair((x == y[::-1]).all(axis=0), (x <= y[::-1])[0] & (y <= x[::-1])[0])),
    "not_equal": (2, lambda x, y: ~RULES["equal"][1](x, y)[::-1]), "logical_and": (2, np.logical_and),
    "logical_or": (2, np.logical_or), "logical_not": (1, lambda x: ~x[::-1]),
    "both": (2, lambda x, y: pair(np.fmax(x[0], y[0]), np.fmin(x[1], y[1]))),  # one value, known in two ways
}  # fmt: skip
COMPARED = ("greater", "greater_equal", "less", "less_equal", "equal", "not_equal")


def rule(name, given, loose):
    """The rule for a node, and whether it may be NaN; operands lie within `given`, `loose` says if one may be NaN."""
    finite, (_, plain, *quick) = all(math.isfinite(end) for one in given for end in one), RULES[name]
    need(name != "power" or given[1] == (2.0, 2.0), "a power other than 2")
    if name in COMPARED and loose:  # false with NaN, or true for !=: never certain
        return (lambda x, y: (plain(x, y) & [[False], [True]]) | [[False], [name == "not_equal"]]), False
    if quick and finite and all(one[0] >= 0 for one in given) and (name != "divide" or given[1][0] > 0):
        return quick[0], loose
    if name in ("add", "subtract") and not finite:
        return (lambda x, y: sure(plain(x, y))), True
    new = name == "multiply" and not finite or name in ("sqrt", "log") and given[0][0] < 0
    new |= name == "divide" and not (finite and (given[1][0] > 0 or given[1][1] < 0))
    return plain, (loose or new) and name not in COMPARED and not name.startswith("logical")


class Boxes:  # from `low` up to, not including, `high` on each axis
    def __init__(self, lengths, low, high):
        self.known, self.moves, self.cuts, self.rows = {ALL: (slice(None), np.arange(len(low)))}, {}, [], 0 * low
        for axis, length in enumerate(lengths):
            ends, self.rows[:, axis] = np.unique(low[:, axis] * (length + 1) + high[:, axis], return_inverse=True)
            self.cuts.append(np.stack(np.divmod(ends, length + 1), axis=1).reshape(-1))

    def agree(self, on):  # of boxes that agree on some axes the first of each kind, and of every box its kind
        if on not in self.known:
            some = self.rows[:, sorted(on)]
            _, first, kind = np.unique(some @ WEIGHTS[: len(on)], return_index=True, return_inverse=True)
            need((some[first][kind] == some).all(), "boxes that only seem to agree")
            self.known[on] = first, kind
        return self.known[on]

    def take(self, value, source, to):  # a value for boxes that agree on some axes, for those that agree on more
        if (source, to) not in self.moves:
            self.moves[source, to] = self.agree(source)[1][self.agree(to)[0]]
        return value.take(self.moves[source, to], axis=1)

    def extent(self, axis, column):  # of choices, each with its least and most, and one more behind the last
        least, most = np.minimum.reduceat(column[0], self.cuts[axis]), np.maximum.reduceat(column[1], self.cuts[axis])
        return pair(least[::2], most[::2])[:, self.rows[self.agree(frozenset((axis,)))[0], axis]]


class Program:  # of a certificate, checked to be one: steps whose rules the whole space chose, each done `on` some axes
    def __init__(self, document):
        said = document["program"]
        self.axes = [np.array([[float(v) for v in row] for row in one["values"]]) for one in document["space"]["axes"]]
        need(all(one.ndim == 2 and len(one) and np.isfinite(one).all() for one in self.axes), "an axis without choices")
        self.lengths, self.inputs = [len(one) for one in self.axes], [(axis, field) for axis, field in said["inputs"]]
        need(int(document["space"]["size"]) == math.prod(self.lengths), "the size is not that of the axes")
        need(all(a >= 0 <= f and self.axes[a][:, f].size for a, f in self.inputs), "an input without a field")
        constants = [one if isinstance(one, bool) else float(one) for one in said["constants"]]
        self.first = len(self.inputs) + len(constants)
        self.nodes, places = [(one[0], one[1:]) for one in said["nodes"]], self.first + len(said["nodes"])
        on = [frozenset((axis,)) for axis, _ in self.inputs] + [NONE] * len(constants)
        for place, (name, operands) in enumerate(self.nodes, self.first):
            known = all(0 <= one < place for one in operands) and len(operands) == RULES[name][0]
            need(known and name != "both", f"{name}: operands that are not yet known, or too few")
            on.append(NONE.union(*(on[one] for one in operands)))
        self.powers = [dict(map(tuple, one)) for one in document["powers"]]
        good = {i: axis for i, (axis, field) in enumerate(self.inputs) if (self.axes[axis][:, field] > 0).all()}
        for place, (one, axes) in enumerate(zip(self.powers, on, strict=True)):
            own = place >= self.first or one in ({}, {place: 1.0})
            need(own and all(good.get(which) in axes for which in one), "impossible powers")
        self.space = Boxes(self.lengths, np.zeros((1, len(self.axes)), int), np.array([self.lengths]))
        self.steps, self.on, self.root, self.loose, self.same = [], [], [], [], {}
        self.one = self.step(NONE, "one", lambda: np.ones((2, 1)))
        self.plain = [self.column(axis, ((field, 1.0),)) for axis, field in self.inputs]
        self.plain += [self.step(NONE, repr(v), lambda v=v: np.full((2, 1), v), loose=v != v) for v in constants]
        common = sorted((one for one, many in collections.Counter(on).items() if many >= COMMON), key=len)
        for name, operands in self.nodes:
            given = [self.plain[one] for one in operands]
            axes = NONE.union(*(self.on[one] for one in given))
            self.plain.append(self.do(name, next((one for one in common if one >= axes), ALL), *given))
        self.truth = [self.root[one].dtype == bool for one in self.plain]
        need(all(0 <= one < places and not self.truth[one] for one in said["results"]), "a result that is no number")
        self.results, self.rest = [self.plain[one] for one in said["results"]], {}
        needed, result = {said["results"][1]}, said["results"][1]
        for place in range(result, self.first - 1, -1):
            needed.update(self.nodes[place - self.first][1] if place in needed and not self.truth[place] else ())
        for place in sorted(needed):
            self.rest[place] = self.plain[place] if self.truth[place] else self.remainder(place)
        self.objective = self.times(self.rest[result], self.on[self.plain[result]], (self.powers[result], 1))

    def step(self, on, key, rule, *operands, more=(), loose=False):  # written down once, done for the whole space
        if (key, operands) not in self.same:
            self.same[key, operands] = len(self.steps)
            self.steps.append((rule, operands, more)), self.on.append(on), self.loose.append(loose)
            self.root.append(rule(*(self.space,) * bool(more), *(self.root[one] for one in operands), *more))
        return self.same[key, operands]

    def do(self, name, on, *operands):  # an operation for the boxes that agree on some axes
        if self.one in operands and name in ("multiply", "divide") and (name == "multiply" or operands[1] == self.one):
            return operands[operands[0] == self.one]
        on = on if any(self.on[one] for one in operands) else NONE
        operands = [one if self.on[one] in (on, NONE) else
                    self.step(on, on, Boxes.take, one, more=(self.on[one], on), loose=self.loose[one])
                    for one in operands]  # fmt: skip
        ends = [tuple(self.root[one][:, 0]) for one in operands]
        chosen, loose = rule(name, ends, any(self.loose[one] for one in operands))
        return self.step(on, name, chosen, *operands, loose=loose)

    def column(self, axis, product):
        if ((axis, product), ()) in self.same:
            return self.same[(axis, product), ()]
        found = np.ones((2, self.lengths[axis]))
        for field, exponent in product:
            choices = np.stack((self.axes[axis][:, field],) * 2)
            found = choices if product == ((field, 1.0),) else out(found * out(choices**exponent, LIBM))
        return self.step(frozenset((axis,)), (axis, product), Boxes.extent, more=(axis, np.c_[found, found[:, -1:]]))

    def times(self, one, on, *powers):  # a product of powers of inputs, each `(exponents, sign)`
        total, by_axis = collections.Counter(), collections.defaultdict(tuple)
        for which, exponent in ((which, sign * one[which]) for one, sign in powers for which in one):
            total[which] += exponent
        for which in sorted(which for which in total if total[which]):
            by_axis[self.inputs[which][0]] += ((self.inputs[which][1], total[which]),)
        for axis, product in sorted(by_axis.items()):
            one = self.do("multiply", on, one, self.column(axis, product))
        return one

    def remainder(self, place):  # its value without its powers
        own, on, plain, rest = self.powers[place], self.on[self.plain[place]], self.plain[place], self.rest
        if place < self.first:
            return self.one if own else plain
        name, operands = self.nodes[place - self.first]
        if not own and all(not self.powers[o] and rest[o] == self.plain[o] for o in operands):
            return plain
        if name in ("multiply", "divide", "sqrt", "negative", "absolute"):
            signs = {"divide": (1, -1), "sqrt": (0.5,)}.get(name, (1, 1))
            signed = zip((self.powers[o] for o in operands), signs, strict=False)
            return self.times(self.do(name, on, *(rest[o] for o in operands)), on, (own, -1), *signed)
        if name in ("ceil", "floor"):
            return self.times(plain, on, (own, -1))
        given = [
            rest[o] if self.truth[o] else self.times(rest[o], on, (self.powers[o], 1), (own, -1)) for o in operands
        ]
        found = self.do(name, on, *given)
        return self.do("both", on, found, self.times(plain, on, (own, -1))) if name in MEET else found

    def bounds(self, low, high, wanted):
        needed, seen, plan = set(wanted), set(wanted), []
        for number in range(max(wanted), -1, -1):
            if number in needed:
                needed.update(self.steps[number][1])
                plan.append((number, *self.steps[number], set(self.steps[number][1]) - seen))
                seen |= plan[-1][-1]
        found = [np.empty((2, len(low))) for _ in wanted]
        for part in (slice(begin, begin + BATCH) for begin in range(0, len(low), BATCH)):
            boxes, values = Boxes(self.lengths, low[part], high[part]), {}
            for number, rule, operands, more, dead in reversed(plan):
                values[number] = rule(*(boxes,) * bool(more), *[values[one] for one in operands], *more)
                values.update(dict.fromkeys(dead))
            for rows, one in zip(found, wanted, strict=True):
                rows[:, part] = boxes.take(values[one], self.on[one], ALL)
        return [sure(one) for one in found]


def boxes(document, lengths, bound):  # closed ones: what each says at least, its first choices and those past its last
    stack = [((0,) * len(lengths), tuple(lengths))]
    for axis, *rest in document["boxes"]:
        need(stack, "more boxes than the tree has places for")
        low, high = stack.pop()
        if axis == "priced":
            need(math.prod(b - a for a, b in zip(low, high, strict=True)) <= LEAF, "too large a box to be priced")
            yield from ((bound, here, tuple(n + 1 for n in here)) for here in itertools.product(*map(range, low, high)))
        elif isinstance(axis, str):
            need(axis in ("none", "least"), f"no kind of box: {axis}")
            yield math.inf if axis == "none" else float(rest[0]), low, high
        else:
            need(0 <= axis < len(lengths) and low[axis] < rest[0] < high[axis], "a cut outside its box")
            cut = low[:axis] + (rest[0],) + low[axis + 1 :], high[:axis] + (rest[0],) + high[axis + 1 :]
            stack += ((cut[0], high), (low, cut[1]))
    need(not stack, f"{len(stack)} boxes are missing: part of the space is not covered")


@np.errstate(all="ignore")
def check(document):
    """What the certificate proves, as a sentence; ValueError with what it does not."""
    need(document.get("kind") == "certificate" and document.get("format") == 1, "no certificate of format 1")
    content = json.dumps({**document, "digest": ""}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    need(hashlib.sha256(content.encode()).hexdigest() == document["digest"], "the digest is not that of the content")
    program = Program(document)
    names = list(dict.fromkeys((document["objective"], *(name for name, _ in document["limits"]))))
    need(len(program.results) == 1 + len(names), "results for some objectives only")
    limits = [(1 + names.index(name), float(most)) for name, most in document["limits"]]
    value, bound = float(document["best"]["value"]), float(document["bound"])
    need(math.isfinite(value) and bound <= value, "a bound above the best value")
    place = np.array([document["best"]["choices"]])
    inside = place.dtype.kind == "i" and place.shape == (1, len(program.axes))
    need(inside and (0 <= place).all() and (place < program.lengths).all(), "a best candidate outside the space")
    runs, (least, most), *_ = found = [one[:, 0] for one in program.bounds(place, place + 1, program.results)]
    need(least <= value <= most <= least + 1e-9 * abs(value), f"the best candidate is not {value!r} but {least!r}")
    need(runs[1] < 0.5 and all(found[w][1] <= most for w, most in limits), "the best candidate is out of bounds")
    said, low, high = (np.array(one) for one in zip(*boxes(document, program.lengths, bound), strict=True))
    need((said >= bound).all(), "a box that is said to reach below the bound")
    weak = np.isinf(said)  # what says that none runs, or more than the objective shows: none may run, or have a value
    weak[~weak] = ~(program.bounds(low[~weak], high[~weak], [program.objective])[0][0] >= said[~weak])
    runs, *values = found = program.bounds(low[weak], high[weak], program.results)
    keeps = [found[which][0] <= most for which, most in limits]  # NaN: known for none of them
    weak = np.count_nonzero(np.logical_and.reduce((~(runs[0] > 0.5), ~np.isnan(values[0][0]), *keeps)))
    need(not weak, f"{weak} boxes have smaller bounds than they say")
    gap = (value - bound) / abs(value)
    told = "proved" if gap <= CLOSE else f"not proved: a gap of {100 * gap:.3g}% is left"
    none = f"of {int(document['space']['size']):,} candidates none has a {document['objective']} below {bound:.10g}"
    return f"{told}; {none}, and one has {value:.10g} ({len(document['boxes']):,} boxes)"


def main(paths):
    good = True
    for path in paths:
        began = time.perf_counter()
        try:
            with (gzip.open if str(path).endswith(".gz") else open)(path, "rb") as file:
                told = check(json.loads(file.read(MOST)))
        except Exception as reason:  # a file can be wrong in any way; none of them is a proof
            told, good = f"REJECTED: {type(reason).__name__}: {str(reason)[:200]}", False
        print(f"{path}: {told}; {time.perf_counter() - began:.2f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) if sys.argv[1:] else print(__doc__) or 2)
