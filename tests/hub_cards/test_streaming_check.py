"""The check of tokenizers before a push: it warns when a prefix's text does not stay."""

import shutil

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, TextStreamer

from d3llm.commands.main import main
from d3llm.hub_cards.streaming import (
    LENGTHS,
    SAMPLES,
    folder_streaming_faults,
    line_by_line,
    streamed,
    streaming_faults,
)
from d3llm.quickstart import checkpoint_path
from d3llm.quickstart.stories.problem import generate_problems
from d3llm.quickstart.stories.tokenizer import build_tokenizer


def words_tokenizer(*rules: tuple[str, str]) -> PreTrainedTokenizerFast:
    """One token for each word, joined by spaces, then tidied by rules."""
    words = sorted({word for sample in SAMPLES for word in sample.split()})
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    joined = [decoders.WordPiece(prefix="\0", cleanup=False), decoders.Fuse()]
    backend.decoder = decoders.Sequence(joined + [decoders.Replace(old, new) for old, new in rules])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def trained(
    model: models.Model, trainer: trainers.Trainer, pre: pre_tokenizers.PreTokenizer, decoder: decoders.Decoder
) -> Tokenizer:
    backend = Tokenizer(model)
    backend.pre_tokenizer, backend.decoder = pre, decoder
    backend.train_from_iterator(SAMPLES, trainer)
    return backend


def byte_level(merges: int) -> PreTrainedTokenizerFast:
    """As GPT-2's, Llama 3's, Qwen's, LLaDA's and Dream's."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    named = ["<|eos|>", "<|mask|>"]
    size = len(letters) + len(named) + merges
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=letters, special_tokens=named, show_progress=False)
    pre = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend = trained(models.BPE(), trainer, pre, decoders.ByteLevel())
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|eos|>", mask_token="<|mask|>")


def sentence_pieces(*last: decoders.Decoder) -> PreTrainedTokenizerFast:
    """As Llama 2's, whose last decoder strips the space that was put before the text, and Gemma's, which has none."""
    letters = sorted({letter for sample in SAMPLES for letter in sample if letter.isascii() and letter.isprintable()})
    tokens = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁▁", "▁▁▁▁", *letters]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = [("▁", "▁"), ("▁▁", "▁▁")]
    backend = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *last])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")


def word_pieces(tidy: bool) -> PreTrainedTokenizerFast:
    """As BERT's; tidied as transformers does it, text is joined over both sides of an apostrophe."""
    named = ["[UNK]", "[SEP]", "[MASK]"]
    backend = trained(
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer(vocab_size=400, special_tokens=named, show_progress=False),
        pre_tokenizers.BertPreTokenizer(),
        decoders.WordPiece(),
    )
    names = {"unk_token": "[UNK]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=tidy, **names)


def test_a_rule_that_waits_for_what_comes_next():
    (warning,) = streaming_faults(words_tokenizer((" = ", "=")))
    assert "such as ' has 3 * 4 12 pens, doesn' for ' has 3 * 4=12 pens, doesn'" in warning


def test_a_first_space_that_is_stripped_at_each_line():
    (warning,) = streaming_faults(sentence_pieces(decoders.Strip(" ", 1, 0)))
    seen, whole = warning.split(" for ")
    assert r"(x):\n   return" in seen and r"(x):\n    return" in whole


def test_tidied_word_pieces():
    (warning,) = streaming_faults(word_pieces(tidy=True))
    seen, whole = warning.split(" for ")
    assert "ens, doesn t he? He" in seen and "ens, doesn't he? He" in whole


@pytest.mark.parametrize(
    "rule", [(" <|eos|> ", "<|eos|>"), ("#### 7 Let", "Let")], ids=["when they are kept", "when they are skipped"]
)
def test_rules_over_special_tokens(rule):
    tokenizer = words_tokenizer(rule)
    assert streaming_faults(tokenizer) == []
    tokenizer.add_special_tokens({"eos_token": "<|eos|>"})
    assert len(streaming_faults(tokenizer)) == 1


@pytest.mark.parametrize(
    "tokenizer",
    [
        words_tokenizer(),
        words_tokenizer((" =", "="), ("= ", "=")),
        byte_level(merges=0),
        byte_level(merges=200),
        sentence_pieces(),
        word_pieces(tidy=False),
    ],
    ids=["words", "one-sided", "bytes", "byte-level", "sentence pieces", "word pieces"],
)
def test_tokenizers_whose_prefixes_stay(tokenizer):
    assert streaming_faults(tokenizer) == []


def test_solutions_of_the_shipped_models_are_streamed_as_they_are():
    """Their tokenizer strips the space before a text, so what it warns of are lines that begin with one."""
    tokenizer = build_tokenizer()
    (warning,) = streaming_faults(tokenizer)
    assert r"(x):\n   return" in warning and r"(x):\n    return" in warning
    for problem in generate_problems("test", 50):
        token_ids = tokenizer.encode(problem.solution)
        assert line_by_line(tokenizer, token_ids) == problem.solution
        assert all(streamed(tokenizer, token_ids, length) == problem.solution for length in LENGTHS)


@pytest.mark.parametrize("length", LENGTHS)
def test_text_is_streamed_by_transformers_itself(length, capsys):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_path("student"))
    token_ids = tokenizer.encode(SAMPLES[0])
    streamer = TextStreamer(tokenizer)
    for some in torch.tensor(token_ids).split(length):
        streamer.put(some)
    streamer.end()
    assert streamed(tokenizer, token_ids, length) + "\n" == capsys.readouterr().out


@pytest.mark.parametrize("content", [None, "{", '{"model": {"type": "BPE"}}'], ids=["none", "truncated", "not whole"])
def test_a_tokenizer_that_does_not_load_is_not_spoken_of(content, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llada"}')
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    assert folder_streaming_faults(tmp_path) == []


def test_push_and_convert_warn(capsys, tmp_path):
    folder = shutil.copytree(checkpoint_path("student"), tmp_path / "model")
    unstable = words_tokenizer((" = ", "="))
    unstable.save_pretrained(folder)
    assert len(folder_streaming_faults(folder)) == 1
    assert main(["convert", str(folder), str(tmp_path / "converted"), "--license", "apache-2.0"]) == 0
    assert "d3llm: warning: streamed text will differ" in capsys.readouterr().err
    assert main(["push", "model", str(tmp_path / "converted"), "ada/model", "--dry-run"]) == 0
    assert "d3llm: warning: streamed text will differ" in capsys.readouterr().err
