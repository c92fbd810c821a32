"""Saves the code of a model with every checkpoint: modeling/ and its imports from generation/, in one flat folder.

A Hub repository is flat, and `transformers` copies only files that are in the same folder. The exported modules import
each other as `from .x import name` or `from ..generation.x import name`, and this module rewrites those imports. It
also rewrites the module of a family that is defined elsewhere, which imports this package absolutely. This file is
exported too: in a downloaded folder all files are flat already, and saving from there copies them.
"""

import ast
import hashlib
import os
import re
import stat
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import PreTrainedModel
from transformers.utils.hub import create_and_tag_model_card


# Packages that every machine that loads a checkpoint has.
ALLOWED_PACKAGES = frozenset({"torch", "transformers", "huggingface_hub", "numpy"}) | sys.stdlib_module_names
OWN_PACKAGE = __name__.partition(".")[0]
# The Auto classes that load a model; a model without a head is loaded only by the first.
AUTO_CLASSES = ("AutoModel", "AutoModelForCausalLM", "AutoModelForMaskedLM")


class ExportError(ValueError):
    """Raised for code that cannot be exported to the Hub."""


def flatten(*entries: str) -> dict[str, str]:
    """
    The sources of modules and of all that they import from this package, with imports rewritten for one flat folder.

    Args:
        entries (`str`): Names of modules, such as `"d3llm.modeling.modeling_llada"`.

    Returns:
        `dict[str, str]`: Source by file name. Line numbers stay the same.

    Raises:
        [`ExportError`]: For an import of a package that may be missing where the code is downloaded, an import from
            this package that does not name the defining module, or two modules with the same name.
    """
    waiting, modules = list(entries), dict[str, str]()  # file name -> module
    sources = {}
    while waiting:
        module = waiting.pop()
        name = module.rpartition(".")[2] + ".py"
        if modules.setdefault(name, module) != module:
            raise ExportError(f"{module} and {modules[name]} would both become {name}: rename one")
        if name not in sources:
            sources[name], imported = _rewrite(module)
            waiting += imported
    return sources


def _rewrite(module: str) -> tuple[str, list[str]]:
    """The source of a module with flat imports, and the modules that it imports from this package."""
    source = _source_file(module).read_text(encoding="utf-8")
    lines, imported = source.splitlines(keepends=True), []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                _check_allowed(alias.name, module, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            target = _target_in_package(module, node)
            if target is None:
                _check_allowed(node.module or "", module, node.lineno)
                continue
            if _source_file(target).name == "__init__.py":
                raise ExportError(
                    f"{module}, line {node.lineno}: import from the module that defines the name, not from {target}"
                )
            imported.append(target)
            line = lines[node.lineno - 1]
            head, statement = line[: node.col_offset], line[node.col_offset :]
            flat = f"from .{target.rpartition('.')[2]} import"
            lines[node.lineno - 1] = head + re.sub(r"^from\s+\S+\s+import", flat, statement)
    return "".join(lines), imported


def _target_in_package(module: str, node: ast.ImportFrom) -> str | None:
    """The module of this package, or of the importing module's own, that is imported; `None` for any other package."""
    if node.level:
        return f"{module.rsplit('.', node.level)[0]}.{node.module or ''}".rstrip(".")
    outside = module.partition(".")[0] != OWN_PACKAGE  # only modules outside may import this package absolutely
    return node.module if outside and (node.module or "").startswith(f"{OWN_PACKAGE}.") else None


def _check_allowed(imported: str, module: str, line: int) -> None:
    package = imported.partition(".")[0]
    if package == OWN_PACKAGE != module.partition(".")[0]:
        raise ExportError(
            f"{module}, line {line}: imports {imported}; write `from {OWN_PACKAGE}.ROOM.MODULE import NAME`, with the "
            "module that defines the name"
        )
    if package not in ALLOWED_PACKAGES:
        raise ExportError(
            f"{module}, line {line}: imports {package}, which a downloader may not have; use relative imports "
            f"within this package, and besides them only torch, numpy, transformers, huggingface_hub and the standard "
            "library"
        )


def _source_file(module: str) -> Path:
    if module == "__main__":
        raise ExportError(
            "the model's class is defined in a script or notebook, and its module is saved with it: move the class to "
            "a module of its own, and import it"
        )
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ExportError(f"{module} has no source file")
    return Path(spec.origin)


@cache
def _code_of(model_class: type[PreTrainedModel]) -> tuple[dict[str, str], dict[str, str]]:
    """The flat files of a model class and the `auto_map` that points to them."""
    config_class = model_class.config_class
    names = [f"{part.__module__.rpartition('.')[2]}.{part.__name__}" for part in (config_class, model_class)]
    served = AUTO_CLASSES if model_class.can_generate() else AUTO_CLASSES[:1]
    auto_map = {"AutoConfig": names[0], **dict.fromkeys(served, names[1])}
    return flatten(model_class.__module__, config_class.__module__), auto_map


def _family_member(model: PreTrainedModel) -> type | None:
    """The class whose code is saved with a model: the first one from the module that states the facts of the family.
    FSDP and users put their own classes in front of it. `None` if no class states these facts."""
    classes = type(model).__mro__
    modules = (member.__module__ for member in classes if "logits_shift" in vars(member))
    home = next(modules, None)
    return next((member for member in classes if member.__module__ == home), None)


def check_code(model: PreTrainedModel) -> None:
    """Raises an [`ExportError`] for a model whose code cannot be saved with it."""
    model_class = _family_member(model)
    if model_class is not None:
        _code_of(model_class)


def save_with_code(
    model: PreTrainedModel,
    save_plain: Callable[..., None],
    save_directory: str | os.PathLike,
    is_main_process: bool = True,
    state_dict: dict[str, Any] | None = None,
    push_to_hub: bool = False,
    **kwargs: Any,
) -> None:
    """
    Saves a model as a folder that loads with `trust_remote_code=True` and without this package.

    Args:
        model (`PreTrainedModel`): The model.
        save_plain (`Callable`): Its inherited `save_pretrained`, from transformers.
        save_directory, is_main_process, state_dict, push_to_hub, kwargs: As for `save_pretrained`.
    """
    model_class = _family_member(model)
    files: dict[str, str] = {}
    if model_class is not None:
        files, model.config.auto_map = _code_of(model_class)
    if model.can_generate():
        # With this flag, loading would ignore the decoding parameters.
        model.generation_config._from_model_config = False
    # With FSDP one process saves, whatever is_main_process says; before transformers 5.16 the caller decides.
    saves = getattr(model, "should_save_on_this_rank", lambda main: main)(is_main_process)
    push_to_hub = push_to_hub and saves
    hub = {name: kwargs.pop(name, None) for name in ("repo_id", "commit_message", "private", "revision")}
    hub["create_pr"] = kwargs.pop("create_pr", False)
    present = model._get_files_timestamps(save_directory) if push_to_hub and Path(save_directory).is_dir() else {}
    save_plain(save_directory, is_main_process=is_main_process, state_dict=state_dict, **kwargs)
    if saves:
        share_weights(Path(save_directory))
        write_files(save_directory, files)
    if push_to_hub:
        _upload(model, save_directory, present, token=kwargs.get("token"), **hub)


def share_weights(folder: Path) -> None:
    """Gives weights the rights of config.json: safetensors makes files for their owner alone, whatever the umask."""
    mode = stat.S_IMODE((folder / "config.json").stat().st_mode)
    for file in folder.glob("model*.safetensors"):
        file.chmod(mode)


def write_files(folder: str | os.PathLike, files: dict[str, str]) -> None:
    """Writes text files atomically."""
    for name, text in files.items():
        content = text.encode()
        # Named by its content: the next writer reuses the file of a killed one, and concurrent writers agree.
        temporary = Path(folder, f".{name}.{hashlib.sha256(content).hexdigest()[:16]}.tmp")
        try:
            with open(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o666), "wb") as file:
                file.write(content)
            os.replace(temporary, Path(folder, name))
        except BaseException:
            temporary.unlink(missing_ok=True)
            if not _holds(Path(folder, name), content):  # otherwise another writer was faster
                raise


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _upload(
    model: PreTrainedModel,
    folder: str | os.PathLike,
    present: dict[str, float],
    *,
    repo_id: str | None,
    private: bool | None,
    token: str | None,
    **commit: Any,
) -> None:
    """The last part of transformers' `save_pretrained(push_to_hub=True)`, run after the code has been written."""
    repo_id = repo_id or Path(folder).name
    repo_id = HfApi().create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
    if not Path(folder, "README.md").exists():
        create_and_tag_model_card(repo_id, model.model_tags, token=token).save(Path(folder, "README.md"))
    model._upload_modified_files(folder, repo_id, present, token=token, **commit)
