"""`d3llm convert --to FAMILY`: Llama, Qwen2 and Qwen3 in the families that compute the same, with a mask token."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers import models as library

from d3llm.commands.main import main
from d3llm.hub_cards import MODEL_FACTS, ModelFacts, read_facts
from d3llm.hub_cards.convert import convert
from d3llm.hub_cards.convert_autoregressive import convert_autoregressive
from d3llm.hub_cards.repositories import model_repository
from d3llm.modeling import find_family
from d3llm.modeling.from_autoregressive import PAIRS, SOURCES, option_name
from d3llm.modeling.loading import load_model
from tests.helpers.models import WORDS
from tests.helpers.paths import ROOT


WORD_LIST = ["<eos>", "<pad>", "<unk>", "<spare>", *WORDS]
SIZE = len(WORD_LIST)
IDS = torch.randint(0, SIZE, (2, 13), generator=torch.Generator().manual_seed(0))
EVERY_PAIR = [(source, target) for source, targets in PAIRS.items() for target in targets]
IN_LLADA = [("llama", "llada"), ("qwen2", "llada")]  # its width is that of all heads


def source_model(model_type: str, *, rows: int = SIZE, dtype: torch.dtype = torch.float32, **fields: Any):
    """A random model, whose norms and biases are not those of a fresh one."""
    module = getattr(library, model_type)
    name = SOURCES[model_type].class_name
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "max_position_embeddings": 128, "vocab_size": rows}
    values = {"initializer_range": 0.2, "rms_norm_eps": 1e-3, "rope_parameters": {"rope_theta": 777.0}}
    special = {"eos_token_id": 0, "pad_token_id": 1, "bos_token_id": None}
    values["rope_parameters"]["rope_type"] = "default"
    torch.manual_seed(0)
    config = getattr(module, name.replace("ForCausalLM", "Config"))(**{**shape, **values, **special, **fields})
    model = getattr(module, name)(config).eval()
    for parameter_name, parameter in model.named_parameters():
        if "norm" in parameter_name or parameter_name.endswith("bias"):
            torch.nn.init.normal_(parameter, mean=1.0, std=0.5)
    return model.to(dtype)


def save(model: PreTrainedModel, folder: Path, words: list[str] = WORD_LIST) -> Path:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=["<spare>"],
    )
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} is {% endfor %}"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return save(source_model("llama"), tmp_path / "llama")


def causal_logits(model: PreTrainedModel, ids: torch.Tensor = IDS) -> torch.Tensor:
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    with torch.no_grad():
        return model(ids, attention_mask=causal.expand(len(ids), 1, -1, -1)).logits


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("model_type", "target"), EVERY_PAIR)
def test_under_a_causal_mask_the_logits_are_those_of_the_source(tmp_path, model_type, target, tied):
    other_heads = {} if (model_type, target) in IN_LLADA else {"head_dim": 12}
    source = source_model(model_type, tie_word_embeddings=tied, **other_heads)
    output = tmp_path / "model"
    convert_autoregressive(save(source, tmp_path / "source"), output, to=target, license="mit")
    model = load_model(output)
    assert type(model) is find_family(target)
    with torch.no_grad():
        expected = source(IDS).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(causal_logits(model)[..., :SIZE], expected, rtol=0, atol=1e-6)
    rows = model.get_input_embeddings().weight
    assert len(rows) == SIZE + 1
    torch.testing.assert_close(rows[-1], rows[:-1].mean(0))
    head = model.get_output_embeddings().weight
    torch.testing.assert_close(head[-1], head[:-1].mean(0))
    assert (head is rows) == tied


def test_biases_of_qwen3_and_other_activations_are_carried_over(tmp_path):
    source = source_model("qwen3", attention_bias=True, hidden_act="gelu")
    convert_autoregressive(save(source, tmp_path / "source"), tmp_path / "model", to="sdar", license="mit")
    with torch.no_grad():
        expected = source(IDS).logits
    torch.testing.assert_close(causal_logits(load_model(tmp_path / "model"))[..., :SIZE], expected, rtol=0, atol=1e-6)


def test_an_unused_row_becomes_that_of_the_mask_token_and_the_dtype_stays(tmp_path):
    source = source_model("qwen2", rows=SIZE + 8, dtype=torch.bfloat16)
    convert_autoregressive(save(source, tmp_path / "source"), tmp_path / "model", to="fast_dllm_v2", license="mit")
    model = load_model(tmp_path / "model")
    assert model.dtype == torch.bfloat16
    assert (model.config.vocab_size, model.config.mask_token_id) == (SIZE + 8, SIZE)
    for before, after in (
        (source.get_input_embeddings().weight, model.get_input_embeddings().weight),
        (source.get_output_embeddings().weight, model.get_output_embeddings().weight),
    ):
        others = torch.arange(SIZE + 8) != SIZE
        assert torch.equal(after[others], before[others])
        assert torch.equal(after[SIZE], before[:SIZE].float().mean(0).bfloat16())


def test_a_token_that_the_tokenizer_has_keeps_its_row(llama, tmp_path):
    facts = convert_autoregressive(llama, tmp_path / "model", to="dream", mask_token="<spare>", license="mit")
    model = load_model(tmp_path / "model")
    before = load_source(llama).get_input_embeddings().weight
    assert torch.equal(model.get_input_embeddings().weight, before)
    assert model.config.mask_token_id == 3
    assert "had" in facts.conversion["mask_row"]


def load_source(folder: Path) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def test_the_folder_is_whole_and_says_what_it_is(llama, tmp_path, capsys):
    GenerationConfig(do_sample=True, temperature=0.7, eos_token_id=[0, 5]).save_pretrained(llama)
    output = tmp_path / "model"
    assert main(["convert", str(llama), str(output), "--to", "Fast-dLLM v2", "--license", "mit"]) == 0
    said = capsys.readouterr().out
    assert "mean of the other tokens' rows" in said
    assert "--config fast_dllm_v2" in said
    ids = {"mask_token_id": SIZE, "eos_token_id": [0, 5], "pad_token_id": 1}
    config, decoding = (json.loads((output / f"{name}config.json").read_text()) for name in ("", "generation_"))
    assert {name: config[name] for name in ids} == {name: decoding[name] for name in ids} == ids
    assert not decoding.get("temperature")
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert tokenizer("one <|mask|> two").input_ids == [5, SIZE, 6]
    assert tokenizer.mask_token_id == SIZE
    assert tokenizer.apply_chat_template([{"role": "user", "content": "one"}], tokenize=False) == "one is "
    card = (output / "README.md").read_text()
    assert "Not trained yet" in card
    assert "d3llm distill --config fast_dllm_v2 --model_name_or_path" in card
    assert read_facts(ModelFacts, output / MODEL_FACTS).base_model == "llama"
    assert "modeling_fast_dllm_qwen.py" in model_repository(output, "ada/model").files
    assert config["auto_map"]["AutoModelForCausalLM"].endswith("Fast_dLLM_QwenForCausalLM")
    generated = load_model(output).generate(IDS[:1], max_new_tokens=8)
    assert generated.shape == (1, IDS.shape[1] + 8)
    assert SIZE not in generated
    assert "Not trained yet" in convert_again(output, tmp_path)


def convert_again(folder: Path, tmp_path: Path) -> str:
    (folder / "README.md").unlink()
    convert(folder, tmp_path / "again")
    return (tmp_path / "again/README.md").read_text()


def test_a_tokenizer_without_padding_pads_with_eos(llama, tmp_path):
    for name in ("tokenizer_config.json", "config.json", "generation_config.json"):
        values = json.loads((llama / name).read_text())
        values.pop("pad_token", None)
        if "pad_token_id" in values:
            values["pad_token_id"] = -1
        (llama / name).write_text(json.dumps(values))
    convert_autoregressive(llama, tmp_path / "model", to="llada", license="mit")
    assert load_model(tmp_path / "model").config.pad_token_id == 0
    assert AutoTokenizer.from_pretrained(tmp_path / "model").pad_token == "<eos>"


LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3["original_max_position_embeddings"] = 64


@pytest.mark.parametrize(
    ("model_type", "target", "fields", "named"),
    [
        ("llama", "dream", {"rope_parameters": LLAMA3}, "rope_scaling={'"),
        ("llama", "dream", {"attention_bias": True}, "attention_bias=True"),
        ("llama", "llada", {"mlp_bias": True}, "mlp_bias=True"),
        ("llama", "llada", {"head_dim": 12}, "head_dim=12"),
        ("llama", "llada", {"hidden_act": "gelu"}, "hidden_act='gelu'"),
        (
            "qwen2",
            "fast_dllm_v2",
            {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
            "sliding_window=4",
        ),
        ("qwen2", "sdar", {}, "is a 'qwen2' model, which sdar cannot hold: give --to llada or dream or fast_dllm_v2."),
        ("qwen3", "dream", {}, "which dream cannot hold: give --to sdar."),
        ("llama", "drem", {}, "there is no such family (did you mean `dream`?)"),
        ("llama", "mmada", {}, "cannot hold"),
    ],
)
def test_what_a_family_does_not_compute_is_refused(tmp_path, capsys, model_type, target, fields, named):
    source = save(source_model(model_type, **fields), tmp_path / "source")
    refuse(source, tmp_path, capsys, named, "--to", target)


def refuse(source: Path, tmp_path: Path, capsys, complaint: str, *options: str) -> None:
    """The command ends with one line, and leaves nothing."""
    before = {path.name for path in tmp_path.iterdir()}
    assert main(["convert", str(source), str(tmp_path / "model"), "--license", "mit", *options]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1, error
    assert {path.name for path in tmp_path.iterdir()} == before


def edit(folder: Path, **fields: Any) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **fields}))


def without_eos(folder: Path) -> None:
    edit(folder, eos_token_id=None)
    (folder / "generation_config.json").unlink()
    values = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**values, "eos_token": None}))


def without_a_shard(folder: Path) -> None:
    load_source(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda f: edit(f, model_type="gpt2"), "is a 'gpt2' model: --to takes llama, qwen2, qwen3."),
        (lambda f: edit(f, architectures=["LlamaForSequenceClassification"]), "architectures="),
        (lambda f: edit(f, quantization_config={"quant_method": "gptq"}), "quantization_config="),
        (lambda f: edit(f, num_hidden_layers=3), "config.json is of another model"),
        (lambda f: (f / "tokenizer.json").unlink(), "Cannot load the tokenizer"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\0" * 20), "damaged"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "Cannot load the model"),
        (without_a_shard, "model-00002-of"),
        (without_eos, "names no EOS token"),
        (lambda f: save(source_model("llama", rows=SIZE - 2), f), "more tokens in its tokenizer"),
    ],
)
def test_bad_sources_are_named_in_one_line(llama, tmp_path, capsys, spoil, complaint):
    spoil(llama)
    refuse(llama, tmp_path, capsys, complaint, "--to", "dream")


def test_a_diffusion_model_is_not_a_source(tiny_checkpoint, tmp_path, capsys):
    refuse(tiny_checkpoint, tmp_path, capsys, "is a masked-diffusion model already (LLaDAModelLM)", "--to", "dream")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("<eos>", "it is the eos_token"),
        ("seven", "it is a word"),
        ("", "without spaces"),
        (" <mask>", "without spaces"),
    ],
)
def test_texts_that_cannot_be_the_mask_token(llama, tmp_path, capsys, text, complaint):
    refuse(llama, tmp_path, capsys, complaint, "--to", "dream", "--mask-token", text)


@pytest.mark.parametrize("role", ["eos_token_id", "pad_token_id"])
def test_the_mask_token_has_no_other_role(llama, tmp_path, capsys, role):
    GenerationConfig(**{"eos_token_id": [0], role: 3}).save_pretrained(llama)
    refuse(llama, tmp_path, capsys, "it ends or pads the texts", "--to", "dream", "--mask-token", "<spare>")


def test_a_tokenizer_that_takes_no_token(llama, tmp_path, capsys, monkeypatch):
    def refuses(*args: Any, **kwargs: Any) -> int:
        raise NotImplementedError("a fixed vocabulary")

    monkeypatch.setattr(PreTrainedTokenizerFast, "add_special_tokens", refuses)
    refuse(llama, tmp_path, capsys, "takes no new token: NotImplementedError: a fixed vocabulary", "--to", "dream")


def test_options_that_do_not_go_together(llama, tmp_path, capsys):
    refuse(llama, tmp_path, capsys, "--mask-token belongs to --to", "--mask-token", "<m>")
    refuse(llama, tmp_path, capsys, "do not go together", "--to", "dream", "--base-model", str(llama))


def test_nothing_is_overwritten(llama, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    with pytest.raises(OSError, match="nothing is overwritten"):
        convert_autoregressive(llama, tmp_path / "mine", to="dream", license="mit")


def test_a_licence_is_needed_and_read_from_the_card(llama, tmp_path):
    with pytest.raises(ValueError, match="names no licence"):
        convert_autoregressive(llama, tmp_path / "model", to="dream")
    (llama / "README.md").write_text("---\nlicense: mit\ntags: [d3llm]\nbase_model: ada/older\n---\nold\n")
    facts = convert_autoregressive(llama, tmp_path / "model", to="dream", base_model_id="ada/llama")
    assert (facts.license, facts.base_model) == ("mit", "ada/llama")
    assert "old" not in (tmp_path / "model/README.md").read_text().splitlines()


def test_the_page_has_the_table_of_pairs():
    page = (ROOT / "docs/hub.md").read_text(encoding="utf-8")
    for model_type, targets in PAIRS.items():
        options = ", ".join(f"`{option_name(find_family(target))}`" for target in targets)
        assert f"(`{model_type}`) | {options} |" in page
