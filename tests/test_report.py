from prompt_jax.metrics import Scores
from prompt_jax.report import draw_curve, markdown, table, write_report

RESULTS = {
    "majority": {"test": Scores({"accuracy": 0.5}, "accuracy")},
    "tuned": {
        "test": Scores({"accuracy": 0.75}, "accuracy"),
        "ood": Scores({"accuracy": 0.625}, "accuracy"),
    },
}


def test_the_table_is_a_picture():
    assert markdown(table(RESULTS)).splitlines() == [
        "| accuracy | test | ood |",
        "| --- | ---: | ---: |",
        "| majority | 0.500 |  |",
        "| tuned | 0.750 | 0.625 |",
    ]


def test_sets_that_are_judged_otherwise_say_so():
    first = Scores({"macro_f1": 0.4, "accuracy": 0.5}, "accuracy")
    rows = table({"tuned": {"a": first, "b": Scores({"chrf": 12.0}, "chrf")}})
    assert rows == [["score", "a (accuracy)", "b (chrf)"], ["tuned", "0.500", "12.000"]]


def test_curve_and_report(tmp_path):
    rows = [{"step": 0, "validation/accuracy": 0.5}, {"step": 1, "loss": 1.0}]
    draw_curve(tmp_path / "curve.png", rows, "accuracy", ("frozen model", 0.4))
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    write_report(tmp_path / "report.md", title="t", facts={"a": 1}, rows=[["x"], ["y"]], words="w")
    assert (tmp_path / "report.md").read_text().startswith("# t\n\n| x |\n| --- |\n| y |")
