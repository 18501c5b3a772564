"""The nouns: frozen pytrees, SI base units, leaves that may be scalars or broadcastable arrays.

Nothing here computes. A `Layout` whose leaves have shape `(n,)`, or one lattice axis each, *is* many layouts. Codes are
small floats that index the names below, so that a choice can be an axis of a search. NaN means `not known`.
"""

from __future__ import annotations

from typing import Any

from coopt.tree import label, static, struct

Leaf = Any  # a float, or an array that broadcasts against the other leaves

NAN = float("nan")

# Number formats, their storage (bytes an element, block scales included) and the recipes that name them.
TYPES = ("fp32", "tf32", "bf16", "fp16", "fp8", "mxfp8", "nvfp4", "int8")
TYPE_BYTES = (4.0, 4.0, 2.0, 2.0, 1.0, 1.0 + 1 / 32, 0.5 + 1 / 16, 1.0)
RECOMPUTE = ("none", "selective", "full")
SCHEDULES = ("1f1b", "gpipe", "zero-bubble")
TRANSPORTS = ("all-to-all", "deduplicated", "all-gather")  # of tokens to experts: a copy each, one a unit, to all
OPTIMIZERS = ("adamw", "muon", "adafactor")
ORDERS = ("tp-cp-dp-pp", "tp-cp-pp-dp", "pp-tp-cp-dp")  # innermost (closest chips) first
MIXERS = ("full", "window", "mla", "linear", "delta", "sparse", "sparse-mla")
FEEDFORWARDS = ("dense", "moe")
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "p2p")
KINDS = ("matmul", "attention", "elementwise", "gather", "cast", "collective", "p2p", "host", "bubble", "overhead")
PHASES = ("forward", "recompute", "backward", "optimizer", "step")
BOUNDS = ("compute", "memory", "network", "latency", "overhead", "none")
VERDICTS = (
    "fits",
    "memory",  # the fullest stage wants more than the chip has
    "chips",  # tp * cp * pp * dp is not the number of chips
    "heads",  # tp does not divide the heads
    "batch",  # dp * micro_batch does not divide the batch
    "layers",  # more pipeline chunks than layers
    "experts",  # ep does not divide the experts, or tp * cp * dp
    "sequence",  # cp or sp does not divide the sequence
    "fsdp",  # fsdp does not divide dp
    "schedule",  # interleaving needs micro-batches in multiples of pp, dualpipe an even pp and 2 pp of them
    "type",  # the chip has no such number format
    "offload",  # no host link, or host memory too small
    "unpriced",  # a field that pricing needs is not known
)


@struct
class Precision:
    """A recipe: a type code for each op class, and bytes an element for what is kept and what is sent."""

    name: str = label(default="bf16")
    linear: Leaf = 2.0  # type code of the layers' matmuls
    attention: Leaf = 2.0  # type code of the attention products
    head: Leaf = 2.0  # type code of the LM head
    activation: Leaf = 2.0  # B an element, kept for the backward pass
    kept: Leaf = 2.0  # B an element of inputs that linear layers and activation functions keep of it
    weight: Leaf = 2.0  # B an element of the copy that computes
    gradient: Leaf = 4.0  # B an element of the gradient kept
    state: Leaf = 12.0  # B a parameter of master weight and optimizer moments
    gather: Leaf = 2.0  # B an element of a gathered weight
    reduce: Leaf = 4.0  # B an element of a reduced gradient
    wire: Leaf = 2.0  # B an element of an activation sent (tp, cp, pp)
    dispatch: Leaf = 2.0  # B an element of a dispatched token (ep)
    quantise: Leaf = 0.0  # 1 when linear inputs are cast, with a scale, before each matmul
    cache: Leaf = 2.0  # B an element of the KV cache


PRECISIONS = {
    "fp32": Precision(name="fp32", linear=0.0, attention=0.0, head=0.0, activation=4.0, kept=4.0, weight=4.0,
                      gather=4.0, wire=4.0, dispatch=4.0, cache=4.0, state=8.0),
    "bf16": Precision(name="bf16"),
    "fp16": Precision(name="fp16", linear=3.0, attention=3.0, head=3.0),
    "fp8": Precision(name="fp8", linear=4.0, quantise=1.0, gather=1.0),
    # DeepSeek-V3, arXiv 2412.19437, section 3.3: inputs kept and tokens dispatched in 8 bits, moments in 16
    "fp8-cached": Precision(name="fp8-cached", linear=4.0, quantise=1.0, kept=1.0, state=8.0, gather=1.0, dispatch=1.0),
    "mxfp8": Precision(name="mxfp8", linear=5.0, quantise=1.0),
    "nvfp4": Precision(name="nvfp4", linear=6.0, quantise=1.0),
    "int8": Precision(name="int8", linear=7.0, quantise=1.0),
}  # fmt: skip


@struct
class LayerKind:
    """One kind of layer and how many there are: a mixer and a feed-forward."""

    mixer: str = static(default="full")  # one of MIXERS
    feedforward: str = static(default="dense")  # one of FEEDFORWARDS
    count: Leaf = 0.0
    heads: Leaf = 1.0
    kv_heads: Leaf = 1.0
    head_dim: Leaf = 64.0
    window: Leaf = 0.0  # tokens attended to: the last ones for `window`, chosen ones for sparse mixers
    q_rank: Leaf = 0.0  # mla: rank of the query projection; 0 = none
    kv_rank: Leaf = 0.0  # mla: rank of the compressed key and value
    rope_dim: Leaf = 0.0  # mla: head size that carries positions
    v_dim: Leaf = 0.0  # mla, linear, delta: head size of values; linear and delta: 0 is that of keys
    index_heads: Leaf = 0.0  # sparse: heads and head size of the indexer that chooses the keys
    index_dim: Leaf = 0.0
    d_ff: Leaf = 0.0  # dense feed-forward width
    gated: Leaf = 1.0  # 1: three matrices (SwiGLU), 0: two
    experts: Leaf = 0.0
    top_k: Leaf = 0.0
    d_expert: Leaf = 0.0  # width of one expert
    groups: Leaf = 1.0  # of experts, each on neighbouring chips; the experts of a token are in top_groups of them
    top_groups: Leaf = 1.0
    shared: Leaf = 0.0  # shared experts a token always visits
    d_shared: Leaf = 0.0  # width of one shared expert
    bias: Leaf = 0.0  # 1: linear layers carry biases
    dropout: Leaf = 0.0  # 1: dropout after attention, its output and the feed-forward; masks are kept
    norms: Leaf = 2.0  # vectors of length d_model in the layer's norms (LayerNorm counts 2 a norm)


@struct
class Model:
    """A decoder: embedding, a short table of layer kinds, head."""

    name: str = label(default="")
    source: str = label(default="")
    d_model: Leaf = 0.0
    vocab: Leaf = 0.0
    tied: Leaf = 0.0  # 1: head and input embedding are one matrix
    positions: Leaf = 0.0  # learned position vectors
    norms: Leaf = 1.0  # vectors of length d_model in the final norm
    context: Leaf = 0.0  # longest sequence it is meant for
    mtp: int = static(default=0)  # further layers, a head each, that predict tokens beyond the next; on the last stage
    kinds: tuple[LayerKind, ...] = ()


@struct
class Layout:
    """How a model is cut over chips; chips = tp * cp * pp * dp."""

    tp: Leaf = 1.0  # tensor parallel
    cp: Leaf = 1.0  # context parallel
    pp: Leaf = 1.0  # pipeline stages
    dp: Leaf = 1.0  # data parallel replicas
    fsdp: Leaf = 1.0  # shards of weights and state inside dp; dp / fsdp copies (HSDP)
    ep: Leaf = 1.0  # expert parallel; divides tp * cp * dp
    vpp: Leaf = 1.0  # model chunks a stage (interleaving)
    schedule: Leaf = 0.0  # code into SCHEDULES
    dualpipe: Leaf = 0.0  # 1: micro-batches enter from both ends, a chip holds two stages, gradients fill the bubble
    micro_batch: Leaf = 1.0  # sequences a replica a pass
    sp: Leaf = 0.0  # 1: sequence parallel (norms and residuals split over tp)
    zero: Leaf = 1.0  # 0 replicated, 1 state, 2 + gradients, 3 + weights split over fsdp
    recompute: Leaf = 0.0  # code into RECOMPUTE
    recompute_norm: Leaf = 0.0  # 1: beside that, a trainer (not `traced`) makes norms again,
    recompute_act: Leaf = 0.0  # activation functions,
    recompute_up: Leaf = 0.0  # the up-projections of MLA,
    recompute_mlp: Leaf = 0.0  # or the whole feed-forward
    fused_attention: Leaf = 1.0  # 1: scores never leave the chip's cores; 0: written and read back
    fused_loss: Leaf = 1.0  # 1: cross-entropy in one kernel on 16-bit logits; 0: in 32 bits, an operation at a time
    traced: Leaf = 0.0  # 1: one compiled program: keeps what each operation needs, sums between copies after its loop
    offload: Leaf = 0.0  # share of kept activations moved to host memory and back
    overlap: Leaf = 0.0  # 1: all tensor-parallel collectives run under matmuls that are cut for it
    paired: Leaf = 0.0  # 1: expert collectives run under the computing of another micro-batch
    late: Leaf = 0.0  # 1: weights are gathered and gradients summed while nothing is computed
    beside: Leaf = 0.0  # 1: backward, tensor collectives run beside the products that do not wait for them
    apart: Leaf = 0.0  # 1: weight gradients are added up by kernels of their own, not by the products that make them
    pieces: Leaf = 1.0  # messages in which a layer's weights are gathered (zero 3)
    graphs: Leaf = 0.0  # share of launches replayed from captured graphs, which cost the host nothing
    transport: Leaf = 0.0  # code into TRANSPORTS
    capacity: Leaf = 0.0  # rows kept for each expert over the mean, padded or dropped; 0: as many as come (dropless)
    imbalance: Leaf = 1.0  # tokens of the fullest expert chip over the mean, where dropless; 1: forced balance
    optimizer: Leaf = 0.0  # code into OPTIMIZERS
    order: Leaf = 0.0  # code into ORDERS
    precision: Precision = Precision()


@struct
class Phase:
    """One kind of work in a workload: train, prefill or decode; `repeat` times a turn, on one pool of chips."""

    kind: str = static(default="train")
    pool: str = static(default="all")
    seq_len: Leaf = 0.0
    batch: Leaf = 0.0  # sequences a step, over all chips
    context: Leaf = 0.0  # tokens already in the cache (prefill, decode)
    document: Leaf = 0.0  # tokens of a document packed with others, E[l^2] / E[l]; 0: a sequence is one document
    repeat: Leaf = 1.0


@struct
class Workload:
    """What is asked: a loop of phases. Pre-training is the loop of one; RL is generate, score, train."""

    phases: tuple[Phase, ...] = (Phase(),)
    tokens: Leaf = NAN  # tokens of the whole run; NaN: not asked

    @property
    def train(self) -> Phase:
        """The one training phase."""
        (phase,) = (p for p in self.phases if p.kind == "train")
        return phase


def training(seq_len: Leaf, batch: Leaf, tokens: Leaf = NAN, *, document: Leaf = 0.0) -> Workload:
    """Pre-training on `batch` sequences of `seq_len` tokens a step, `tokens` in all; `document`: see `Phase`."""
    return Workload(phases=(Phase(kind="train", seq_len=seq_len, batch=batch, document=document),), tokens=tokens)


@struct
class Tier:
    """One level of the network, seen from one chip."""

    name: str = label(default="")
    size: Leaf = 1.0  # chips inside one unit of this tier
    bandwidth: Leaf = 0.0  # B/s one way a chip, all its links of this tier
    latency: Leaf = 0.0  # s a step of a collective; starting one costs a few
    efficiency: Leaf = 1.0  # share of the bandwidth that large messages reach
    saturation: Leaf = 0.0  # B a collective at which half of that is reached
    oversubscription: Leaf = 1.0  # 1 = full bisection
    reduction: Leaf = 0.0  # 1: switches reduce in the network
    ring: Leaf = 0.0  # 1: reductions go round a ring, however many steps that is; 0: or up and down a tree
    axes: Leaf = 0.0  # torus dimensions; 0 = switched


@struct
class Hardware:
    """The resolved machine: `resolve(chip, system, chips, stack)`. Every efficiency is a share of a peak."""

    name: str = label(default="")
    chip: str = label(default="")
    family: str = label(default="")
    stack: str = label(default="generic")
    fidelity: str = label(default="transferred")  # measured | interpolated | transferred | compiler | speed-of-light
    assumed: tuple[str, ...] = label(default=())  # sentences about what was filled in
    chips: Leaf = 1.0
    peak: tuple[Leaf, ...] = (0.0,) * len(TYPES)  # FLOP/s dense by type; 0 = not supported
    vector: Leaf = 0.0  # FLOP/s of the vector units
    bandwidth: Leaf = 0.0  # B/s of main memory
    memory: Leaf = 0.0  # B a program can use
    cache: Leaf = 0.0  # B on chip (last-level cache or scratch)
    cores: Leaf = 1.0  # units that each take one matmul tile at a time
    tile_m: Leaf = 128.0  # rows of the matmul tile that reaches the efficiency below
    tile_n: Leaf = 64.0
    tile_k: Leaf = 2048.0  # shortest slice of the reduction that a library gives to one core
    host_bandwidth: Leaf = 0.0  # B/s one way to the host; 0 = none
    host_memory: Leaf = 0.0  # B of host memory a chip; 0 = none
    # parts of a chip told apart; 0: inside the shares below, as of every chip that was fitted
    edge: Leaf = 0.0  # multipliers along each side of a matrix unit
    spill: Leaf = 0.0  # 1/sqrt(B) of the memory on chip that blocks products
    score: Leaf = 0.0  # s the whole chip takes for one score of a softmax
    pointwise: Leaf = 0.0  # s its vector units take for a byte of a pointwise kernel
    matmul: tuple[Leaf, ...] = (0.7,) * len(TYPES)  # share of the peak, large matmuls, by type
    depth: Leaf = 256.0  # reduction length k at which a matmul reaches half of that
    batched: Leaf = 1.0  # rate of many products side by side over that of one alone; 1 with kernels made for them
    backward: tuple[Leaf, ...] = (1.0,) * len(TYPES)  # rate of products in a backward pass over that forward, by type
    attention: Leaf = 0.5  # share of the peak, fused attention forward
    attention_backward: Leaf = 0.4
    attention_depth: Leaf = 1000.0  # sequence length at which fused attention reaches half of that
    stream: Leaf = 0.8  # share of the memory bandwidth
    kernel: Leaf = 5e-6  # s a launch costs on the device
    tiers: tuple[Tier, ...] = ()  # between chips, nearest first
    dispatch: Leaf = 0.0  # s of host time a launch; the stack's constants begin here
    ported: Leaf = 1.0  # rate of its fused attention over the family's: kernels for an older chip, more exponentials
    passes: Leaf = 1.0  # bytes that pointwise kernels move, over those of perfectly fused ones
    passes_back: Leaf = 1.0  # times as many in a backward pass, where compilers fuse less
    hide_tensor: Leaf = 0.0  # share of tensor, context and expert collectives that compute may hide
    hide_data: Leaf = 0.9  # share of weight and gradient collectives that compute may hide
    stolen: Leaf = 0.0  # share of the cores that collectives take from compute while they are hidden
    overhead: Leaf = 0.0  # share of the step spent outside the model
    jitter: Leaf = 0.004  # relative spread of a chip's step; the job waits for the slowest
    margin: Leaf = 1.0  # allocated over counted memory
    reserved: Leaf = 0.0  # B a chip kept by runtime and communication
    watts_idle: Leaf = NAN  # W a chip, chip alone
    watts: Leaf = NAN  # W a chip at full load, chip alone
    watts_all_in: Leaf = NAN  # W a chip of IT power: host, network and chip
    clocked: Leaf = NAN  # share of `watts` that follows clock and voltage, as C V^2 f
    leaking: Leaf = NAN  # share of `watts` that follows voltage alone, as V^2
    slope: Leaf = NAN  # d log voltage / d log clock where it runs
    joules_flop: tuple[Leaf, ...] = (NAN,) * len(TYPES)
    joules_byte: Leaf = NAN  # J/B of main memory
    joules_wire: Leaf = NAN  # J/B sent
    dollars_hour: Leaf = NAN  # USD a chip-hour, rented
    dollars: Leaf = NAN  # USD a chip, bought, all in
    date: Leaf = NAN  # year it can be had, as a decimal
    failure_rate: Leaf = NAN  # interruptions a chip-second
    restart: Leaf = NAN  # s from an interruption to the next step
    checkpoint: Leaf = NAN  # s a checkpoint stops the run
    blast: Leaf = 1.0  # chips that one failed chip takes with it until it is repaired
    repair: Leaf = 0.0  # s until they are back
    spares: Leaf = 0.0  # chips that are paid for and idle, over those at work
    sigma: Leaf = NAN  # standard deviation of log(measured / predicted); NaN: never compared


@struct
class Law:
    """L(N, D) = E + A N^-alpha + B D^-beta, with what it was fitted on; `sparse` laws add expert terms."""

    name: str = label(default="")
    source: str = label(default="")
    form: str = static(default="dense")  # dense | sparse
    E: Leaf = 0.0
    A: Leaf = 0.0
    alpha: Leaf = 0.0
    B: Leaf = 0.0
    beta: Leaf = 0.0
    errors: tuple[Leaf, ...] = (0.0,) * 5  # standard errors of E, A, alpha, B, beta
    sparsity: tuple[Leaf, ...] = ()  # the sparse law's further constants, in the order its file gives
    parameters: tuple[Leaf, Leaf] = (0.0, float("inf"))  # range of N it was fitted on
    tokens: tuple[Leaf, Leaf] = (0.0, float("inf"))
    aspect: tuple[Leaf, Leaf] = (0.0, float("inf"))  # d_model / layers
    vocabulary: tuple[Leaf, Leaf] = (0.0, float("inf"))
    experts: tuple[Leaf, Leaf] = (0.0, float("inf"))
    critical: tuple[Leaf, Leaf] = (0.0, 0.0)  # critical batch in tokens = c * D^e: (c, e)


@struct
class Row:
    """One operation of a step on one chip, as `count` leaves it; `estimate` reads nothing else."""

    name: str = static(default="")
    kind: str = static(default="elementwise")  # one of KINDS
    phase: str = static(default="forward")  # one of PHASES
    scope: str = static(default="layer")  # layer | stage | first | last | step: where and how often it runs
    group: str = static(default="")  # tensor | data | copies | pipeline | expert | context | host: what hides it
    collective: str = static(default="")  # one of COLLECTIVES
    count: Leaf = 0.0  # times a micro-batch and layer, a micro-batch (stage, first, last) or a step
    launches: Leaf = 1.0  # kernels each time
    m: Leaf = 0.0
    n: Leaf = 0.0
    k: Leaf = 0.0
    batch: Leaf = 1.0
    type: Leaf = 2.0  # code into TYPES
    flops: Leaf = 0.0  # each time, one chip
    read: Leaf = 0.0  # B
    written: Leaf = 0.0  # B
    payload: Leaf = 0.0  # B a chip holds of the full buffer (before a reduction, after a gather)
    fan: Leaf = 1.0  # copies of one item in the payload that cross into a unit once (deduplicated all-to-all)
    parts: Leaf = 1.0  # of the group, each of neighbours; the copies of one item go to top_parts of them
    top_parts: Leaf = 1.0
    size: Leaf = 1.0  # chips in the group
    stride: Leaf = 1.0  # distance between neighbours of the group, in chips


@struct
class Memory:
    """Bytes on the fullest chip, by part."""

    parameters: Leaf = 0.0
    gradients: Leaf = 0.0
    optimizer: Leaf = 0.0
    activations: Leaf = 0.0
    logits: Leaf = 0.0
    buffers: Leaf = 0.0
    host: Leaf = 0.0  # on the host, not on the chip


@struct
class Ops:
    """What must be done in one step: a header, memory by part, and one row an operation."""

    rows: tuple[Row, ...] = ()
    memory: Memory = Memory()
    chips: Leaf = 1.0
    tokens: Leaf = 0.0  # a step, all chips
    model_flops: Leaf = 0.0  # (6W + 1.5A) * tokens, recompute not counted
    stages: Leaf = 1.0
    chunks: Leaf = 1.0  # virtual stages
    micro_batches: Leaf = 1.0
    schedule: Leaf = 0.0
    dualpipe: Leaf = 0.0
    layers: Leaf = 0.0  # in all
    layers_first: Leaf = 0.0  # on the first, a middle and the last stage
    layers_middle: Leaf = 0.0
    layers_last: Leaf = 0.0
    type: Leaf = 2.0  # the recipe's linear type: the peak that MFU is taken of
    overlap: Leaf = 0.0  # share of tensor collectives that may hide behind compute
    paired: Leaf = 0.0  # 1: expert collectives hide behind the computing of another micro-batch, where there is one
    late: Leaf = 0.0  # 1: data collectives wait until nothing is computed
    scan: Leaf = 0.0  # 1: sums between copies begin when all is computed
    eager: Leaf = 1.0  # share of launches that the host makes one by one
    synchronised: Leaf = 0.0  # share of layers in which the host waits for the device to say how much work there is
    verdict: Leaf = 0.0  # code into VERDICTS, from the arithmetic of the layout alone


@struct
class Cost:
    """The same rows in seconds, with totals; the exposed times of the rows, `time`, add to `step_time`."""

    step_time: Leaf = 0.0
    tokens_per_second_per_chip: Leaf = 0.0
    mfu: Leaf = 0.0
    memory: Leaf = 0.0  # B wanted on the fullest chip, margin included
    slack: Leaf = 0.0  # (available - wanted) / available
    verdict: Leaf = 0.0
    joules: Leaf = NAN  # J a step, all chips, IT
    dollars: Leaf = NAN  # USD a step, all chips
    goodput: Leaf = NAN  # share of wall time spent on steps that count
    names: tuple[str, ...] = static(default=())
    time: tuple[Leaf, ...] = ()
    busy: tuple[Leaf, ...] = ()
    once: tuple[Leaf, ...] = ()  # s of one occurrence
    bound: tuple[Leaf, ...] = ()  # codes into BOUNDS
    parts: Memory = Memory()
