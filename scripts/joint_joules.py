"""Megatron's GPT 3.6B for the least energy: how many chips, of which kind, for which shape.

    python scripts/joint_joules.py            # about 11 s of processor time

It should print, among the rest:

                   shape                tokens  batch  machine                   J   gain  P(gain > 0)
    together       36 x 3840, 5.50 G     130 G   1024  dgx-b200 x 64     9.809e+09
    published      30 x 3072, 3.56 G     200 G    512  dgx-a100 x 128    2.119e+10  53.7%  100% (48.8% to 58.5%)
    moved          30 x 3072, 3.56 G     200 G    512  dgx-b200 x 64     1.096e+10  10.5%  100% (8.7% to 12.4%)
    hardware-first 36 x 3840, 5.50 G     130 G   1024  dgx-b200 x 64     9.809e+09   0.0%  the same choice
    shape-first    36 x 3840, 5.50 G     130 G   1024  dgx-b200 x 64     9.809e+09   0.0%  the same choice
    two-rounds     36 x 3840, 5.50 G     130 G   1024  dgx-b200 x 64     9.809e+09   0.0%  the same choice
"""

from __future__ import annotations

from absl import app

from coopt.study.joint import Published, joint, text

STUDY = {
    "name": "joint-joules",
    "title": "The loss of GPT 3.6B on 200 G tokens in two weeks, for the fewest joules",
    "space": {
        "model": {"name": "gpt", "vocab": 50304, "tied": 1, "positions": 2048, "norms": 2,
                  "layers": [{"norms": 4, "gated": 0, "bias": 1}]},
        "shape": {
            "layers": {"from": 16, "to": 48, "step": 2},
            "d_model": {"from": 1536, "to": 4096, "step": 256},
            "heads": {"of": "d_model", "over": 128},
            "kv_heads": {"of": "heads", "over": 1},
            "d_ff": {"of": "d_model", "times": 4},
        },
        "limits": [{"name": "aspect", "of": "d_model", "over": "layers", "least": 40, "most": 109}],
    },
    "machines": [
        {"hardware": "dgx-a100", "chips": [128, 256, 512]},
        {"hardware": "dgx-h100", "chips": [128, 256]},
        {"hardware": "dgx-b200", "chips": [64, 128]},
        {"hardware": "tpu-v5p", "chips": [128, 256]},
    ],
    "workload": {"seq_len": 2048, "global_batch": [128, 256, 512, 1024],
                 "tokens": {"from": 50e9, "to": 315e9, "factor": 1.1}},
    "layout": {
        "tp": [1, 2, 4, 8], "cp": [1], "pp": [1, 2, 4], "micro_batch": [1, 2, 4, 8], "vpp": [1, 2], "zero": [1, 3],
        "recompute": ["none", "selective", "full"], "offload": [0], "order": [0], "precision": ["bf16"],
    },
    "law": "chinchilla-besiroglu",
    "objective": "run_joules",
    "limits": {"run_time": 14 * 86400},
}  # fmt: skip
PUBLISHED = Published("gpt-3.6b", tokens=200e9, batch=512.0)


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    print(text(joint(STUDY, PUBLISHED)))


if __name__ == "__main__":
    app.run(main)
