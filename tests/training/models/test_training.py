"""What a training step may and may not do."""

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from training.models.embedding import FeatureEmbedding


def _loss(model, inputs, valid_UN):
    logit_UN = model(inputs)
    clicked_UN = (torch.arange(logit_UN.numel()).reshape(logit_UN.shape[::-1]).T % 3 == 0).float()
    loss_UN = binary_cross_entropy_with_logits(logit_UN, clicked_UN, reduction="none")
    return (loss_UN * valid_UN).sum() / valid_UN.sum()


def test_padding_changes_neither_loss_nor_gradients_nor_statistics_in_training(variant, draw, pad):
    variant.train()
    if not list(variant.parameters()):
        return
    inputs = draw([5, 2, 9, 0], 4)
    start = {name: value.clone() for name, value in variant.state_dict().items()}
    seen = []
    for length, candidates in ((0, 0), (3, 5)):
        variant.load_state_dict(start)
        variant.zero_grad()
        valid_UN = torch.arange(4 + candidates).expand(4, -1) < 4
        loss = _loss(variant, pad(inputs, length=length, candidates=candidates), valid_UN)
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in variant.named_parameters() if p.grad is not None}
        buffers = {name: b.clone() for name, b in variant.named_buffers()}
        seen.append((loss.detach(), gradients, buffers))

    for padded, plain in zip(seen[1], seen[0], strict=True):
        torch.testing.assert_close(padded, plain, rtol=1e-4, atol=1e-6)


def test_row_0_of_every_table_is_zero_after_steps_with_decay(variant, draw, pad):
    tables = [module for module in variant.modules() if isinstance(module, torch.nn.Embedding)]
    if not tables:
        return
    inputs = pad(draw([5, 0], 4), length=2, candidates=1)
    optimizer = torch.optim.AdamW(variant.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        variant(inputs).square().mean().backward()
        optimizer.step()

    assert all(not table.weight[0].any() for table in tables)
    assert all(table.weight[1:].any() for table in tables)


def test_ads_and_behaviours_share_their_tables(variant, spec):
    embeddings = [module for module in variant.modules() if isinstance(module, FeatureEmbedding)]
    for embedding in embeddings:
        assert set(embedding.table_widths) == set(spec.vocabulary_rows)
        inputs = {"ad_ad_id": torch.tensor([[3]]), "ad_category": torch.tensor([[2]])}
        behaviour = {
            "history_item": torch.tensor([[3]]),
            "history_category": torch.tensor([[2]]),
            "history_channel": torch.tensor([[0]]),
            "history_city": torch.tensor([[0]]),
            "history_paid": torch.tensor([[0.0]]),
            "history_action": torch.tensor([[0]]),
        }
        torch.testing.assert_close(embedding.ads(inputs), embedding.history(behaviour))
