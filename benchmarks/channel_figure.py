"""A figure of DiffuMIN's channels: which one takes each purchase of a real household, for three ads of one request.

Takes a test request of a household that has bought more than the model sees, with the ad it clicked and two others of
categories that it buys a lot of; draws the L purchases before it by category. The run is `--run`, or the full model of
`quality_diffumin.py` with seed 0, trained if it isn't there.

Run: `python benchmarks/channel_figure.py [--run RUN] [--user 1228] [--output FILE.svg] [--json]`.
"""

import argparse
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.quality import dataset_of
from benchmarks.quality_diffumin import FULL
from benchmarks.quality_lengths import FOLDER
from benchmarks.support.bars import finish
from benchmarks.support.channel_chart import Ad, draw
from benchmarks.support.channels import diffumin_of, routes
from benchmarks.support.kept_runs import scores
from contract.files import atomic_file
from training.batches import BatchSource
from training.dataset import Dataset
from training.run import Run
from training.scoring import inputs_of

OUTPUT: Final = Path("docs/images/diffumin_channels.svg")
CATEGORY, TYPE = "product_category", "product_type"
ROWS: Final = 11
"""Categories with a row of their own."""
ADS: Final = 3
DRAWN: Final = 200
"""Requests looked at to find one worth showing."""


class Household:
    """A test request with the purchases before it."""

    def __init__(self, run: Run, dataset: Dataset, request: int) -> None:
        self.run, self.dataset, self.request = run, dataset, request
        entry = dataset.requests[request]
        self.moment = datetime.fromtimestamp(int(entry["timestamp"]), UTC)
        self.user = dataset.names("user").get(int(dataset.user_keys[entry["user"]]))
        end = int(entry["end"])
        start = max(int(entry["start"]), end - run.history_length)
        self.bought: NDArray[np.uint64] = np.asarray(dataset.records[start:end][CATEGORY])
        rows = dataset.rows_of(np.array([request]))
        self.clicked = np.asarray(dataset.row("clicked")[rows]) > 0
        self.ad = np.asarray(dataset.row("ad")[rows])

    def ad_texts(self, place: int) -> tuple[str, str]:
        """Return product type and category of a candidate."""
        keys = (int(self.dataset.column("ad", name)[self.ad[place]]) for name in (TYPE, CATEGORY))
        found = [self.dataset.texts(name).get(key) for name, key in zip((TYPE, CATEGORY), keys, strict=True)]
        return _said(found[0]), _said(found[1])

    def ad_category(self, place: int) -> int:
        """Return the key of a candidate's category."""
        return int(self.dataset.column("ad", CATEGORY)[self.ad[place]])

    def chosen_ads(self) -> list[int]:
        """Return the clicked candidate and others, each of another category, those bought most before first."""
        bought = Counter(self.bought.tolist())
        order = sorted(
            range(len(self.ad)), key=lambda place: (not self.clicked[place], -bought[self.ad_category(place)])
        )
        chosen: dict[int, int] = {}
        for place in order:
            chosen.setdefault(self.ad_category(place), place)
        return list(chosen.values())[:ADS]

    def worth(self) -> int:
        """Return how much there is to see: purchases that share a category with the least bought of the ads."""
        ads = self.chosen_ads()
        bought = Counter(self.bought.tolist())
        return min(bought[self.ad_category(place)] for place in ads) if len(ads) == ADS else -1


def household_of(run: Run, dataset: Dataset, user: str | None) -> Household:
    """Return the request to show: of this user, or of the 200 drawn the one with most to see."""
    test = dataset.requests_of("test")
    requests = dataset.requests[test]
    length = requests["end"] - requests["start"]
    clicks = np.add.reduceat(np.asarray(dataset.row("clicked")), dataset.requests["first_row"])[test]
    fit = test[(length >= run.history_length) & (clicks > 0) & (requests["rows"] >= ADS)]
    if user is not None:
        names = dataset.names("user")
        users = dataset.requests["user"][fit]
        fit = fit[[names.get(int(key)) == user for key in dataset.user_keys[users]]]
    if not len(fit):
        raise SystemExit(
            "no test request with a click and a full history" + (f" of user {user}" if user else "")
        )
    drawn = np.random.default_rng(0).permutation(fit)[:DRAWN]
    return max((Household(run, dataset, int(each)) for each in drawn), key=Household.worth)


def ad_of(household: Household, place: int, row_L: NDArray[np.int64], rows: int) -> Ad:
    """Return an ad's column: purchases by row and channel; the last row is all of them."""
    source = BatchSource(household.dataset, household.run.encoder, household.run.model.inputs)
    batch = source.batch(np.array([household.request]), serving=True)
    with torch.inference_mode():
        routed_cNL, kept_cNL = routes(diffumin_of(household.run), inputs_of(batch))
    channels = routed_cNL.shape[0]
    counts_Rc2 = np.zeros((rows, channels, 2), dtype=np.int64)
    for channel in range(channels):
        routed_L, kept_L = routed_cNL[channel, place], kept_cNL[channel, place]
        for index, those_L in enumerate((routed_L & kept_L, routed_L & ~kept_L)):
            counts_Rc2[:-1, channel, index] = np.bincount(row_L[those_L], minlength=rows - 1)
    counts_Rc2[-1] = counts_Rc2[:-1].sum(0)
    kind, category = household.ad_texts(place)
    own = np.flatnonzero(household.bought == np.uint64(household.ad_category(place)))
    return Ad(
        title=f"ad: {kind}",
        about=f"{category}, {'bought' if household.clicked[place] else 'not bought'}",
        own=int(row_L[own[0]]) if len(own) else None,
        counts=counts_Rc2,
    )


def figure(household: Household) -> tuple[str, dict[str, Any]]:
    """Return the SVG, and what it shows as plain values."""
    ads = household.chosen_ads()
    bought = Counter(household.bought.tolist())
    own = [household.ad_category(place) for place in ads if bought[household.ad_category(place)]]
    shown = [key for key, _ in bought.most_common() if key not in own][: ROWS - len(own)]
    keys = sorted([*own, *shown], key=lambda key: -bought[key])
    place_of = {key: index for index, key in enumerate(keys)}
    row_L = np.array([place_of.get(key, len(keys)) for key in household.bought.tolist()])
    texts = household.dataset.texts(CATEGORY)
    others = len(household.bought) - sum(bought[key] for key in keys)
    rows = [(_said(texts.get(key)), bought[key]) for key in keys]
    rows += [(f"{len(bought) - len(keys)} other categories", others), ("all", len(household.bought))]
    columns = [ad_of(household, place, row_L, len(rows)) for place in ads]
    title = "One household's purchases, and the channel of each ad that takes them"
    about = (
        f"The {len(household.bought)} purchases of household {household.user} before {household.moment:%d %B %Y}, "
        f"by category, for three ads of that trip."
    )
    values = {
        "user": household.user,
        "request": household.request,
        "rows": rows,
        "ads": [{"title": a.title, "about": a.about, "counts": a.counts.tolist()} for a in columns],
    }
    return draw(title, about, rows, columns), values


def _said(text: str | None) -> str:
    """Return a text of the log as words of a sentence."""
    return "unknown" if text is None else re.sub(r"\s*(?: - |/|:|;)\s*", ", ", text).capitalize()


def main() -> None:
    """Find a household and write the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--folder", type=Path, default=Path(".longsight/quality"), help="datasets and runs")
    parser.add_argument("--run", type=Path, help="a run of DiffuMIN on the demo log")
    parser.add_argument("--user", help="a household's id; by default one with much to see")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the SVG")
    given = parser.parse_args()
    if given.run is None:
        dataset = Dataset.open(dataset_of(given.folder, "popular:20"))
        runs = given.folder / FOLDER
        scores(dataset, runs, FULL, 0, train_missing=True)
        run = Run.load(FULL.folder(runs, 0))
    else:
        run = Run.load(given.run)
        dataset = run.dataset()
    drawn, values = figure(household_of(run, dataset, given.user))
    with atomic_file(given.output) as path:
        path.write_text(drawn, encoding="utf-8")
    print(f"wrote {given.output}: household {values['user']}")
    finish(values, [], as_json=given.json)


if __name__ == "__main__":
    main()
