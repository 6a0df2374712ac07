"""Mean pooling and popularity are what their names say."""

import numpy as np
import torch

from training.models import build_model


def test_popularity_is_the_smoothed_log_odds_of_weighted_counts(spec):
    model = build_model("popularity", spec, {"prior_impressions": 4.0}, history_length=1)
    ads = np.array([3, 3, 3, 5, 5, 7])
    clicked = np.array([1, 0, 1, 0, 0, 1])
    weights = np.array([1.0, 2.0, 1.0, 3.0, 2.0, 1.0])

    model.fit_counts(ads, clicked, weights)

    rate = (3 + 1) / (10 + 2)
    clicks, misses = np.array([2, 0, 1, 0]), np.array([2, 5, 0, 0])
    expected = np.log((clicks + 4 * rate) / (misses + 4 * (1 - rate)))
    got = model({"ad_ad_id": torch.tensor([[3, 5, 7, 0]])})
    np.testing.assert_allclose(got[0].numpy(), expected, rtol=1e-6)


def test_popularity_learns_nothing_by_gradient_and_stays_finite_without_a_click(spec):
    model = build_model("popularity", spec, {}, history_length=1)

    model.fit_counts(np.array([1, 2]), np.array([0, 0]), np.array([1.0, 1.0]))

    assert not list(model.parameters())
    assert model.log_odds.isfinite().all()
    assert "log_odds" in model.state_dict()


def test_mean_pooling_weighs_every_behaviour_alike(build, draw):
    model = build("mean_pool").eval()
    inputs = draw([9, 4], 3)
    mixed = dict(inputs)
    for name in (n for n in inputs if n.startswith("history_") and n != "history_mask"):
        mixed[name] = torch.stack([inputs[name][0].flip(0), inputs[name][1]])
    given = []
    model.head.register_forward_pre_hook(lambda _module, arguments: given.append(arguments))

    torch.testing.assert_close(model(mixed), model(inputs), rtol=0, atol=1e-5)

    pooled_UD = given[-1][1][0]
    history_ULD = model.embedding.history(inputs)
    torch.testing.assert_close(pooled_UD[0], history_ULD[0].mean(0))
    torch.testing.assert_close(pooled_UD[1], history_ULD[1, -4:].mean(0))
