"""The tokenizer of the stories: byte-level BPE, so that any name can be spelled, with a token for each digit."""

from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from .checker import END_OF_TEXT
from .problem import MAX_STEPS, generate_problems


VOCAB_SIZE = 4096
FILE = Path(__file__).resolve().parent / "tokenizer.json"
MASK, USER, ASSISTANT, SYSTEM = "<|mdm_mask|>", "<|user|>", "<|assistant|>", "<|system|>"
SPECIAL_TOKENS = (END_OF_TEXT, MASK, USER, ASSISTANT, SYSTEM)
# As Qwen2's pre-tokenizer, whose numbers are single digits too.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|endoftext|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(num_problems: int = 20_000, vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """
    Trains the tokenizer on training problems of all lengths; the same arguments give the same tokenizer.

    A space is put before every text and taken away again by the decoder, so that a name is the same tokens at the
    beginning of a text as within one.

    Args:
        num_problems (`int`, *optional*, defaults to 20,000): Number of problems.
        vocab_size (`int`, *optional*, defaults to 4,096): Size of the vocabulary, special tokens included.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    problems = generate_problems("train", num_problems, steps=range(1, MAX_STEPS + 1))
    texts = (text for problem in problems for text in (problem.question, problem.solution))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def build_tokenizer() -> PreTrainedTokenizerFast:
    """
    The packaged tokenizer, as [`train_tokenizer`] made it.

    Returns:
        `PreTrainedTokenizerFast`: Padding side left, padding and end-of-sequence token `<|endoftext|>`, mask token
        `<|mdm_mask|>`, with a chat template. `decode(encode(text)) == text` for every text.
    """
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(FILE)),
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        mask_token=MASK,
        extra_special_tokens=[USER, ASSISTANT, SYSTEM],
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


if __name__ == "__main__":
    train_tokenizer().save(str(FILE))
