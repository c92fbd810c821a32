"""What is masked: counts, order, windows, tails, and that it depends on seed, step and sample alone."""

import math
from dataclasses import replace

import pytest
import torch

from d3llm.trainers.corruption import Region, corrupt_response, corrupt_state, corrupt_window, draw
from d3llm.trainers.curricula import mask_ratio_bound, window_size_at


ROWS, LENGTH = 64, 80


@pytest.fixture
def region() -> Region:
    """
    Responses of 1 to 60 tokens in regions of 60 to 80 positions; every fifth one has no EOS. The tail was filled in up
    to three times before the response's own EOS, each time from an EOS further left.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = torch.arange(ROWS) % 60 + 1
    steps = torch.stack([torch.randperm(LENGTH, generator=generator) + 1 for _ in range(ROWS)])
    last = steps.gather(1, lengths[:, None] - 1)
    position = torch.arange(LENGTH)
    for cut in range(3):  # from the response on: filled with its EOS, a tenth before the end of the region earlier
        is_filled = position >= torch.maximum(lengths, lengths + 5 * cut)[:, None]
        steps = torch.where(is_filled, (last - 10 * cut).clamp(min=1), steps)
    canvas = 60 + torch.arange(ROWS) % 21
    return Region(steps, lengths, canvas, torch.arange(ROWS) % 5 != 0)


def window(region: Region, step: int = 0, **options):
    options = {
        "use_trajectory": True,
        "complementary": True,
        "mask_ratio_range": (0.0, 1.0),
        "window_size": 16,
        "eos_tail": 8,
        **options,
    }
    return corrupt_window(region, draw(7, step, torch.arange(ROWS), LENGTH), **options)


@pytest.mark.parametrize("window_size", [1, 5, 16, 32, 200, None])
@pytest.mark.parametrize("use_trajectory", [True, False])
def test_exactly_the_ratio_of_a_window_is_masked(region, window_size, use_trajectory):
    corruption = window(region, window_size=window_size, use_trajectory=use_trajectory)
    size = corruption.end - corruption.start
    assert (size >= 1).all()
    assert (size <= (window_size or LENGTH)).all()
    expected = (corruption.ratio * size + 0.5).floor()
    assert (corruption.supervised[0].sum(dim=1) == expected).all()
    # The two views partition the window, and nothing outside it is in the loss.
    position = torch.arange(LENGTH)
    inside = (position >= corruption.start[:, None]) & (position < corruption.end[:, None])
    assert (corruption.supervised.sum(dim=0) == inside.long()).all()


def test_a_share_of_the_window_is_an_exception_to_the_order(region):
    plain, noisy = window(region, window_size=None), window(region, window_size=None, mask_noise=0.1)
    position = torch.arange(LENGTH)
    inside = (position >= plain.start[:, None]) & (position < plain.end[:, None])
    changed = plain.masked[0] != noisy.masked[0]
    assert not (changed & ~inside).any() and (noisy.supervised.sum(dim=0) == inside.long()).all()
    for before in (plain.masked[0], ~plain.masked[0]):  # masks and tokens alike
        assert abs(changed[inside & before].float().mean() - 0.1) < 0.03
    assert (changed != (window(region, 1, window_size=None, mask_noise=0.1).masked[0] != plain.masked[0])).any()


def test_masked_are_the_last_of_the_window_in_commit_order(region):
    corruption = window(region)
    for row in range(ROWS):
        inside = range(int(corruption.start[row]), int(corruption.end[row]))
        masked = corruption.supervised[0, row]
        eos = int(region.response_lengths[row]) - 1
        order = sorted(inside, key=lambda i: (int(region.commit_steps[row, i]), i if i < eos else 1000 - i))
        assert [bool(masked[i]) for i in order] == sorted(bool(masked[i]) for i in inside)


def test_random_positions_are_not_the_last_ones(region):
    by_order, by_chance = window(region), window(region, use_trajectory=False)
    assert (by_order.start == by_chance.start).all()
    assert (by_order.ratio == by_chance.ratio).all()
    assert (by_order.supervised[0] != by_chance.supervised[0]).any()


def test_prefix_is_clean_and_what_follows_the_window_is_masked_to_the_end(region):
    corruption = window(region)
    position = torch.arange(LENGTH)
    before = position < corruption.start[:, None]
    behind = (position >= corruption.end[:, None]) & (position < region.canvas_lengths[:, None])
    padding = position >= region.canvas_lengths[:, None]
    assert not corruption.masked[:, before | padding].any()
    in_response = position < region.response_lengths[:, None]
    assert corruption.masked[:, behind & (in_response | ~region.ended[:, None])].all()
    assert window(region, use_trajectory=False).masked[:, behind].all()
    inside = ~before & ~behind & ~padding
    assert (corruption.masked[:, inside] == corruption.supervised[:, inside]).all()


def test_the_tail_behind_a_window_is_what_the_teacher_had_filled_in(region):
    """A state that was there: with the forward of the last shown token, the tail shows what it had committed then."""
    position = torch.arange(LENGTH)
    filled = 0
    for step in range(20):
        corruption = window(region, step, eos_tail=0)
        for row in range(ROWS):
            end, length = int(corruption.end[row]), int(region.response_lengths[row])
            shown = [i for i in range(end) if not corruption.masked[0, row, i]]
            forward = max((int(region.commit_steps[row, i]) for i in shown), default=0)
            tail = (position >= max(end, length)) & (position < region.canvas_lengths[row])
            expected = tail & (region.commit_steps[row] > forward) if region.ended[row] else tail
            assert (corruption.masked[:, row] & tail == expected).all()
            filled += int((tail & ~expected).any() and corruption.supervised[0, row].any())
    assert filled > 100  # most of them before the response's own EOS, which is still masked


def test_a_tail_is_filled_from_the_right(region):
    """In a window over the tail, EOS are masked from the response's own on, without a gap of shown ones."""
    for step in range(20):
        corruption = window(region, step, window_size=None, eos_tail=20)
        for row in region.ended.nonzero()[:, 0].tolist():
            tail = corruption.masked[0, row, int(region.response_lengths[row]) : int(corruption.end[row])].long()
            assert (tail.diff() <= 0).all()


@pytest.mark.parametrize("eos_tail", [0, 8, 100])
def test_the_loss_reaches_a_bounded_way_behind_the_response(region, eos_tail):
    limit = torch.minimum(region.response_lengths + eos_tail * region.ended, region.canvas_lengths)
    touched = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
    for step in range(200):
        touched |= window(region, step, eos_tail=eos_tail).supervised.any(dim=0)
    assert not touched[torch.arange(LENGTH) >= limit[:, None]].any()
    assert touched[torch.arange(LENGTH) < limit[:, None]].all()  # and every position gets its turn


def test_filled_tail_shows_eos_from_somewhere_behind_the_response(region):
    plain, filled = window(region), window(region, filled_tail_share=1.0)
    position = torch.arange(LENGTH)
    for row in range(ROWS):
        shown = ~filled.masked[0, row] & (position >= filled.end[row]) & (position < region.canvas_lengths[row])
        if not region.ended[row]:
            assert (filled.masked[:, row] == plain.masked[:, row]).all()
            continue
        if shown.any():
            first = int(shown.nonzero()[0, 0])
            assert first >= region.response_lengths[row] - 1
            assert shown[first : int(region.canvas_lengths[row])].all()
    assert (filled.end > filled.start).all()
    last = region.canvas_lengths[:, None] - 1
    draws = [window(region, step, filled_tail_share=0.25, use_trajectory=False) for step in range(40)]
    filled_rows = [~corruption.masked[0].gather(1, last)[:, 0] for corruption in draws]
    short = region.ended & (region.response_lengths < 20)  # whose windows never reach the end of the canvas
    assert torch.stack(filled_rows)[:, short].float().mean() == pytest.approx(0.25, abs=0.05)


def test_a_filled_tail_may_begin_with_the_response_s_own_eos(region):
    """Every place from there to the end of the supervised part gets its turn, and none before."""
    seen: dict[int, set[int]] = {row: set() for row in range(ROWS) if region.ended[row]}
    position = torch.arange(LENGTH)
    for step in range(300):
        corruption = window(region, step, filled_tail_share=1.0, window_size=None, eos_tail=4, use_trajectory=False)
        filled = ~corruption.masked[0] & (position >= corruption.end[:, None])
        for row in seen:
            seen[row].add(int(filled[row, : int(region.canvas_lengths[row])].nonzero()[0, 0]))
    for row, firsts in seen.items():
        own, supervised = int(region.response_lengths[row]) - 1, int(region.supervised_lengths(4)[row])
        expected = set(range(max(own, 1), supervised + 1)) - {int(region.canvas_lengths[row])}
        assert firsts == expected, row


def test_response_without_eos_is_unknown_behind(region):
    corruption = corrupt_response(
        region,
        draw(7, 0, torch.arange(ROWS), LENGTH),
        complementary=False,
        mask_ratio_range=(0.0, 0.2),
        eos_tail=8,
    )
    position = torch.arange(LENGTH)
    behind = (position >= region.response_lengths[:, None]) & (position < region.canvas_lengths[:, None])
    assert corruption.masked[0][behind & ~region.ended[:, None]].all()
    assert not corruption.masked[0][behind & region.ended[:, None]].all()
    assert not corruption.supervised[0][behind & ~region.ended[:, None]].any()


def test_random_corruption_masks_its_share(region):
    draws = draw(7, 0, torch.arange(ROWS), LENGTH)
    corruption = corrupt_response(region, draws, complementary=True, mask_ratio_range=(0.3, 0.3), eos_tail=LENGTH)
    valid = (torch.arange(LENGTH) < region.canvas_lengths[:, None]) & region.ended[:, None]
    assert corruption.masked[0][valid].float().mean() == pytest.approx(0.3, abs=0.03)
    assert (corruption.masked[0][valid] != corruption.masked[1][valid]).all()


def state(region: Region, step: int = 0, **options):
    return corrupt_state(
        region, draw(7, step, torch.arange(ROWS), LENGTH), **{"complementary": False, "eos_tail": 8, **options}
    )


def test_a_state_is_what_the_run_had_not_committed_by_a_forward(region):
    """Every forward of a run gets its turn, from 0 on, where all is masked; each leaves something to learn."""
    position, steps = torch.arange(LENGTH), region.commit_steps
    canvas, end = region.canvas_lengths[:, None], region.supervised_lengths(8)[:, None]
    behind = position >= region.response_lengths[:, None]
    unknown = behind & ~region.ended[:, None]
    seen = []
    for step in range(300):
        corruption = state(region, step)
        masked, supervised = corruption.masked[0], corruption.supervised[0]
        assert supervised.any(dim=1).all()
        hidden = masked | unknown | (position >= canvas)
        forward = steps.masked_fill(hidden, 0).amax(dim=1, keepdim=True)
        assert torch.equal(masked, ((steps > forward) | unknown) & (position < canvas))
        assert torch.equal(supervised, masked & (position < end))
        seen.append(steps.masked_fill(masked | (position >= end), 0).amax(dim=1))
    of_rows = [set(forwards) for forwards in torch.stack(seen, dim=1).tolist()]
    assert all(0 in forwards for forwards in of_rows if len(forwards) < 30)
    short = int((region.response_lengths == 3).nonzero()[0])
    own = steps[short][: int(end[short])].tolist()
    assert of_rows[short] == {0, *own} - {max(own)}


def test_each_block_can_be_in_a_state_of_its_own(region):
    """Something of each block is masked: what was committed last of it, up to all of it."""
    blocks = (torch.arange(LENGTH) // 8).expand(ROWS, -1)
    end = region.supervised_lengths(8)
    inside = (torch.arange(LENGTH) < end[:, None]).view(ROWS, -1, 8)
    steps = region.commit_steps.view(ROWS, -1, 8)
    seen, differ = [], 0
    for step in range(200):
        corruption = state(region, step, blocks=blocks)
        hidden = corruption.masked[0].view(ROWS, -1, 8) & inside
        assert torch.equal(hidden.any(dim=2), inside.any(dim=2))
        assert torch.equal(corruption.supervised[0].view(ROWS, -1, 8), hidden)
        latest = steps.masked_fill(hidden | ~inside, 0).amax(dim=2)
        assert (latest < steps.masked_fill(~hidden, 1000).amin(dim=2)).all()
        seen.append((hidden * 2 ** torch.arange(8)).sum(dim=2))
        first = steps[:, 0].masked_fill(corruption.masked[0, :, :8], 0).amax(dim=1)
        differ += int((hidden[:, 1:] & (steps[:, 1:] <= first[:, None, None])).any(dim=(1, 2)).sum())
    assert differ > 100  # no one state of the run has this
    for row, of_blocks in enumerate(torch.stack(seen, dim=2)):
        for block, states in enumerate(of_blocks[: math.ceil(int(end[row]) / 8)]):
            commits = steps[row, block][inside[row, block]].unique()
            assert 3 < len(states.unique()) <= len(commits) or len(commits) < 8
    one_by_one = replace(region, commit_steps=torch.arange(1, LENGTH + 1).expand(ROWS, -1))
    masks = torch.stack([state(one_by_one, step, blocks=blocks).masked[0, -3, :8] for step in range(100)])
    assert sorted(masks.sum(dim=1).unique().tolist()) == list(range(1, 9))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_share_of_rows_whose_blocks_are_all_masked(region, share):
    blocks = (torch.arange(LENGTH) // 8).expand(ROWS, -1)
    supervised = state(region, full_mask_share=share, blocks=blocks).supervised[0]
    whole = region.supervised_lengths(8) >= 8  # the others end in the first block
    assert torch.equal(supervised[whole, :8].all(dim=1), torch.full((int(whole.sum()),), share == 1.0))


def test_the_share_of_rows_in_which_all_is_masked(region):
    """With a share, a state before the first forward is drawn in these rows and in no others."""
    is_outside = torch.arange(LENGTH) >= region.supervised_lengths(8)[:, None]
    earliest = region.commit_steps.masked_fill(is_outside, LENGTH).amin(dim=1, keepdim=True)
    region = replace(region, commit_steps=(region.commit_steps - earliest).clamp(min=0) + 1)
    for share in (0.0, 0.25, 1.0):
        for corrupt in (
            lambda step: state(region, step, full_mask_share=share),  # noqa: B023
            lambda step: window(region, step, full_mask_share=share, mask_ratio_range=(0.0, 0.5), window_size=24),  # noqa: B023
            lambda step: corrupt_response(
                region,
                draw(7, step, torch.arange(ROWS), LENGTH),
                complementary=False,
                mask_ratio_range=(0.0, 0.1),
                eos_tail=8,
                full_mask_share=share,  # noqa: B023
            ),
        ):
            full = []
            for step in range(20):
                corruption = corrupt(step)
                size = corruption.end - corruption.start
                long = size > 8  # a window of one position is easily all masked
                full.append((corruption.supervised[0].sum(dim=1) == size)[long])
                assert ((corruption.ratio == 1.0) == (corruption.supervised[0].sum(dim=1) == size))[long].all()
            assert torch.cat(full).float().mean() == pytest.approx(share, abs=0.04 * (0 < share < 1))


def test_a_run_of_one_forward_has_no_state_but_the_first():
    region = Region(torch.ones(1, 6, dtype=torch.long), torch.tensor([4]), torch.tensor([6]), torch.tensor([True]))
    draws = draw(0, 0, torch.tensor([0]), 6)
    assert corrupt_state(region, draws, complementary=False, eos_tail=2).supervised.sum() == 6
    for share, masked in ((0.0, 0), (1.0, 6)):
        corruption = corrupt_state(region, draws, complementary=False, eos_tail=2, full_mask_share=share)
        assert corruption.masked.sum() == masked


def test_draws_depend_on_seed_step_and_sample_alone():
    index = torch.tensor([3, 1, 4])
    draws = draw(0, 5, index, 10)
    alone = draw(0, 5, index[2:], 10)
    assert torch.equal(draws.positions[2:], alone.positions)
    assert torch.equal(draws.ratio[2:], alone.ratio)
    for other in (draw(1, 5, index, 10), draw(0, 6, index, 10), draw(0, 5, index + 1, 10)):
        assert (draws.ratio != other.ratio).all()
        assert (draws.window != other.window).all()


def test_no_two_draws_are_the_same():
    """Whatever they differ in: seed, step or sample; also when one is larger by what another is less."""
    draws = [draw(seed, step, torch.arange(8), 4).positions for seed in range(8) for step in range(8)]
    assert len(torch.cat(draws).unique(dim=0)) == 8 * 8 * 8


def test_draws_are_uniform_and_unrelated():
    draws = draw(0, 0, torch.arange(20_000), 2)
    streams = torch.stack([draws.ratio, draws.window, draws.filled, draws.known, *draws.positions.T])
    assert ((streams >= 0) & (streams < 1)).all()
    assert torch.allclose(streams.mean(dim=1), torch.tensor(0.5), atol=0.01)
    assert torch.allclose(streams.var(dim=1), torch.tensor(1 / 12), atol=0.003)
    assert (torch.corrcoef(streams) - torch.eye(len(streams))).abs().max() < 0.03
    assert (torch.corrcoef(torch.stack([draws.ratio[1:], draws.ratio[:-1]]))[0, 1]).abs() < 0.03


def test_curricula_rise_from_end_to_end():
    assert [mask_ratio_bound(p, 0.1, 0.8) for p in (0.0, 1.0)] == [0.1, 0.8]
    assert [window_size_at(p, [16, 32]) for p in (0.0, 0.25, 0.499, 0.5, 1.0)] == [16, 24, 31, 32, 32]
    assert window_size_at(0.7, [32]) == 32
