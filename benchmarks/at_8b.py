"""What the decoder saves at 8 B, computed from the sizes in the config of GSAI-ML/LLaDA-8B-Instruct: nothing is run.

At 8 B the head is a small part of a forward, so that running it on the candidates alone gains little compute. What
remains is memory: the published code keeps logits of the whole canvas, twice in bfloat16, and makes four tensors of
that size in float64.

    python -m benchmarks.at_8b
"""

import argparse
from dataclasses import dataclass

from d3llm.modeling import LLaDAConfig


BFLOAT16, FLOAT32, FLOAT64 = 2, 4, 8  # bytes
GIB = 2**30


@dataclass(frozen=True)
class Sizes:
    """
    A canvas and what a forward computes of it, in one row of bfloat16.

    Args:
        config ([`LLaDAConfig`]): The model.
        prompt, new_tokens (`int`): Positions.
        candidates (`int`): Positions that the head is run on.
        head_elements (`int`): Logits that the decoder has in memory at a time.
    """

    config: LLaDAConfig
    prompt: int
    new_tokens: int
    candidates: int = 32
    head_elements: int = 2**24

    @property
    def canvas(self) -> int:
        return self.prompt + self.new_tokens

    @property
    def key_value_heads(self) -> int:
        return self.config.n_kv_heads or self.config.n_heads

    @property
    def layer_parameters(self) -> int:
        attention = (2 + 2 * self.key_value_heads / self.config.n_heads) * self.config.d_model**2
        return int(attention) + 3 * self.config.d_model * self.config.intermediate_size

    def body_flops(self) -> int:
        """Of a forward over the canvas, without the head: weights, and attention scores and sums."""
        weights = 2 * self.config.n_layers * self.layer_parameters
        return self.canvas * (weights + 4 * self.config.n_layers * self.canvas * self.config.d_model)

    def head_flops(self, positions: int) -> int:
        return 2 * positions * self.config.d_model * self.config.vocab_size

    def compute_gain(self) -> float:
        """FLOPs of a forward with the head on every position, over those with the head on the candidates."""
        body = self.body_flops()
        return (body + self.head_flops(self.canvas)) / (body + self.head_flops(self.candidates))

    def head_share(self) -> float:
        """Share of the head, run on every position, in the FLOPs of a forward."""
        return self.head_flops(self.canvas) / (self.body_flops() + self.head_flops(self.canvas))

    def cache_bytes(self) -> int:
        head_dim = self.config.d_model // self.config.n_heads
        return 2 * self.config.n_layers * self.key_value_heads * head_dim * self.canvas * BFLOAT16

    def activation_bytes(self) -> int:
        """All tensors of one layer: residual, normed input, queries, keys, values, their rotated copies in float32,
        the output of attention, and the three of the feed-forward layer."""
        states = 6 * BFLOAT16 + 2 * FLOAT32
        return self.canvas * (states * self.config.d_model + 3 * BFLOAT16 * self.config.intermediate_size)

    def ours_bytes(self) -> int:
        """Above the weights: cache, a layer, and the logits in memory at a time, whose scores take a quarter each."""
        logits = self.head_elements * BFLOAT16 + 2 * (self.head_elements // 4) * FLOAT32
        return self.cache_bytes() + self.activation_bytes() + logits

    def published_bytes(self) -> int:
        """Above the weights: cache, a layer, and six tensors of canvas x vocabulary."""
        logits = self.canvas * self.config.vocab_size * (2 * BFLOAT16 + 4 * FLOAT64)
        return self.cache_bytes() + self.activation_bytes() + logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new-tokens", nargs="+", type=int, default=[256, 1024, 2048])
    parser.add_argument("--candidates", type=int, default=32, help="positions that the head is run on")
    parser.add_argument("--head-elements", type=int, default=2**24, help="logits in memory at a time")
    args = parser.parse_args()
    print("| new tokens | gain in compute | head of a forward | KV cache, MiB | published, GiB | this package, GiB |")
    print("|---|---|---|---|---|---|")
    for new_tokens in args.new_tokens:
        sizes = Sizes(LLaDAConfig(), args.prompt, new_tokens, args.candidates, args.head_elements)
        memory = [sizes.cache_bytes() / 2**20, sizes.published_bytes() / GIB, sizes.ours_bytes() / GIB]
        cells = [f"{sizes.compute_gain():.2f}", f"{sizes.head_share():.1%}", f"{memory[0]:.0f}"]
        cells += [f"{size:.1f}" for size in memory[1:]]
        print(f"| {new_tokens} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
