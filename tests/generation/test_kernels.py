"""What a forward costs a device besides the transformer and its head: few kernels and one read."""

import pytest
import torch

from benchmarks.host_reads import count_host_reads
from benchmarks.watching import KernelCounter, Watch
from d3llm.generation import PRESETS, decoding_run
from d3llm.modeling import DreamModel
from tests.helpers.decoding import OPEN_PRESETS, left_pad, prompts


# Kernels per forward; Fast-dLLM's and dllm's own decoders launch 71 to 86 for one row.
MOST_ALONE, MOST_IN_A_BATCH = 30, 50
# Of the presets, those that differ from another in values alone, each of which has another case.
REPEATS = ["dparallel", "sdar_static", "sdar_sequential", "trado", "fast_dllm_v2", "llada2", "llada21_quality"]
REPEATS += ["self_speculative_left_to_right", "dinfer_threshold"]
CASES = [
    pytest.param(name, PRESETS[name].values.get("cache", "none"), marks=pytest.mark.slow if name in REPEATS else ())
    for name in OPEN_PRESETS
]
CASES += [("d3llm", "block"), ("fast_dllm", "none")]
CASES += [pytest.param(*case, marks=pytest.mark.slow) for case in (("d3llm", "dual"), ("fast_dllm", "block"))]


# Its shifted logits take the decoder whatever those of others take, and a kernel more.
@pytest.mark.parametrize("model", [DreamModel], indirect=True, ids=["dream"])
@pytest.mark.parametrize(("preset", "cache"), CASES)
def test_kernels_and_reads_of_a_forward(model, preset, cache):
    arguments = {
        "preset": preset,
        "cache": cache,
        "block_size": 8,
        "early_stop": False,
        "return_dict_in_generate": True,
    }
    for ids, mask, most in (
        (prompts([6])[0][None], None, MOST_ALONE),
        (*left_pad(prompts([3 + row % 5 for row in range(16)])), MOST_IN_A_BATCH),
    ):
        with count_host_reads() as reads, Watch(model) as watch, KernelCounter(watch) as counter:
            output = model.generate(ids, attention_mask=mask, max_new_tokens=16, **arguments)
        forwards = int(output.forward_passes.max())
        most *= 2 if "credit_weight" in PRESETS[preset].values else 1  # two passes over the logits
        assert counter.kernels <= most * forwards + 30  # some once, before and after the forwards
        assert len(reads) <= forwards + 10


def test_logits_are_divided_for_the_cache_of_a_cpu_alone(model, monkeypatch):
    vocab_size, states = model.config.vocab_size, torch.zeros(16, 32, model.config.hidden_size)
    parts = []

    def logits_in_parts():
        run = object.__new__(decoding_run.DecodingRun)
        run.model, run.head = model, lambda part: parts.append(len(part)) or part.new_zeros(len(part), vocab_size)
        return [len(part) for part in run.logits_in_parts(states)]

    for sizes in (decoding_run.HEAD_ELEMENTS, decoding_run.PASS_ELEMENTS):
        monkeypatch.setitem(sizes, "cpu", 64 * vocab_size)
    assert logits_in_parts() == parts == [64] * 8
    for sizes in (decoding_run.HEAD_ELEMENTS, decoding_run.PASS_ELEMENTS):
        monkeypatch.delitem(sizes, "cpu")
    assert logits_in_parts() == [512]
