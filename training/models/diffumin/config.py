"""Settings of `Diffumin`, and what they may be."""

from dataclasses import dataclass
from typing import Final

from training.models.base import require, require_width
from training.models.diffumin.schedule import LEVELS
from training.models.temporal import require_temporal

AGGREGATIONS: Final = ("softmax", "count", "score")
SHORT_TERMS: Final = ("history_only", "full", "none")
PARAMETRISATIONS: Final = ("x0", "eps")
SCHEDULES: Final = ("linear", "cosine")
HEAD_INTERESTS: Final = ("both", "generated")


@dataclass(frozen=True)
class DiffuminConfig:
    """Settings of `Diffumin`."""

    embedding_width: int = 32
    """D, width of an ad or behaviour vector, all matched fields together."""
    channels: int = 4
    """c, views of an ad, each with an interest of its own."""
    temporal: str = "both"
    """Temporal codes of behaviours: rank (0 = newest), interval (age bucket), both, none."""
    kept_share: float = 0.2
    """p, share of a request's behaviours that passes a channel's filter."""
    routing: bool = True
    """Let a behaviour into the one channel it leans to most; false = plain similarity to the ad (ablation A)."""
    aggregation: str = "softmax"
    """How kept behaviours become an interest: softmax of the scores, count (mean), score (weighted sum / L)."""
    logit_scale: float = 8.0
    """s, the factor of the scores in the softmax."""
    decay: bool = True
    """Learn, for each channel, how much behaviours of each age bucket count, whatever they are."""
    diffusion: bool = False
    """Generate further interests by diffusion and train them contrastively; false = variant D."""
    diffusion_steps: int = 10
    """T', DDIM steps from the start level to 0 when scoring."""
    training_steps: int = 1
    """The same while training."""
    start_level: int = 300
    """t0, the noise level (of 1000) from which interests are generated."""
    parametrisation: str = "x0"
    """What the diffusion network estimates: x0 (the clean interest) or eps (the noise)."""
    schedule: str = "linear"
    """Noise schedule: linear (1e-4 to .02) or cosine."""
    denoiser_layers: int = 2
    """Transformer layers of the diffusion network."""
    denoiser_heads: int = 2
    """Attention heads of the diffusion network; divides embedding_width."""
    sampler_gradient: bool = False
    """Let the click loss train through the sampler; false = the network learns from its own loss alone."""
    denoised_share: float = 0.25
    """Share of a batch's pairs, drawn anew each step, that the diffusion loss is taken over."""
    diffusion_weight: float = 0.01
    """lambda 1, weight of the diffusion loss."""
    contrast_weight: float = 0.001
    """lambda 2, weight of the contrastive loss (CMIC); 0 leaves it out (ablation C)."""
    contrast_temperature: float = 0.05
    """tau of the contrastive loss."""
    contrast_rows: int = 256
    """Most pairs of a batch, drawn anew each step, that are contrasted with each other."""
    head_interests: str = "both"
    """Interests the head sees: both, or generated alone (ablation B)."""
    short_term: str = "history_only"
    """Encoder of the newest behaviours: history_only (they do not see the ad), full, none (ablation E)."""
    short_term_length: int = 50
    """Newest behaviours that the short-term encoder reads."""
    short_term_layers: int = 1
    """Its transformer layers."""
    short_term_heads: int = 2
    """Its attention heads; divides embedding_width."""
    paper_literal: bool = False
    """Start from noise of a random level and take T' steps at the schedule's bottom, as the paper's Algorithm 2;
    with parametrisation = eps the paper, with x0 the released code, which takes the clean interest for noise."""
    ad_bias: bool = True
    """One learned log-odds per ad."""
    head_hidden: tuple[int, ...] = (80, 40)
    """Hidden sizes of the head."""
    head_activation: str = "relu"
    """relu, prelu, sigmoid or dice."""

    def __post_init__(self) -> None:
        require_width(self.embedding_width)
        require_temporal(self.temporal)
        for name, known in (
            ("aggregation", AGGREGATIONS),
            ("short_term", SHORT_TERMS),
            ("parametrisation", PARAMETRISATIONS),
            ("schedule", SCHEDULES),
            ("head_interests", HEAD_INTERESTS),
        ):
            value = getattr(self, name)
            require(value in known, f"{name} {value!r} is none of {', '.join(known)}")
        require(
            self.head_interests == "both" or self.diffusion,
            "head_interests = 'generated' needs diffusion = true",
        )
        require(0 < self.kept_share <= 1, f"kept_share must be in (0, 1], got {self.kept_share}")
        require(self.logit_scale > 0, f"logit_scale must be > 0, got {self.logit_scale}")
        self._require_fit_contrast()
        if self.short_term != "none":
            self._require_fit_short_term()
        if self.diffusion:
            self._require_fit_diffusion()
        fits = 0 < self.channels <= self.embedding_width
        require(fits, f"channels must be in 1..embedding_width ({self.embedding_width}), got {self.channels}")

    def _require_fit_contrast(self) -> None:
        tau, rows, weight = self.contrast_temperature, self.contrast_rows, self.contrast_weight
        require(tau > 0, f"contrast_temperature must be > 0, got {tau}")
        require(rows > 1, f"contrast_rows must be > 1, since pairs are told from each other, got {rows}")
        require(weight >= 0, f"contrast_weight must be >= 0, got {weight}")

    def _require_fit_short_term(self) -> None:
        for name in ("short_term_length", "short_term_layers", "short_term_heads"):
            value = getattr(self, name)
            require(value > 0, f"{name} must be > 0, got {value}; short_term = 'none' leaves the encoder out")
        require(
            self.embedding_width % self.short_term_heads == 0,
            f"short_term_heads ({self.short_term_heads}) must divide embedding_width ({self.embedding_width})",
        )

    def _require_fit_diffusion(self) -> None:
        start = self.start_level
        require(0 < start <= LEVELS, f"start_level must be in 1..{LEVELS}, got {start}")
        most, reason = (LEVELS, "levels there are") if self.paper_literal else (start, "start_level")
        for name in ("diffusion_steps", "training_steps"):
            value = getattr(self, name)
            require(0 < value <= most, f"{name} must be in 1..{most} ({reason}), got {value}")
        require(self.denoiser_layers > 0, f"denoiser_layers must be > 0, got {self.denoiser_layers}")
        heads, width = self.denoiser_heads, self.embedding_width
        fits = heads > 0 and width % heads == 0
        require(fits, f"denoiser_heads ({heads}) must divide embedding_width ({width})")
        share = self.denoised_share
        require(0 < share <= 1, f"denoised_share must be in (0, 1], got {share}")
        weight = self.diffusion_weight
        require(weight >= 0, f"diffusion_weight must be >= 0, got {weight}")
