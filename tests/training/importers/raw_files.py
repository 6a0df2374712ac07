"""Small raw data sets in exactly the format of the big ones, with every trap that those hold."""

from pathlib import Path

RAW_SAMPLE = """\
user,time_stamp,adgroup_id,pid,nonclk,clk
581738,1494137644,1,430548_1007,1,0
581738,1494137644,2,430548_1007,0,1
449818,1494000000,1,430539_1007,1,0
449818,1494000000,3,430539_1007,0,1
7,1494518399,3,430548_1007,1,0
7,1494518399,2,430539_1007,0,1
7,1494518400,1,430548_1007,1,0
7,1494518400,2,430548_1007,0,1
449818,1494604799,4,430548_1007,1,0
449818,1494604799,1,430548_1007,0,1
581738,1494604800,5,430548_1007,1,0
581738,1494604800,3,430548_1007,0,1
7,1494600000,3,430539_1007,1,0
7,1494604801,2,430539_1007,1,0
7,1494604801,2,430548_1007,0,1
7,1494604801,1,430548_1007,1,0
"""
AD_FEATURE = """\
adgroup_id,cate_id,campaign_id,customer,brand,price
1,6406,83237,1,95471,170.0
2,6406,83237,1,NULL,199.0
3,8282,83237,1,87331,99999999.99
4,8282,84000,2,,0.01
"""
USER_PROFILE = """\
userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,shopping_level,occupation,\
new_user_class_level \n\
234,0,5,2,5,,3,0,3
581738,5,2,2,2,1,3,0,
7,0,11,1,5,2,3,1,2
"""
BEHAVIOR_LOG = """\
user,time_stamp,btag,cate,brand
581738,1493741625,pv,6406,95471
7,1494518399,buy,8282,87331
7,1493000000,ipv,6406,NULL
581738,-28800,pv,1,1
581738,0,cart,1,1
449818,1493900000,fav,8282,87331
581738,1493741625,cart,8282,95471
581738,1493741624,pv,6406,95471
7,1493000000,pv,8282,87331
449818,1493900001,pv,6406,95471
"""
TAOBAO_AD = {
    "raw_sample.csv": RAW_SAMPLE,
    "ad_feature.csv": AD_FEATURE,
    "user_profile.csv": USER_PROFILE,
    "behavior_log.csv": BEHAVIOR_LOG,
}

FIRST = 1511539200  # 2017-11-25 00:00 in China
DAY = 86_400


def user_behavior() -> str:
    """UserBehavior.csv: no header, nearly sorted by user, a few rows of another age."""
    rows = ["1,2268318,2520377,pv,1511544070", "1,2268318,2520377,pv,-2134949234"]
    for user in (1, 1000, 30):
        for day in range(9):
            for view in range(4):
                item = 100 + (user + day * 3 + view) % 7
                second = FIRST + day * DAY + 3600 * (view + 1) + user
                rows.append(f"{user},{item},{item % 3},pv,{second}")
            rows.append(f"{user},{100 + day % 7},{day % 7 % 3},buy,{FIRST + day * DAY + 7200}")
    # item 104 has a second category, of one click against many
    rows += [f"30,104,9,pv,{FIRST + 5}", f"30,104,2,cart,{FIRST + 5}", f"30,103,0,fav,{FIRST + 5}"]
    # an item of the test day alone
    rows += [f"1000,555,1,pv,{FIRST + 8 * DAY + 80000}"]
    # borders: the last second before, the first and the last within, the first after
    rows += [f"5,101,2,pv,{FIRST - 1}", f"5,101,2,pv,{FIRST}"]
    rows += [f"5,102,0,fav,{FIRST + 9 * DAY - 1}", f"5,102,0,pv,{FIRST + 9 * DAY}", "5,101,2,pv,2122867355"]
    return "\n".join(rows) + "\n"


# reviewer, asin, day: two days hold two reviews of one user, whose order is that of the file
REVIEWS = [
    ("AB2", "B03", 1393545600),
    ("AA1", "B05", 1400000000 - 1400000000 % 86_400),
    ("AA1", "B02", 1390867200),
    ("AB2", "B01", 1393545600),
    ("AA1", "B04", 1390867200),
    ("AA1", "B01", 1380000000 - 1380000000 % 86_400),
    ("AC3", "B01", 1360000000 - 1360000000 % 86_400),
    ("AB2", "B04", 1370000000 - 1370000000 % 86_400),
    ("AB2", "B02", 1405555200),
    ("AA1", "B03", 1405555200),
    ("AC3", "B06", 1405555200),
    ("AD4", "B05", 1405555200),
]
CATEGORIES = {
    "B01": "[['Electronics', 'GPS'], ['Electronics', 'Car & Vehicle', 'Car GPS']]",
    "B02": "[['Electronics', 'eBook Readers']]",
    "B03": "[['Electronics', 'GPS'], ['Electronics', 'Car & Vehicle', 'Car GPS']]",
    "B04": "[['Electronics', 'eBook Readers']]",
    "B05": "[['Cables', \"Men's Watches\"]]",
}


def reviews() -> str:
    """reviews_Electronics_5.json: one strict JSON object per line."""
    rest = '"reviewerName": "J. \\"D\\"", "helpful": [0, 1], "reviewText": "It\'s {fine}, 5\\u00a0stars"'
    return "".join(
        f'{{"reviewerID": "{user}", "asin": "{item}", {rest}, "overall": 5.0, "summary": "ok", '
        f'"unixReviewTime": {day}, "reviewTime": "01 20, 2014"}}\n'
        for user, item, day in REVIEWS
    )


def meta() -> str:
    """meta_Electronics.json: Python literals, not JSON; items that nobody reviewed come first."""
    lines = ["{'asin': 'B99', 'imUrl': 'x', 'description': 'never seen', 'categories': [['Elsewhere']]}"]
    lines += [
        f"{{'asin': '{item}', 'title': \"Don't \\d panic\", 'price': 9.99, 'related': {{'also_bought': ['B99']}}, "
        f"'categories': {categories}}}"
        for item, categories in CATEGORIES.items()
    ]
    return "\n".join(lines) + "\n"


_LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
)
_FIRST_MS = 1649347200000  # 2022-04-08 00:00 in China


def _shown(*rows: tuple[int, int, float, int, int, int, int]) -> str:
    """A KuaiRand log of rows (user, video, day, is_click, long_view, is_rand, tab)."""
    return _LOG + "".join(
        f"{user},{video},20220408,400,{_FIRST_MS + int(day * DAY * 1000)},{click},0,0,0,0,0,{long},151024,104400,"
        f"0,0,0,{rand},{tab}\n"
        for user, video, day, click, long, rand, tab in rows
    )


KUAIRAND = {
    "log_standard_4_08_to_4_21_1k.csv": _shown(
        (9, 3, 2, 1, 1, 0, 1),
        (4, 3, 0.5, 1, 0, 0, 1),
        (4, 5, 0.5000001, 0, 0, 0, 1),  # a few milliseconds later: the same second
        (9, 8, 1, 0, 0, 0, 0),
        (9, 8, 1, 1, 0, 0, 0),  # shown twice in one second
        (4, 77, 0.25, 1, 1, 0, 4),  # not among the videos
        (9, 5, 1, 0, 0, 0, 0),
    ),
    "log_standard_4_22_to_5_08_1k.csv": _shown(
        (4, 5, 27, 1, 0, 0, 1),
        (4, 8, 27, 0, 0, 0, 1),
        (9, 3, 28.5, 0, 0, 0, 1),
        (9, 5, 28.9999, 1, 1, 0, 1),
        (4, 3, 29, 0, 0, 0, 1),
        (9, 8, 30.9, 1, 0, 0, 2),
        (9, 3, 30.9, 0, 0, 0, 2),
    ),
    "log_random_4_22_to_5_08_1k.csv": _shown((4, 8, 20, 1, 0, 1, 1), (9, 3, 20, 0, 0, 1, 1)),
    "video_features_basic_1k.csv": (
        "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,"
        "server_height,music_id,music_type,tag\n"
        '5,441,NORMAL,2020-07-08,ShortImport,1,17200.0,720,1280,989206467,4,"12,65"\n'
        "3,441,NORMAL,2020-07-08,Web,1,,720,1280,,4,9\n"
        "8,7,AD,2020-07-09,,0,9000,720,1280,1,4.0,\n"
    ),
}


MOVIELENS = {
    "ratings.csv": "userId,movieId,rating,timestamp\r\n"
    + "".join(
        f"{1 + row % 3},{row % 4 + 1},{(row * 3) % 10 / 2 + 0.5},{964980000 + 1000 * (row * 7 % 40)}\r\n"
        for row in range(40)
    )
    + "3,99,4.0,964980500\r\n",  # not among the films
    "movies.csv": (
        "movieId,title,genres\r\n1,Toy Story (1995),Adventure|Animation\r\n"
        '2,"American President, The (1995)",Comedy|Drama\r\n4,"Misérables, Les (""1995"")",(no genres listed)\r\n'
        "3,Heat (1995),Comedy|Drama\r\n"
    ),
}


def write(folder: Path, files: dict[str, str]) -> Path:
    """Write files into a new folder and return it."""
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
    return folder
