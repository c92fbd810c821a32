"""The card of a freshly trained model: the facts of the training, without results."""

import logging
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HTTPError
from transformers import PreTrainedModel

from ..common.files import write_atomically
from .cards import is_hub_id, model_card
from .facts import MODEL_FACTS, ModelFacts, facts_json
from .from_results import decoding_fields, library_versions
from .push_checks import card_metadata
from .serving import SGLANG_FILE, sglang_serving, sglang_yaml


logger = logging.getLogger(__name__)


def write_training_card(
    folder: Path, model: PreTrainedModel, *, name: str, chat: bool = False, **known: Any
) -> ModelFacts:
    """
    Writes README.md and the facts it is based on to a model's folder; `d3llm push` adds results and the licence.

    Args:
        folder (`Path`): The model's folder.
        model (`PreTrainedModel`): The model, without adapters around it.
        name (`str`): Title of the card.
        chat (`bool`, *optional*, defaults to `False`): Whether the tokenizer has a chat template.
        known (`Any`): Further fields of [`ModelFacts`], such as `hyperparameters`.

    Returns:
        [`ModelFacts`]: The facts. The licence is that on the base model's card, or `"other"` if it names none.
    """
    base_model = model.config._name_or_path or None
    decoding = decoding_fields(model.generation_config.to_dict())
    config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    is_adapter = (folder / "adapter_config.json").is_file()  # SGLang takes whole models
    serving = {} if is_adapter else sglang_serving(config, decoding)
    facts = ModelFacts(
        name=name,
        license=license_of(base_model),
        architecture=type(model).__name__,
        parameters=model.num_parameters(),
        base_model=base_model if is_hub_id(base_model) else base_model and Path(base_model).name,
        decoding=decoding,
        serving=serving,
        chat=chat,
        versions=library_versions(),
        **known,
    )
    write_card(folder, facts)
    return facts


def write_card(folder: Path, facts: ModelFacts) -> None:
    """Writes the card of a model, the facts it is based on and what an engine needs to the model's folder."""
    if facts.serving:
        (folder / SGLANG_FILE).parent.mkdir(exist_ok=True)
        write_atomically(folder / SGLANG_FILE, sglang_yaml(facts.serving).encode())
    write_atomically(folder / "README.md", model_card(facts).encode())
    write_atomically(folder / MODEL_FACTS, facts_json(facts).encode())


def license_of(base_model: str | None) -> str:
    """The licence on the card of a model, in a folder or on the Hub; `"other"` if there is none."""
    card = Path(base_model or "", "README.md")
    if not card.is_file() and is_hub_id(base_model):
        try:
            card = Path(hf_hub_download(str(base_model), "README.md"))
        except (OSError, HTTPError) as error:
            logger.warning("The card names the licence `other`: that of %s cannot be read (%s).", base_model, error)
    license = card_metadata(card.read_text(encoding="utf-8")).get("license") if card.is_file() else None
    return license if isinstance(license, str) else "other"
