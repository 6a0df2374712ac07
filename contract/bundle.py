"""A bundle: the folder that `export` hands to `service`. Opened and checked here, without onnxruntime.

`manifest.json`, `model.onnx` (+ `model.onnx.data`), `explain.onnx` (on the same weights; where the model weighs
behaviours), `vocabularies/<name>.npy` (known keys) and `<name>.names` (their raw texts, where known), `golden/`. A
bundle is never changed: it is replaced whole.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from contract.encoder import Encoder
from contract.errors import BundleError, InputError, SchemaError
from contract.files import sha256_file
from contract.golden import FILES, FOLDER, GoldenRequest, check_encoding, read_golden
from contract.manifest import MANIFEST, Manifest, input_specs
from contract.schema import Schema
from contract.vocabulary import NameTable, Vocabulary

GRAPH: Final = "model.onnx"
EXPLAINED: Final = "explain.onnx"
VOCABULARIES: Final = "vocabularies"
LEAST_PAIRS: Final = "pieces.least_pairs"
"""An initializer, int64 [1], of graphs that do their ads in pieces: how many pairs of an ad and a behaviour a piece
holds at least. Whoever runs the graph may override it, up to 2^40: then one piece holds all."""


class Bundle:
    """An opened bundle; what is large is read when it is asked for."""

    def __init__(self, path: Path, manifest: Manifest, schema: Schema) -> None:
        self.path = path
        self.manifest = manifest
        self.schema = schema

    @classmethod
    def open(cls, path: Path, *, verify_files: bool = True) -> Self:
        """Open a bundle folder and check that it is whole.

        With `verify_files` false only the presence of the files is checked, not their checksums.

        Raises:
            BundleError: one line naming the file: missing, extra, damaged, or of another format or schema.

        """
        path = path.resolve()
        manifest = Manifest.read(path)
        schema = _schema(path, manifest)
        _check_graph(path, manifest, schema)
        _check_names(path, manifest, schema)
        if verify_files:
            _check_files(path, manifest)
        return cls(path, manifest, schema)

    @property
    def graph_path(self) -> Path:
        """The ONNX graph; its weights lie beside it."""
        return self.path / GRAPH

    @property
    def explained_path(self) -> Path | None:
        """The graph whose second output tells what each behaviour counted; None where the bundle has none."""
        return self.path / EXPLAINED if EXPLAINED in self.manifest.files else None

    @cached_property
    def input_names(self) -> tuple[str, ...]:
        """The tensors the graph takes, in its order."""
        return tuple(spec.name for spec in self.manifest.inputs)

    def encoder(self) -> Encoder:
        """Return the encoder, its vocabularies mapped from the bundle.

        Raises:
            BundleError: a vocabulary is not readable, or contradicts the schema.

        """
        return self._encoder

    def names(self, vocabulary: str) -> NameTable | None:
        """Return the raw texts of a vocabulary's known ids, mapped; None where the bundle has none.

        Raises:
            BundleError: the texts do not belong to the ids.

        """
        file = f"{VOCABULARIES}/{vocabulary}.names"
        if file not in self.manifest.files:
            return None
        try:
            return NameTable.open(self.path / file, self._known(vocabulary))
        except (InputError, OSError, ValueError) as error:
            raise BundleError(f"{self.path / file}: not readable: {error}") from error

    def golden(self) -> list[GoldenRequest]:
        """Return the golden requests.

        Raises:
            BundleError: they are missing, damaged, or do not fit the schema.

        """
        return read_golden(self.path / FOLDER, self.schema)

    @cached_property
    def _encoder(self) -> Encoder:
        vocabularies: dict[str, Vocabulary] = {}
        for name, spec in self.schema.vocabularies.items():
            try:
                vocabularies[name] = Vocabulary(spec, self._known(name))
            except InputError as error:
                raise BundleError(f"{self.path / VOCABULARIES}/{name}.npy: {error}") from error
        transforms = {name: fitted.transform() for name, fitted in self.manifest.transforms.items()}
        try:
            return Encoder(self.schema, vocabularies, transforms, history_length=self.manifest.history_length)
        except SchemaError as error:
            raise BundleError(f"{self.path / MANIFEST}: {error}") from error

    def _known(self, vocabulary: str) -> NDArray[np.uint64]:
        file = self.path / VOCABULARIES / f"{vocabulary}.npy"
        try:
            known = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise BundleError(f"{file}: not readable: {error}") from error
        if known.dtype != np.uint64 or known.ndim != 1:
            raise BundleError(
                f"{file}: holds {known.dtype} {list(known.shape)}, expected a list of uint64 keys"
            )
        keys: NDArray[np.uint64] = known
        return keys


def verify_encoding(bundle: Bundle, golden: Sequence[GoldenRequest] | None = None) -> int:
    """Check that the bundle's golden requests still become their tensors; return how many there are.

    Raises:
        BundleError: names the request and the tensor.

    """
    requests = bundle.golden() if golden is None else golden
    check_encoding(bundle.encoder(), requests, history_lag_s=bundle.manifest.history_lag_s)
    return len(requests)


def show(path: Path) -> dict[str, Any]:
    """Return what a person asks of a bundle, as plain data; checks no checksums.

    Raises:
        BundleError: see `Bundle.open`.

    """
    bundle = Bundle.open(path, verify_files=False)
    manifest = bundle.manifest.model_dump(mode="json", by_alias=True)
    sizes = {file: (bundle.path / file).stat().st_size for file in (*bundle.manifest.files, MANIFEST)}
    rows = {name: vocabulary.size for name, vocabulary in bundle.encoder().vocabularies.items()}
    leading = ("name", "version", "precision", "model", "diffusion", "history_length", "history_lag_s")
    middle = (
        "calibration",
        "inputs",
        "outputs",
        "tolerance",
        "hard_routing",
        "farthest",
        "sampling",
        "metrics",
        "provenance",
    )
    return {
        "path": str(bundle.path),
        **{name: manifest[name] for name in leading},
        "vocabulary_rows": rows,
        **{name: manifest[name] for name in (*middle, "fingerprint", "schema")},
        "bytes": sum(sizes.values()),
        "file_bytes": sizes,
    }


def _schema(path: Path, manifest: Manifest) -> Schema:
    place = path / MANIFEST
    try:
        schema = Schema.from_json(manifest.log_schema, place=f"{place}: schema")
    except SchemaError as error:
        raise BundleError(str(error)) from error
    if schema.fingerprint() != manifest.fingerprint:
        raise BundleError(
            f"{place}: the schema has fingerprint {schema.fingerprint()[:8]}, the bundle was built for "
            f"{manifest.fingerprint[:8]}; export the bundle with the version that serves it"
        )
    return schema


def _check_graph(path: Path, manifest: Manifest, schema: Schema) -> None:
    known = input_specs(schema)
    for spec in manifest.inputs:
        if known.get(spec.name) != spec:
            raise BundleError(
                f"{path / MANIFEST}: input {json.dumps(spec.name)} is none that the schema gives"
            )
    if "logit" not in {spec.name for spec in manifest.outputs}:
        raise BundleError(f"{path / MANIFEST}: the graph has no output called logit")


def _check_names(path: Path, manifest: Manifest, schema: Schema) -> None:
    """Every file listed is there, every file there is listed, and what is always needed is listed."""
    needed = {GRAPH, *(f"{FOLDER}/{file}" for file in FILES)}
    needed |= {f"{VOCABULARIES}/{name}.npy" for name in schema.vocabularies}
    if unlisted := needed - manifest.files.keys():
        raise BundleError(f"{path / MANIFEST}: lists no {min(unlisted)}; export the bundle again")
    present = {
        name
        for name in (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        if not any(part.startswith(".") for part in name.split("/"))
    }
    if missing := manifest.files.keys() - present:
        raise BundleError(f"{path / min(missing)}: missing; copy or export the bundle again")
    if extra := present - manifest.files.keys() - {MANIFEST}:
        raise BundleError(f"{path / min(extra)}: belongs to no bundle; remove it, or export the bundle again")


def _check_files(path: Path, manifest: Manifest) -> None:
    for file, digest in manifest.files.items():
        if sha256_file(path / file) != digest:
            raise BundleError(
                f"{path / file}: damaged, its checksum does not hold; copy or export the bundle again"
            )
