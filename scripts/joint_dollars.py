"""GPT-3 2.7B again, for the fewest dollars: shape, layout, machine and cluster size chosen at once.

    python scripts/joint_dollars.py            # about 9 s of processor time

It should print, among the rest:

                   shape                tokens  batch  machine                 USD   gain  P(gain > 0)
    together       36 x 3840, 5.50 G     118 G    512  dgx-h100 x 64          2867
    published      32 x 2560, 2.65 G     300 G    512  dgx-a100 x 64     1.728e+04  83.4%  100% (82.1% to 84.9%)
    moved          32 x 2560, 2.65 G     300 G    512  dgx-h100 x 64          4103  30.1%  100% (27.9% to 32.8%)
    hardware-first 36 x 3840, 5.50 G     118 G    512  dgx-h100 x 64          2867   0.0%  the same choice
    shape-first    36 x 3840, 5.50 G     118 G    512  dgx-h100 x 64          2867   0.0%  the same choice
    two-rounds     36 x 3840, 5.50 G     118 G    512  dgx-h100 x 64          2867   0.0%  the same choice
"""

from __future__ import annotations

from absl import app

from coopt.study.joint import Published, joint, text

STUDY = {
    "name": "joint-dollars",
    "title": "The loss of GPT-3 2.7B on 300 G tokens in thirty days, for the fewest dollars",
    "space": {
        "model": {"name": "gpt", "vocab": 50304, "tied": 1, "positions": 2048, "norms": 2,
                  "layers": [{"norms": 4, "gated": 0, "bias": 1}]},
        "shape": {
            "layers": {"from": 16, "to": 48, "step": 2},
            "d_model": {"from": 1280, "to": 4096, "step": 256},
            "heads": {"of": "d_model", "over": 128},
            "kv_heads": {"of": "heads", "over": 1},
            "d_ff": {"of": "d_model", "times": 4},
        },
        "limits": [{"name": "aspect", "of": "d_model", "over": "layers", "least": 40, "most": 109}],
    },
    "machines": [
        {"hardware": "dgx-a100", "chips": [64, 256, 512]},
        {"hardware": "dgx-h100", "chips": [64, 128, 256]},
        {"hardware": "dgx-b200", "chips": [32, 64, 128]},
    ],
    "workload": {"seq_len": 2048, "global_batch": [256, 512, 1024],
                 "tokens": {"from": 50e9, "to": 315e9, "factor": 1.1}},
    "layout": {
        "tp": [1, 2, 4, 8], "cp": [1], "pp": [1, 2, 4], "micro_batch": [1, 2, 4, 8], "vpp": [1, 2], "zero": [1, 3],
        "recompute": ["none", "selective", "full"], "offload": [0], "order": [0], "precision": ["bf16"],
    },
    "law": "chinchilla-besiroglu",
    "objective": "run_dollars",
    "limits": {"run_time": 30 * 86400},
}  # fmt: skip
PUBLISHED = Published("gpt3-2.7b", tokens=300e9, batch=512.0)


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    print(text(joint(STUDY, PUBLISHED)))


if __name__ == "__main__":
    app.run(main)
