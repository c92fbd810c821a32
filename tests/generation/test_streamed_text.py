"""What a streamer of transformers prints is the text that the run returns, with every preset."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, TextIteratorStreamer

from d3llm.quickstart import checkpoint_path
from d3llm.quickstart.stories.problem import generate_problems
from tests.helpers.decoding import OPEN_PRESETS, families_in_turn
from tests.helpers.models import tiny_model


def streamed_and_returned(model, tokenizer, inputs, **fields) -> tuple[str, str]:
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    sequences = model.generate(**inputs, streamer=streamer, **fields)
    generated = sequences[0, inputs["input_ids"].shape[1] :]
    return "".join(streamer), tokenizer.decode(generated, skip_special_tokens=True)


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte, so that most characters and every text of a random model fall into parts."""
    alphabet = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet())[:60])}
    backend = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="!", mask_token="<mask>")


@pytest.fixture(scope="module", params=["teacher", "student"])
def shipped(request):
    folder = checkpoint_path(request.param)
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def check_shipped(shipped, preset: str, problems, **fields) -> None:
    model, tokenizer = shipped
    for problem in problems:
        chat = [{"role": "user", "content": problem.question}]
        inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        streamed, returned = streamed_and_returned(
            model, tokenizer, inputs, preset=preset, attention="bidirectional", **fields
        )
        assert streamed == returned


@pytest.mark.parametrize("shipped", ["student"], indirect=True)
@pytest.mark.parametrize("preset", ["d3llm", "fast_dllm", "dream_origin", "self_speculative", "dmax"])
def test_an_answer_of_the_student(shipped, preset):
    short = generate_problems("test", 2, seed=1)[1:]
    check_shipped(shipped, preset, short, block_size=8, max_new_tokens=32)  # 12 more than the answer


@pytest.mark.slow
@pytest.mark.parametrize("preset", OPEN_PRESETS)
def test_100_answers_with_every_preset(shipped, preset):
    check_shipped(shipped, preset, generate_problems("test", 100, seed=1), max_new_tokens=160)


@pytest.mark.parametrize(("family", "preset"), families_in_turn(OPEN_PRESETS))
def test_random_models(family, preset):
    model, tokenizer = tiny_model(family), bytes_tokenizer()
    for length in (3, 9):
        inputs = {"input_ids": torch.randint(1, 60, (1, length))}
        streamed, returned = streamed_and_returned(
            model, tokenizer, inputs, preset=preset, max_new_tokens=28, block_size=8, attention="bidirectional"
        )
        assert streamed == returned
