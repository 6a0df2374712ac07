"""The diffusion network: a small transformer over a pair's channels, one pass per channel.

In the pass of channel i its own token is noised and the other c - 1 are clean; all carry the time code of the
noise level, none a code of its channel. A layer is, with residuals and a LayerNorm after each part,
self-attention, the condition o_i, and a feed-forward network. Only the own token is read.

What is computed differs from what is written there, and is equal to it:

- What a token adds to another through head h is `b M_h`, M_h = W_v W_o, and its score is `a G_h b`, G_h = W_q W_k^T:
  past layer 1 no keys and no values are computed.
- Layer 1 reads `r + time`, linear in both. The clean tokens' queries, keys, `r M_h` and scores of each other are
  the same in all steps; the time code's part of a key is shared by all keys, and leaves the softmax.
- Attention to the condition has one key, so its weight is 1: it adds `o_i W_v W_o`, in every step the same. It
  has no W_q and W_k, which nothing would depend on.
- The last layer is computed for the own token alone.

P pairs, c channels, D width, R = P c passes, K = c - 1 clean tokens of a pass, T = c tokens of a pass (the own
one first), Q asking tokens, H heads, Y = Q H, B = R Q; X = 1 or R.
"""

import math
from dataclasses import dataclass
from typing import Final, cast

import torch
from torch import Tensor, nn

from training.models.diffumin.config import DiffuminConfig

NORM_EPS: Final = 1e-6
FEED_FORWARD: Final = 3
"""Width of the feed-forward network, as a multiple of D."""
LONGEST_PERIOD: Final = 10_000.0


@dataclass(frozen=True)
class Context:
    """What the passes of some pairs have in common in all steps."""

    clean: Tensor
    """`[R, K, D]` clean tokens; the rest of them as layer 1 sees them, without the time code."""
    query: Tensor
    """`[K, R, D]`"""
    key: Tensor
    """`[K, R, D]`"""
    score: Tensor
    """`[K, K, R, H]` of the first for the second."""
    mixed: Tensor
    """`[R, K, H, D]`, `r M_h`."""
    conditions: list[Tensor]
    """`[R, 1, D]` by layer."""
    folded: list[tuple[Tensor, Tensor]]
    """By layer: G_h and M_h, see `Attention.folded`."""


class Attention(nn.Module):
    """Multi-head self-attention without biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (_matrix(width) for _ in range(4))

    def scaled_query(self, x: Tensor) -> Tensor:
        """Return queries whose products with the keys are the scores."""
        return nn.functional.linear(x, self.query.weight / math.sqrt(self.query.out_features // self.heads))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return `score_DHD`, G_h = W_q W_k^T / sqrt(D / H), and `mix_DHD`, M_h = W_v W_o."""
        query_HED, key_HED, value_HED = (
            matrix.weight.view(self.heads, -1, matrix.in_features)
            for matrix in (self.query, self.key, self.value)
        )
        output_HED = self.output.weight.t().reshape(value_HED.shape)
        score_HDD = query_HED.transpose(1, 2) @ key_HED / math.sqrt(query_HED.shape[1])
        mix_HDD = value_HED.transpose(1, 2) @ output_HED
        return score_HDD.transpose(0, 1), mix_HDD.transpose(0, 1)


class Layer(nn.Module):
    """The weights of one layer, and its part after the self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.condition = nn.Sequential(_matrix(width), _matrix(width))
        self.widen = nn.Linear(width, FEED_FORWARD * width)
        self.narrow = nn.Linear(FEED_FORWARD * width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=NORM_EPS) for _ in range(3))

    def forward(self, attended_RQD: Tensor, condition_R1D: Tensor) -> Tensor:
        """Return `[R, Q, D]`, given tokens with what attention added to them."""
        # Flat where it can be, and a sum never in the shape in which it's normalised: onnxruntime would replace
        # both by one operator that takes five times as long.
        x_RQD = self.norms[0](attended_RQD.flatten(0, 1)).view(attended_RQD.shape)
        x_BD: Tensor = self.norms[1]((x_RQD + condition_R1D).flatten(0, 1))
        added_BD: Tensor = self.narrow(self.widen(x_BD).relu())
        y_RQD: Tensor = self.norms[2]((x_BD + added_BD).view(attended_RQD.shape))
        return y_RQD


class Denoiser(nn.Module):
    """Noised interests in, an estimate of the clean ones (or of the noise) out.

    `prepare` is called once for some pairs, `forward` once per noise level.
    """

    other_channels: Tensor

    def __init__(self, config: DiffuminConfig) -> None:
        super().__init__()
        width, channels = config.embedding_width, config.channels
        self.width, self.channels, self.heads = width, channels, config.denoiser_heads
        self.layers = nn.ModuleList(Layer(width, self.heads) for _ in range(config.denoiser_layers))
        self.time = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
        others = [k for i in range(channels) for k in range(channels) if k != i]
        self.register_buffer("other_channels", torch.tensor(others, dtype=torch.int64), persistent=False)

    def prepare(self, r_PcD: Tensor, o_PcD: Tensor) -> Context:
        """Compute what does not depend on the noised tokens or the level.

        Args:
            r_PcD: clean interests, `[P, c, D]`.
            o_PcD: the channels, conditions of the same shape.

        """
        layers = self._layers()
        folded = [layer.attention.folded() for layer in layers]
        attention = layers[0].attention
        query_KRD = self._others(attention.scaled_query(r_PcD)).transpose(0, 1).contiguous()
        key_KRD = self._others(attention.key(r_PcD)).transpose(0, 1).contiguous()
        return Context(
            clean=self._others(r_PcD),
            query=query_KRD,
            key=key_KRD,
            score=self._scores(query_KRD.unsqueeze(1), key_KRD),
            mixed=self._others(self._by_head(r_PcD, folded[0][1])),
            conditions=[layer.condition(o_PcD).reshape(-1, 1, self.width) for layer in layers],
            folded=folded,
        )

    def forward(self, x_RD: Tensor, level_X: Tensor, context: Context) -> Tensor:
        """Return the network's output for the own tokens, `[R, D]`.

        Args:
            x_RD: the own token of each pass, channels of a pair side by side.
            level_X: noise levels, int64: `[1]`, of all passes, or `[R]`.
            context: of the same pairs.

        """
        time_XD: Tensor = self.time(sinusoids(level_X, self.width))
        first, *others = self._layers()
        y_RQD = first(self._attend_first(x_RD, time_XD, context), context.conditions[0])
        for place, layer in enumerate(others, start=1):
            # of the last layer only the own token is read
            asking_RQD = y_RQD[:, :1] if layer is others[-1] else y_RQD
            attended_RQD = asking_RQD + self._attend(asking_RQD, y_RQD, context.folded[place])
            y_RQD = layer(attended_RQD, context.conditions[place])
        found_RD: Tensor = y_RQD.squeeze(1)
        return found_RD

    def _attend_first(self, x_RD: Tensor, time_XD: Tensor, context: Context) -> Tensor:
        """Return the tokens of layer 1 that are read later with what attention adds to them, `[R, Q, D]`."""
        mix_DHD = context.folded[0][1]
        x_R1D = x_RD.unsqueeze(1)
        asking_RQD = x_R1D
        score_QTRH = self._first_scores(x_RD, time_XD, context)
        if len(self.layers) > 1:
            asking_RQD = torch.cat([x_R1D, context.clean], dim=1)
        power_QTRH = (score_QTRH - score_QTRH.amax(1, keepdim=True)).exp()
        weight_QTRH = power_QTRH / power_QTRH.sum(1, keepdim=True)
        mixed_RTHD = torch.cat([self._by_head(x_R1D, mix_DHD), context.mixed], dim=1)
        # one product sums over the tokens and over the heads
        added_RQD = weight_QTRH.permute(2, 0, 1, 3).flatten(2) @ mixed_RTHD.flatten(1, 2)
        shift_X1D = (time_XD + self._by_head(time_XD, mix_DHD).sum(1)).unsqueeze(1)
        return asking_RQD + added_RQD + shift_X1D

    def _first_scores(self, x_RD: Tensor, time_XD: Tensor, context: Context) -> Tensor:
        """Return layer 1's scores of asking tokens for all tokens, up to a constant for each asking one."""
        attention = self._layers()[0].attention
        time_query_XD = attention.scaled_query(time_XD)
        query_RD, key_RD = attention.scaled_query(x_RD) + time_query_XD, attention.key(x_RD)
        own_TRH = torch.cat(
            [self._scores(query_RD, key_RD).unsqueeze(0), self._scores(query_RD, context.key)]
        )
        if len(self.layers) == 1:
            return own_TRH.unsqueeze(0)
        for_own_KRH = self._scores(context.query, key_RD) + self._scores(time_query_XD, key_RD)
        for_clean_KKRH = context.score + self._scores(time_query_XD, context.key)
        clean_KTRH = torch.cat([for_own_KRH.unsqueeze(1), for_clean_KKRH], dim=1)
        return torch.cat([own_TRH.unsqueeze(0), clean_KTRH])

    def _scores(self, query: Tensor, key: Tensor) -> Tensor:
        """Return the products of the heads, `[..., H]`; so small a matrix product would take longer."""
        product = query * key
        return product.view(*product.shape[:-1], self.heads, self.width // self.heads).sum(-1)

    def _attend(self, asking_RQD: Tensor, token_RTD: Tensor, folded: tuple[Tensor, Tensor]) -> Tensor:
        """Return what attention adds to the asking tokens."""
        score_DHD, mix_DHD = folded
        query_RYD = self._by_head(asking_RQD, score_DHD).flatten(1, 2)
        weight_RYT = torch.softmax(query_RYD @ token_RTD.transpose(1, 2), dim=-1)
        mean_RYD = weight_RYT @ token_RTD
        mean_RQX = mean_RYD.reshape(-1, asking_RQD.shape[1], self.heads * self.width)
        return mean_RQX @ mix_DHD.transpose(0, 1).flatten(0, 1)

    def _by_head(self, x: Tensor, matrix_DHD: Tensor) -> Tensor:
        """Return `x [..., D]` times the matrix of each head, `[..., H, D]`."""
        return (x @ matrix_DHD.flatten(1)).view(*x.shape[:-1], self.heads, self.width)

    def _others(self, values: Tensor) -> Tensor:
        """Return for each channel of `[P, c, ...]` the values of the others, `[R, K, ...]`."""
        others = values.index_select(1, self.other_channels)
        if self.channels == 1:  # [P, 0, ...] already
            return others
        return others.reshape(-1, self.channels - 1, *values.shape[2:])

    def _layers(self) -> list[Layer]:
        return [cast("Layer", layer) for layer in self.layers]


def sinusoids(level_X: Tensor, width: int) -> Tensor:
    """Return the code of noise levels, `[X, D]`: sines, then cosines, of periods from 2 pi to 2 pi 10^4."""
    half = (width + 1) // 2
    place = torch.arange(half, dtype=torch.float32, device=level_X.device)
    frequency = torch.exp(place * (-math.log(LONGEST_PERIOD) / max(1, half - 1)))
    angle = level_X.float().unsqueeze(1) * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :width]


def _matrix(width: int) -> nn.Linear:
    """Return a square matrix, no bias, that keeps the size of what it's given."""
    linear = nn.Linear(width, width, bias=False)
    nn.init.xavier_uniform_(linear.weight)
    return linear
