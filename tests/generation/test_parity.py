"""Decoding against recorded runs of the published implementations: tokens, forwards and commit order, exactly."""

import json

import pytest
import torch

from d3llm.modeling import DreamModel, LLaDAModelLM
from tests.helpers.golden import GOLDEN
from tests.helpers.golden_cases import LEFT_OUT, TRACES, generation_arguments, load_cases, recorded_commit_steps


MODELS: dict[str, LLaDAModelLM | DreamModel] = {}


def load_model(checkpoint: str) -> LLaDAModelLM | DreamModel:
    if checkpoint not in MODELS:
        family = DreamModel if "dream" in checkpoint else LLaDAModelLM
        MODELS[checkpoint] = family.from_pretrained(GOLDEN / checkpoint)
    return MODELS[checkpoint]


@pytest.mark.golden
@pytest.mark.parametrize(("trace", "case"), [pytest.param(t, c, id=c["id"]) for t, c in load_cases()])
def test_recorded_run(trace, case):
    prompt = torch.tensor(case["prompt_ids"])
    attention_mask = torch.tensor(case["attention_mask"]) if case.get("attention_mask") else None
    output = load_model(case["checkpoint"]).generate(
        prompt.reshape(-1, prompt.shape[-1]),
        attention_mask=attention_mask,
        return_dict_in_generate=True,
        **generation_arguments(trace, case),
    )
    recorded_steps = recorded_commit_steps(case)
    assert output.sequences.squeeze(0).tolist() == case["output_ids"]
    assert set(output.forward_passes.tolist()) == {case.get("n_forward_calls") or case["nfe"]}
    torch.testing.assert_close(output.commit_steps.long(), recorded_steps)


@pytest.mark.golden
def test_left_out_runs_have_a_known_defect():
    for trace in TRACES:
        for case in json.loads((GOLDEN / "traces" / f"{trace}.json").read_text())["cases"]:
            assert set(case.get("notes") or ()) <= set(LEFT_OUT), case["id"]
