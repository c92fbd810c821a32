"""The models as transformers' common tests take them: copied into the package of those tests, and imported only there.

Small testers in the form of transformers' own: they say which classes there are and give a config and a batch.
"""

import unittest

import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

from d3llm.modeling import DreamConfig, DreamModel, LLaDAConfig, LLaDAModelLM, SDARConfig, SDARForCausalLM
from d3llm.modeling.modeling_dream import DreamBaseModel
from d3llm.modeling.modeling_llada import LLaDAModel
from d3llm.modeling.modeling_sdar import SDARModel

from ...test_configuration_common import ConfigTester
from ...test_modeling_common import ModelTesterMixin, ids_tensor, random_attention_mask
from ...test_training_mixin import TrainingTesterMixin


torch.set_printoptions(threshold=8, edgeitems=1)  # some tests format every weight, whether it differs or not
MASK = 3  # a test leaves four tokens of the vocabulary
# As transformers lists its own: a base model has no loss, and a model that predicts masked tokens takes `labels`.
MODEL_MAPPING_NAMES.update({"llada": "LLaDAModel", "Dream": "DreamBaseModel", "sdar": "SDARModel"})
MODEL_FOR_MASKED_LM_MAPPING_NAMES.update({"llada": "LLaDAModelLM", "Dream": "DreamModel", "sdar": "SDARForCausalLM"})


class ModelTester:
    config_class: type
    base_model_class: type
    causal_lm_class: type
    config_fields: dict = {}
    batch_size = 3
    seq_length = 7
    vocab_size = 99
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    intermediate_size = 37
    is_training = True

    def __init__(self, parent: unittest.TestCase):
        self.parent = parent

    def get_config(self):
        return self.config_class(
            vocab_size=self.vocab_size,
            mask_token_id=MASK,
            eos_token_id=2,
            pad_token_id=0,
            **self.config_fields,
        )

    def prepare_config_and_inputs_for_common(self):
        shape = [self.batch_size, self.seq_length]
        inputs = {"input_ids": ids_tensor(shape, self.vocab_size), "attention_mask": random_attention_mask(shape)}
        return self.get_config(), inputs


class LLaDAModelTester(ModelTester):
    config_class = LLaDAConfig
    base_model_class = LLaDAModel
    causal_lm_class = LLaDAModelLM
    config_fields = {
        "d_model": 32,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 2,
        "mlp_hidden_size": 37,
        "embedding_size": 99,
        "max_sequence_length": 128,
    }


class DreamModelTester(ModelTester):
    config_class = DreamConfig
    base_model_class = DreamBaseModel
    causal_lm_class = DreamModel
    config_fields = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 37,
        "max_position_embeddings": 128,
        "bos_token_id": 1,
    }


class SDARModelTester(DreamModelTester):
    config_class = SDARConfig
    base_model_class = SDARModel
    causal_lm_class = SDARForCausalLM
    # the mixin trains with plain forwards, which see the whole canvas
    config_fields = {**DreamModelTester.config_fields, "head_dim": 12, "attention": "bidirectional"}


class MaskedDiffusionTests(ModelTesterMixin, TrainingTesterMixin):
    model_tester_class: type
    model_tester = None
    training_overfit_batch_size = 4
    training_overfit_seq_length = 20
    training_overfit_learning_rate = 3e-3

    def setUp(self):
        super().setUp()
        self.model_tester = self.model_tester_class(self)
        self.all_model_classes = (self.model_tester.base_model_class, self.model_tester.causal_lm_class)
        self.config_tester = ConfigTester(
            self, config_class=self.model_tester.config_class, **self.model_tester.config_fields
        )

    def _create_text_training_batch(self, batch_size, seq_length, vocab_size):
        """The row of the mixin as it is, and as decoding meets it: with one token given, and with about half of them.

        Its tokens are raised above the mask token. The mixin compares what is generated with the first row.
        """
        tokens = super()._create_text_training_batch(batch_size, seq_length, vocab_size)["labels"] + MASK
        batch = {"input_ids": tokens.clone(), "labels": tokens}
        batch["labels"][:, 0] = -100  # given, as a prompt is
        batch["input_ids"][1, 1:] = MASK
        batch["input_ids"][2, 1::2] = MASK
        batch["input_ids"][3, 2::2] = MASK
        return batch

    def test_config(self):
        self.config_tester.run_common_tests()


class LLaDATest(MaskedDiffusionTests, unittest.TestCase):
    model_tester_class = LLaDAModelTester


class DreamTest(MaskedDiffusionTests, unittest.TestCase):
    model_tester_class = DreamModelTester


class SDARTest(MaskedDiffusionTests, unittest.TestCase):
    model_tester_class = SDARModelTester
