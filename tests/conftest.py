"""Fixtures shared by the tests."""

import os
import tempfile
from pathlib import Path

import pytest

from tests.helpers.golden_data import unpack


ROOT = Path(__file__).resolve().parent.parent
# Recorded behaviour of the published implementations: that of tests/golden, or a complete set where D3LLM_GOLDEN says.
_unpacked = tempfile.TemporaryDirectory(prefix="d3llm-golden-")
GOLDEN = Path(os.environ.get("D3LLM_GOLDEN", _unpacked.name))
if "D3LLM_GOLDEN" not in os.environ:
    unpack(GOLDEN)
elif not (GOLDEN / "traces").is_dir():
    raise FileNotFoundError(f"D3LLM_GOLDEN names {GOLDEN}, which has no traces: give a folder of recordings.")


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden data."""
    return GOLDEN


WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "plus", "is"]


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder as users have them: a random LLaDA of two layers, a tokenizer, a chat template."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from d3llm.modeling import LLaDAConfig, LLaDAModelLM

    vocabulary = {word: index for index, word in enumerate(["<eos>", "<mask>", "<unk>", "<user>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>", mask_token="<mask>", unk_token="<unk>"
    )
    tokenizer.chat_template = "{% for message in messages %}<user> {{ message['content'] }}{% endfor %}"
    torch.manual_seed(0)
    config = LLaDAConfig(
        d_model=32,
        n_heads=2,
        n_layers=2,
        mlp_hidden_size=64,
        vocab_size=len(vocabulary),
        embedding_size=len(vocabulary),
        max_sequence_length=128,
        init_std=0.3,
        mask_token_id=1,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = LLaDAModelLM(config)
    with torch.no_grad():
        model.get_output_embeddings().weight[1] = 0.0  # the mask token is never proposed
    folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
