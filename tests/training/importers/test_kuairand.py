"""KuaiRand from small files in its format: what counts as shown, as a request and as behaviour."""

import re
import tracemalloc

import polars as pl
import pytest

from contract.errors import InputError, LogError
from tests.training.importers.raw_files import KUAIRAND, write
from training.importers import kuairand
from training.importers.csv_chunks import CsvFile
from training.importers.external_log import External
from training.importers.kuairand import TEST_FROM, TEXT_PER_VIDEO, VALIDATION_FROM, import_kuairand
from training.importers.kuairand_videos import COLUMNS, Videos
from training.importers.memory import MEGABYTE, Memory
from training.prepare import prepare

START = 1649347200
DAY = 86_400


@pytest.fixture(name="raw")
def _raw(tmp_path):
    return write(tmp_path / "raw", KUAIRAND)


@pytest.fixture(name="imported")
def _imported(raw, tmp_path):
    return import_kuairand(raw, tmp_path / "log"), tmp_path / "log"


def table(log, name):
    return pl.read_parquet(log / f"{name}.parquet")


def test_behaviours_are_clicks_also_on_random_videos_with_what_is_known_of_the_video(imported):
    report, log = imported
    assert table(log, "behaviors").rows() == [
        (4, START + DAY // 4, "long_view", 77, None, None),
        (4, START + DAY // 2, "click", 3, 441, 9),
        (4, START + 20 * DAY, "click", 8, 7, None),
        (4, START + 27 * DAY, "click", 5, 441, 12),
        (9, START + DAY, "click", 8, 7, None),
        (9, START + 2 * DAY, "long_view", 3, 441, 9),
        (9, START + 28 * DAY + 86391, "long_view", 5, 441, 12),
        (9, START + 30 * DAY + 77760, "click", 8, 7, None),
    ]
    assert report["behaviors"] == 8


def test_a_request_is_what_the_app_chose_to_show_in_one_second(imported):
    report, log = imported
    shown = table(log, "impressions")
    assert shown.filter(user_id=4).select("timestamp", "ad_id", "clicked", "tab").rows() == [
        (START + DAY // 4, 77, 1, 4),
        (START + DAY // 2, 3, 1, 1),
        (START + DAY // 2, 5, 0, 1),
        (START + 27 * DAY, 5, 1, 1),
        (START + 27 * DAY, 8, 0, 1),
        (START + 29 * DAY, 3, 0, 1),
    ]
    assert shown.filter(user_id=9, timestamp=START + DAY).select("ad_id", "clicked").rows() == [
        (5, 0),
        (8, 1),
    ]
    assert shown["sampling_rate"].unique().to_list() == [1.0]
    assert report["random_impressions_left_out"] == 2
    assert report["dropped_duplicate_impressions"] == 1
    assert (report["requests"], report["impressions"], report["clicked"]) == (9, 13, 7)


def test_videos_have_their_first_tag_and_seconds(imported):
    _, log = imported
    assert table(log, "ads").with_columns(pl.col("duration_s").round(3).cast(pl.Float64).round(3)).rows() == [
        (3, 441, 9, "NORMAL", "Web", None),
        (5, 441, 12, "NORMAL", "ShortImport", 17.2),
        (8, 7, None, "AD", None, 9.0),
    ]


def test_days_begin_at_midnight_in_china():
    stamps = pl.from_epoch(pl.Series([START, VALIDATION_FROM, TEST_FROM])).dt.offset_by("8h")
    assert stamps.dt.to_string("%F %T").to_list() == [
        "2022-04-08 00:00:00",
        "2022-05-05 00:00:00",
        "2022-05-07 00:00:00",
    ]


def test_the_log_is_prepared_with_its_splits(imported, tmp_path):
    _, log = imported
    counts = prepare(log, tmp_path / "dataset")
    assert [counts[f"requests_{split}"] for split in ("train", "validation", "test")] == [4, 3, 2]


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_bytes_do_not_depend_on_the_memory(imported, raw, tmp_path, monkeypatch):
    monkeypatch.setattr(kuairand, "memory_of", lambda _, **__: Memory(0))
    monkeypatch.setattr(Memory, "rows", property(lambda _: 9))
    monkeypatch.setattr(Memory, "chunk_bytes", property(lambda _: 100))
    import_kuairand(raw, tmp_path / "cut")
    assert files(tmp_path / "cut") == files(imported[1])


def test_a_log_in_two_parts_is_one_log(imported, raw, tmp_path):
    name = "log_standard_4_08_to_4_21_1k.csv"
    head, *rows = KUAIRAND[name].splitlines(keepends=True)
    (raw / name).unlink()
    for path in list(raw.iterdir()):
        path.rename(path.with_name(path.name.replace("_1k", "_27k")))
    for part, some in enumerate((rows[:3], rows[3:]), start=1):
        (raw / f"log_standard_4_08_to_4_21_27k_part{part}.csv").write_text(head + "".join(some))
    import_kuairand(raw, tmp_path / "parts")
    assert files(tmp_path / "parts") == files(imported[1])


REFUSED = {
    "click": (
        "log_standard_4_22_to_5_08_1k",
        ",400,1651680000000,1",
        ",400,1651680000000,3",
        "line 2: column 'is_cl",
    ),
    "column": ("log_standard_4_08_to_4_21_1k", "is_rand", "random", "column 'is_rand' is missing"),
    "cut": (
        "log_random_4_22_to_5_08_1k",
        "151024,104400,0,0,0,1,1\n",
        "15\n",
        "line 2: has 13 fields, not 19",
    ),
    "author": (
        "video_features_basic_1k",
        "441,NORMAL,2020-07-08,ShortImport",
        "me,NORMAL,2020-07-08,x",
        "'me' is not",
    ),
    "twice": ("video_features_basic_1k", "\n8,7", "\n5,7", "column 'video_id': 5 stands there twice"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_a_bad_file_is_refused_with_one_line_and_leaves_nothing(raw, tmp_path, case):
    name, old, new, words = case
    assert old in KUAIRAND[f"{name}.csv"]
    (raw / f"{name}.csv").write_text(KUAIRAND[f"{name}.csv"].replace(old, new, 1))
    with pytest.raises(LogError, match=rf"{name}\.csv: .*{re.escape(words)}"):
        import_kuairand(raw, tmp_path / "log")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize("kind", ["log_standard_4_22_to_5_08", "video_features_basic"])
def test_files_of_two_versions_are_refused(raw, tmp_path, kind):
    (raw / f"{kind}_pure.csv").write_text(KUAIRAND[f"{kind}_1k.csv"])
    with pytest.raises(LogError, match=r"holds several versions \(1k, pure\)"):
        import_kuairand(raw, tmp_path / "log")


def test_too_little_memory_is_refused(raw, tmp_path):
    with pytest.raises(InputError, match="--memory"):
        import_kuairand(raw, tmp_path / "log", memory_bytes=10**6)


def test_the_table_of_videos_takes_no_more_than_is_reserved_for_it(tmp_path):
    head = "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,music_id,tag\n"
    line = "{0},{0},NORMAL,2022-04-05,ShortImport,1,22400.0,310701{0},28,720,1280\n"
    lines = (line.format(2_000_000 - number) for number in range(200_000))
    path = tmp_path / "videos.csv"
    path.write_text(head.replace("tag", "tag,width,height") + "".join(lines))
    source = CsvFile(path, COLUMNS, quoted=True)
    external = External(tmp_path, Memory(260 * MEGABYTE), lambda *_: None)
    tracemalloc.start()
    try:
        assert len(Videos(external, source)) == 200_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    text = 2 * external.memory.chunk_bytes  # being parsed meanwhile
    assert peak < source.size // TEXT_PER_VIDEO + text
