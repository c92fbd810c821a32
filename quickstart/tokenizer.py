"""The tokenizer of the embedded models: one token per word, number or mark of the word problems."""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from .problems import END_OF_TEXT, vocabulary


MASK, UNKNOWN, USER, ASSISTANT, SYSTEM = "<|mdm_mask|>", "<|unknown|>", "<|user|>", "<|assistant|>", "<|system|>"
SPECIAL_TOKENS = (END_OF_TEXT, MASK, UNKNOWN, USER, ASSISTANT, SYSTEM)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|> ' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|endoftext|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """
    Builds the tokenizer: a closed word-level vocabulary in which every number is one token.

    Whitespace is not encoded. The decoder restores it by rule: none inside an equation or before a full stop, a
    newline before `####`, otherwise one space. So `decode(encode(text)) == text` for every text from `problems`.

    Returns:
        `PreTrainedTokenizerFast`: Padding side left, padding and end-of-sequence token `<|endoftext|>`, mask token
        `<|mdm_mask|>`, with a chat template.
    """
    vocab = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *vocabulary()])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(Regex(r"\d+|[A-Za-z]+|<<|>>|####|."), behavior="isolated"),
        ]
    )
    # Each rule looks at only one side of a mark. A rule for both sides would depend on the next token, and could
    # remove a space that a streamer has already printed.
    spacing = [(f" {mark}", mark) for mark in (">>", *"+-*/=", *".,?")]
    spacing += [(f"{mark} ", mark) for mark in ("<<", ">>", *"+-*/=")] + [(" ####", "\n####")]
    # No token contains the prefix, so every token but the first is preceded by a space before the rules apply.
    joined = [decoders.WordPiece(prefix="\0", cleanup=False), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(joined + [decoders.Replace(old, new) for old, new in spacing])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        mask_token=MASK,
        unk_token=UNKNOWN,
        extra_special_tokens=[USER, ASSISTANT, SYSTEM],
        padding_side="left",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
