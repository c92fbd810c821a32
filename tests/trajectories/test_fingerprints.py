"""When two tokenizers count as the same."""

import copy
import json

from transformers import AutoTokenizer

from d3llm import load_trajectories
from d3llm.common.fingerprints import fingerprint
from d3llm.quickstart import CHECKPOINTS, checkpoint_path
from d3llm.trajectories.fingerprints import CHAT, is_tokenizer_of, tokenizer_fingerprint


def test_what_a_template_renders_counts_and_not_its_source():
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_path("student"))
    other = copy.deepcopy(tokenizer)
    for tag in ("{% generation %}", "{% endgeneration %}"):
        assert tag in other.chat_template
        other.chat_template = other.chat_template.replace(tag, "")
    assert tokenizer_fingerprint(other) == tokenizer_fingerprint(tokenizer)
    other.chat_template += "."
    assert tokenizer_fingerprint(other) != tokenizer_fingerprint(tokenizer)
    other.chat_template = "{{ raise_exception('no') }}"
    assert is_tokenizer_of(tokenizer_fingerprint(other), other)
    other.chat_template = None
    assert tokenizer_fingerprint(other) != tokenizer_fingerprint(tokenizer)


def test_earlier_fingerprints_are_known():
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_path("student"))
    earlier = fingerprint([sorted(tokenizer.get_vocab().items()), tokenizer.chat_template])
    assert is_tokenizer_of(earlier, tokenizer) and not is_tokenizer_of("0" * 16, tokenizer)


def test_shipped_templates_mark_what_the_assistant_says():
    recorded = {config["tokenizer"] for config in map(read_config, load_trajectories("quickstart/trajectories"))}
    for name in CHECKPOINTS:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint_path(name))
        assert recorded == {tokenizer_fingerprint(tokenizer)}
        options = {"return_dict": True, "return_assistant_tokens_mask": True}
        inputs = tokenizer.apply_chat_template(CHAT, **options)
        said = [token for token, mark in zip(inputs["input_ids"], inputs["assistant_masks"], strict=True) if mark]
        assert said == tokenizer("two<|endoftext|>")["input_ids"]


def read_config(row):
    return json.loads(row["decode_config"])
