"""Checks a certificate of an optimum, with nothing of the project that wrote it: the standard library and NumPy.

    python scripts/check_certificate.py runs/wide/certificate.json.gz

Prints what is proved, or what is wrong, and then ends with 1. A certificate states a space (the product of its axes'
choices), a straight-line program from a choice on each axis to a verdict (0: runs), an objective and the limits, the
best candidate, and a tree of boxes from its root, each before its halves: `[axis, cut]` is split into the choices below
`cut` and the others; in `["least", bound]` no candidate has an objective below the bound; in `["none", reason]` none
runs, or keeps to the limits; `["priced"]` says nothing: each of its candidates is looked at here.

Every closed box is bounded here by interval arithmetic that rounds outwards, in two forms of which the better counts:
plainly, and with every value a product of powers of fields (the certificate's `powers`, any of which would be as true)
times a remainder, so that what cancels does. Trusted: IEEE arithmetic above 1e-300, NumPy's log, exp, power to 1e-13.
That the program is coopt's expression is not shown here: `coopt check` records it anew.
"""

import gzip
import hashlib
import itertools
import json
import math
import sys
import time

import numpy as np

BATCH, MOST, LEAF = 4096, 512 * 2**20, 4096  # boxes at a time; bytes of a file, unpacked; candidates of a priced box
CLOSE, STEP, LIBM = 1e-8, 2.0**-52, 1e-13  # a gap that counts as none; one rounding; a library's functions, relative
COMPARED = ("greater", "greater_equal", "less", "less_equal", "equal", "not_equal")
MEET = ("subtract", "minimum", "maximum", "where", "ceil", "floor")  # where the first form may know more


def need(condition, sentence):
    if not condition:
        raise ValueError(sentence)


def out(low, high, by=STEP):  # ends moved outwards past any rounding
    return low - abs(low) * by, high + abs(high) * by


def positive(low, high):  # the same, for ends that are not negative
    return low * (1.0 - STEP), high * (1.0 + STEP)


def sure(pair):  # NaN at one end alone says nothing about that end; at both: no value is known
    odd = np.isnan(pair[0]) != np.isnan(pair[1])
    return np.where(odd, -np.inf, pair[0]), np.where(odd, np.inf, pair[1])


def extremes(x, y, *ends):  # 0 * inf and inf / inf stand for 0, as others near them do
    a, b, c, d = (np.where(np.isnan(end) & ~np.isnan(x[0]) & ~np.isnan(y[0]), 0.0, end) for end in ends)
    return out(np.minimum(np.minimum(a, b), np.minimum(c, d)), np.maximum(np.maximum(a, b), np.maximum(c, d)))


def multiply(x, y):
    if np.all(x[0] >= 0) and np.all(y[0] >= 0) and np.all(np.isfinite(x[1])) and np.all(np.isfinite(y[1])):
        return positive(x[0] * y[0], x[1] * y[1])
    return extremes(x, y, x[0] * y[0], x[0] * y[1], x[1] * y[0], x[1] * y[1])


def divide(x, y):
    low, high = extremes(x, y, x[0] / y[0], x[0] / y[1], x[1] / y[0], x[1] / y[1])
    through = (y[0] <= 0) & (y[1] >= 0)
    return np.where(through, -np.inf, low), np.where(through, np.inf, high)


def where(c, x, y):
    either = np.logical_and(c[1], np.logical_not(c[0]))
    least, most = (np.logical_and, np.logical_or) if x[0].dtype == y[0].dtype == bool else (np.fmin, np.fmax)
    return np.where(c[0], x[0], np.where(either, least(x[0], y[0]), y[0])), np.where(
        c[0], x[1], np.where(either, most(x[1], y[1]), y[1])
    )


RULES = {
    "add": lambda x, y: out(x[0] + y[0], x[1] + y[1]), "subtract": lambda x, y: out(x[0] - y[1], x[1] - y[0]),
    "multiply": multiply, "divide": divide, "negative": lambda x: (-x[1], -x[0]), 
    "power": lambda x, y: multiply(RULES["absolute"](x), RULES["absolute"](x)),  # the second one: see `rule`
    "absolute": lambda x: (np.maximum(np.maximum(x[0], -x[1]), 0.0), np.maximum(-x[0], x[1])), "where": where,
    "minimum": lambda x, y: (np.minimum(x[0], y[0]), np.minimum(x[1], y[1])),
    "maximum": lambda x, y: (np.maximum(x[0], y[0]), np.maximum(x[1], y[1])),
    "sqrt": lambda x: positive(np.sqrt(np.maximum(x[0], 0.0)), np.sqrt(np.maximum(x[1], 0.0))),
    "floor": lambda x: (np.floor(x[0]), np.floor(x[1])), "ceil": lambda x: (np.ceil(x[0]), np.ceil(x[1])),
    "exp": lambda x: out(np.exp(x[0]), np.exp(x[1]), LIBM),
    "log": lambda x: out(np.log(np.maximum(x[0], 0.0)), np.log(np.maximum(x[1], 0.0)), LIBM),
    "greater": lambda x, y: (x[0] > y[1], x[1] > y[0]), "greater_equal": lambda x, y: (x[0] >= y[1], x[1] >= y[0]),
    "less": lambda x, y: (x[1] < y[0], x[0] < y[1]), "less_equal": lambda x, y: (x[1] <= y[0], x[0] <= y[1]),
    "equal": lambda x, y: ((x[0] == y[1]) & (x[1] == y[0]), (x[0] <= y[1]) & (y[0] <= x[1])),
    "not_equal": lambda x, y: ((x[1] < y[0]) | (y[1] < x[0]), (x[0] != y[1]) | (x[1] != y[0])),
    "logical_and": lambda x, y: (x[0] & y[0], x[1] & y[1]), "logical_or": lambda x, y: (x[0] | y[0], x[1] | y[1]),
}  # fmt: skip
QUICK = {  # of operands that are finite and nowhere negative (a divisor: above 0) in the whole space
    "add": lambda x, y: positive(x[0] + y[0], x[1] + y[1]), "multiply": lambda x, y: positive(x[0] * y[0], x[1] * y[1]),
    "divide": lambda x, y: positive(x[0] / y[1], x[1] / y[0]),
}  # fmt: skip


def rule(name, given, loose):
    """The rule for a node, and whether it may be NaN; operands lie within `given`, `loose` says if one may be NaN."""
    finite = all(np.isfinite(end).all() for pair in given for end in pair)
    need(name != "power" or (given[1][0] == 2.0 == given[1][1]), "a power other than 2")
    if name in COMPARED and loose:  # false with NaN, or true for !=: never certain
        yes = name == "not_equal"
        return (lambda x, y: (RULES[name](x, y)[0] & yes, RULES[name](x, y)[1] | yes)), False
    if name in QUICK and finite and given[0][0] >= 0 and (given[1][0] > 0 if name == "divide" else given[1][0] >= 0):
        return QUICK[name], loose
    if name in ("add", "subtract") and not finite:
        return (lambda x, y: sure(RULES[name](x, y))), True
    new = name in ("multiply", "divide") and not (finite and (name == "multiply" or given[1][0] > 0 or given[1][1] < 0))
    new |= name in ("sqrt", "log") and bool(given[0][0] < 0)
    return RULES[name], (loose or new) and not name.startswith("logical")


class Program:
    """The program of a certificate over its space, checked to be one."""

    def __init__(self, document):
        said = document["program"]
        self.axes = [np.array([[float(v) for v in row] for row in one["values"]]) for one in document["space"]["axes"]]
        need(all(one.ndim == 2 and len(one) and np.isfinite(one).all() for one in self.axes), "an axis without choices")
        self.lengths, self.columns = [len(one) for one in self.axes], {}
        need(int(document["space"]["size"]) == math.prod(self.lengths), "the size is not that of the axes")
        self.inputs = [(axis, field) for axis, field in said["inputs"]]
        need(all(a >= 0 <= f and self.axes[a][:, f].size for a, f in self.inputs), "an input without a field")
        self.constants = [one if isinstance(one, bool) else float(one) for one in said["constants"]]
        self.first, self.results = len(self.inputs) + len(self.constants), said["results"]
        self.nodes, places = [(one[0], one[1:]) for one in said["nodes"]], self.first + len(said["nodes"])
        for place, (name, operands) in enumerate(self.nodes, self.first):
            known = all(0 <= one < place for one in operands) and len(operands) == RULES[name].__code__.co_argcount
            need(known, f"{name}: operands that are not yet known, or too few")
        need(len(self.results) > 1 and all(0 <= one < places for one in self.results), "a result that is not known")
        self.powers = [dict(map(tuple, one)) for one in document["powers"]]
        good = {i for i, (a, f) in enumerate(self.inputs) if (self.axes[a][:, f] > 0).all()}
        own = [{i: 1.0} for i in range(len(self.inputs))] + [{}] * len(self.constants)
        leaf = all(one in ({}, mine) for one, mine in zip(self.powers, own, strict=False))
        need(leaf and len(self.powers) == places and {w for o in self.powers for w in o} <= good, "impossible powers")
        last = {one: number for number, (_, operands) in enumerate(self.nodes) for one in operands}
        self.drops, self.rules, self.loose = [[] for _ in self.nodes], [], [False] * len(self.inputs)
        self.loose += [one != one for one in self.constants]
        for place in last.keys() - set(self.results):
            self.drops[last[place]].append(place)
        root = np.zeros((1, len(self.axes)), int), np.array([self.lengths])
        self.truths = [np.asarray(least).dtype == bool for least, _ in self.plain(*root, keep=True)]
        need(not any(self.truths[one] for one in self.results), "a result that is no number")
        self.second, stack = set(), [self.results[1]]
        while stack:
            place = stack.pop()
            if place not in self.second and not self.truths[place]:
                self.second.add(place)
                stack += self.nodes[place - self.first][1] if place >= self.first else ()

    def extent(self, axis, product, low, high):
        """Least and most over boxes of a column of an axis: a product of powers of its fields."""
        if (axis, product) not in self.columns:
            pair = (np.ones(self.lengths[axis]),) * 2
            for field, exponent in product:
                raised = self.axes[axis][:, field] ** exponent
                pair = multiply(pair, out(raised, raised, LIBM))
            pair = (self.axes[axis][:, product[0][0]],) * 2 if product == ((product[0][0], 1.0),) else pair
            self.columns[axis, product] = tuple(np.append(column, column[-1]) for column in pair)
        ends, place = np.unique(low[:, axis] * (self.lengths[axis] + 1) + high[:, axis], return_inverse=True)
        cuts = np.stack(np.divmod(ends, self.lengths[axis] + 1), axis=1).reshape(-1)
        least, most = self.columns[axis, product]
        return np.minimum.reduceat(least, cuts)[::2][place], np.maximum.reduceat(most, cuts)[::2][place]

    def plain(self, low, high, keep=False):
        """Bounds of the results over boxes from `low` up to, not including, `high`; of every place where `keep`."""
        pairs = [self.extent(axis, ((field, 1.0),), low, high) for axis, field in self.inputs]
        pairs += [(np.full(1, one),) * 2 for one in self.constants]
        for number, (name, operands) in enumerate(self.nodes):
            given = [pairs[one] for one in operands]
            if number == len(self.rules):  # the first call, which is for the whole space, chooses them
                chosen, may = rule(name, given, any(self.loose[one] for one in operands))
                self.rules.append(chosen), self.loose.append(may)
            pairs.append(self.rules[number](*given))
            for one in () if keep else self.drops[number]:
                pairs[one] = None
        return pairs if keep else [pairs[one] for one in self.results]

    def times(self, pair, known, box, *powers):
        """A pair times a product of powers of inputs, each `(exponents, sign)`."""
        total, by_axis = {}, {}
        for exponents, sign in powers:
            for which, exponent in exponents.items():
                total[which] = total.get(which, 0.0) + sign * exponent
        for which in sorted(which for which in total if total[which]):
            by_axis.setdefault(self.inputs[which][0], []).append((self.inputs[which][1], total[which]))
        for axis, fields in by_axis.items():
            key = axis, tuple(fields)
            known[key] = known.get(key) or self.extent(*key, *box)
            pair = multiply(pair, known[key])
        return pair

    def again(self, low, high):
        """Bounds of the objective in the second form."""
        pairs, powers, rest, known, box = self.plain(low, high, keep=True), self.powers, {}, {}, (low, high)
        for place in sorted(self.second):
            own, (name, operands) = powers[place], self.nodes[place - self.first] if place >= self.first else ("", ())
            plain = all(self.truths[one] or (not powers[one] and rest[one] is pairs[one]) for one in operands)
            if plain and not own:
                rest[place] = pairs[place]
            elif place < self.first:
                rest[place] = np.ones(1), np.ones(1)
            elif name in ("multiply", "divide", "sqrt", "negative", "absolute"):
                signs = {"multiply": (1, 1), "divide": (1, -1), "sqrt": (0.5,)}.get(name, (1,))
                signed = [(powers[one], sign) for one, sign in zip(operands, signs, strict=True)]
                rest[place] = self.times(RULES[name](*(rest[o] for o in operands)), known, box, (own, -1), *signed)
            else:
                given = [pairs[o] if self.truths[o] else self.times(rest[o], known, box, (powers[o], 1), (own, -1))
                         for o in operands]  # fmt: skip
                found = (-np.inf, np.inf) if name in ("ceil", "floor") else RULES[name](*given)
                first = self.times(pairs[place], known, box, (own, -1)) if name in MEET else found
                rest[place] = np.fmax(found[0], first[0]), np.fmin(found[1], first[1])
        return self.times(rest[self.results[1]], known, box, (powers[self.results[1]], 1))


def least(program, limits, low, high, said):
    """The least objective in each box, infinite where no candidate runs; the second form where the first says less."""
    found = np.empty(len(low))
    for begin in range(0, len(low), BATCH):
        place = slice(begin, begin + BATCH)
        verdict, *values = program.plain(low[place], high[place])
        bound = np.where(verdict[0] > 0.5, np.inf, values[0][0])
        for which, most in limits:
            bound = np.where(values[which][0] <= most, bound, np.inf)  # NaN: known for none of them
        found[place] = np.where(np.isnan(bound), np.inf, bound)
    weak = np.flatnonzero(found < said)
    for few in np.split(weak, range(BATCH // 4, len(weak), BATCH // 4)) if len(weak) else ():
        found[few] = np.fmax(found[few], program.again(low[few], high[few])[0])
    return found


def boxes(document, lengths, bound):
    """The closed boxes of the tree: what each says at least, its first choices and those past its last."""
    stack = [((0,) * len(lengths), tuple(lengths))]
    for axis, *rest in document["boxes"]:
        need(stack, "more boxes than the tree has places for")
        low, high = stack.pop()
        if axis == "priced":
            need(math.prod(b - a for a, b in zip(low, high, strict=True)) <= LEAF, "too large a box to be priced")
            for here in itertools.product(*map(range, low, high)):
                yield bound, here, tuple(one + 1 for one in here)
        elif isinstance(axis, str):
            need(axis in ("none", "least"), f"no kind of box: {axis}")
            yield math.inf if axis == "none" else float(rest[0]), low, high
        else:
            need(0 <= axis < len(lengths) and low[axis] < rest[0] < high[axis], "a cut outside its box")
            stack.append((low[:axis] + (rest[0],) + low[axis + 1 :], high))
            stack.append((low, high[:axis] + (rest[0],) + high[axis + 1 :]))
    need(not stack, f"{len(stack)} boxes are missing: part of the space is not covered")


@np.errstate(all="ignore")
def check(document):
    """What the certificate proves, as a sentence; ValueError with what it does not."""
    need(document.get("kind") == "certificate" and document.get("format") == 1, "no certificate of format 1")
    content = {key: value for key, value in document.items() if key != "digest"}
    for name, part in (("digest", content), ("program_digest", document["program"])):
        text = json.dumps(part, sort_keys=True, separators=(",", ":"), allow_nan=False)
        need(hashlib.sha256(text.encode()).hexdigest() == document[name], f"{name} is not that of the content")
    program = Program(document)
    names = list(dict.fromkeys((document["objective"], *(name for name, _ in document["limits"]))))
    need(len(program.results) == 1 + len(names), "results for some objectives only")
    limits = [(names.index(name), float(most)) for name, most in document["limits"]]
    value, bound = float(document["best"]["value"]), float(document["bound"])
    need(math.isfinite(value) and bound <= value, "a bound above the best value")
    place = np.array([document["best"]["choices"]])
    inside = place.shape == (1, len(program.axes)) and place.dtype.kind == "i"
    need(inside and ((place >= 0) & (place < program.lengths)).all(), "a best candidate outside the space")
    verdict, *values = program.plain(place, place + 1)
    low, high = (float(np.ravel(end)[0]) for end in values[0])
    need(low <= value <= high and high - low <= 1e-9 * abs(value), f"the best candidate is {low!r}, not {value!r}")
    need((verdict[1] < 0.5).all(), "the best candidate does not run")
    need(all((values[which][1] <= most).all() for which, most in limits), "the best candidate is outside the limits")
    said, low, high = (np.array(one) for one in zip(*boxes(document, program.lengths, bound), strict=True))
    need((said >= bound).all(), "a box that is said to reach below the bound")
    weak = np.count_nonzero(~(least(program, limits, low, high, said) >= said))
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
