"""Every command and every flag of the command line, as data: nothing here imports more than the standard library."""

from __future__ import annotations

from typing import NamedTuple


class Flag(NamedTuple):
    """One flag: what it means (with its unit), what it takes and what it is when left out."""

    help: str
    takes: str | tuple[str, ...] = (
        "TEXT"  # TEXT, WHOLE (from 0), COUNT (from 1), NUMBER (above 0), nothing (""), or the words it may be
    )
    default: str | int | float | bool | None = None


class Word(NamedTuple):
    """A positional argument; `many` as in argparse: "" one, "?" at most one, "*" any number, "+" at least one."""

    name: str
    help: str
    many: str = ""


class Command(NamedTuple):
    """A verb: `run` is `module:function`, takes the parsed options and returns the document."""

    help: str
    run: str
    words: tuple[Word, ...] = ()
    flags: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    example: str = ""
    show: str = "coopt.report.tables:table"  # `module:function` from the document to text for people
    jax: bool = True  # needs the numerical side: CPU backend, float64
    inside: tuple[str, ...] = ()  # what `key.field=value` reaches inside: `layout.tp=8`, `hardware.memory.capacity=…`


FLAGS = {
    # understood by every command
    "format": Flag("text for people, or json: one JSON document on stdout", ("text", "json"), "text"),
    "profile_path": Flag("folders of your own profiles and models, `:` between them; they are searched first"),
    "debug": Flag("show the traceback of an unexpected failure", ""),
    # what is priced
    "model": Flag("a model's name or file: llama3-70b, ./mine.yaml"),
    "hardware": Flag("a system's, chip's or measured profile's name or file: dgx-h100, ./mine.yaml"),
    "chips": Flag("how many chips", "COUNT"),
    "layout": Flag(
        "how the model is cut: tp=8,pp=4,micro_batch=1,…; what is left out is the stack's practice, and said"
    ),
    "workload": Flag("what is asked", ("train",), "train"),
    "seq_len": Flag("tokens in a sequence", "COUNT"),
    "global_batch": Flag("sequences in a step, over all chips", "COUNT"),
    "tokens": Flag("tokens of the whole run, for its loss, days and dollars", "NUMBER"),
    "watts": Flag("hold each chip to so many W: clock and voltage follow", "NUMBER"),
    "stack": Flag("the software stack's name or file: generic, jax, megatron"),
    "step_time": Flag("what a step of the run took, with its unit: '8.9 s', '412 ms'"),
    "gradients": Flag("what each rate of the machine is worth, and how much of it is enough", ""),
    # a chip to order
    "vendor": Flag("the design that is bought today, its name or file: b200, ./mine.yaml (default b200)"),
    "volume": Flag("how many chips would be ordered in all (default 100000)", "NUMBER"),
    "area": Flag("silicon of a package, at most, mm2", "NUMBER"),
    "power": Flag("W a chip, at most", "NUMBER"),
    "cost": Flag("USD a chip to whoever orders, at most", "NUMBER"),
    "supply": Flag("stacks of HBM to be had for all chips", "NUMBER"),
    "date": Flag("year by which it must exist: 2029.5", "NUMBER"),
    "mix": Flag("futures and weights: today:2,context-8x,sparsity-4x,no-fp4 (default all alike)"),
    "precision": Flag("recipes that may train: bf16,fp8,nvfp4"),
    # searching
    "measure": Flag("how many shortlisted blocks to compile and time here; 0: none", "WHOLE"),
    "objective": Flag("what the ranking is by"),
    "loss": Flag("keep candidates whose predicted loss is at most this: '--loss<=2.4'", "NUMBER"),
    "batch_penalty": Flag(
        "what a batch beyond the critical one costs: law (tokens, by a published law) or none", ("law", "none"), "law"
    ),
    "top": Flag("how many plans to keep and print", "COUNT"),
    "seed": Flag("seed of every random choice", "WHOLE", 0),
    "adversary": Flag("search against the model: where floors and replays disagree with it most; writes no run", ""),
    # runs
    "name": Flag("the run's name: it lives in RUNS/NAME"),
    "runs": Flag("the folder that runs live in", "TEXT", "runs"),
    "resume": Flag("go on with a run that was stopped", ""),
    "out": Flag("the file to write"),
    "changed_by": Flag(
        "a profile, by name or as a corrected file: only runs that read it, and what it changes in them"
    ),
    "serve": Flag("show the page at an address of this machine alone, read-only, until Ctrl-C", ""),
    "drop": Flag("leave out what is damaged; the old file is kept beside the new one", ""),
    # fitting
    "from": Flag(
        "what a fit starts from. fit: a profile (dgx-h100, ./mine.yaml); calibrate: the compiler's cycles of a chip "
        "that is not there (tpu:v6e; v4, v5e, v5p, 7x)"
    ),
    "executor": Flag(
        "where blocks are timed and parts of a sweep priced: this process, its children, Ray, or Slurm's queue",
        ("serial", "process", "ray", "slurm"),
    ),
    "workers": Flag("how many of the executor's jobs run at once", "COUNT", 2),
    "ray_address": Flag("address of a Ray cluster; without it --executor=ray starts one on this machine"),
    # measuring
    "program": Flag(
        "your own program, package.module:function; the function returns (step, arguments), and may take the devices"
    ),
    "block": Flag(
        "a layer of your own in place of ours, package.module:factory; factory(model, kind) returns a module"
    ),
    "on": Flag(
        "where: local, cpu:8, tpu:v5p:8x8x16 (v4, v5e, v6e, 7x too) or gpu:PROFILE:1x8x8; not local is compiled alone",
        "TEXT",
        "local",
    ),
    "peers": Flag(
        "processes that hold one block together: how many to begin here, or auto (with --chips) on each that srun, "
        "mpirun or a TPU slice began"
    ),
    "part": Flag("what of the model, for another target than local (layer)", ("layer", "embedding", "head", "step")),
    "xla_flags": Flag("flags of the compiler, for another target than local: '--xla_a=true --xla_b=2'"),
    "seconds": Flag("longest time to spend, s", "NUMBER"),
    "trace": Flag(
        "a trace to read: a folder that jax.profiler.trace wrote, or a CSV of `nsys stats` (cuda_gpu_kern_sum)"
    ),
    "block_seconds": Flag("longest time for one block, compiling included, s", "NUMBER"),
}
EVERYWHERE = ("format", "profile_path", "debug")

DESIGN = ("model", "hardware", "layout", "workload")
WORKLOAD = ("workload", "seq_len", "global_batch", "tokens", "stack")
PLACE = ("name", "runs")
WHERE = ("executor", "workers", "ray_address")
RUN = Word("run", "a run's name (a folder in RUNS) or its path")

COMMANDS = {
    "hardware": Command(
        "list the chips, systems and stacks, or show one with its sources",
        "coopt.commands.profiles:hardware",
        (Word("name", "the profile to show", "?"),),
        example="coopt hardware dgx-h100",
        show="coopt.commands.listing:shown",
        jax=False,
    ),
    "models": Command(
        "list the models, or show one with its sources",
        "coopt.commands.profiles:models",
        (Word("name", "the model to show", "?"),),
        example="coopt models llama3-70b",
        jax=False,
    ),
    "check": Command(
        "validate profiles, models, studies and scenarios, every mistake with its line; check certificates",
        "coopt.commands.profiles:check",
        (Word("files", "YAML files, folders of them, or certificates (.json, .json.gz)", "+"),),
        example="coopt check mine.yaml",
        show="coopt.commands.say:as_text",
        jax=False,
    ),
    "explain": Command(
        "price one design, row by row, with bounds and memory",
        "coopt.study.verbs:explain",
        flags=("model", "hardware", "chips", "layout", *WORKLOAD, "watts", "gradients"),
        required=("model", "hardware"),
        example="coopt explain --model=llama3-70b --hardware=dgx-h100 --chips=1024 --layout=tp=8,pp=4",
        inside=DESIGN,
    ),
    "diagnose": Command(
        "a run of yours beside our prediction: where its time goes, what is suspect, which layouts would be faster",
        "coopt.study.verbs:diagnose",
        flags=("model", "hardware", "chips", "layout", *WORKLOAD, "watts", "step_time", "trace"),
        example="coopt diagnose --model=llama3-70b --hardware=dgx-h100 --chips=64 --layout=tp=8,pp=4 --step_time=70s",
        inside=DESIGN,
    ),
    "compare": Command(
        "which of two or more designs, plans or profiles is better, by how much, how sure, and why",
        "coopt.study.verbs:compare",
        (Word("designs", "llama3-70b@dgx-h100:1024/tp=8,pp=4, a run's plan as RUN#RANK, or a profile", "+"),),
        ("model", "chips", "layout", *WORKLOAD, "runs"),
        example="coopt compare llama3-70b@dgx-h100:1024/tp=8,pp=4 llama3-70b@dgx-b200:1024/tp=8",
    ),
    "search": Command(
        "the main job: screen candidates, compile and time the best blocks, calibrate, re-rank, report",
        "coopt.commands.watched:search",
        (Word("study", "a study's file; without one, the embedded default study", "?"),),
        ("model", "hardware", "chips", "layout", *WORKLOAD, "measure", "objective", "loss", "batch_penalty", "top")
        + (*PLACE, "resume", "seed", "adversary", "block_seconds", *WHERE),
        example="coopt search --model=llama3-70b --hardware=dgx-h100 --chips=1024 --measure=0",
        inside=(*DESIGN, "study"),
    ),
    "predict": Command(
        "price every row of a table of published or planned steps",
        "coopt.study.verbs:predict",
        (Word("rows", "a CSV file"),),
        ("out", "stack"),
        required=("out",),
        example="coopt predict rows.csv --out=predicted.csv",
    ),
    "validate": Command(
        "price every row of a table of measured steps, and score the prediction",
        "coopt.commands.written:validate",
        (Word("rows", "a CSV file"),),
        ("out", "stack"),
        example="coopt validate rows.csv --format=json",
    ),
    "fit": Command(
        "constants from measured steps: a private profile from three to fifty rows of your own, or what ships",
        "coopt.study.verbs:fit",
        (Word("rows", "a CSV file; without one, the published steps that ship", "?"),),
        ("from", "stack", "out"),
        example="coopt fit mine.csv --from=dgx-h100 --out=mine",
        show="coopt.commands.say:as_text",
    ),
    "measure": Command(
        "compile and time transformer blocks, or a program of your own, on this machine",
        "coopt.commands.watched:measure",
        (Word("study", "a study's file; without one, the blocks of the default study", "?"),),
        ("program", "model", "block", "layout", "seq_len", "on", "part", "xla_flags", "peers", "chips", "out",
         "seconds", "block_seconds"),  # fmt: skip
        example="coopt measure --out=measured.json",
        inside=("model", "layout"),
        show="coopt.commands.say:measured",
    ),
    "calibrate": Command(
        "turn measurements into a profile; without any, time the most telling blocks on this machine first",
        "coopt.commands.watched:calibrate",
        (Word("measured", "runs, or files written by `coopt measure`", "*"),),
        ("hardware", "from", "on", "out", "runs", "seconds", "block_seconds"),
        example="coopt calibrate measured.json --out=this-host.yaml",
        show="coopt.commands.say:as_text",
    ),
    "plan": Command(
        "the roadmap: what to deploy when, to train what",
        "coopt.commands.years:plan",
        (Word("scenario", "a scenario's name or file; without one, the first that ships", "?"),),
        ("out", "seconds"),
        example="coopt plan --format=json",
        inside=("scenario",),
    ),
    "codesign": Command(
        "which chip to order for a model and its futures, its worth, and what a vendor should change",
        "coopt.commands.chips:codesign",
        flags=("model", "vendor", "chips", "volume", "area", "power", "cost", "supply", "date", "mix", "precision")
        + ("seq_len", "global_batch", "objective", "seed", "out"),
        example="coopt codesign --model=llama3-70b --vendor=b200 --chips=1024 --volume=100000",
    ),
    "joint": Command(
        "what choosing shape, layout and machine, or chip, at once is worth over choosing them in turn",
        "coopt.commands.chips:joint",
        (Word("study", "a file of kind: joint"),),
        ("seed", "out"),
        example="coopt joint scripts/joint/dollars.yaml",
    ),
    "runs": Command(
        "list the runs; with --changed_by, say whose conclusions a corrected profile overturns",
        "coopt.commands.runs:runs",
        flags=("runs", "changed_by"),
        example="coopt runs --changed_by=h100-sxm",
        jax=False,
    ),
    "bundle": Command(
        "write a finished run as one file, to be cited: study, profiles, journal, answer, digests",
        "coopt.commands.runs:bundle",
        (RUN,),
        ("runs", "out"),
        example="coopt bundle default",
        show="coopt.commands.say:as_text",
        jax=False,
    ),
    "replay": Command(
        "derive a bundled run again and compare every number",
        "coopt.commands.runs:replay",
        (Word("file", "a file that `coopt bundle` wrote"),),
        example="coopt replay default.coopt.tar",
        show="coopt.commands.say:as_text",
    ),
    "merge": Command(
        "join two runs of one study into a third",
        "coopt.commands.runs:merge",
        (RUN, Word("other", "the run to join with it")),
        PLACE,
        example="coopt merge monday tuesday --name=both",
        show="coopt.commands.say:as_text",
        jax=False,
    ),
    "resume": Command(
        "go on with a run that was stopped or killed",
        "coopt.commands.watched:resume",
        (RUN,),
        ("runs", "block_seconds", *WHERE),
        example="coopt resume default",
    ),
    "report": Command(
        "write a run's report again: one HTML page that asks nothing of the network",
        "coopt.commands.runs:report",
        (RUN,),
        ("runs", "out", "serve"),
        example="coopt report default",
        show="coopt.commands.say:as_text",
    ),
    "repair": Command(
        "say what is damaged in a run's journal and, with --drop, put it right",
        "coopt.commands.runs:repair",
        (RUN,),
        ("runs", "drop"),
        example="coopt repair default",
        show="coopt.commands.say:as_text",
        jax=False,
    ),
}  # fmt: skip
