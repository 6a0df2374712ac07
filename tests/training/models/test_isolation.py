"""A candidate's score depends on its own request and on nothing else in the batch."""

import torch

CLOSE = {"rtol": 0.0, "atol": 1e-5}


def test_a_model_names_exactly_the_tensors_it_takes(variant, draw):
    inputs = draw([3, 12], 4)

    logit_UN = variant({name: inputs[name] for name in variant.inputs})

    assert logit_UN.shape == (2, 4)
    assert logit_UN.dtype == torch.float32
    assert len(set(variant.inputs)) == len(variant.inputs)
    for missing in variant.inputs:
        try:
            variant({name: inputs[name] for name in variant.inputs if name != missing})
        except KeyError:
            continue
        raise AssertionError(f"{missing} is named but not taken")


def test_batch_mates_change_nothing(variant, draw):
    variant.eval()
    inputs = draw([5, 12, 0, 1], 6)

    together = variant(inputs)

    for u in range(4):
        alone = variant({name: values[u : u + 1] for name, values in inputs.items()})
        torch.testing.assert_close(alone[0], together[u], **CLOSE)


def test_padding_changes_nothing(variant, draw, pad):
    variant.eval()
    inputs = draw([5, 2, 0], 4)

    plain, padded = variant(inputs), variant(pad(inputs, length=7, candidates=3))

    torch.testing.assert_close(padded[:, :4], plain, **CLOSE)
    assert padded.isfinite().all()


def test_candidates_do_not_see_each_other_nor_their_order(variant, draw):
    variant.eval()
    inputs = draw([9, 4], 6)
    order = torch.tensor([4, 2, 0, 5, 1])  # one of them left out

    def chosen(name: str, values: torch.Tensor) -> torch.Tensor:
        return values[:, order] if name.startswith(("ad_", "context_")) else values

    shuffled = variant({name: chosen(name, values) for name, values in inputs.items()})

    torch.testing.assert_close(shuffled, variant(inputs)[:, order], **CLOSE)


def test_an_empty_history_has_a_finite_score_and_finite_gradients(variant, draw):
    inputs = draw([0, 0], 3)

    logit_UN = variant(inputs)

    assert logit_UN.isfinite().all()
    if logit_UN.requires_grad:
        logit_UN.sum().backward()
        assert all(p.grad.isfinite().all() for p in variant.parameters() if p.grad is not None)


def test_what_lies_in_a_padded_position_does_not_matter(variant, draw):
    variant.eval()
    inputs = draw([3, 8], 4)
    dirty = {name: values.clone() for name, values in inputs.items()}
    padding = ~inputs["history_mask"]
    for name in ("history_item", "history_category", "history_age"):
        dirty[name][padding] = 2

    torch.testing.assert_close(variant(dirty), variant(inputs), **CLOSE)


def test_an_empty_history_counts_as_nothing_whatever_its_padding_holds(variant, draw):
    variant.eval()
    inputs = draw([0], 4)
    longer = {
        name: values.repeat(1, 9) if name.startswith("history_") else values
        for name, values in inputs.items()
    }
    longer["history_item"] = torch.full((1, 9), 5)

    torch.testing.assert_close(variant(longer), variant(inputs), **CLOSE)
