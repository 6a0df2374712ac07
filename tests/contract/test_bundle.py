"""A bundle says what it is, and no damage to it goes unseen."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from contract.bundle import Bundle, show, verify_encoding
from contract.errors import BundleError
from contract.manifest import MANIFEST, Manifest
from tests.support.forgery import forge
from tests.support.tiny import HISTORY_LENGTH, tiny_bundle

FILES = [
    "explain.onnx",
    "golden/history.npy",
    "golden/offsets.npy",
    "golden/requests.jsonl",
    "golden/scores.npy",
    "golden/tensors.npz",
    "manifest.json",
    "model.onnx",
    "model.onnx.data",
    "vocabularies/category.names",
    "vocabularies/category.npy",
    "vocabularies/product.names",
    "vocabularies/product.npy",
    "vocabularies/small.names",
    "vocabularies/small.npy",
    "vocabularies/user.names",
    "vocabularies/user.npy",
]


@pytest.fixture(scope="module", name="untouched")
def _untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(name="path")
def _path(untouched: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(untouched, tmp_path / "bundle"))


def test_a_bundle_holds_these_files_and_no_others(untouched: Path) -> None:
    found = sorted(f.relative_to(untouched).as_posix() for f in untouched.rglob("*") if f.is_file())
    assert found == FILES


def test_an_opened_bundle_encodes_its_golden_requests_as_before(untouched: Path) -> None:
    bundle = Bundle.open(untouched)
    assert verify_encoding(bundle) == len(bundle.golden()) >= 32
    assert bundle.manifest.history_length == bundle.encoder().history_length == HISTORY_LENGTH
    assert bundle.manifest.log_schema == bundle.schema.to_json()


def test_vocabularies_are_mapped_not_read(untouched: Path) -> None:
    known = Bundle.open(untouched).encoder().vocabularies["product"].known
    assert isinstance(known, np.memmap)


def test_names_are_the_raw_texts_of_known_ids(untouched: Path) -> None:
    bundle = Bundle.open(untouched)
    products = bundle.names("product")
    assert products is not None
    known = bundle.encoder().vocabularies["product"].known
    texts = {products.get(int(key)) for key in known}
    assert texts <= {str(100 + i) for i in range(35)}
    assert len(texts) == len(known)
    assert bundle.names("nonsense") is None


def test_show_tells_what_a_person_asks(untouched: Path) -> None:
    shown = show(untouched)
    assert shown["name"] == "tin"
    assert shown["model"]["config"]["embedding_width"] == 8
    assert shown["vocabulary_rows"]["user"] == 17
    assert shown["bytes"] == sum((untouched / file).stat().st_size for file in FILES)


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_byte_is_found_wherever_it_is(path: Path, file: str) -> None:
    content = (path / file).read_bytes()
    rng = np.random.default_rng(len(content))
    offsets = {0, len(content) // 2, len(content) - 1, *rng.integers(0, len(content), 20).tolist()}
    for offset in offsets:
        damaged = bytearray(content)
        damaged[offset] ^= int(rng.choice([0x01, 0x20, 0x80, 0xFF]))
        (path / file).write_bytes(damaged)
        with pytest.raises(BundleError, match=r"manifest\.json|damaged"):
            Bundle.open(path)
    (path / file).write_bytes(content)
    Bundle.open(path)


def test_no_byte_of_the_manifest_is_without_meaning(path: Path) -> None:
    content = (path / MANIFEST).read_bytes()
    unseen = []
    for offset in range(0, len(content), 17):
        damaged = bytearray(content)
        damaged[offset] ^= 0x20 if offset % 2 else 0x01
        (path / MANIFEST).write_bytes(damaged)
        try:
            Manifest.read(path)
        except BundleError:
            continue
        unseen.append(offset)
    assert not unseen


@pytest.mark.parametrize("file", FILES)
def test_a_file_cut_short_or_grown_is_found(path: Path, file: str) -> None:
    content = (path / file).read_bytes()
    for changed in (content[:-1], content + b"\n"):
        (path / file).write_bytes(changed)
        with pytest.raises(BundleError, match=file.replace(".", r"\.")):
            Bundle.open(path)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named_even_without_checksums(path: Path, file: str) -> None:
    (path / file).unlink()
    with pytest.raises(BundleError, match=file.replace(".", r"\.")):
        Bundle.open(path, verify_files=False)


def test_a_file_that_belongs_to_no_bundle_is_named_but_hidden_ones_are_not(path: Path) -> None:
    (path / ".DS_Store").write_text("")
    Bundle.open(path)
    (path / "golden" / "notes.txt").write_text("")
    with pytest.raises(BundleError, match=r"golden/notes\.txt"):
        Bundle.open(path)


# ---------------------------------------------------------------- what is no bundle, or another's


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        (b"[" * 100_000, "not readable as JSON"),
        (b"[1]", "not a JSON object"),
        (b"{}", "bundle format None"),
        (b'{"format_version": 2}', "bundle format 2, this Longsight reads format 1"),
        (b'{"format_version": 1}', "digest does not hold"),
        (b'{"format_version": 1, "digest": null}', "digest does not hold"),
    ],
    ids=["empty", "binary", "deep", "list", "object", "newer", "no digest", "null digest"],
)
def test_a_manifest_that_is_none_is_refused_in_one_line(path: Path, content: bytes, complaint: str) -> None:
    (path / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=complaint) as refusal:
        Bundle.open(path)
    assert "\n" not in str(refusal.value)
    assert MANIFEST in str(refusal.value)


def test_a_folder_in_place_of_the_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(BundleError, match="not readable as JSON"):
        Bundle.open(tmp_path)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(BundleError, match="no bundle"):
            Bundle.open(place)


FORGERIES = {
    "traversal": (lambda m: m["files"].update({"../secret": "0" * 64}), "files"),
    "absolute": (lambda m: m["files"].update({"/etc/passwd": "0" * 64}), "files"),
    "unlisted": (lambda m: m["files"].pop("golden/scores.npy"), r"lists no golden/scores\.npy"),
    "fingerprint": (lambda m: m.update(fingerprint="ab" * 32), "fingerprint"),
    "changed schema": (lambda m: m["schema"].update(actions=["view"]), "fingerprint"),
    "broken schema": (lambda m: m["schema"].update(behavior=[]), "behavior"),
    "unknown input": (lambda m: m["inputs"][0].update(name="history_mood"), "history_mood"),
    "wrong dtype": (lambda m: m["inputs"][0].update(dtype="float32"), "history_product_id"),
    "no logit": (lambda m: m.update(outputs=m["outputs"][1:]), "logit"),
    "unknown field": (lambda m: m.update(mood="good"), "mood"),
    "negative slope": (lambda m: m["calibration"].update(a=-1.0), r"calibration\.a"),
    "no length": (lambda m: m.pop("history_length"), "history_length"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_manifest_that_contradicts_itself_is_refused(path: Path, name: str) -> None:
    change, complaint = FORGERIES[name]
    forge(path, change)
    with pytest.raises(BundleError, match=complaint) as refusal:
        Bundle.open(path)
    assert "\n" not in str(refusal.value)


def test_a_missing_transform_is_refused(path: Path) -> None:
    forge(path, lambda m: m["transforms"].pop("ad.price"))
    with pytest.raises(BundleError, match=r"ad\.price"):
        Bundle.open(path).encoder()


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("file", ["vocabularies/product.npy", "golden/scores.npy"])
def test_nothing_is_ever_unpickled(path: Path, tmp_path: Path, file: str) -> None:
    np.save(path / file, np.array([Evil(tmp_path / "owned")], dtype=object), allow_pickle=True)
    forge(path)
    bundle = Bundle.open(path)
    with pytest.raises(BundleError, match=r"product\.npy|golden"):
        verify_encoding(bundle)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "keys",
    [
        np.arange(5, dtype=np.int64),
        np.array([3, 2], dtype=np.uint64),
        np.array([0, 2], dtype=np.uint64),
        np.ones((2, 2), dtype=np.uint64),
    ],
    ids=["signed", "unsorted", "with 0", "table"],
)
def test_a_vocabulary_that_is_none_is_refused(path: Path, keys: np.ndarray) -> None:
    np.save(path / "vocabularies" / "product.npy", keys)
    forge(path)
    with pytest.raises(BundleError, match=r"product\.npy"):
        Bundle.open(path).encoder()


# ---------------------------------------------------------------- encoding


def test_an_encoding_that_changed_is_found_by_the_golden_requests(path: Path) -> None:
    known = np.load(path / "vocabularies" / "product.npy")
    np.save(path / "vocabularies" / "product.npy", known[1:])
    forge(path)
    with pytest.raises(BundleError, match=r"golden request \d+ \(.+\): raw values no longer"):
        verify_encoding(Bundle.open(path))


@pytest.mark.parametrize(("factor", "found"), [(1 + 1e-4, True), (1 + 1e-9, False)])
def test_numbers_must_agree_to_one_in_a_million(path: Path, factor: float, found: bool) -> None:
    def change(manifest) -> None:
        manifest["transforms"]["ad.price"]["deviation"] *= factor

    forge(path, change)
    bundle = Bundle.open(path)
    if not found:
        verify_encoding(bundle)
        return
    with pytest.raises(BundleError, match="the same ad_price"):
        verify_encoding(bundle)


def test_a_bundle_opens_without_torch_onnxruntime_or_polars(untouched: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom contract.bundle import Bundle, verify_encoding\n"
        "verify_encoding(Bundle.open(Path(sys.argv[1])))\n"
        "assert not {'torch', 'onnxruntime', 'polars', 'onnx'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(untouched)], cwd=Path(__file__).parents[2], check=True)
