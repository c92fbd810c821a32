"""Assembles the content of a push, by kind of repository: the checked files of a folder, plus cards and the like."""

import ast
import fnmatch
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files as package_files
from pathlib import Path

from .cards import custom_generate_card, eval_results, is_hub_id, metric_card, model_card, space_card, trajectory_card
from .contents import Content, read
from .facts import MODEL_FACTS, TRAJECTORY_FACTS, ModelFacts, TrajectoryFacts, facts_json, read_facts
from .folder import RUN_STATE, folder_files
from .push_checks import check_card, check_code, check_files, suspicious_calls
from .serving import SGLANG_FILE, sglang_yaml
from .streaming import folder_streaming_faults
from .weights import check_weights, read_json_object, weights_without_numbers


AUTO_CLASSES = ("AutoConfig", "AutoModel", "AutoModelForCausalLM")
VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken")


@dataclass(frozen=True)
class Repository:
    """
    The content of a repository.

    Attributes:
        kind (`str`): `"model"`, `"dataset"` or `"space"`.
        files (`dict[str, Path | bytes]`): Content by path.
        private (`bool`): Whether it is private by default.
        left_out (`tuple[str, ...]`): Skipped files of the folder.
        warnings (`tuple[str, ...]`): Warnings about files that are pushed.
    """

    kind: str
    files: dict[str, Content]
    private: bool = False
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def model_repository(
    folder: Path, repo_id: str, facts: ModelFacts | None = None, picture: Content | None = None
) -> Repository:
    """
    A model's folder: weights, code, tokenizer, card.

    Args:
        folder (`Path`): A folder written by `save_pretrained` or `d3llm convert`.
        repo_id (`str`): The repository.
        facts ([`ModelFacts`], *optional*): The facts on the card; by default those in the folder's `model_facts.json`.
            If there is none, README.md is pushed as it is.
        picture (`Path` or `bytes`, *optional*): The image for `facts.picture`, if it is not in the folder.

    Raises:
        `ValueError`: For a folder that is incomplete or holds files that must not be pushed.
        `OSError`: For a folder that does not exist.
    """
    repository = _folder(folder, "model", RUN_STATE)
    files = repository.files
    if facts is None and MODEL_FACTS in files:
        facts = read_facts(ModelFacts, folder / MODEL_FACTS)
    if facts is not None:
        if picture is not None and facts.picture:
            if not facts.picture.endswith((".png", ".svg", ".jpg", ".jpeg", ".gif", ".webp")):
                raise ValueError(f"{facts.picture} is not a picture: give a PNG, SVG, JPEG, GIF or WebP file.")
            files[facts.picture] = picture
        files["README.md"] = model_card(facts, repo_id).encode()
        if facts.serving:
            files[SGLANG_FILE] = sglang_yaml(facts.serving).encode()
        files[MODEL_FACTS] = facts_json(facts).encode()
        files |= {path: text.encode() for path, text in eval_results(facts).items()}
        if facts.picture and facts.picture not in files:
            raise ValueError(f"{folder} has no {facts.picture}, which its card shows.")
    check_files(files)
    check_card(files)
    check_code(files)
    _check_model(folder, files)
    warnings = (*suspicious_calls(files), *weights_without_numbers(files), *folder_streaming_faults(folder))
    return replace(repository, warnings=warnings)


def trajectory_repository(folder: Path, repo_id: str) -> Repository:
    """
    A trajectory dataset, private by default.

    Args:
        folder (`Path`): A folder written by `d3llm extract`.
        repo_id (`str`): The repository.

    Raises:
        `ValueError`: For a folder that is incomplete or holds files that must not be pushed.
        `OSError`: For a folder that does not exist.
    """
    repository = replace(_folder(folder, "dataset"), private=True)
    files = repository.files
    if not any(fnmatch.fnmatch(path, "data/*.parquet") for path in files):
        raise ValueError(f"{folder} has no data/*.parquet: it is not a trajectory dataset.")
    if "plan.json" in files and TRAJECTORY_FACTS not in files:
        raise ValueError(f"{folder} is an unfinished extraction: run the same `d3llm extract` again.")
    if TRAJECTORY_FACTS in files:
        facts = read_facts(TrajectoryFacts, folder / TRAJECTORY_FACTS)
        files["README.md"] = trajectory_card(facts, repo_id).encode()
    check_files(files)
    check_card(files)
    return repository


def metric_repository(folder: Path | None, repo_id: str) -> Repository:
    """
    The Space of a metric, for `evaluate.load(repo_id)`.

    Args:
        folder (`Path`, *optional*): The folder of the metric's module; by default that of AUP.
        repo_id (`str`): The repository. `evaluate` expects a module with the repository's name.

    Raises:
        `ValueError`: For a folder without a module of that name, or one without a description.
        `OSError`: For a folder that does not exist.
    """
    folder = folder or Path(str(package_files("d3llm.evaluation.aup")))
    name = repo_id.rpartition("/")[2]
    inside = _folder(folder, "space", ["__init__.py"])
    module = inside.files.get(f"{name}.py")
    if module is None:
        raise ValueError(f"{folder} has no {name}.py: the repository must have the name of the metric's module.")
    texts: dict[str, str] = {}
    for node in ast.parse(read(module)).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            texts[getattr(node.targets[0], "id", "")] = str(node.value.value)
    if "_DESCRIPTION" not in texts:
        raise ValueError(f"{name}.py does not describe itself: add a _DESCRIPTION.")
    card = metric_card(repo_id, name, texts["_DESCRIPTION"].strip(), texts.get("_KWARGS_DESCRIPTION", "").strip())
    made = {path: content for path, content in _shipped("metric").items() if path not in inside.files}
    repository = replace(inside, files={**inside.files, **made, "README.md": card.encode()})
    check_files(repository.files)
    return replace(repository, warnings=tuple(suspicious_calls(inside.files)))


def space_repository(models: Sequence[str]) -> Repository:
    """
    The demo Space, where two models or presets fill their canvases side by side.

    Args:
        models (`Sequence[str]`): Hub ids of one or two models.

    Raises:
        `ValueError`: For another number of models, and for what is not a Hub id.
    """
    if not 1 <= len(set(models)) == len(models) <= 2:
        raise ValueError("--model: a Space has two sides, give one or two different models.")
    for model in models:
        if not is_hub_id(model):
            raise ValueError(f"--model {model}: a Space runs a model on the Hub, written owner/name.")
    settings = json.dumps({"models": {model: model for model in models}}, indent=2) + "\n"
    files: dict[str, Content] = {
        **_shipped("space"),
        **{f"canvas_space/{name}": content for name, content in _shipped("canvas_space").items()},
        "settings.json": settings.encode(),
        "README.md": space_card(models).encode(),
    }
    return Repository("space", files)


def custom_generate_repository(repo_id: str) -> Repository:
    """
    The decoder as a function for third-party models.

    Args:
        repo_id (`str`): The repository.
    """
    from ..modeling.remote_code import flatten  # loads torch

    files: dict[str, Content] = {
        f"custom_generate/{name}": text.encode() for name, text in flatten(f"{__package__}.generate").items()
    }
    files["README.md"] = custom_generate_card(repo_id).encode()
    return Repository("model", files)


def _folder(folder: Path, kind: str, left_out: Sequence[str] = ()) -> Repository:
    """The files of a folder, without those that match `left_out`."""
    files, skipped = folder_files(folder, left_out)
    return Repository(kind, {**files}, left_out=tuple(skipped))


def _shipped(name: str) -> dict[str, bytes]:
    """The files of a folder in this package."""
    return {file.name: file.read_bytes() for file in (package_files(__package__) / name).iterdir() if file.is_file()}


def _check_model(folder: Path, files: dict[str, Content]) -> None:
    """Refuses a model that would not load from the Hub without this package."""
    if "config.json" not in files:
        raise ValueError(f"{folder} has no config.json: it is not a model.")
    if "adapter_config.json" in files:
        raise ValueError(f"{folder} holds an adapter: merge it with `d3llm convert {folder} OUTPUT` and push that.")
    for needed in ("generation_config.json", "tokenizer_config.json"):
        if needed not in files:
            raise ValueError(f"{folder} is incomplete: it has no {needed}.")
    auto_map = read_json_object(files, "config.json").get("auto_map")
    named = auto_map if isinstance(auto_map, dict) else {}
    code = {str(named.get(name, "")).rpartition(".")[0] + ".py" for name in AUTO_CLASSES}
    if not code <= files.keys():
        raise ValueError(
            f"{folder} does not contain its code, so it could not be loaded from the Hub: make it self-contained with "
            f"`d3llm convert {folder} OUTPUT` and push that."
        )
    if not any(fnmatch.fnmatchcase(path, pattern) for path in files for pattern in VOCABULARIES):
        raise ValueError(f"{folder} is incomplete: its tokenizer has no vocabulary, such as tokenizer.json.")
    check_weights(folder, files)
