"""`d3llm convert --to gguf`: a file for llama.cpp, read back key by key and tensor by tensor."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from d3llm.commands.main import main
from d3llm.hub_cards.gguf_tokenizer import SPLITS
from d3llm.modeling import DreamModel, LLaDAModelLM, SDARForCausalLM
from tests.helpers.commands import run_fails
from tests.helpers.models import tiny_model


gguf = pytest.importorskip("gguf")

ROWS = 300  # more than the tokenizer has tokens
LLADA_NAMES = {
    "attn_norm": "attn_norm",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "attn_out": "attn_output",
    "ff_norm": "ffn_norm",
    "ff_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "ff_out": "ffn_down",
}


def byte_level_tokenizer(*, pattern: str | None = None) -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(["<eos>", "<mask>", "<user>", *letters, "Ġa", "ab"])}
    backend = Tokenizer(models.BPE(vocabulary, merges=[("Ġ", "a"), ("a", "b")]))
    steps = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)]
    if pattern is not None:
        from tokenizers import Regex

        steps.insert(0, pre_tokenizers.Split(Regex(pattern), behavior="isolated"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    special = {"eos_token": "<eos>", "pad_token": "<eos>", "mask_token": "<mask>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, extra_special_tokens=["<user>"], **special)
    tokenizer.chat_template = "{% for message in messages %}<user>{{ message['content'] }}{% endfor %}"
    return tokenizer


@pytest.fixture
def folder_of(tmp_path):
    def make(family, dtype=torch.float32, pattern=None, **options):
        model = tiny_model(family, vocab_size=ROWS, mask_token_id=1, **options).to(dtype)
        model.save_pretrained(tmp_path / "model")
        byte_level_tokenizer(pattern=pattern).save_pretrained(tmp_path / "model")
        return model, tmp_path / "model"

    return make


def read(source, tmp_path):
    output = tmp_path / "model.gguf"
    assert main(["convert", str(source), str(output), "--to", "gguf", "--license", "mit"]) == 0
    reader = gguf.GGUFReader(output)
    values = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {}
    for tensor in reader.tensors:
        data = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        tensors[tensor.name] = torch.from_numpy(np.array(data)).reshape(*reversed(tensor.shape.tolist()))
    return values, tensors, {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}


def half_to_neighbours(heads: torch.Tensor) -> torch.Tensor:
    """(heads, head_dim, width): value i of the first half, then value i of the second."""
    first, second = heads.chunk(2, dim=1)
    return torch.stack([first, second], dim=2).flatten(1, 2)


def test_a_llada_is_read_back_tensor_by_tensor(folder_of, tmp_path):
    model, source = folder_of(LLaDAModelLM)
    values, tensors, _ = read(source, tmp_path)
    state = dict(model.named_parameters())
    expected = {
        "token_embd.weight": state["model.transformer.wte.weight"],
        "output.weight": state["model.transformer.ff_out.weight"],
        "output_norm.weight": state["model.transformer.ln_f.weight"],
    }
    for name, stored in LLADA_NAMES.items():
        for layer in range(2):
            weight = state[f"model.transformer.blocks.{layer}.{name}.weight"]
            if name in ("q_proj", "k_proj"):
                weight = half_to_neighbours(weight.unflatten(0, (-1, 8))).flatten(0, 1)
            expected[f"blk.{layer}.{stored}.weight"] = weight
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensors[name], tensor), name
    assert values["general.architecture"] == "llada"
    assert values["general.license"] == "mit"
    assert values["diffusion.shift_logits"] is False
    assert values["llada.attention.causal"] is False
    assert values["tokenizer.ggml.mask_token_id"] == 1
    assert values["llada.vocab_size"] == ROWS == len(values["tokenizer.ggml.tokens"])
    shape = {"block_count": 2, "embedding_length": 32, "feed_forward_length": 48, "context_length": 256}
    shape |= {"attention.head_count": 4, "attention.head_count_kv": 2, "rope.dimension_count": 8}
    assert {name: values[f"llada.{name}"] for name in shape} == shape
    assert values["llada.rope.freq_base"] == 500000.0


def test_rotating_neighbours_gives_the_scores_of_rotating_halves(folder_of, tmp_path):
    """What llama.cpp computes from the file, against the two halves that this package rotates."""
    model, source = folder_of(LLaDAModelLM, kv_heads=4)
    _, tensors, _ = read(source, tmp_path)
    hidden = torch.randn(5, 32)
    angles = torch.arange(5)[:, None] * 500000.0 ** (-torch.arange(4) / 4)

    def turn(first, second):
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        return first * cos - second * sin, second * cos + first * sin

    def scores(query, key):
        return torch.einsum("ihd,jhd->hij", query, key)

    block = model.model.transformer.blocks[0]
    halves, neighbours = [], []
    for layer, name in ((block.q_proj, "attn_q"), (block.k_proj, "attn_k")):
        plain = layer(hidden).view(5, 4, 8)
        halves.append(torch.cat(turn(*plain.chunk(2, dim=-1)), dim=-1))
        stored = (hidden @ tensors[f"blk.0.{name}.weight"].T).view(5, 4, 8)
        neighbours.append(torch.stack(turn(stored[..., ::2], stored[..., 1::2]), dim=-1).flatten(-2))
    torch.testing.assert_close(scores(*neighbours), scores(*halves))


def test_a_dream_keeps_its_rows_and_biases(folder_of, tmp_path):
    model, source = folder_of(DreamModel, dtype=torch.bfloat16)
    values, tensors, types = read(source, tmp_path)
    state = dict(model.named_parameters())
    for name in ("q", "k", "v"):
        for part in ("weight", "bias"):
            stored = state[f"model.layers.1.self_attn.{name}_proj.{part}"].float()
            assert torch.equal(tensors[f"blk.1.attn_{name}.{part}"], stored)
    assert torch.equal(tensors["output.weight"], state["lm_head.weight"].float())
    assert len(tensors) == len(state)
    assert types["blk.0.attn_q.weight"] == "BF16" and types["blk.0.attn_q.bias"] == "F32"
    assert values["general.architecture"] == "dream"
    assert values["diffusion.shift_logits"] is True and values["dream.attention.causal"] is False


def test_a_head_that_shares_the_embedding_is_not_stored_twice(folder_of, tmp_path):
    _, source = folder_of(LLaDAModelLM, weight_tying=True)
    assert "output.weight" not in read(source, tmp_path)[1]


def test_the_tokenizer(folder_of, tmp_path):
    _, source = folder_of(LLaDAModelLM, pattern=next(iter(SPLITS)))
    values, _, _ = read(source, tmp_path)
    assert (values["tokenizer.ggml.model"], values["tokenizer.ggml.pre"]) == ("gpt2", "qwen2")
    tokens, types = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    assert tokens[:3] == ["<eos>", "<mask>", "<user>"] and types[:3] == [gguf.TokenType.CONTROL] * 3
    assert (tokens[-1], types[-1]) == ("[PAD299]", gguf.TokenType.UNUSED)
    assert values["tokenizer.ggml.merges"] == ["Ġ a", "a b"]
    assert values["tokenizer.ggml.eos_token_id"] == 0
    assert values["tokenizer.ggml.add_bos_token"] is False
    assert "<user>" in values["tokenizer.chat_template"]


def test_what_llama_cpp_will_lack_is_said(folder_of, tiny_checkpoint, tmp_path, capsys):
    _, source = folder_of(LLaDAModelLM, pattern="a+")
    assert read(source, tmp_path)[0]["tokenizer.ggml.pre"] == "default"
    assert "tokenizer.ggml.pre=str:NAME" in capsys.readouterr().err
    assert (
        main(["convert", str(tiny_checkpoint), str(tmp_path / "words.gguf"), "--to", "gguf", "--license", "mit"]) == 0
    )
    assert "token ids alone" in capsys.readouterr().err


def test_what_llama_cpp_would_compute_otherwise_is_refused(folder_of, tmp_path, capsys):
    output = tmp_path / "model.gguf"
    arguments = ["--to", "gguf", "--license", "mit"]
    _, source = folder_of(LLaDAModelLM, include_qkv_bias=True)
    assert "q_proj.bias" in run_fails(capsys, "convert", source, output, *arguments)
    _, source = folder_of(LLaDAModelLM, attention="block_causal")
    assert "block_causal" in run_fails(capsys, "convert", source, output, *arguments)
    _, source = folder_of(SDARForCausalLM)
    assert "SDARForCausalLM" in run_fails(capsys, "convert", source, output, *arguments)
    assert not output.exists() and not list(tmp_path.glob(".*"))


def test_bad_arguments(tiny_checkpoint, tmp_path, capsys):
    arguments = ["--to", "gguf", "--license", "mit"]
    assert ".gguf" in run_fails(capsys, "convert", tiny_checkpoint, tmp_path / "model.bin", *arguments)
    present = tmp_path / "present.gguf"
    present.write_bytes(b"mine")
    assert "exists" in run_fails(capsys, "convert", tiny_checkpoint, present, *arguments)
    assert present.read_bytes() == b"mine"
    given = [*arguments, "--mask-token", "<m>"]
    assert "--mask-token" in run_fails(capsys, "convert", tiny_checkpoint, tmp_path / "a.gguf", *given)
