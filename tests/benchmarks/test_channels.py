from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch

from benchmarks.support.channel_chart import Ad, draw
from benchmarks.support.channels import absolute_cosines, routes
from benchmarks.support.untrained import tensors, untrained

SVG = "{http://www.w3.org/2000/svg}"


def test_cosines_are_of_pairs_of_interests_that_there_are():
    r_UNcD = torch.zeros(1, 2, 3, 2)
    r_UNcD[0, 0, 0] = torch.tensor([3.0, 0.0])
    r_UNcD[0, 0, 1] = torch.tensor([-2.0, 2.0])  # 135 degrees from the first; the third channel is empty
    r_UNcD[0, 1] = 1.0  # a padded candidate
    found = absolute_cosines(r_UNcD, torch.tensor([[True, False]]))
    assert found == pytest.approx([np.sqrt(0.5)])


def test_every_behaviour_is_routed_to_one_channel_and_kept_by_no_other():
    model = untrained("diffumin", {"embedding_width": 8, "diffusion": False}, history_length=40)
    given = tensors(model.inputs, behaviors=40, candidates=3)
    given["history_mask"][0, :10] = False
    inputs = {name: torch.from_numpy(values) for name, values in given.items()}
    with torch.inference_mode():
        routed_cNL, kept_cNL = routes(model, inputs)
    assert routed_cNL.shape == (4, 3, 30)
    assert (routed_cNL.sum(0) == 1).all()
    assert not (kept_cNL & ~routed_cNL).any()
    assert (kept_cNL.sum(-1) <= 6).all()  # a fifth of 30
    assert kept_cNL.any()


def _bars(svg: str) -> dict[float, list[tuple[float, str]]]:
    """Return width and class of the coloured boxes by the row's place."""
    found: dict[float, list[tuple[float, str]]] = {}
    for box in ET.fromstring(svg).iter(f"{SVG}rect"):
        if box.get("height") == "17":
            found.setdefault(float(box.get("y")), []).append((float(box.get("width")), box.get("class", "")))
    return found


def test_a_bar_is_as_wide_as_its_share_and_pale_where_dropped():
    counts = np.array([[[3, 1], [0, 4]], [[0, 0], [0, 0]], [[3, 1], [0, 4]]])
    svg = draw("title", "about", [("tea", 8), ("<none>", 0), ("all", 8)], [Ad("ad", "about", 0, counts)])
    first, last = _bars(svg).values()
    assert first == last
    (kept, solid), (dropped, pale), (other, also_pale) = first
    assert (solid, pale, also_pale) == ("", "pale", "pale")
    whole = kept + dropped + other
    assert np.allclose([kept / whole, dropped / whole, other / whole], [3 / 8, 1 / 8, 4 / 8], atol=1e-3)


def test_the_figure_names_its_rows_and_asks_for_nothing():
    counts = np.ones((2, 4, 2), dtype=np.int64)
    ads = [Ad("ad: bread & butter", "bought", None, counts)] * 3
    svg = draw("title", "about", [("x" * 60, 8), ("all", 8)], ads)
    texts = [text.text for text in ET.fromstring(svg).iter(f"{SVG}text")]
    assert texts.count("ad: bread & butter") == 3
    assert "x" * 24 + "…" in texts
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")
