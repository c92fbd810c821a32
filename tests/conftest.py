"""Fixtures shared by the tests."""

import gc
from functools import cache
from pathlib import Path

import pytest

from tests.helpers.golden import GOLDEN


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start processes come first: as the last they would keep one worker busy and the other idle."""
    long = {item.path for item in items if item.get_closest_marker("processes")}
    items.sort(key=lambda item: item.path not in long)


def pytest_collection_finish() -> None:
    """Every training collects garbage, and would look through all that was imported each time, for half a second."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def packages_are_looked_for_once():
    """accelerate reads the metadata of PEFT several times in each step of a training."""
    from accelerate.utils import imports

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imports, "_is_package_available", cache(imports._is_package_available))
        yield


@pytest.fixture(autouse=True)
def threads_stay():
    """A number of threads that a test leaves behind changes the sums of those that come after it."""
    import torch

    before = torch.get_num_threads()
    yield
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert after == before, "the number of CPU threads was left changed"


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden data."""
    return GOLDEN


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder as users have them: a random LLaDA of two layers, a tokenizer, a chat template."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from d3llm.modeling import LLaDAModelLM
    from tests.helpers.models import OF_WORDS, VOCABULARY, tiny_model

    vocabulary = {word: index for index, word in enumerate(VOCABULARY)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>", mask_token="<mask>", unk_token="<unk>"
    )
    tokenizer.chat_template = "{% for message in messages %}<user> {{ message['content'] }}{% endfor %}"
    model = tiny_model(LLaDAModelLM, **OF_WORDS, kv_heads=None, positions=128)
    with torch.no_grad():
        model.get_output_embeddings().weight[1] = 0.0  # the mask token is never proposed
    folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A Hub that this process and the command line talk to; waiting costs no time."""
    import huggingface_hub

    from d3llm.hub_cards import push
    from tests.helpers.hub import WRITE_TOKEN, loopback_hub

    with loopback_hub() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        api = huggingface_hub.HfApi
        monkeypatch.setattr(push, "HfApi", lambda: api(endpoint=hub.url, token=hub.token))
        hub.token = WRITE_TOKEN
        hub.waits = []
        monkeypatch.setattr("time.sleep", hub.waits.append)
        yield hub
