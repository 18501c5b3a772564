"""MPT-3B as soon as possible: on thousands of chips the batch, the links and the shape decide together.

    python scripts/joint_days.py            # about 8 s of processor time

It should print, among the rest:

                   shape                tokens  batch  machine                   s   gain  P(gain > 0)
    together       36 x 3584, 4.81 G     138 G   4096  dgx-h100 x 2,048       5589
    published      32 x 2560, 2.65 G     200 G   1024  dgx-a100 x 1,024   3.54e+04  84.2%  100% (80.5% to 88.3%)
    moved          32 x 2560, 2.65 G     200 G   1024  tpu-v5p x 2,048        9143  38.9%  100% (31.8% to 45.4%)
    hardware-first 36 x 3584, 4.81 G     114 G   2048  tpu-v5p x 2,048        6255  10.7%  97% (1.6% to 19.2%)
    shape-first    36 x 3584, 4.81 G     138 G   4096  dgx-h100 x 2,048       5589   0.0%  the same choice
    two-rounds     36 x 3584, 4.81 G     138 G   4096  dgx-h100 x 2,048       5589   0.0%  the same choice
"""

from __future__ import annotations

from absl import app

from coopt.study.joint import Published, joint, text

STUDY = {
    "name": "joint-days",
    "title": "The loss of MPT-3B on 200 G tokens, as soon as possible on thousands of chips",
    "space": {
        "model": {"name": "mpt", "vocab": 50368, "tied": 1, "norms": 2, "layers": [{"norms": 4, "gated": 0}]},
        "shape": {
            "layers": {"from": 24, "to": 56, "step": 2},
            "d_model": {"from": 1536, "to": 5120, "step": 256},
            "heads": {"of": "d_model", "over": 128},
            "kv_heads": {"of": "heads", "over": 1},
            "d_ff": {"of": "d_model", "times": 4},
        },
        "limits": [{"name": "aspect", "of": "d_model", "over": "layers", "least": 40, "most": 109}],
    },
    "machines": [
        {"hardware": "dgx-a100", "chips": [1024, 2048]},
        {"hardware": "dgx-h100", "chips": [1024, 2048]},
        {"hardware": "tpu-v5p", "chips": [1024, 2048]},
    ],
    "workload": {"seq_len": 2048, "global_batch": [1024, 2048, 4096, 8192],
                 "tokens": {"from": 40e9, "to": 315e9, "factor": 1.1}},
    "layout": {
        "tp": [1, 2, 4, 8], "cp": [1], "pp": [1, 2, 4, 8], "micro_batch": [1, 2, 4, 8], "vpp": [1, 2], "zero": [1, 3],
        "recompute": ["none", "selective", "full"], "offload": [0], "order": [0], "precision": ["bf16"],
    },
    "law": "chinchilla-besiroglu",
    "objective": "run_time",
    "limits": {},
}  # fmt: skip
PUBLISHED = Published("mpt-3b", tokens=200e9, batch=1024.0)


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    print(text(joint(STUDY, PUBLISHED)))


if __name__ == "__main__":
    app.run(main)
