"""A small causal language model of the teacher's texts, for orders that say how hard a token is for such a model."""

from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import (
    DataCollatorForSeq2Seq,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

from ..common.files import remove_leftovers, whole_folder


IGNORED = -100  # the label of tokens without a loss


def train_order_model(
    lessons: Dataset, tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any], seed: int, folder: Path
) -> Path:
    """
    Trains the model from scratch on prompts with their responses; the loss is over the responses.

    Args:
        lessons (`Dataset`): Token ids: `prompt_ids` and `response_ids`.
        tokenizer (`PreTrainedTokenizerBase`): The teacher's tokenizer.
        settings (`dict[str, Any]`): `hidden_size`, `layers`, `heads`, `max_steps`, `batch_size` and `learning_rate`.
        seed (`int`): Seed of weights and batches.
        folder (`Path`): Folder for the model. If it exists, nothing is done.

    Returns:
        `Path`: `folder`.

    Raises:
        `OSError`: If it cannot be written.
    """
    remove_leftovers(folder)
    if folder.exists():
        return folder
    set_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings["hidden_size"],
            intermediate_size=8 * settings["hidden_size"] // 3,
            num_hidden_layers=settings["layers"],
            num_attention_heads=settings["heads"],
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True,
        )
    )
    rows = lessons.map(_as_text, remove_columns=lessons.column_names)
    with whole_folder(folder) as unfinished:
        args = TrainingArguments(
            output_dir=str(unfinished),
            max_steps=settings["max_steps"],
            per_device_train_batch_size=settings["batch_size"],
            learning_rate=settings["learning_rate"],
            lr_scheduler_type="cosine",
            seed=seed,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
        )
        collator = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED)
        Trainer(model=model, args=args, train_dataset=rows, data_collator=collator).train()
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
    return folder


def _as_text(lesson: dict[str, list[int]]) -> dict[str, list[int]]:
    prompt, response = lesson["prompt_ids"], lesson["response_ids"]
    labels = [IGNORED] * len(prompt) + response
    return {"input_ids": prompt + response, "attention_mask": [1] * len(labels), "labels": labels}
