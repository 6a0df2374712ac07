"""`manifest.json`: all that a bundle says about itself, and the digests by which any damage is found.

The manifest holds the sha256 of every other file, and its own: `digest` is the sha256 of the manifest's bytes with
the 64 digits of `digest` written as zeros.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError

from contract.closeness import Closeness
from contract.encoder import Transform
from contract.errors import BundleError
from contract.schema import Group, Schema

FORMAT_VERSION: Final = 1
MANIFEST: Final = "manifest.json"

_BLANK: Final = "0" * 64
_PART: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"  # never starts with a dot: no "..", nothing hidden
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
RelativePath = Annotated[str, StringConstraints(pattern=rf"^{_PART}(/{_PART})*$", max_length=255)]
Dtype = Literal["int64", "float32", "bool"]


class _Frozen(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True, protected_namespaces=()
    )


class TensorSpec(_Frozen):
    """One input or output of the graph; a dimension is a number or one of the names U, L, N."""

    name: str
    dtype: Dtype
    shape: tuple[str | int, ...]


class ModelSpec(_Frozen):
    """Which model the graph is, and the configuration it was built with."""

    name: str
    config: dict[str, JsonValue]


class Calibration(_Frozen):
    """`logit = a * raw + b`, already inside the graph."""

    a: float = Field(gt=0)
    b: float


class DiffusionSpec(_Frozen):
    """How the graph generates interests."""

    kind: Literal["unrolled", "distilled"] = Field(description="The sampler's steps, or a student's one.")
    steps: int = Field(ge=1, description="Steps in the graph.")


class FittedTransform(_Frozen):
    """A numeric field's transform with the parameters fitted in the training period."""

    kind: Literal["none", "log1p", "standard"]
    default: float
    mean: float
    deviation: float = Field(gt=0)

    @classmethod
    def of(cls, transform: Transform) -> Self:
        """Return the manifest's form of an encoder's transform."""
        return cls(
            kind=transform.kind,
            default=transform.default,
            mean=transform.mean,
            deviation=transform.deviation,
        )

    def transform(self) -> Transform:
        """Return the encoder's form."""
        return Transform(self.kind, self.default, self.mean, self.deviation)


class Manifest(_Frozen):
    """Everything a service must know before it opens another file of the bundle."""

    digest: Digest = Field(_BLANK, description="sha256 of this file with these digits as zeros.")
    format_version: Literal[1] = FORMAT_VERSION
    name: str = Field(min_length=1, description="What answers call the model.")
    version: str = Field(
        pattern=r"^\d{8}T\d{6}Z-[0-9a-f]{6}$", description="UTC time of export, content hash."
    )
    precision: Literal["fp32", "fp16", "int8"] = Field(
        description="Of the tables that the graph reads by row."
    )
    model: ModelSpec
    diffusion: DiffusionSpec | None = Field(None, description="None: the model generates no interests.")
    history_length: int = Field(ge=1, description="L: the newest behaviours the graph is fed.")
    history_lag_s: int = Field(ge=0, description="Events younger than this are not seen, in seconds.")
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    tolerance: float = Field(gt=0, description="Largest difference in log-odds on the golden requests.")
    hard_routing: bool = Field(description="The model picks by argmax: rounding may move a few scores far.")
    farthest: float | None = Field(
        None,
        gt=0,
        description="Largest difference in log-odds from the run's own scores; None: that of rounding.",
    )
    calibration: Calibration
    sampling: dict[str, JsonValue] = Field(description="How the impressions of the log were sampled.")
    transforms: dict[str, FittedTransform] = Field(description='Numeric fields by "<group>.<field>".')
    metrics: dict[str, JsonValue] = Field(description="Offline metrics of the run.")
    provenance: dict[str, JsonValue] = Field(description="Versions, seed, revision, dataset fingerprint.")
    fingerprint: Digest = Field(description="Of the schema.")
    log_schema: dict[str, JsonValue] = Field(alias="schema", description="The keys of schema.toml.")
    files: dict[RelativePath, Digest] = Field(description="sha256 of every other file.")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read and check the manifest of a bundle folder.

        Raises:
            BundleError: no manifest, not JSON, another format version, damaged, or fields that don't fit.

        """
        path = folder / MANIFEST
        try:
            content = path.read_bytes()
            data = json.loads(content)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BundleError(f"{folder}: no bundle, there is no {MANIFEST} in it") from error
        except (OSError, ValueError, RecursionError) as error:  # neither JSON nor UTF-8
            raise BundleError(f"{path}: not readable as JSON; export the bundle again") from error
        _check_version(path, data)
        _check_digest(path, content, data)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BundleError(f"{path}: {where}: {first['msg']}") from error

    @property
    def closeness(self) -> Closeness:
        """How close the scores of the graph are to those that the run gives offline."""
        return Closeness(self.tolerance, hard_routing=self.hard_routing, measured=self.farthest or 0.0)

    def write(self, folder: Path) -> Self:
        """Write `manifest.json` into a folder and return the manifest with its digest."""
        data = self.model_dump(mode="json", by_alias=True) | {"digest": _BLANK}
        text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        digest = hashlib.sha256(text.encode()).hexdigest()
        (folder / MANIFEST).write_text(text.replace(_BLANK, digest, 1), encoding="utf-8")
        return self.model_copy(update={"digest": digest})


def input_specs(schema: Schema) -> dict[str, TensorSpec]:
    """Return every tensor that the encoder makes of a schema's requests, by name; graphs take a subset."""
    specs = [
        TensorSpec(name=f"history_{name}", dtype="int64", shape=("U", "L")) for name in ("action", "age")
    ]
    specs.append(TensorSpec(name="history_mask", dtype="bool", shape=("U", "L")))
    shapes: dict[Group, tuple[str, tuple[str, ...]]] = {
        "behavior": ("history", ("U", "L")),
        "ad": ("ad", ("U", "N")),
        "user": ("user", ("U",)),
        "context": ("context", ("U", "N")),
    }
    for group, (prefix, shape) in shapes.items():
        for field in schema.group(group):
            dtype: Dtype = "int64" if field.type == "categorical" else "float32"
            specs.append(TensorSpec(name=f"{prefix}_{field.name}", dtype=dtype, shape=shape))
    return {spec.name: spec for spec in specs}


def _check_version(path: Path, data: Any) -> None:  # noqa: ANN401 - whatever JSON held
    if not isinstance(data, dict):
        raise BundleError(f"{path}: not a JSON object; export the bundle again")
    version = data.get("format_version")
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{path}: bundle format {version!r}, this Longsight reads format {FORMAT_VERSION}; "
            "export the bundle with the version that serves it"
        )


def _check_digest(path: Path, content: bytes, data: dict[str, Any]) -> None:
    digest = str(data.get("digest")).encode()
    blanked = content.replace(digest, _BLANK.encode(), 1)
    if hashlib.sha256(blanked).hexdigest().encode() != digest:
        raise BundleError(f"{path}: damaged or edited, its digest does not hold; export the bundle again")
