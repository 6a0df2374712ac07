"""What a model says a behaviour counted for a candidate is what it multiplied that behaviour by."""

import pytest
import torch

from training.models.masking import HistoryMask

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
LENGTHS = [5, 12, 0, 1]


def weights(model, inputs):
    found = model.eval().behavior_weights(inputs)
    assert found is not None
    return found


def test_every_model_but_popularity_weighs_behaviours(build, draw):
    inputs = draw(LENGTHS, 3)
    for name in ("din", "tin", "mean_pool"):
        assert build(name).eval().behavior_weights(inputs).shape == (4, 3, 12)
    assert build("popularity").behavior_weights(inputs) is None


def test_padding_has_no_weight_and_gives_none(weighing, draw, pad):
    inputs = draw([5, 2, 0, 1], 3)
    weight_UNL = weights(weighing, inputs)
    assert weight_UNL.dtype == torch.float32
    hidden_UNL = ~inputs["history_mask"].unsqueeze(1).expand_as(weight_UNL)
    assert not weight_UNL[hidden_UNL].any()
    padded_UNL = weights(weighing, pad(inputs, length=7, candidates=2))
    torch.testing.assert_close(padded_UNL[:, :3, 7:], weight_UNL, **CLOSE)
    assert not padded_UNL[..., :7].any()


def test_batch_mates_change_no_weight(weighing, draw):
    inputs = draw(LENGTHS, 3)
    together_UNL = weights(weighing, inputs)
    for u in range(len(LENGTHS)):
        alone = {name: values[u : u + 1] for name, values in inputs.items()}
        torch.testing.assert_close(weights(weighing, alone)[0], together_UNL[u], **CLOSE)


def test_weights_are_asked_for_without_gradients_or_noise_of_training(weighing, draw):
    inputs = draw(LENGTHS, 3)
    torch.testing.assert_close(weights(weighing, inputs), weights(weighing, inputs), rtol=0, atol=0)


@pytest.mark.parametrize("config", [{}, {"softmax": True}, {"age": True, "attention_activation": "dice"}])
def test_dins_interest_is_the_sum_of_behaviours_by_weight(build, draw, config):
    model, inputs = build("din", **config).eval(), draw(LENGTHS, 3)
    seen = []
    model.head.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0][0]))
    model(inputs)
    weight_UNL = weights(model, inputs)
    torch.testing.assert_close(torch.bmm(weight_UNL, model.embedding.history(inputs)), seen[0], **CLOSE)
    assert (weight_UNL < 0).any() == (not config.get("softmax", False))


@pytest.mark.parametrize("config", [{}, {"released_code": True}, {"target_attention": False}])
def test_tins_interest_is_the_sum_of_behaviours_by_weight_and_weights_add_up_to_1(build, draw, config):
    model, inputs = build("tin", **config).eval(), draw(LENGTHS, 3)
    weight_UNL = weights(model, inputs)
    k_ULD = model.time.behaviors(model.embedding.history(inputs), inputs)
    q_UND = model.time.target(model.embedding.ads(inputs))
    interest_UND, _ = model.attend(q_UND, k_ULD, HistoryMask.of(inputs["history_mask"]))
    torch.testing.assert_close(torch.bmm(weight_UNL, k_ULD), interest_UND, **CLOSE)
    torch.testing.assert_close(weight_UNL.sum(-1), torch.tensor([[1.0], [1.0], [0.0], [1.0]]).expand(-1, 3))


def test_the_mean_weighs_all_alike(build, draw):
    weight_UNL = weights(build("mean_pool"), draw([4, 2], 3))
    assert weight_UNL[0].unique().tolist() == [0.25]
    assert weight_UNL[1].unique().tolist() == [0.0, 0.5]
