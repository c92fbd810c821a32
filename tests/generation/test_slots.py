"""ReFusion: slots are planned, drafted and verified as in a physically re-ordered sequence with causal attention."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoConfig, Qwen3Config, Qwen3ForCausalLM

from benchmarks.host_reads import count_host_reads
from benchmarks.watching import KernelCounter, Watch
from d3llm.generation import DiffusionGenerationConfig
from d3llm.generation.canvas import Canvas
from d3llm.generation.slots import OrderOfSlots, Slots
from d3llm.modeling import DreamModel, LLaDAModelLM, ReFusionForCausalLM, SDARForCausalLM, find_family
from d3llm.trainers.collator import student_facts
from tests.helpers.decoding import EOS, MASK, left_pad, prompts
from tests.helpers.models import tiny_model


LENGTH = 21
RUN = {"max_new_tokens": LENGTH, "return_dict_in_generate": True, "output_logprobs": True, "output_history": True}
SETTINGS = {
    "one slot at a time": {"slot_size": 4, "block_size": 128, "slot_threshold": 1.0, "token_threshold": 0.2},
    "tokens one by one": {"slot_size": 4, "block_size": 16, "slot_threshold": 0.3, "token_threshold": 1.0},
    "single tokens": {"slot_size": 1, "block_size": 16, "slot_threshold": 0.35, "token_threshold": 0.3},
    "whole slots": {"slot_size": 5, "block_size": 12, "slot_threshold": 0.3, "token_threshold": 0.05},
    "all mixed": {"slot_size": 3, "block_size": 128, "slot_threshold": 0.3, "token_threshold": 0.15},
}
settings = pytest.mark.parametrize("given", SETTINGS.values(), ids=list(SETTINGS))


@pytest.fixture(scope="module")
def model():
    """In float64, so that no tie of scores is broken by the order of a sum."""
    built = tiny_model(ReFusionForCausalLM).double()
    with torch.no_grad():
        built.get_output_embeddings().weight[[MASK, EOS]] = 0.0
        built.get_output_embeddings().weight.mul_(3)
    return built


def same(one, other) -> bool:
    fields = ("sequences", "commit_steps", "forward_passes")
    return all(torch.equal(getattr(one, field), getattr(other, field)) for field in fields)


class ByHand:
    """One row, decoded on a sequence that is re-ordered in memory: prompt, completed slots, then what is read now."""

    def __init__(self, model, prompt, *, slot_size, block_size, slot_threshold, token_threshold):
        self.model, self.forwards, self.start = model, 0, len(prompt)
        self.canvas = prompt.tolist() + [MASK] * LENGTH
        self.steps, self.logprobs = [0] * len(self.canvas), [float("nan")] * len(self.canvas)
        self.done = []  # slots that were completed at the same time do not see each other
        self.kinds = set()
        for block in range(self.start, len(self.canvas), block_size):
            end = min(block + block_size, len(self.canvas))
            slots = [list(range(at, min(at + slot_size, end))) for at in range(block, end, slot_size)]
            while slots:
                draft = self.drafts([[slot] for slot in slots], slots)
                best = max(slots, key=lambda slot: draft[slot[0]][1])
                chosen = [slot for slot in slots if slot is best or draft[slot[0]][1] > slot_threshold]
                finished = self.verify(chosen, draft, token_threshold) if len(chosen) > 1 else []
                if not finished:
                    finished = self.complete(chosen, draft, token_threshold)
                slots = [slot for slot in slots if slot not in finished]

    @torch.no_grad()
    def probabilities(self, reading, tokens):
        """The distribution that each position's row predicts, with these `tokens` in the groups that are read."""
        self.forwards += 1
        places = [(position, 0, 0) for position in range(self.start)]
        for number, group in enumerate(self.done + reading, start=1):
            places += [(position, number, part) for part, slot in enumerate(group) for position in slot]
        positions = torch.tensor([position for position, _, _ in places])
        ids = torch.tensor([tokens.get(position, self.canvas[position]) for position in positions.tolist()])
        length = len(places)
        seen = torch.ones(length, length, dtype=torch.bool).tril()
        for row, (_, number, part) in enumerate(places):
            for column, (_, other, other_part) in enumerate(places[:row]):
                seen[row, column] &= number != other or part == other_part
        logits = self.model(ids[None], position_ids=positions[None], attention_mask=seen[None, None]).logits[0]
        return dict(zip(positions.tolist(), logits.softmax(dim=-1), strict=True))

    def drafts(self, reading, slots):
        rows, draft = self.probabilities(reading, {}), {}
        for slot in slots:
            for position in slot:
                if self.canvas[position] == MASK:
                    row = rows[position].index_fill(0, torch.tensor([MASK]), 0.0)
                    draft[position] = (int(row.argmax()), float(row.max()))
        return draft

    def commit(self, position, token, probability):
        assert self.canvas[position] == MASK
        self.canvas[position], self.steps[position] = token, self.forwards
        self.logprobs[position] = torch.tensor(probability, dtype=torch.float64).log().item()

    def verify(self, chosen, draft, threshold):
        """Whole slots of the longest prefix of all drafts."""
        tokens = {position: token for position, (token, _) in draft.items()}
        rows = self.probabilities([[slot] for slot in chosen], tokens)
        finished = []
        for slot in chosen:
            given = [draft[slot[0]][1], *(float(rows[at - 1][tokens[at]]) for at in slot[1:])]
            if any(probability <= threshold for probability in given[1:]):
                break
            for position, probability in zip(slot, given, strict=True):
                self.commit(position, tokens[position], probability)
            finished.append(slot)
        self.done += [[slot] for slot in finished]
        self.kinds.add("verified" if finished else "refused")
        return finished

    def complete(self, chosen, draft, threshold):
        """Each slot by itself: its longest prefix, then a draft of the rest, until all are complete."""
        while True:
            rows = self.probabilities([chosen], {position: token for position, (token, _) in draft.items()})
            for slot in chosen:
                rest = [position for position in slot if self.canvas[position] == MASK]
                for position in rest:
                    token, probability = draft[position]
                    if position != rest[0]:
                        probability = float(rows[position - 1][token])
                        if probability <= threshold:
                            break
                    self.commit(position, token, probability)
            if all(self.canvas[position] != MASK for slot in chosen for position in slot):
                self.done.append(chosen)
                self.kinds.add("alone" if len(chosen) == 1 else "beside each other")
                return chosen
            draft = self.drafts([chosen], chosen)


@pytest.fixture(scope="module")
def by_hand(model) -> dict[str, ByHand]:
    return {name: ByHand(model, prompts([11])[0], **given) for name, given in SETTINGS.items()}


@pytest.mark.parametrize("cache", ["none", "block"])
@pytest.mark.parametrize("name", SETTINGS)
def test_it_decodes_as_a_sequence_that_is_re_ordered_in_memory(model, by_hand, name, cache):
    prompt, given, hand = prompts([11])[0], SETTINGS[name], by_hand[name]
    output = model.generate(prompt[None], cache=cache, early_stop=False, **given, **RUN)
    assert output.sequences[0].tolist() == hand.canvas
    assert output.commit_steps[0].tolist() == hand.steps[11:]
    assert output.forward_passes.item() == hand.forwards
    torch.testing.assert_close(output.logprobs[0], torch.tensor(hand.logprobs[11:]), atol=1e-5, rtol=1e-5)
    if given["slot_size"] > 1:  # otherwise there would be nothing to re-order
        assert sorted(hand.steps[11:]) != hand.steps[11:]


def test_these_settings_lead_through_every_task(by_hand):
    kinds = set().union(*(hand.kinds for hand in by_hand.values()))
    assert kinds == {"verified", "refused", "alone", "beside each other"}


@settings
def test_rows_of_a_ragged_batch_are_those_of_the_row_alone(model, given):
    texts = prompts([3, 11])
    ids, mask = left_pad(texts)
    runs = [model.generate(ids, attention_mask=mask, cache=cache, **given, **RUN) for cache in ("none", "block")]
    assert same(*runs)
    for row, text in enumerate(texts):
        alone = model.generate(text[None], **given, **RUN)
        assert torch.equal(runs[1].sequences[row, -LENGTH:], alone.sequences[0, -LENGTH:])
        assert torch.equal(runs[1].commit_steps[row], alone.commit_steps[0])
        assert runs[1].forward_passes[row] == alone.forward_passes[0]


@settings
def test_every_position_is_committed_once(model, given):
    output = model.generate(prompts([8])[0][None], early_stop=False, **given, **RUN)
    states = output.history[0, :, 8:]
    forward = torch.arange(1, len(states) + 1)[:, None]
    assert torch.equal(states != MASK, forward >= output.commit_steps[0])
    assert ((states == MASK) | (states == output.sequences[0, 8:])).all()
    assert output.commit_steps.max() == output.forward_passes


def test_without_a_token_that_passes_a_slot_is_written_from_left_to_right(model):
    """With one slot and tokens that never pass, each is the model's proposal after all before it."""
    ids = prompts([6])[0][None]
    given = {"max_new_tokens": 12, "early_stop": False, "return_dict_in_generate": True}
    output = model.generate(ids, slot_size=12, token_threshold=1.0, **given)
    assert output.commit_steps[0].tolist() == list(range(2, 25, 2))
    text = ids
    for _ in range(12):
        masked = torch.cat([text, torch.tensor([[MASK]])], dim=1)
        causal = torch.ones(masked.shape[1], masked.shape[1], dtype=torch.bool).tril()[None, None]
        logits = model(masked, attention_mask=causal).logits[0, -1]
        logits[MASK] = -torch.inf
        text = torch.cat([text, logits.argmax()[None, None]], dim=1)
    assert torch.equal(output.sequences, text)


def test_without_thresholds_a_block_takes_two_forwards(model):
    given = {"slot_threshold": 0.0, "token_threshold": 0.0, "slot_size": 4, "block_size": 8, "early_stop": False}
    output = model.generate(prompts([6])[0][None], **given, **RUN)
    assert output.commit_steps[0].tolist() == [2] * 8 + [4] * 8 + [6] * 5


@settings
def test_an_eos_ends_its_row_and_what_is_before_it_is_still_decoded(model, given):
    """The EOS is a token that a run without one commits before some of those on its left."""
    ended_rows = []
    for text in prompts([3, 11], seed=3):
        whole = model.generate(text[None], early_stop=False, **given, **RUN)
        ahead = (whole.commit_steps[0] < whole.commit_steps[0].cummax(dim=0).values).nonzero()[:, 0]
        for position in {int(ahead[0]), int(ahead[len(ahead) // 2]), int(ahead[-1])} if len(ahead) else ():
            eos = int(whole.sequences[0, len(text) + position])
            ended = model.generate(text[None], eos_token_id=eos, cache="none", **given, **RUN)
            assert same(ended, model.generate(text[None], eos_token_id=eos, cache="block", **given, **RUN))
            tokens, steps = ended.sequences[0, len(text) :], ended.commit_steps[0]
            first = int((tokens == eos).nonzero()[0])
            assert (tokens[first:] == eos).all() and not (tokens == MASK).any()
            assert ended.forward_passes == steps[: first + 1].max()
            assert (steps[first:] <= steps[first]).all()  # nothing after it is decoded any more
            if (steps[:first] > steps[first]).any():
                ended_rows.append((text, eos, ended))
    assert ended_rows
    text, eos, alone = ended_rows[0]
    other = prompts([14])[0]
    ids, mask = left_pad([text, other])
    together = model.generate(ids, attention_mask=mask, eos_token_id=eos, **given, **RUN)
    assert torch.equal(together.sequences[0, -LENGTH:], alone.sequences[0, -LENGTH:])
    assert torch.equal(together.commit_steps[0], alone.commit_steps[0])


def test_nothing_sees_what_an_eos_has_dropped(model, monkeypatch):
    """Whole slots after an EOS of the same forward are dropped: the rest is decoded as if they had not been there."""
    given = {"slot_size": 2, "block_size": 128, "slot_threshold": 0.3, "token_threshold": 0.0}
    text = prompts([11], seed=3)[0]
    whole = model.generate(text[None], early_stop=False, **given, **RUN)
    tokens, first = whole.sequences[0, 11:].tolist(), 13
    # the first round leaves a gap at the start
    assert whole.commit_steps[0].tolist() == [4, 4] + [2] * 19 and tokens[first] not in tokens[:first]
    masks, original = [], OrderOfSlots.mask
    monkeypatch.setattr(OrderOfSlots, "mask", lambda *args: masks.append(original(*args)) or masks[-1])
    ended = model.generate(text[None], eos_token_id=tokens[first], **given, **RUN)
    assert int((ended.sequences[0, 11:] == tokens[first]).nonzero()[0]) == first
    assert masks[1][..., 11 + first + 1 :].any()
    assert len(masks) > 2 and not any(seen[..., 11 + first + 1 :].any() for seen in masks[2:])


def test_masks_inside_a_prompt_are_slots_too(model):
    texts = prompts([9, 12])
    for text in texts:
        text[[2, 3, 4, 7]] = MASK
    ids, mask = left_pad(texts)
    given = {"slot_size": 2, "slot_threshold": 0.3, "return_dict_in_generate": True}
    for call in (model.infill, lambda *args, **kwargs: model.generate(*args, max_new_tokens=7, **kwargs)):
        together = call(ids, attention_mask=mask, **given)
        for row, text in enumerate(texts):
            alone, cached = call(text[None], cache="none", **given), call(text[None], **given)
            assert same(alone, cached) and not (alone.sequences == MASK).any()
            assert torch.equal(together.sequences[row, -alone.sequences.shape[1] :], alone.sequences[0])
            assert together.forward_passes[row] == alone.forward_passes[0]


def test_few_kernels_and_one_read_for_each_forward(model):
    ids, mask = left_pad(prompts([3 + row % 5 for row in range(16)]))
    with count_host_reads() as reads, Watch(model) as watch, KernelCounter(watch) as counter:
        output = model.generate(ids, attention_mask=mask, **SETTINGS["all mixed"], **RUN)
    forwards = int(output.forward_passes.max())
    assert counter.kernels <= 50 * forwards + 30 and len(reads) <= forwards + 10


def test_a_slot_is_a_run_of_masked_positions_of_a_block():
    config = DiffusionGenerationConfig(preset="refusion", slot_size=4).resolve()
    prompt = np.array([[0, 0, 5, MASK, 7, MASK, MASK, 8], [3, 4, 5, 6, 7, 8, 9, 10]])
    padding = np.array([[0, 0, 1, 1, 1, 1, 1, 1], [1] * 8])
    seeds = np.array([0, 0])
    canvas = Canvas.from_prompt(prompt, padding, new_tokens=7, block_size=6, mask_token_id=MASK, seeds=seeds)
    slots = Slots(canvas, config, kept=0)
    assert slots.slot_of.tolist() == [
        [-1, -1, -1, 0, -1, 1, 2, -1, 3, 3, 3, 3, 4, 4, 5],  # slots begin at multiples of 4 after the padding
        [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 1, 1, 2],
    ]
    region = slots.slot_of[:, 8:] >= 0
    assert slots.first_of_slot[:, 8:][region].tolist() == [8, 8, 8, 8, 12, 12, 14] * 2
    assert slots.last_of_slot[:, 8:][region].tolist() == [11, 11, 11, 11, 13, 13, 14] * 2
    assert slots.last_of_slot[0, [3, 5, 6]].tolist() == [3, 5, 6]


def test_a_forward_recomputes_only_what_it_reads(model, monkeypatch):
    widths, forward = [], model.forward
    monkeypatch.setattr(
        model, "forward", lambda **inputs: widths.append(inputs["input_ids"].shape[1]) or forward(**inputs)
    )
    model.generate(prompts([11])[0][None], early_stop=False, **SETTINGS["one slot at a time"], **RUN)
    # the prompt and all drafts, then by turns what is left of the chosen slot and what is left of all
    assert widths[0] == 11 + LENGTH and max(widths[1:]) < LENGTH and min(widths) == 1


def test_another_turn_reuses_the_prompt_exactly(model, monkeypatch):
    prompt, more = prompts([11, 4])
    first = model.generate(prompt[None], early_stop=False, **SETTINGS["all mixed"], **RUN)
    second = torch.cat([prompt, more])[None]
    fresh = model.generate(second, **SETTINGS["all mixed"], **RUN)
    widths, forward = [], model.forward
    monkeypatch.setattr(
        model, "forward", lambda **inputs: widths.append(inputs["input_ids"].shape[1]) or forward(**inputs)
    )
    assert same(fresh, model.generate(second, cache=first.cache, **SETTINGS["all mixed"], **RUN))
    assert max(widths) == len(more) + LENGTH
    text = torch.cat([first.sequences, more[None]], dim=1)
    resumed = model.generate(text, cache=fresh.cache, **SETTINGS["all mixed"], **RUN)
    assert not (resumed.sequences == MASK).any()


def test_guidance_and_sampling(model):
    ids, mask = left_pad(prompts([3, 8]))
    given = {"slot_size": 4, "slot_threshold": 0.3, "temperature": 0.8, "seed": [5, 6], "cfg_scale": 0.5} | RUN
    plain = model.generate(ids, attention_mask=mask, cache="none", **given)
    assert same(plain, model.generate(ids, attention_mask=mask, **given))
    assert not same(plain, model.generate(ids, attention_mask=mask, **given | {"seed": [7, 8]}))


def test_eager_attention(model):
    ids, mask = left_pad(prompts([3, 8]))
    plain = model.generate(ids, attention_mask=mask, **SETTINGS["all mixed"], **RUN)
    model.set_attn_implementation("eager")
    assert same(plain, model.generate(ids, attention_mask=mask, **SETTINGS["all mixed"], **RUN))
    model.set_attn_implementation("sdpa")


def test_it_is_the_one_preset_of_a_causal_model(model):
    assert model.diffusion_config().preset == "refusion"
    assert model.diffusion_config(kwargs={"slot_size": 4}).block_size == 128
    for preset in ("d3llm", "llada"):
        with pytest.raises(ValueError, match="slots are decoded with causal attention, and nothing else is"):
            model.generate(prompts([3])[0][None], preset=preset)
    with pytest.raises(ValueError, match="'sdar' decodes with block_causal attention and this model was trained with"):
        model.generate(prompts([3])[0][None], preset="sdar")


@pytest.mark.parametrize(
    ("family", "given", "message"),
    [
        (SDARForCausalLM, {"preset": "refusion"}, "decodes with causal attention and this model was trained with"),
        (DreamModel, {"preset": "refusion"}, "those of DreamModel predict the next one"),
        (LLaDAModelLM, {"selection": "slots", "score": "probability"}, "slots are decoded with causal attention"),
        (ReFusionForCausalLM, {"cache": "dual"}, "`cache`='dual' does not fit `selection`='slots'"),
        (ReFusionForCausalLM, {"edit_threshold": 0.5}, "which revises nothing"),
        (ReFusionForCausalLM, {"score": "entropy"}, "is a rule on `score`='probability'"),
        (ReFusionForCausalLM, {"slot_size": 0}, "`slot_size`=0 must be a whole number of at least 1"),
    ],
)
def test_what_does_not_go_with_slots(family, given, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(family).generate(prompts([3])[0][None], **given)


def test_no_recipe_trains_it_and_the_bound_does_not_apply(model):
    with pytest.raises(ValueError, match="causal attention over slots, which no recipe does"):
        student_facts(model)
    ids = prompts([6])[0][None]
    with pytest.raises(ValueError, match="has causal attention, and score"):
        model.score(ids, answer_mask=torch.tensor([[0, 0, 0, 0, 1, 1]]))


def test_the_published_checkpoint_loads_as_its_class_and_qwen3_stays_qwen3(tmp_path):
    """config.json of GSAI-ML/ReFusion has the names of Qwen3."""
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    shape |= {"vocab_size": 64, "intermediate_size": 48, "head_dim": 8, "eos_token_id": EOS}
    torch.manual_seed(0)
    qwen = Qwen3ForCausalLM(Qwen3Config(**shape)).eval()
    qwen.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is Qwen3Config
    assert find_family("qwen3", ["Qwen3ForCausalLM"]) is None
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mask_token_id": MASK}))
    loaded = ReFusionForCausalLM.from_pretrained(tmp_path)
    ids = prompts([7])[0][None]
    causal = torch.ones(7, 7, dtype=torch.bool).tril()[None, None]
    torch.testing.assert_close(loaded(ids, attention_mask=causal).logits, qwen(ids).logits, atol=1e-5, rtol=1e-4)
    assert loaded.generate(ids, max_new_tokens=9).shape == (1, 16)
