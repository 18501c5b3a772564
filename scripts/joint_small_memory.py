"""GPT 1.7B on TPUs of 16, 32 and 95 GiB: does a chip with little memory want another shape?

    python scripts/joint_small_memory.py            # about 9 s of processor time

It should print, among the rest:

                   shape                tokens  batch  machine                 USD   gain  P(gain > 0)
    together       32 x 3328, 3.71 G      43 G    256  tpu-v6e x 64          927.9
    published      24 x 2304, 1.65 G     100 G    512  tpu-v5e x 64           1535  39.6%  100% (24.3% to 48.9%)
    moved          24 x 2304, 1.65 G     100 G    512  tpu-v6e x 64           1083  14.3%  100% (10.1% to 18.4%)
    hardware-first 32 x 3328, 3.71 G      43 G    256  tpu-v6e x 64          927.9   0.0%  the same choice
    shape-first    32 x 3072, 3.18 G      47 G    128  tpu-v6e x 64            992   6.5%  100% (4.4% to 9.2%)
    two-rounds     32 x 3328, 3.71 G      43 G    256  tpu-v6e x 64          927.9   0.0%  the same choice
"""

from __future__ import annotations

from absl import app

from coopt.study.joint import Published, joint, text

STUDY = {
    "name": "joint-small-memory",
    "title": "The loss of GPT 1.7B on 100 G tokens in ten days on TPUs, for the fewest dollars",
    "space": {
        "model": {"name": "gpt", "vocab": 50304, "tied": 1, "positions": 2048, "norms": 2,
                  "layers": [{"norms": 4, "gated": 0, "bias": 1}]},
        "shape": {
            "layers": {"from": 12, "to": 48, "step": 2},
            "d_model": {"from": 1024, "to": 4608, "step": 256},
            "heads": {"of": "d_model", "over": 128},
            "kv_heads": {"of": "heads", "over": 1},
            "d_ff": {"of": "d_model", "times": 4},
        },
        "limits": [{"name": "aspect", "of": "d_model", "over": "layers", "least": 40, "most": 109}],
    },
    "machines": [
        {"hardware": "tpu-v5e", "chips": [64, 128, 256]},
        {"hardware": "tpu-v6e", "chips": [64, 128, 256]},
        {"hardware": "tpu-v5p", "chips": [64, 128]},
    ],
    "workload": {"seq_len": 2048, "global_batch": [128, 256, 512],
                 "tokens": {"from": 20e9, "to": 200e9, "factor": 1.1}},
    "layout": {
        "tp": [1, 2, 4, 8], "cp": [1], "pp": [1, 2], "micro_batch": [1, 2, 4, 8], "vpp": [1, 2], "zero": [1, 3],
        "recompute": ["none", "selective", "full"], "offload": [0], "order": [0], "precision": ["bf16"],
    },
    "law": "chinchilla-besiroglu",
    "objective": "run_dollars",
    "limits": {"run_time": 10 * 86400},
}  # fmt: skip
PUBLISHED = Published("gpt-1.7b", tokens=100e9, batch=512.0)


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    print(text(joint(STUDY, PUBLISHED)))


if __name__ == "__main__":
    app.run(main)
