"""Credit for tokens that were proposed again and again, against the dense form of the paper."""

import numpy as np
import pytest
import torch

from d3llm.modeling import LLaDAModelLM
from tests.helpers.decoding import MASK, left_pad, prompts
from tests.helpers.models import tiny_model


RUN = {"preset": "dinfer_credit", "max_new_tokens": 16, "block_size": 16, "threshold": 0.6, "early_stop": False}
RUN |= {"cache": "none", "return_dict_in_generate": True}


@pytest.fixture
def model():
    built = tiny_model(LLaDAModelLM)
    with torch.no_grad():
        built.get_output_embeddings().weight[MASK] = 0.0
        built.get_output_embeddings().weight.mul_(1.5)
    return built


def test_against_a_matrix_of_all_tokens(model):
    """alpha = 0.7, gamma = 0.2, beta = 0.8 (CreditDecoding, arXiv 2510.06133)."""
    ids = prompts([5])[0][None]
    output = model.generate(ids, output_history=True, **RUN)
    canvas = torch.cat([ids, torch.full((1, 16), MASK)], dim=1)
    credit = torch.zeros(21, model.config.vocab_size)
    for forward in range(int(output.forward_passes)):
        with torch.no_grad():
            logits = model(canvas).logits[0]
        masked = (canvas[0] == MASK).nonzero()[:, 0]
        probability, top = logits.softmax(dim=-1).index_fill(-1, torch.tensor([MASK]), 0).max(dim=-1)
        credit[masked] *= 0.8
        credit[masked, top[masked]] += probability[masked] ** 0.2
        raised = logits + 0.7 * torch.log1p(credit)
        score, token = raised.softmax(dim=-1).index_fill(-1, torch.tensor([MASK]), 0).max(dim=-1)
        sure = masked[(score[masked] >= 0.6) | (score[masked] == score[masked].max())]
        canvas[0, sure] = token[sure]
        assert torch.equal(canvas, output.history[:, forward])
    assert not torch.equal(output.sequences, model.generate(ids, **RUN | {"credit_weight": 0.0}).sequences)


def test_rows_of_a_batch_are_those_of_the_row_alone(model):
    texts = prompts([5, 9, 3])
    ids, mask = left_pad(texts)
    together = model.generate(ids, attention_mask=mask, **RUN)
    for row, text in enumerate(texts):
        alone = model.generate(text[None], **RUN)
        assert np.array_equal(together.commit_steps[row], alone.commit_steps[0])
        assert torch.equal(together.sequences[row, -16:], alone.sequences[0, -16:])
