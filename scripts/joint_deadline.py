"""MPT-1B in two days: a deadline that the cheapest shape misses on the cheapest machine.

    python scripts/joint_deadline.py            # about 9 s of processor time

It should print, among the rest:

                   shape                tokens  batch  machine                 USD   gain  P(gain > 0)
    together       32 x 3072, 3.18 G      63 G    512  dgx-h100 x 64         928.9
    published      24 x 2048, 1.31 G     200 G    512  dgx-a100 x 128         6736  86.2%  100% (84.7% to 87.9%)
    moved          24 x 2048, 1.31 G     200 G    512  dgx-h100 x 64          1477  37.1%  100% (35.0% to 39.7%)
    hardware-first 32 x 3072, 3.18 G      63 G    512  dgx-h100 x 64         928.9   0.0%  the same choice
    shape-first    32 x 3072, 3.18 G      69 G   1024  dgx-h100 x 64           970   4.2%  100% (2.7% to 6.1%)
    two-rounds     32 x 3072, 3.18 G      63 G    512  dgx-h100 x 64         928.9   0.0%  the same choice
"""

from __future__ import annotations

from absl import app

from coopt.study.joint import Published, joint, text

STUDY = {
    "name": "joint-deadline",
    "title": "The loss of MPT-1B on 200 G tokens in two days, for the fewest dollars",
    "space": {
        "model": {"name": "mpt", "vocab": 50368, "tied": 1, "norms": 2, "layers": [{"norms": 4, "gated": 0}]},
        "shape": {
            "layers": {"from": 12, "to": 40, "step": 2},
            "d_model": {"from": 1024, "to": 3328, "step": 256},
            "heads": {"of": "d_model", "over": 128},
            "kv_heads": {"of": "heads", "over": 1},
            "d_ff": {"of": "d_model", "times": 4},
        },
        "limits": [{"name": "aspect", "of": "d_model", "over": "layers", "least": 40, "most": 109}],
    },
    "machines": [
        {"hardware": "dgx-a100", "chips": [128, 256, 512, 1024]},
        {"hardware": "dgx-h100", "chips": [64, 128, 256, 512]},
        {"hardware": "tpu-v5e", "chips": [256]},
    ],
    "workload": {"seq_len": 2048, "global_batch": [512, 1024, 2048],
                 "tokens": {"from": 20e9, "to": 315e9, "factor": 1.1}},
    "layout": {
        "tp": [1, 2, 4, 8], "cp": [1], "pp": [1, 2], "micro_batch": [1, 2, 4, 8], "vpp": [1, 2], "zero": [1, 3],
        "recompute": ["none", "selective", "full"], "offload": [0], "order": [0], "precision": ["bf16"],
    },
    "law": "chinchilla-besiroglu",
    "objective": "run_dollars",
    "limits": {"run_time": 2 * 86400},
}  # fmt: skip
PUBLISHED = Published("mpt-1b", tokens=200e9, batch=512.0)


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    print(text(joint(STUDY, PUBLISHED)))


if __name__ == "__main__":
    app.run(main)
