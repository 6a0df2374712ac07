"""Golden requests keep raw values exactly, and tell when tensors or scores change."""

from pathlib import Path

import numpy as np
import pytest

from contract.bundle import Bundle
from contract.encoder import Encoder, Tensors
from contract.errors import BundleError
from contract.golden import GoldenRequest, check_scores, read_golden, write_golden
from contract.records import Records, empty_records
from contract.request import RawRequest
from contract.schema import Schema
from contract.vocabulary import Vocabulary
from tests.support.tiny import HISTORY_LENGTH, tiny_bundle

SCHEMA = Schema.from_json(
    {
        "vocabularies": {"item": {"kind": "hashed", "rows": 1000}},
        "behavior": [{"name": "item", "type": "categorical", "vocabulary": "item"}],
        "ad": [{"name": "ad_id", "type": "categorical", "vocabulary": "item", "matches": "item"}],
        "user": [{"name": "user_id", "type": "categorical", "vocabulary": "item"}],
        "context": [{"name": "place", "type": "categorical", "vocabulary": "item"}],
    }
)


@pytest.fixture(name="encoder")
def _encoder() -> Encoder:
    item = Vocabulary(SCHEMA.vocabularies["item"], np.zeros(0, dtype=np.uint64))
    return Encoder(SCHEMA, {"item": item}, {}, history_length=3)


@pytest.fixture(scope="module", name="bundle")
def _bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(tiny_bundle(tmp_path_factory.mktemp("bundle")))


def events(*times: int) -> Records:
    """Return records of distinct items at these times."""
    records = empty_records(SCHEMA, len(times))
    records["item"] = np.arange(1, len(times) + 1)
    records["timestamp"] = times
    records["action"] = 1
    return records


def request(*times: int, at: int = 100, **fields) -> RawRequest:
    """Return a request with one candidate."""
    return RawRequest(timestamp=at, history=events(*times), ads=[{"ad_id": "a"}], **fields)


# ---------------------------------------------------------------- raw request -> tensors


@pytest.mark.parametrize(
    ("times", "lag", "rows"),
    [
        ((98, 99, 100, 101), 0, [2, 3]),
        ((98, 99, 100, 101), 1, [2]),
        ((10, 20, 30, 40), 0, [3, 4, 5]),
        ((100,), 0, [0]),
        ((), 0, [0]),
    ],
    ids=["not at or after the request", "nor within the lag", "newest L", "none before", "none"],
)
def test_a_history_is_the_newest_events_before_the_request(
    encoder: Encoder, times: tuple[int, ...], lag: int, rows: list[int]
) -> None:
    tensors = request(*times).encode(encoder, history_lag_s=lag)
    assert tensors["history_item"].tolist() == [rows]
    assert tensors["history_mask"].tolist() == [[row > 0 for row in rows]]


def test_a_candidates_context_wins_over_the_requests(encoder: Encoder) -> None:
    both = request(context={"place": "a"}, candidate_context={"place": ["b"]}).encode(encoder)
    one = request(context={"place": "b"}).encode(encoder)
    assert both["context_place"] == one["context_place"] > 0


def test_whole_numbers_and_texts_are_the_same_ids(encoder: Encoder) -> None:
    texts = request(user={"user_id": "42"}).encode(encoder)
    numbers = request(user={"user_id": 42}).encode(encoder)
    assert texts["user_user_id"] == numbers["user_user_id"] > 0


# ---------------------------------------------------------------- the folder


def golden(raw: RawRequest, encoder: Encoder) -> GoldenRequest:
    """Return a golden request with made-up scores."""
    return GoldenRequest("a té%st", raw, raw.encode(encoder), np.arange(len(raw.ads), dtype=np.float32))


def test_golden_requests_are_read_as_they_were_written(tmp_path: Path, encoder: Encoder) -> None:
    raws = [
        request(1, 2, 3, 4, 5),
        request(user={"user_id": None}),
        request(7, user={"user_id": 2**53 + 1}, context={"place": "Łódź\n "}),
        RawRequest(100, events(), [{"ad_id": "1"}, {"ad_id": None}, {}], {}, {"place": ["x", None, 3]}, {}),
    ]
    written = [golden(raw, encoder) for raw in raws]
    write_golden(tmp_path / "golden", written)
    read = read_golden(tmp_path / "golden", SCHEMA)
    assert len(read) == len(written)
    for before, after in zip(written, read, strict=True):
        assert after.about == before.about
        assert after.raw.history.tobytes() == before.raw.history.tobytes()
        assert (after.raw.ads, after.raw.context, after.raw.user) == (
            before.raw.ads,
            before.raw.context,
            before.raw.user,
        )
        assert after.raw.candidate_context == before.raw.candidate_context
        assert after.tensors.keys() == before.tensors.keys()
        assert all((after.tensors[name] == before.tensors[name]).all() for name in before.tensors)
        assert after.logit.tolist() == before.logit.tolist()


@pytest.mark.parametrize(
    "file", ["requests.jsonl", "history.npy", "offsets.npy", "tensors.npz", "scores.npy"]
)
@pytest.mark.parametrize("content", [b"", b"nonsense", None], ids=["empty", "nonsense", "short"])
def test_a_golden_folder_that_is_none_is_refused_in_one_line(
    tmp_path: Path, encoder: Encoder, file: str, content: bytes | None
) -> None:
    folder = tmp_path / "golden"
    write_golden(folder, [golden(request(1, 2), encoder), golden(request(3), encoder)])
    damaged = (folder / file).read_bytes()[:-9] if content is None else content
    (folder / file).write_bytes(damaged)
    with pytest.raises(BundleError, match="golden requests not readable") as refusal:
        read_golden(folder, SCHEMA)
    assert "\n" not in str(refusal.value)


# ---------------------------------------------------------------- scores


def scorer(bundle: Bundle, *, off: float = 0.0, at: int = 0):
    """Return a function that knows the golden scores by heart, `off` by some on request `at`."""
    answers = iter([(r.logit + (off if i == at else 0.0))[None] for i, r in enumerate(bundle.golden())])

    def score(_: Tensors) -> np.ndarray:
        return next(answers)

    return score


def test_scores_within_the_tolerance_pass_and_the_largest_difference_is_told(bundle: Bundle) -> None:
    assert check_scores(scorer(bundle), bundle.golden(), tolerance=1e-4) == 0
    assert 0 < check_scores(scorer(bundle, off=5e-5), bundle.golden(), tolerance=1e-4) <= 1e-4


@pytest.mark.parametrize("off", [2e-4, -1.0, np.nan, np.inf])
def test_a_score_beyond_the_tolerance_names_its_request(bundle: Bundle, off: float) -> None:
    with pytest.raises(BundleError, match=r"golden request 3 \(.+\): log-odds differ by"):
        check_scores(scorer(bundle, off=off, at=3), bundle.golden(), tolerance=1e-4)


def test_an_answer_of_another_length_does_not_pass(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="golden request 0"):
        check_scores(lambda _: np.zeros((1, 1), dtype=np.float32), bundle.golden(), tolerance=1e9)


# ---------------------------------------------------------------- what a bundle's golden requests cover


def test_the_cases_that_go_wrong_first_are_among_them(bundle: Bundle) -> None:
    requests = bundle.golden()
    by_case = {request.about: request for request in requests}
    encoder = bundle.encoder()
    assert len(requests) >= 32
    assert by_case["an empty history"].tensors["history_mask"].tolist() == [[False]]
    assert len(by_case["L + 1 events"].raw.history) == HISTORY_LENGTH + 1
    assert by_case["L + 1 events"].tensors["history_mask"].shape == (1, HISTORY_LENGTH)
    straddling = by_case["events at and after the request"]
    assert straddling.raw.history["timestamp"].max() > straddling.raw.timestamp
    assert straddling.tensors["history_mask"].all()
    first_known = encoder.vocabularies["product"].first_known_row
    assert 0 < by_case["an unknown ad"].tensors["ad_ad_id"][0, 0] < first_known
    assert by_case["an unknown user"].tensors["user_segment"].tolist() == [0]
    assert by_case["an anonymous user"].tensors["user_user_id"].tolist() == [0]
    assert by_case["null features"].tensors["ad_category"].max() == 0
    assert by_case["no context"].tensors["context_placement"].max() == 0
    assert len(by_case["one candidate"].raw.ads) == 1
    assert len(by_case["many candidates"].raw.ads) == 100
    assert isinstance(by_case["whole numbers as ids"].raw.ads[0]["ad_id"], int)
    lengths = {int(r.tensors["history_mask"].sum()) for r in requests if r.about == "a logged request"}
    assert {0, HISTORY_LENGTH} < lengths
