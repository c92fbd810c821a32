"""Pushes what a training saved, under the checks of `d3llm push model`."""

import tempfile
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from ..hub_cards.convert import convert
from ..hub_cards.push import Pushed, push
from ..hub_cards.repositories import model_repository


def push_training(folder: Path, repo_id: str, *, base_model: str | None, message: str | None, api: HfApi) -> Pushed:
    """
    Makes a repository on the Hub equal to a model's folder, without what the training keeps for itself.

    Args:
        folder (`Path`): A model with its card, or adapters, which are merged on the way.
        repo_id (`str`): Where it goes.
        base_model (`str`, *optional*): Folder or Hub id of the model that adapters belong to.
        message (`str`, *optional*): Title of the commit.
        api (`HfApi`): Which Hub, and which token.

    Returns:
        [`~d3llm.hub_cards.push.Pushed`]: Where it is.

    Raises:
        `ValueError`: For what must not go to the Hub.
        `OSError`: As from [`~d3llm.hub_cards.push.push`].
    """
    with tempfile.TemporaryDirectory() as work:
        if (folder / "adapter_config.json").is_file():
            base = Path(base_model or "")
            if not base.is_dir():
                base = Path(snapshot_download(str(base_model), token=api.token))
            merged = Path(work, "merged")
            convert(folder, merged, base_model=base)
            folder = merged
        return push(model_repository(folder, repo_id), repo_id, message=message, api=api)
