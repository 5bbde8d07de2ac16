"""The report: one page that needs nothing else, opens in a browser, and shows what the records hold."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import __main__ as cli
from benchmarks.figures import Bars, Curve, Figure, Figures, Missing
from benchmarks.histograms import distribution
from benchmarks.reporting.charts import charts
from benchmarks.reporting.record import Record, write

GENERATOR = np.random.default_rng(1)
WAITS = {
    f"waits.{size}_tokens": distribution(mean * GENERATOR.lognormal(0, 0.3, 2_000), "What a caller waits")
    for size, mean in ((16, 0.002), (510, 0.015), (8192, 0.2))
}
LINES = {
    f"cost.{name}": Curve((1e3, 1e4, 1e5), tuple(1e-5 * factor * x for x in (1e3, 1e4, 1e5)), "length / tokens",
                          "time / s", "Cost against length", log="xy")
    for name, factor in (("ours", 1), ("theirs", 4))
}  # fmt: skip
LEVERS = {
    f"levers.{name}": Bars(("none", "segments", "all"), (900, 400 / factor, 120 / factor), "P50 / ms", "Levers",
                           log=True, lo=(800, 390 / factor, 110 / factor), hi=(990, 410 / factor, 130 / factor))
    for name, factor in (("cold", 1), ("again", 20))
}  # fmt: skip
SPEEDS = {"speed.peers": Bars(("octavo", "<other> & Co"), (36_000, 18_000), "speed / tokens/s", "Peers")}
PEERS: Figures = {
    "unread.octavo": Figure(0.0, "%"), "unread.truncates_this": Figure(91.9, "%"), "unread.reads": Figure(12.0, "%"),
    **{f"peers_waits.{name}": distribution(GENERATOR.lognormal(0, 0.3, 20), "What one caller waits")
       for name in ("octavo", "truncates_this", "reads")},
    "peers_speed.tokens read": Bars(("octavo", "truncates_this", "reads"), (21_000, 5_100, 9_300), "tokens/s", "Speed"),
}  # fmt: skip
FIGURES: Figures = {
    "server_over_engine": Figure(0.97, "x", 0.96, 0.98, 5, 0.01),
    "polite_p99": Missing("<script>alert(1)</script>"),
    "overload_goodput": Figure(0.5, "x"),
    **WAITS, **LINES, **LEVERS, **SPEEDS,
}  # fmt: skip


def record_of(scenario: str, figures: Figures) -> Record:
    return Record(
        scenario, {"cpu": "one", "cores": 2, "memory_bytes": 8 << 30}, {"python": "3"}, "abc", {"rounds": 5},
        "2020-01-01T00:00:00+00:00", 61.5, figures,
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    write(record_of("load", FIGURES), folder / "load.json")
    write(record_of("latency", {"p50_ms.16": Figure(2.5, "ms", 2.4, 2.6, 100, 0.1)}), folder / "latency.json")
    write(record_of("peers", PEERS), folder / "peers.json")
    write(record_of("processors", {"x_ort_int8_avx2": Missing("needs: AVX2 alone")}), folder / "processors.json")
    result = CliRunner().invoke(cli.main, ["report", str(folder)])
    assert result.exit_code == 0, result.output
    assert result.output.strip() == str(folder / "report" / "index.html")
    return folder / "report" / "index.html"


class Parsed(HTMLParser):
    """Ids, links and elements of a page; ill-formed nesting fails."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"href", "src", "xlink:href"}:
                self.links.append(value or "")
        if tag not in {"meta", "br", "link", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open[-1:] == [tag]:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    parsed = Parsed(text)
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids)), "charts do not take each other's ids"
    assert set(parsed.links) <= {f"#{one}" for one in parsed.ids}, "no link leaves the page, none leads nowhere"
    assert set(re.findall(r"url\(([^)]*)\)", text)) <= {f"#{one}" for one in parsed.ids}
    assert not {"script", "link", "img", "iframe", "object"} & set(parsed.tags)
    assert "@import" not in text


def test_every_group_is_a_chart_on_the_page_and_a_picture(page: Path) -> None:
    tags = Parsed(page.read_text(encoding="utf-8")).tags
    assert tags.count("figure") == tags.count("svg") == 6
    pictures = sorted(path.stem for path in page.parent.glob("*.png"))
    names = ["load-cost", "load-levers", "load-speed", "load-waits", "peers-peers-speed", "peers-peers-waits"]
    assert pictures == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in page.parent.glob("*.png"))


def test_figures_stand_with_what_they_must_hold_and_where_they_were_measured(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for shown in ("server_over_engine", "0.97 x", "0.96 … 0.98", "≥ 0.88", "≥ 0.94", "reached", "MISS", "one, 2 cores"):
        assert shown in text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_it_opens_with_the_peers_and_each_miss_leads_to_its_row(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    places = [text.index(f'id="{each}"') for each in ("charts-peers", "promises", "charts-load", "figures-peers")]
    assert places == sorted(places)
    misses = text[text.index('class="misses"') :].partition("</p>")[0]
    assert re.findall(r'href="#([^"]*)"', misses) == ["load.polite_p99", "load.overload_goodput"]
    bad = re.findall(r'<tr id="([^"]*)" class="bad">', text)
    assert sorted(bad) == ["load.overload_goodput", "load.polite_p99"], "what needs another machine is no miss"
    counts = re.findall(r"<li><b>(\d+)</b> ([^<\n]*)", text)
    assert [int(count) for count, _ in counts] == [1, 0, 1, 1, 1], counts


def test_nothing_overlaps_in_any_chart() -> None:
    from matplotlib.figure import Figure as Sheet

    from benchmarks.reporting import charts as drawing

    seen: list[str] = []

    def look(sheet: Sheet) -> bytes:
        sheet.draw_without_rendering()
        renderer = sheet._get_renderer()  # type: ignore[attr-defined]
        (axes,) = sheet.axes
        title = sheet._suptitle  # type: ignore[attr-defined]
        texts = [*axes.texts, title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
        for legend in sheet.legends:
            texts += legend.get_texts()
            assert not legend.get_window_extent(renderer).overlaps(axes.patch.get_window_extent(renderer))
        boxes = [(each.get_text(), each.get_window_extent(renderer)) for each in texts if each.get_text()]
        whole = sheet.bbox
        for place, (text, box) in enumerate(boxes):
            assert whole.x0 <= box.x0 <= box.x1 <= whole.x1, f"{text} is cut off"
            assert whole.y0 <= box.y0 <= box.y1 <= whole.y1, f"{text} is cut off"
            for other, its in boxes[place + 1 :]:
                assert not box.overlaps(its), f"{text} and {other} overlap"
        seen.append(title.get_text())
        return b""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "_png", look)
        charts(record_of("load", FIGURES))
        charts(record_of("peers", PEERS))
    assert seen == ["Levers", "Peers", "Cost against length", "What a caller waits", "Speed", "What one caller waits"]


def test_readers_that_left_most_unread_are_marked_and_octavo_stands_out() -> None:
    from matplotlib.figure import Figure as Sheet

    from benchmarks.reporting import charts as drawing

    sheets: list[Sheet] = []

    def look(sheet: Sheet) -> bytes:
        sheets.append(sheet)
        return b""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "_png", look)
        charts(record_of("peers", PEERS))
    bars, waits = sheets
    labels = bars.axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == ["octavo", "truncates this\n92 % unread", "reads"]
    assert [label.get_fontweight() for label in labels] == ["bold", "normal", "normal"]
    ours, skims, reads = bars.axes[0].patches
    assert [each.get_hatch() or "" for each in (ours, skims, reads)] == ["", "////", ""]
    assert len({each.get_facecolor() for each in (ours, skims, reads)}) == 3
    (legend,) = waits.legends
    assert [each.get_text() for each in legend.get_texts()] == ["octavo", "truncates this, 92 % unread", "reads"]


def test_a_group_of_several_kinds_is_refused() -> None:
    mixed: Figures = {"cost.a": LINES["cost.ours"], "cost.b": SPEEDS["speed.peers"]}
    with pytest.raises(ValueError, match="load-cost: a chart of several kinds"):
        charts(record_of("load", mixed))


def test_a_folder_without_records_is_wrong_usage(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.main, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert "no records" in result.output


needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here (Debian's package)")


def chromium(folder: Path, page: Path, *flags: str) -> str:
    """Open a page in a headless browser; what that printed."""
    command = (
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={folder / 'profile'}", "--hide-scrollbars",
        *flags, page.as_uri(),
    )  # fmt: skip
    return subprocess.run(command, check=True, capture_output=True, timeout=120, text=True).stdout


@needs_chromium
def test_the_page_opens_in_a_browser(page: Path, tmp_path: Path) -> None:
    """A headless browser lays it out, wider than nothing, and takes a picture that is not blank."""
    from PIL import Image

    shot = tmp_path / "shot.png"
    chromium(tmp_path, page, "--window-size=1100,3000", f"--screenshot={shot}")
    with Image.open(shot) as picture:
        assert picture.size == (1100, 3000)
        rows = np.asarray(picture.convert("L"), np.float64)
    inked = (rows < 200).any(axis=1)
    assert inked.mean() > 0.4, "the page is nearly empty"
    margins = rows[:, :15], rows[:, -15:]
    assert all((each > 250).all() for each in margins), "something runs over the page's edge"


@needs_chromium
def test_nothing_is_wider_than_a_phone(page: Path, tmp_path: Path) -> None:
    frame = tmp_path / "frame.html"  # a window cannot be as narrow as a frame
    frame.write_text(
        f'<iframe src="{page.as_uri()}" width="400" height="3000" onload="document.title = '
        "'wide ' + this.contentDocument.documentElement.scrollWidth\"></iframe>"
    )
    found = chromium(tmp_path, frame, "--allow-file-access-from-files", "--dump-dom")
    assert "<title>wide 400</title>" in found, found[:200]
