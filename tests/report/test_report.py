"""The report is whole, harmless whatever things are called, and says what it found."""

import base64
import csv
import hashlib
import html
import json
import re
import statistics
import subprocess
import sys
import time
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from deepbloom.errors import RunError
from deepbloom.report.columns import COLUMNS, Column
from deepbloom.report.intervals import seed_interval
from deepbloom.report.report import write_report
from deepbloom.report.sections import FILES
from deepbloom.runs.parsing import COUNT, NUMBER

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "img", "br", "wbr", "link", "input", "hr"}
MODELS = {"scratch_cnn": 0.55, "mini_resnet": 0.8, "resnet18_frozen": 0.8}


class Page(HTMLParser):
    """Collects elements and text, and checks that every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def report(write_run, tmp_path_factory):
    """Three seeds of three models, one official run, one failed run: the report's paths."""
    folder = tmp_path_factory.mktemp("report")
    for model, accuracy in MODELS.items():
        for seed in (0, 1, 2):
            name = f"{model}-s{seed}"
            write_run(folder / "runs" / name, model=model, seed=seed, accuracy=accuracy, num_images=150)
    write_run(folder / "runs" / "official", kind="official", split="b", num_images=90)
    (folder / "runs" / "crashed").mkdir()
    (folder / "runs" / "crashed" / "failed.txt").write_text("DivergedError: the loss became nan\n")
    return write_report(folder / "runs", folder / "report")


@pytest.fixture(scope="module")
def page(report):
    return Page(report.html.read_text(encoding="utf-8"))


def test_the_page_needs_no_network_and_runs_its_own_script_only(report, page):
    text = report.html.read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[^\"]+", "", text))
    assert not {"link", "iframe", "object"} & {tag for tag, _ in page.elements}
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv"))
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'"
    assert all(attributes["src"].startswith("data:image/png;base64,") for attributes in page.all("img"))
    assert len(page.all("img")) == len(list(report.figures.glob("*.png")))


def test_the_page_can_be_used_by_everybody(page):
    assert page.all("html")[0]["lang"] == "en"
    assert any(a.get("name") == "viewport" for a in page.all("meta"))
    assert all(len(a["alt"]) > 20 for a in page.all("img"))
    assert all(a.get("scope") in ("col", "row") for a in page.all("th"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for a in page.all("a")} | {
        attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes
    }
    assert targets <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_the_benchmark_leads_with_the_published_columns(report):
    lines = report.markdown.read_text(encoding="utf-8").splitlines()
    header = next(line for line in lines if line.startswith("| Model"))
    columns = [cell.strip() for cell in header.strip("|").split("|")]
    assert columns[:4] == ["Model", "Training type", "Test accuracy", "Parameters"]
    assert columns[-1] == "Seeds"
    assert {"Trainable", "MACs", "Training time", "Images/s", "Peak memory", "Epochs", "Macro F1"} < set(columns)
    for column in columns:
        assert any(line.startswith(f"- **{column}**: ") for line in lines)


def test_models_are_ranked_and_a_tie_is_called_a_tie(report, page):
    text = report.markdown.read_text(encoding="utf-8")
    first = text[: text.index("## Group 2")]
    assert first.index("| scratch_cnn |") > max(first.index("| mini_resnet |"), first.index("| resnet18_frozen |"))
    pair = next(
        line for line in first.splitlines() if line.startswith("|") and "mini_resnet" in line and "frozen" in line
    )
    assert "| tie |" in pair
    assert first.count("| first is better |") == 2
    assert "It ties with" in page.text


def test_official_and_stratified_runs_stand_apart_and_it_says_why(page):
    assert "Group 1: synthetic, stratified split, 150 test images" in page.text
    assert "Group 2: synthetic, predefined split, 90 test images" in page.text
    assert "not ranked together, because their kinds of split differ" in page.text


def test_runs_that_are_not_used_are_listed_with_their_reason(report, page):
    assert "10 of 11 runs compared" in page.text
    assert "crashed failed DivergedError: the loss became nan" in page.text
    assert "| crashed | failed | DivergedError: the loss became nan |" in report.markdown.read_text(encoding="utf-8")


def test_the_csv_has_raw_values_and_a_row_per_run(report):
    with open(report.csv, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 11
    by_name = {row["run"]: row for row in rows}
    metrics = json.loads((report.csv.parents[1] / "runs" / "mini_resnet-s1" / "metrics.json").read_text())
    row = by_name["mini_resnet-s1"]
    assert float(row["top1_accuracy"]) == metrics["test"]["top1_accuracy"]
    assert float(row["top1_accuracy_low"]) < float(row["top1_accuracy"]) < float(row["top1_accuracy_high"])
    assert row["optimizer.lr"] == "0.001"
    assert int(row["params_total"]) == 4_000_000
    assert (by_name["official"]["group"], by_name["crashed"]["state"], by_name["crashed"]["model"]) == (
        "2",
        "failed",
        "",
    )


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_models_and_pairs_are_written_unrounded(report):
    runs, models, pairs = read_csv(report.csv), read_csv(report.models), read_csv(report.pairs)
    assert [(row["group"], row["rank"], row["seeds"]) for row in models] == [
        ("1", "1", "3"),
        ("1", "2", "3"),
        ("1", "3", "3"),
        ("2", "1", "1"),
    ]
    cnn = next(row for row in models if row["label"] == "scratch_cnn")
    accuracies = [float(row["top1_accuracy"]) for row in runs if row["model"] == "scratch_cnn"]
    assert float(cnn["top1_accuracy"]) == pytest.approx(statistics.mean(accuracies), abs=1e-12)
    assert float(cnn["top1_accuracy_std"]) == pytest.approx(statistics.stdev(accuracies), abs=1e-12)
    low, high = seed_interval(accuracies)
    assert (float(cnn["top1_accuracy_low"]), float(cnn["top1_accuracy_high"])) == pytest.approx((low, high))
    assert [row["interval_over"] for row in models] == ["seeds", "seeds", "seeds", "images"]
    assert models[3]["top1_accuracy_std"] == ""
    assert [(row["first"], row["second"], row["verdict"]) for row in pairs] == [
        (models[0]["label"], models[1]["label"], "tie"),
        (models[0]["label"], "scratch_cnn", "first is better"),
        (models[1]["label"], "scratch_cnn", "first is better"),
    ]
    for row in pairs:
        assert float(row["difference_low"]) <= float(row["difference"]) <= float(row["difference_high"])
        assert float(row["p_value"]) <= float(row["p_value_holm"])


def test_every_interval_says_what_it_is_over(report, page):
    text = report.markdown.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if re.search(r"\| \d+\.\d % \\\[", line)]
    assert len(rows) == 4
    assert ["over seeds |" in row for row in rows] == [True, True, True, False]
    assert "over images |" in rows[3]
    assert "95 % interval over seeds" in page.text


def test_the_markdown_says_what_the_page_says(report, page):
    """Every sentence and number of the Markdown is in the page, which adds navigation only."""
    text = report.markdown.read_text(encoding="utf-8")
    text = re.sub(r"!\[.*?\]\(figures/.*?\)", "", re.sub(r"\\(.)", r"\1", html.unescape(text)))
    lines = [line.strip("#-| ") for line in text.splitlines()]
    parts = [part.strip(" *:") for line in lines for part in re.split(r" \| |\*\*: ", line) if part.strip(" *:-|")]
    assert len(parts) > 300
    said = "".join(page.text.split())
    assert [part for part in parts if "".join(part.split()) not in said] == []


def test_the_files_are_listed_and_exist(report, page):
    for name, meaning in FILES:
        assert f"{name} {meaning}" in page.text
        assert (report.html.parent / name).exists()


def test_a_new_column_is_one_row(make_run, tmp_path):
    """One in metrics.json and one that is a function of a model; the control has no such row."""
    make_run("only", num_images=40, energy_joules=1234.5)
    rows = (
        Column("energy_joules", NUMBER, "energy_joules", heading="Energy", meaning="Joules.", format="{:.1f} J".format),
        Column("classes", COUNT, model=lambda model: len(model.runs[0].metrics.class_names)),
    )
    for columns, is_there in ((COLUMNS, False), ((*rows, *COLUMNS), True)):
        report = write_report(tmp_path / "runs", tmp_path / "report", columns)
        page = Page(report.html.read_text(encoding="utf-8"))
        for text in (page.text, report.markdown.read_text(encoding="utf-8")):
            assert ("1234.5 J" in text) is is_there
            assert ("Joules." in text) is is_there
        assert (read_csv(report.csv)[0].get("energy_joules") == "1234.5") is is_there
        (model,) = read_csv(report.models)
        assert (model.get("energy_joules"), model.get("classes")) == (("1234.5", "5") if is_there else (None, None))


def test_a_required_column_makes_a_run_without_it_unreadable(make_run, tmp_path):
    make_run("old")
    for required in (False, True):
        column = Column("energy_joules", NUMBER, "energy_joules", required=required)
        if required:
            with pytest.raises(RunError, match="'energy_joules' is missing"):
                write_report(tmp_path / "runs", tmp_path / "report", (column, *COLUMNS))
        else:
            report = write_report(tmp_path / "runs", tmp_path / "report", (column, *COLUMNS))
            assert read_csv(report.csv)[0]["energy_joules"] == ""


def test_every_column_of_the_page_has_a_meaning():
    assert all(column.meaning.endswith(".") for column in COLUMNS if column.heading)
    assert len({column.key for column in COLUMNS}) == len(COLUMNS)


def test_rows_beyond_the_first_can_be_unfolded(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr("deepbloom.report.sections.MAX_ROWS", 2)
    monkeypatch.setattr("deepbloom.report.report.MAX_ILLUSTRATED", 0)
    for lr in (1, 2, 3):
        make_run(f"r{lr}", lr=lr, num_images=40)
    report = write_report(tmp_path / "runs", tmp_path / "report")
    page = Page(report.html.read_text(encoding="utf-8"))
    assert "1 more" in page.text
    assert report.markdown.read_text(encoding="utf-8").count("| from scratch |") == 3


def test_the_figures_of_the_markdown_exist(report):
    linked = re.findall(r"\]\((figures/[^)]+)\)", report.markdown.read_text(encoding="utf-8"))
    assert len(linked) >= 8
    assert {name.split("/")[1] for name in linked} == {path.name for path in report.figures.glob("*.png")}


def test_the_summary_shows_the_table_and_where_the_report_is(report):
    assert "mini_resnet" in str(report)
    assert str(report.html) in str(report)


def test_no_name_can_do_harm(make_run, tmp_path):
    names = (EVIL, 'a"onmouseover="x', "b|c", "[d](javascript:e)", "![f](http://g)", "=HYPERLINK(1)", "$h^")
    evil = {
        "training_type": EVIL,
        "description": "=1+1 | `x` " + EVIL,
        "dataset": "<img src=x onerror=y>",
        "device_name": EVIL,
    }
    for model in ("<b>bold</b>", "m|n"):
        name = f"run {model.replace('/', '')}"
        make_run(name, model=model, class_names=names, num_images=140, versions={"<i>": EVIL}, **evil)
    (tmp_path / "runs" / "=cmd").mkdir()
    (tmp_path / "runs" / "=cmd" / "failed.txt").write_text(f"{EVIL} | x\n")
    report = write_report(tmp_path / "runs", tmp_path / "report")
    page = Page(report.html.read_text(encoding="utf-8"))
    assert not {"b", "i"} & {tag for tag, _ in page.elements}
    kinds = [attributes.get("type") for attributes in page.all("script")]
    assert kinds == ["application/json"] * (len(kinds) - 1) + [None]
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert EVIL in page.text
    markdown = report.markdown.read_text(encoding="utf-8")
    assert not re.search(r"<[a-z/!]", markdown)
    assert not re.search(r"(?<!\\)\]\((?!figures/)", markdown)
    tables = re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)
    assert len(tables) >= 5
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    with open(report.csv, newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not any(cell[:1] in ("=", "+", "@") for cell in cells)
    assert "'=cmd" in cells


def test_a_single_run_makes_a_report_without_comparisons(make_run, tmp_path):
    make_run("only")
    report = write_report(tmp_path / "runs", tmp_path / "report")
    page = Page(report.html.read_text(encoding="utf-8"))
    assert "mini_resnet classifies" in page.text
    assert "Pairs of models" not in page.text


def test_a_report_made_again_is_the_same(make_run, tmp_path):
    make_run("only", num_images=60)
    first = write_report(tmp_path / "runs", tmp_path / "first")
    again = write_report(tmp_path / "runs", tmp_path / "again")
    for name in ("markdown", "csv", "html"):
        assert getattr(first, name).read_bytes() == getattr(again, name).read_bytes()


def test_runs_without_history_or_config_still_make_a_report(make_run, tmp_path):
    for seed in (0, 1):
        folder = make_run(f"s{seed}", seed=seed)
        (folder / "history.csv").unlink()
        (folder / "config.yaml").unlink()
    report = write_report(tmp_path / "runs", tmp_path / "report")
    page = Page(report.html.read_text(encoding="utf-8"))
    assert "Learning curves" not in page.text


def test_very_many_tables_get_figures_for_the_largest_only(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr("deepbloom.report.report.MAX_ILLUSTRATED", 1)
    for split in "abcdef":
        make_run(split, split=split, num_images=20)
    make_run("c again", split="c", seed=1, num_images=20)
    report = write_report(tmp_path / "runs", tmp_path / "report")
    Page(report.html.read_text(encoding="utf-8"))
    assert {path.name[0] for path in report.figures.glob("*.png")} == {"1"}
    first, *others = re.findall(
        r"## Group \d.*?(?=## Group|\Z)", report.markdown.read_text(encoding="utf-8"), re.DOTALL
    )
    assert "| mini_resnet |" in first
    assert "2 ± " in first
    assert len(others) == 5
    assert not any("](figures/" in section for section in others)


def test_different_machines_and_repeated_runs_are_pointed_out(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr("deepbloom.report.report.MAX_ILLUSTRATED", 0)
    make_run("a")
    make_run("b")
    make_run("c", model="scratch_cnn", device_name="Another CPU", git_commit="f" * 40)
    report = write_report(tmp_path / "runs", tmp_path / "report")
    text = report.markdown.read_text(encoding="utf-8")
    assert "2 combinations of machine" in text
    assert "different versions of the software" in text
    assert "the same settings and seed: b." in text


def test_a_folder_without_a_complete_run_is_refused_with_the_reason(make_run, tmp_path):
    folder = make_run("bad")
    (folder / "metrics.json").write_text("{")
    with pytest.raises(RunError, match=r"None of the 1 runs .* damaged"):
        write_report(tmp_path / "runs", tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_the_report_needs_no_torch():
    code = "import sys, deepbloom.report.report; sys.exit('torch' in sys.modules or 'hydra' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.long
def test_a_report_over_500_runs_takes_seconds(write_run, tmp_path):
    for number in range(500):
        model, seed, lr = f"net{number % 10}", number // 10 % 10, 0.1 ** (1 + number // 100)
        write_run(tmp_path / "runs" / f"r{number}", model, seed, 0.6 + 0.03 * (number % 10), num_images=1638, lr=lr)
    started = time.perf_counter()
    report = write_report(tmp_path / "runs", tmp_path / "report")
    seconds = time.perf_counter() - started
    print(f"{seconds:.1f} s")
    assert len(read_csv(report.csv)) == 500
    assert len(read_csv(report.models)) == 50
    assert seconds < 60
