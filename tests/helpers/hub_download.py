"""A process in which the package cannot be imported: loads, decodes and saves again what the other one left.

Arguments: the folder that `hub_publish.py` worked in, the file for the results.
"""

import importlib.abc
import json
import shutil
import sys
from pathlib import Path


class NoPackage(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "d3llm":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


if __name__ == "__main__":
    sys.meta_path.insert(0, NoPackage())

import torch  # noqa: E402
from huggingface_hub import snapshot_download  # noqa: E402
from transformers import (  # noqa: E402
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    GenerationMixin,
)


PROMPT = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])
CALL = {"preset": "d3llm", "max_new_tokens": 12, "block_size": 4, "threshold": 0.8}

# Other people's classes: forwards as they were published, without a cache of the canvas or a choice of rows.
OLD_LLADA = """
from transformers import GenerationMixin

from .modeling_llada import LLaDAModelLM as Model


class LLaDAModelLM(Model):
    generate = GenerationMixin.generate

    def forward(self, input_ids=None, inputs_embeds=None, attention_mask=None, use_cache=None, return_dict=None):
        return super().forward(input_ids, attention_mask=attention_mask)
"""
OLD_DREAM = """
from .modeling_dream import DreamModel as Model


class DreamModel(Model):
    generate = None

    def forward(self, input_ids=None, attention_mask="full", position_ids=None, use_cache=None, **kwargs):
        mask = None if attention_mask == "full" else attention_mask
        return super().forward(input_ids, attention_mask=mask, position_ids=position_ids)
"""


def foreign(repo: str, name: str, code: str, folder: Path):
    """A model of a repository, of a class with other people's forward."""
    shutil.copytree(snapshot_download(repo), folder)
    (folder / "modeling_old.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"]["AutoModelForCausalLM"] = f"modeling_old.{name}"
    (folder / "config.json").write_text(json.dumps(config))
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    assert type(model).__module__.endswith("modeling_old")
    return model


def main(work: Path, result_file: Path):
    results = {}
    sources = ["ada/llada", "ada/dream", "ada/trained", work / "trained/checkpoint-1", work / "merged"]
    for number, source in enumerate(sources):
        model = AutoModelForCausalLM.from_pretrained(source, trust_remote_code=True).eval()
        again = work / f"again-{number}"
        model.save_pretrained(again)
        reloaded = AutoModel.from_pretrained(again, trust_remote_code=True).eval()
        assert type(reloaded) is not type(model)
        assert torch.equal(model(PROMPT).logits, reloaded(PROMPT).logits)
        tokens = model.generate(PROMPT, **CALL).tolist()
        assert reloaded.generate(PROMPT, **CALL).tolist() == tokens
        for auto_class in (AutoModelForCausalLM, AutoModelForMaskedLM) if number < 2 else ():  # one of each family
            other = auto_class.from_pretrained(again, trust_remote_code=True).eval()
            assert other.generation_config.block_size == 4
            assert other.generate(PROMPT, **CALL).tolist() == tokens
        name = Path(source).name if isinstance(source, Path) else source
        results[name] = {
            "logits": model(PROMPT).logits.tolist(),
            "tokens": tokens,
            "config_class": type(model.generation_config).__name__,
            "files": sorted(path.name for path in again.iterdir()),
        }
    AutoTokenizer.from_pretrained("ada/llada", trust_remote_code=True)

    results["base"] = {}
    for family in ("llada", "dream"):
        base = AutoModel.from_pretrained(work / f"base-{family}", trust_remote_code=True).eval()
        results["base"][family] = {"class": type(base).__name__, "hidden": base(PROMPT).last_hidden_state.tolist()}

    llada = foreign("ada/llada", "LLaDAModelLM", OLD_LLADA, work / "old-llada")
    dream = foreign("ada/dream", "DreamModel", OLD_DREAM, work / "old-dream")
    decode = GenerationMixin.load_custom_generate(None, "ada/decoder", trust_remote_code=True)
    padding = {"attention_mask": torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])}
    hub = {"custom_generate": "ada/decoder", "trust_remote_code": True}
    results["foreign"] = {
        "llada": llada.generate(PROMPT, **hub, **CALL).tolist(),
        "dream": decode(model=dream, input_ids=PROMPT, **CALL).tolist(),
        "padded llada": llada.generate(PROMPT, **hub, **padding, **CALL).tolist(),
        "padded dream": decode(model=dream, input_ids=PROMPT, **padding, **CALL).tolist(),
    }
    refused = {}
    for name, wrong in {
        "cache": {"cache": "dual"},
        "attention": {"preset": "d2f"},
        "typo": {"treshold": 0.5},
    }.items():
        try:
            llada.generate(PROMPT, **hub, **{**CALL, **wrong})
        except ValueError as error:
            refused[name] = str(error)
    llada.config.model_type = "mamba"
    try:
        llada.generate(PROMPT, **hub, **CALL)
    except ValueError as error:
        refused["family"] = str(error)
    results["refused"] = refused

    import evaluate

    aup = evaluate.load("ada/aup").compute(tokens_per_forward=[1.0, 9.11], accuracy=[74.02, 73.09], y_max=74.98)
    results["aup"] = aup["aup"]
    result_file.write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
