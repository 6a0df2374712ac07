"""The interests, held against loops that follow the definition word for word."""

import math

import pytest
import torch
from torch import Tensor

from contract.errors import InputError
from training.models.diffumin import DiffuminConfig
from training.models.diffumin.aggregation import aggregate
from training.models.diffumin.omie import Omie
from training.models.diffumin.routing import (
    first_of_equals,
    gaps,
    keep,
    kept_count,
    selected_threshold,
    top_threshold,
)
from training.models.masking import HistoryMask

LENGTHS = [23, 0, 1, 4, 17, 5]
WIDTH, CHANNELS, CANDIDATES, AGES = 8, 3, 4, 6


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def history(lengths: list[int], *, seed: int = 0) -> tuple[Tensor, HistoryMask]:
    longest = max(1, *lengths)
    valid_UL = torch.arange(longest) >= longest - torch.tensor(lengths).unsqueeze(1)
    return draw(len(lengths), longest, WIDTH, seed=seed) * valid_UL.unsqueeze(-1), HistoryMask.of(valid_UL)


def ages(mask: HistoryMask) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.randint(1, AGES, mask.valid.shape, generator=generator) * mask.valid.long()


def omie(**config: object) -> Omie:
    torch.manual_seed(3)
    settings = {"embedding_width": WIDTH, "channels": CHANNELS} | config
    module = Omie(DiffuminConfig(**settings), AGES)  # type: ignore[arg-type]
    if module.decay is not None:
        torch.nn.init.normal_(module.decay.weight)
    return module


def naive(module: Omie, q_D: Tensor, k_lD: Tensor, age_l: Tensor) -> tuple[Tensor, Tensor]:
    """Return `r_cD` and `mass_c` of one candidate by the definition; `k_lD` without padding."""
    config, count = module.config, len(k_lD)
    o_cD, length_c = (x[0, 0] for x in module.channels(q_D.view(1, 1, -1)))
    r_cD, mass_c = torch.zeros_like(o_cD), torch.zeros_like(length_c)
    score_lc = k_lD @ o_cD.T
    passing = max(1, math.ceil(round(config.kept_share * count, 6)))
    for j in range(len(o_cD) if count else 0):
        threshold = sorted(score_lc[:, j].tolist(), reverse=True)[passing - 1]
        kept = [
            i
            for i in range(count)
            if score_lc[i, j] >= threshold and (not config.routing or int(score_lc[i].argmax()) == j)
        ]
        logit_l = score_lc[:, j] * length_c[j] * config.logit_scale / math.sqrt(WIDTH)
        if module.decay is not None:
            logit_l = logit_l + module.decay.weight[age_l, j]
        mass_c[j] = logit_l.exp().mean().log()
        if not kept:
            continue
        weights = {
            "softmax": logit_l[kept].softmax(0),
            "count": torch.full((len(kept),), 1 / len(kept)),
            "score": score_lc[kept, j] / count,
        }[config.aggregation]
        r_cD[j] = weights @ k_lD[kept]
    return r_cD, mass_c


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"kept_share": 1.0},
        {"routing": False},
        {"aggregation": "count"},
        {"aggregation": "score"},
        {"channels": 1, "kept_share": 0.5},
        {"decay": False},
    ],
    ids=str,
)
def test_interests_follow_the_definition(config, training):
    module = omie(**config).train(training)
    q_UND = draw(len(LENGTHS), CANDIDATES, WIDTH, seed=1)
    k_ULD, mask = history(LENGTHS)
    found = module(q_UND, k_ULD, mask, ages(mask))
    for u, length in enumerate(LENGTHS):
        for n in range(CANDIDATES):
            newest = slice(k_ULD.shape[1] - length, None)
            r_cD, mass_c = naive(module, q_UND[u, n], k_ULD[u, newest], ages(mask)[u, newest])
            assert torch.allclose(found.r[u, n], r_cD, atol=1e-5)
            assert torch.allclose(found.mass[u, n], mass_c, atol=1e-5)


@pytest.mark.parametrize("routing", [True, False])
def test_request_by_request_is_autograd(routing):
    module = omie(routing=routing).train()
    q_UND = draw(len(LENGTHS), CANDIDATES, WIDTH, seed=1).requires_grad_()
    k_ULD, mask = history(LENGTHS)
    k_ULD.requires_grad_()
    to_r, to_mass = draw(len(LENGTHS), CANDIDATES, CHANNELS, WIDTH, seed=2), draw(6, 4, CHANNELS, seed=3)

    def gradients() -> list[Tensor]:
        found = module(q_UND, k_ULD, mask, ages(mask))
        loss = (found.r * to_r).sum() + (found.mass * to_mass).sum()
        return list(torch.autograd.grad(loss, [q_UND, k_ULD, *module.parameters()]))

    fast = gradients()
    module.eval()
    slow = gradients()
    for ours, theirs in zip(fast, slow, strict=True):
        assert theirs.any()
        assert torch.allclose(ours, theirs, atol=2e-5)


def test_histories_with_holes_take_the_general_way():
    module = omie().train()
    q_UND, valid_UL = draw(1, 2, WIDTH), torch.tensor([[True, False, True, True, False]])
    k_ULD = draw(1, 5, WIDTH, seed=1)
    age_UL = torch.tensor([[2, 0, 5, 1, 0]])
    holed = module(q_UND, k_ULD * valid_UL.unsqueeze(-1), HistoryMask.of(valid_UL), age_UL)
    whole_mask = HistoryMask.of(torch.ones(1, 3, dtype=torch.bool))
    whole = module(q_UND, k_ULD[:, valid_UL[0]], whole_mask, age_UL[:, valid_UL[0]])
    assert torch.allclose(holed.r, whole.r, atol=1e-6)
    assert torch.allclose(holed.mass, whole.mass, atol=1e-6)


def test_of_equal_scores_the_first_channel_gets_the_behaviour():
    score = torch.tensor([[1.0, 2.0, 2.0, -1.0], [1.0, 2.0, 1.0, -1.0], [0.0, 2.0, 2.0, -2.0]])
    expected = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    assert torch.equal(first_of_equals(score, dim=0), expected)


def test_a_behaviour_belongs_to_one_channel_only():
    k_ULD, mask = history(LENGTHS)
    k_ULD[0, 5:9] = 0.0  # equal scores in all channels
    score_UcNL = torch.einsum("ucnd,uld->ucnl", draw(6, CHANNELS, CANDIDATES, WIDTH), k_ULD)
    kept_UcNL = keep(score_UcNL, mask, 1.0)
    assert torch.equal(kept_UcNL.sum(1), mask.valid.unsqueeze(1).expand(-1, CANDIDATES, -1))


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 1.0])
def test_the_filter_passes_a_share_of_the_valid_and_at_least_one(share):
    score_UcNL = draw(len(LENGTHS), CHANNELS, CANDIDATES, max(LENGTHS))
    _, mask = history(LENGTHS)
    kept_UcN = keep(score_UcNL, mask, share, routing=False).sum(-1)
    for u, length in enumerate(LENGTHS):
        expected = max(1, math.ceil(share * length - 1e-9)) if length else 0
        assert (kept_UcN[u] == expected).all()


def test_a_fifth_of_five_is_one():
    mask = HistoryMask.of(torch.ones(1, 5, dtype=torch.bool))
    assert kept_count(mask, 0.2).item() == 1


def test_ties_at_the_threshold_are_kept():
    score = torch.tensor([3.0, 2.0, 2.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]).view(1, 1, 1, -1)
    mask = HistoryMask.of(torch.ones(1, 10, dtype=torch.bool))
    assert keep(score, mask, 0.2, routing=False).flatten().tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_padding_that_scores_best_takes_no_part():
    valid_UL = torch.tensor([[False, False, True, True, True, True, True]])
    score = torch.tensor([9.0, 8.0, 1.0, 5.0, 2.0, 3.0, 4.0]).view(1, 1, 1, -1)
    kept = keep(score, HistoryMask.of(valid_UL), 0.4, routing=False)
    assert kept.flatten().tolist() == [0, 0, 0, 1, 0, 0, 1]


@pytest.mark.parametrize("share", [0.01, 0.2, 1 / 3, 0.123456, 0.7, 1.0])
def test_both_thresholds_are_the_same_score(share):
    lengths = [1, 2, 7, 100, 399, 400]
    _, mask = history(lengths)
    score_UPL = draw(len(lengths), 60, max(lengths))
    ours, theirs = (find(score_UPL, mask, share) for find in (top_threshold, selected_threshold))
    assert torch.equal(ours, theirs)


def test_both_thresholds_know_histories_with_holes():
    valid_UL = torch.rand(20, 40, generator=torch.Generator().manual_seed(0)) < 0.6
    score_UPL = draw(20, 5, 40)
    for share in (0.2, 0.9):
        ours, theirs = (
            find(score_UPL, HistoryMask.of(valid_UL), share) for find in (top_threshold, selected_threshold)
        )
        assert torch.equal(ours, theirs)


def test_without_behaviours_a_threshold_is_below_all_scores():
    _, mask = history([0])
    score_UPL = draw(1, 3, 1)
    for find in (top_threshold, selected_threshold):
        assert (find(score_UPL, mask, 0.2) <= score_UPL).all()


def test_a_gap_tells_how_near_a_choice_was():
    mask = HistoryMask.of(torch.tensor([[False, True, True, True, True, True]]))
    first = [0.0, 5.0, 1.0, 3.0, 2.0, 2.5]
    second = [0.0, 1.0, 1.25, 0.0, 0.0, 0.0]
    score_UcNL = torch.tensor([first, second]).view(1, 2, 1, 6)
    assert gaps(score_UcNL, mask, 0.6).item() == pytest.approx(0.25)  # the second behaviour's channels
    assert gaps(score_UcNL[:, :1], mask, 0.6).item() == pytest.approx(0.5)  # 2.5 passes, 2.0 does not
    assert gaps(score_UcNL[:, :1], mask, 1.0).item() == math.inf


def test_an_empty_history_has_no_interests_and_no_gap():
    module = omie()
    q_UND, (k_ULD, mask) = draw(1, 2, WIDTH), history([0])
    found = module(q_UND, k_ULD, mask, ages(mask))
    assert not found.r.any()
    assert not found.mass.any()
    assert (module.gaps(q_UND, k_ULD, mask) == math.inf).all()
    assert not module.weights(q_UND, k_ULD, mask, ages(mask)).any()


def test_the_weights_are_those_of_the_interests():
    module = omie()
    q_UND, (k_ULD, mask) = draw(6, 2, WIDTH), history(LENGTHS)
    total_UND = module(q_UND, k_ULD, mask, ages(mask)).r.sum(2)
    weight_UNL = module.weights(q_UND, k_ULD, mask, ages(mask))
    assert torch.allclose(torch.bmm(weight_UNL, k_ULD), total_UND, atol=1e-5)


def test_the_weights_of_the_mean_are_kept_over_count():
    module = omie(aggregation="count", routing=False, channels=1, kept_share=0.4)
    q_UND, (k_ULD, mask) = draw(1, 3, WIDTH), history([5])
    weights_N5 = module.weights(q_UND, k_ULD, mask, ages(mask))[0]
    assert sorted(weights_N5[0].tolist()) == [0, 0, 0, 0.5, 0.5]


def test_a_channel_learns_from_the_score_of_what_it_keeps():
    scores, kept = torch.tensor([[[1.0, -2.0, 0.5]]], requires_grad=True), torch.tensor([[[1.0, 0.0, 1.0]]])
    mask = HistoryMask.of(torch.ones(1, 3, dtype=torch.bool))
    found = aggregate(scores, scores * 2.0, kept, torch.eye(3).unsqueeze(0), mask, how="softmax")
    found.r[0, 0, 0].backward()
    assert scores.grad is not None
    assert scores.grad[0, 0, 1] == 0
    assert scores.grad[0, 0, 0] > 0 > scores.grad[0, 0, 2]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"channels": 0}, "channels must be in 1..embedding_width"),
        ({"channels": 33}, "channels must be in 1..embedding_width"),
        ({"kept_share": 0.0}, "kept_share must be in"),
        ({"kept_share": 1.5}, "kept_share must be in"),
        ({"aggregation": "max"}, "is none of softmax, count, score"),
        ({"short_term": "some"}, "is none of history_only, full, none"),
        ({"head_interests": "generated", "diffusion": False}, "needs diffusion = true"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting, message):
    with pytest.raises(InputError, match=message):
        DiffuminConfig(**setting)
