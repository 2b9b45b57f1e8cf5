"""The page as a browser has it, and the command."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import plotly.graph_objects as go
import pytest
import yaml
from browsing import opened
from invoking import invoke
from made_runs import IGNORED, make_run, make_sweep
from PIL import Image
from sweeping import LIMIT

from vae_lab.report import main
from vae_lab.reporting.comparison import metric_pairs, setting_differences
from vae_lab.reporting.html import Report, embedded
from vae_lab.reporting.pictures import encoded, thumbnail
from vae_lab.reporting.run_records import read_run
from vae_lab.reporting.write import write_report

PLOTS = ("rate_distortion", "curves", "parallel", "heat_map")
HOSTILE = "<img src=x onerror=\"document.title='owned'\"></script><script>document.title='owned'</script>"


def report(runs: Path | list[Path], out: Path, metric: str = "test/neg_elbo", mode: str = "min") -> Report:
    """A report as the command writes it."""
    folders = runs if isinstance(runs, list) else [runs]
    return write_report(folders, out, metric=metric, mode=mode, ignored=IGNORED, picture_side=100)


def drawn(document: str) -> list[str]:
    """The plots that hold a drawing."""
    plots = re.split(r'<div id="(\w+)" class="plot', document)[1:]
    return [name for name, content in zip(plots[::2], plots[1::2], strict=True) if 'class="main-svg"' in content]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep's folder with its report in it."""
    folder = make_sweep(tmp_path_factory.mktemp("reported") / "sweep")
    report(folder, folder)
    return folder


def test_the_page_opens_in_a_browser_with_all_plots_and_no_error(sweep: Path) -> None:
    document, console = opened(sweep / "report.html")
    assert console == ""
    assert sorted(drawn(document)) == sorted(PLOTS)
    assert document.count('class="trace scatter') >= 9 + 9 + 8
    assert ">90.50</tspan>" in document
    assert 'data-title="Download plot' in document
    assert 'data-title="Share' not in document
    assert "Best of 4: model.nlatent=2, optimizer.lr=0.01 with test/neg_elbo 90.50" in document


def test_an_error_on_the_page_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<p>script-src</p><script>nothing.there()</script>")
    assert "nothing is not defined" in opened(page)[1]


def test_the_policy_lets_no_other_script_run(sweep: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text((sweep / "report.html").read_text() + "<script>document.title='owned'</script>")
    document, console = opened(page)
    assert "<title>owned" not in document
    assert "Content Security Policy" in console


CLICKS = """<script>
const table = document.querySelector("#trials + div table"), place = document.getElementById("parallel");
const first = () => table.tBodies[0].rows[0].cells[0].textContent;
const button = [...table.querySelectorAll("button")].find((button) => button.textContent === "test/neg_elbo");
button.click(); const rising = first(); button.click(); const falling = first();
highlight(place, {points: [{x: 0, curveNumber: 1}, {x: 0, curveNumber: 2}, {x: 1, curveNumber: 2}]});
document.title = [rising, falling, place.data.filter((line) => line.opacity === 1).length].join(" ");
</script>"""


def test_tables_are_sorted_and_lines_picked(sweep: Path, tmp_path: Path) -> None:
    shutil.copy(sweep / "report.html", tmp_path / "report.html")
    document, _ = opened(tmp_path / "report.html", CLICKS)
    assert "<title>2-0.01-0 8-0.001-1 1</title>" in document


def test_nothing_is_fetched(sweep: Path) -> None:
    text = (sweep / "report.html").read_text()
    assert "default-src 'none'" in text
    markup = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert {target[:5] for target in re.findall(r'(?:src|href|action)="([^"]*)"', markup)} == {"data:", "#run-"}


def test_every_run_has_a_row_a_command_and_pictures(sweep: Path) -> None:
    text = (sweep / "report.html").read_text()
    for name in ("2-0.001-0", "8-0.01-1", "bad"):
        assert f">{name}</a></td>" in text
    assert "python -m vae_lab.train model.nlatent=8 optimizer.lr=1000000.0 seed=0" in text
    assert "the loss is nan" in text
    assert text.count("data:image/jpeg") == 18
    assert 'alt="Samples of bad: model.nlatent=8, optimizer.lr=1e+06"' in text


def test_the_tables_lie_beside_the_page(sweep: Path) -> None:
    rows = (sweep / "report.csv").read_text().splitlines()
    assert len(rows) == 10
    assert rows[0].startswith(
        "trial,status,seed,model.nlatent,optimizer.lr,test/distortion,test/neg_elbo,test/rate,val/neg_elbo"
    )
    assert rows[1].startswith("2-0.01-0,completed,0,2,0.01,80,90,10,89,12.5,3000,,python -m vae_lab.train")
    text = (sweep / "report.md").read_text()
    assert "| 2 | 0.01 | 90.50 | 84.15 to 96.85 | 2 | 2 |" in text
    assert "- bad, diverged: the loss is nan" in text


def test_a_hostile_run_is_shown_letter_by_letter(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    name = HOSTILE.replace("/", "_")
    make_run(runs / name, 90.0, model__nlatent=HOSTILE, optimizer__lr="<b>%{x}</b>")
    make_run(runs / "failed", None, HOSTILE, HOSTILE, model__nlatent=2)
    other = make_run(runs / "other", 91.0, model__nlatent=3)
    (other / "metrics.csv").write_text(f'step,"val/{HOSTILE.replace(chr(34), chr(39))}"\n1,1\n2,2\n3,3\n')
    (other / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([HOSTILE]))
    report(runs, tmp_path / "report.html")
    assert "<img src=x" not in (tmp_path / "report.html").read_text()
    document, console = opened(tmp_path / "report.html")
    assert "<title>Report of runs</title>" in document
    assert "<img src" not in document
    assert not re.search("font-weight: ?bold", re.sub(r"<script.*?</script>", "", document, flags=re.DOTALL))
    assert console == ""
    assert sorted(drawn(document)) == sorted(PLOTS)


def test_a_plot_cannot_end_the_script_that_holds_it() -> None:
    text = str(embedded(go.Figure(layout={"title": {"text": HOSTILE}})))
    assert "<" not in text
    assert json.loads(text)["layout"]["title"]["text"] == HOSTILE


def test_a_report_of_failures_alone_is_made(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", None, "diverged", "nan", model__nlatent=2)
    make_run(tmp_path / "runs" / "b", None, "failed", "no memory", model__nlatent=4)
    shutil.rmtree(tmp_path / "runs" / "b" / ".hydra")
    assert report(tmp_path / "runs", tmp_path).sentences[0] == "No completed run has test/neg_elbo."
    document, console = opened(tmp_path / "report.html")
    assert console == ""
    assert "no memory" in document


def test_two_runs_are_compared(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", 90.0, model__nlatent=2, seed=0)
    b = make_run(tmp_path / "b", 87.5, model__nlatent=8, seed=1)
    report([b, a], tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "First: b. Second: a." in text, "as it was asked for"
    report([a, b], tmp_path)
    text = (tmp_path / "report.html").read_text()
    first, second = read_run(a, "a"), read_run(b, "b")
    assert setting_differences(first, second) == [("model.nlatent", "2", "8"), ("seed", "0", "1")]
    pairs = {pair.key: pair.change for pair in metric_pairs(first, second)}
    assert pairs == {
        "val/neg_elbo": -2.5, "test/neg_elbo": -2.5, "test/distortion": -2.5, "test/rate": 0.0,
        "seconds": 0.0, "images_per_second": 0.0,
    }  # fmt: skip
    assert '<td data-value="-2.5">-2.5</td>' in text
    document, console = opened(tmp_path / "report.html")
    assert (drawn(document), console) == (["rate_distortion", "curves", "parallel"], "")


def test_the_metric_and_its_direction_are_chosen(sweep: Path, tmp_path: Path) -> None:
    assert report(sweep, tmp_path, "test/distortion", "max").trials[0].name == "8-0.001-1"
    with pytest.raises(ValueError, match=r"no completed run has metric=test/neg_elb; choose another, such as"):
        report(sweep, tmp_path, "test/neg_elb")
    with pytest.raises(ValueError, match="mode must be one of min, max, not best"):
        report(sweep, tmp_path, mode="best")


def test_pictures_are_made_small(tmp_path: Path) -> None:
    picture = str(thumbnail(make_run(tmp_path / "run", 1.0) / "figures" / "samples.png", 100, 'a "b"'))
    assert picture.startswith('<img alt="a &#34;b&#34;"')
    content = base64.b64decode(picture.partition("base64,")[2].partition('"')[0])
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (100, 50)


def test_a_picture_that_is_none_is_left_out(tmp_path: Path) -> None:
    whole = make_run(tmp_path / "run", 1.0) / "figures" / "samples.png"
    assert encoded(whole, 100) is not None
    (tmp_path / "link.png").symlink_to(whole)
    (tmp_path / "torn.png").write_bytes(whole.read_bytes()[:100])
    Image.new("RGB", (8, 8)).save(tmp_path / "other.png", format="JPEG")
    Image.new("1", (10_000, 6_000)).save(tmp_path / "huge.png")
    for name in ("link", "torn", "other", "huge", "missing"):
        assert encoded(tmp_path / f"{name}.png", 100) is None, name


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it."""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(cwd)}
    line = [sys.executable, "-m", "vae_lab.report", *arguments]
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd, env=env, timeout=LIMIT, check=False)


def test_the_command_writes_three_files_and_says_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_sweep(tmp_path / "sweep")
    done = command("runs=sweep", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "Best of 4" in done.stdout
    assert re.search(r"9 runs, 1 without a result: /\S+/report\.html$", done.stdout, re.MULTILINE)
    assert {"report.html", "report.csv", "report.md"} <= {path.name for path in (tmp_path / "sweep").iterdir()}
    monkeypatch.chdir(tmp_path)
    assert invoke(main, "report", "runs=[sweep/bad,sweep/2-0.001-0]", monkeypatch=monkeypatch) == 0
    assert "Comparison of the two runs" in (tmp_path / "report" / "report.html").read_text()


@pytest.mark.parametrize(
    "case",
    [
        (["runs=empty"], 3, "contains no run"),
        ([], 2, "runs= must be given: a run folder, a folder of runs"),
        (["runs=[]"], 2, "runs= is empty"),
        (["runs=null"], 2, "runs= is empty"),
    ],
)
def test_bad_input_has_its_exit_code(
    case: tuple[list[str], int, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    arguments, code, sentence = case
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert invoke(main, "report", *arguments, monkeypatch=monkeypatch) == code
    printed = "".join(capfd.readouterr()) or caplog.text
    assert sentence in printed
    assert "Traceback" not in printed
    assert len(printed.splitlines()) == 1


def test_nothing_is_ignored_where_null_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in (0, 1):
        make_run(tmp_path / str(seed), 1.0, seed=seed)
    monkeypatch.chdir(tmp_path)
    assert invoke(main, "report", "runs=.", "ignored=null", monkeypatch=monkeypatch) == 0
    assert "| seed |" in (tmp_path / "report.md").read_text()
    assert invoke(main, "report", "runs=.", "ignored=seed", monkeypatch=monkeypatch) == 0
    assert "| seed |" not in (tmp_path / "report.md").read_text()


def test_where_the_images_lie_tells_no_runs_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, root in enumerate(("/a", "/b")):
        make_run(tmp_path / str(i), 1.0, data={"root": root}, seed=i)
    monkeypatch.chdir(tmp_path)
    assert invoke(main, "report", "runs=.", monkeypatch=monkeypatch) == 0
    assert "data.root" not in (tmp_path / "report.md").read_text()


def make_two_sets(folder: Path) -> None:
    """Write runs on two sets of images, the second one easier, with two seeds each of two sizes."""
    for images, easier in {"a": 0.0, "b": 50.0}.items():
        for nlatent in (2, 8):
            for seed in (0, 1):
                name = f"{images}-{nlatent}-{seed}"
                make_run(
                    folder / name, 100.0 + nlatent + seed - easier, images=images, model__nlatent=nlatent, seed=seed
                )


def test_runs_on_other_images_are_neither_averaged_nor_ranked_together(tmp_path: Path) -> None:
    make_two_sets(tmp_path / "runs")
    found = report(tmp_path / "runs", tmp_path, "val/neg_elbo")
    assert [len(cell.trials) for cell in found.cells] == [2] * 4
    assert [cell.mean for cell in found.cells] == [101.5, 107.5, 51.5, 57.5]
    first, second, caution = found.sentences
    assert first.startswith("On the val images aval: Best of 2: model.nlatent=2, images=")
    assert " with val/neg_elbo 101.50" in first
    assert "test/neg_elbo 102.50; lower is better. Second: " in first
    assert second.startswith("On the val images bval: Best of 2: model.nlatent=2, images=")
    assert caution == "val/neg_elbo was measured on 2 sets of images, which are ranked separately."
    text = (tmp_path / "report.md").read_text()
    assert "| model.nlatent | images | val/neg\\_elbo | 95 % interval | test/neg\\_elbo | seeds | runs |" in text
    assert [trial.name[0] for trial in found.trials] == ["a"] * 4 + ["b"] * 4


def test_a_run_that_failed_before_it_had_images_divides_nothing(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", 90.0, model__nlatent=2)
    run = make_run(tmp_path / "runs" / "b", None, "failed", "no memory", model__nlatent=4)
    (run / "summary.json").write_text('{"status": "failed", "reason": "no memory"}')
    assert report(tmp_path / "runs", tmp_path, "val/neg_elbo").keys == ["model.nlatent"]


def test_the_images_of_training_alone_divide_means_and_not_the_ranking(tmp_path: Path) -> None:
    for i, score in enumerate((90.0, 80.0)):
        run = make_run(tmp_path / "runs" / str(i), score, seed=0)
        summary = json.loads((run / "summary.json").read_text())
        summary["data"]["train_digest"] = f"more{i}"
        (run / "summary.json").write_text(json.dumps(summary))
    found = report(tmp_path / "runs", tmp_path, "val/neg_elbo")
    assert len(found.cells) == 2
    assert found.sentences[0].startswith("Best of 2: images=")
    assert found.sentences[1] == "The runs were trained on different images; no mean is taken over different images."


def test_the_test_set_chooses_no_run_without_a_warning(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(main, "report", f"runs={sweep}", "out=.", monkeypatch=monkeypatch) == 0
    printed = "".join(capfd.readouterr())
    assert "with val/neg_elbo 89.50" in printed
    assert "test/neg_elbo 90.50; lower is better." in printed
    assert "on the test set" not in printed
    assert invoke(main, "report", f"runs={sweep}", "out=.", "metric=test/neg_elbo", monkeypatch=monkeypatch) == 0
    warning = (
        "test/neg_elbo is measured on the test set, and selecting runs by it biases their test results; select by val/"
    )
    assert warning in "".join(capfd.readouterr())
    assert "higher is better" in report(sweep, tmp_path, "val/neg_elbo", "max").sentences[0]


def test_evaluations_by_other_protocols_are_not_ranked_together(tmp_path: Path) -> None:
    metric = "evaluation-val/likelihood.iwae_nll.value"
    common: dict[str, object] = {"split": "val", "device": "a", "run": "x", "chunk": 3}

    def evaluated(name: str, **protocol: object) -> None:
        run = tmp_path / name if (tmp_path / name).exists() else make_run(tmp_path / name, 90.0, seed=0)
        found = {"protocol": common | protocol, "likelihood": {"iwae_nll": {"value": 80.0}}}
        (run / "evaluation-val.json").write_text(json.dumps(found))

    evaluated("A", nsamples=5)
    evaluated("B", nsamples=50)
    runs = [tmp_path / "A", tmp_path / "B"]
    with pytest.raises(
        ValueError,
        match=r"with different settings in A and \(here\) B: nsamples=5 \(here 50\); evaluate both with",
    ):
        report(runs, tmp_path, metric)
    assert report(runs, tmp_path, "val/neg_elbo").sentences
    evaluated("B", nsamples=5, device="b", run="y", chunk=4)
    assert report(runs, tmp_path, metric).cells[0].mean == 80.0


def test_what_utf8_has_no_bytes_for_is_written_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    runs = Path(os.fsdecode(bytes(tmp_path) + b"/runs \xff"))
    make_run(runs / "a", None, "failed", "half \ud800 a sign", model__nlatent=2)
    make_run(runs / os.fsdecode(b"b\xfe"), 91.0, model__nlatent=3)
    report(runs, tmp_path)
    assert "half \\ud800 a sign" in (tmp_path / "report.html").read_text()
    assert "half \\ud800 a sign" in (tmp_path / "report.csv").read_text()
    assert "half" in (tmp_path / "report.md").read_text()
    assert ">b\\udcfe</a>" in (tmp_path / "report.html").read_text()
    monkeypatch.chdir(runs)
    assert invoke(main, "report", "runs=.", monkeypatch=monkeypatch) == 0
    assert "Traceback" not in capfd.readouterr().err


def test_summaries_of_any_status_are_taken(tmp_path: Path) -> None:
    for status in ("failed", "interrupted", "skipped", "timed out"):
        make_run(tmp_path / "runs" / status, None, status, "because")
    found = report(tmp_path / "runs", tmp_path)
    assert {trial.status for trial in found.trials} == {"failed", "interrupted", "skipped", "timed out"}
    assert json.dumps("because") not in (tmp_path / "report.html").read_text()
