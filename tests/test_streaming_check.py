"""The check of tokenizers before a push: it warns when a prefix's text does not stay."""

import shutil

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from d3llm.commands.main import main
from d3llm.hub_cards.streaming import SAMPLES, folder_streaming_faults, streaming_faults
from d3llm.quickstart import checkpoint_path


def words_tokenizer(*rules: tuple[str, str]) -> PreTrainedTokenizerFast:
    """One token for each word, joined by spaces, then tidied by rules."""
    words = sorted({word for sample in SAMPLES for word in sample.split()})
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    joined = [decoders.WordPiece(prefix="\0", cleanup=False), decoders.Fuse()]
    backend.decoder = decoders.Sequence(joined + [decoders.Replace(old, new) for old, new in rules])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_a_rule_that_waits_for_what_comes_next():
    (warning,) = streaming_faults(words_tokenizer((" = ", "=")))
    assert "such as ' has 3 * 4 12 pens, doesn' for ' has 3 * 4=12 pens, doesn'" in warning


@pytest.mark.parametrize(
    "tokenizer",
    [
        words_tokenizer(),
        words_tokenizer((" =", "="), ("= ", "=")),
        bytes_tokenizer(),
        AutoTokenizer.from_pretrained(checkpoint_path("student")),
        AutoTokenizer.from_pretrained(checkpoint_path("teacher")),
    ],
    ids=["words", "one-sided", "bytes", "student", "teacher"],
)
def test_tokenizers_whose_prefixes_stay(tokenizer):
    assert streaming_faults(tokenizer) == []


def test_push_and_convert_warn(capsys, tmp_path):
    folder = shutil.copytree(checkpoint_path("student"), tmp_path / "model")
    unstable = words_tokenizer((" = ", "="))
    unstable.save_pretrained(folder)
    assert len(folder_streaming_faults(folder)) == 1
    assert main(["convert", str(folder), str(tmp_path / "converted"), "--license", "apache-2.0"]) == 0
    assert "d3llm: warning: streamed text will differ" in capsys.readouterr().err
    assert main(["push", "model", str(tmp_path / "converted"), "ada/model", "--dry-run"]) == 0
    assert "d3llm: warning: streamed text will differ" in capsys.readouterr().err
