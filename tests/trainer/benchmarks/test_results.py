"""What a part found, in files."""

import json

import pandas as pd

from trainer.benchmarks import results
from trainer.benchmarks.results import Result, Table

FIGURES = {
    "title": "a title",
    "rates": {"onward": [1.0, 2.0]},
    "rows": [{"name": "onward", "ratio": 1.5}],
    "host_peak": 7,
}


def document(**changes):
    result = Result(
        figures=FIGURES | changes, tables=[Table("t", ("a|b", "c"), [("1", "x|y")])], sentences=["so it is"]
    )
    return result, result.document("rates", ["scripts/benchmark.py", "--gin_param=a = 1"])


def test_json_holds_figures_environment_command_and_the_hash_of_the_configuration(tmp_path):
    result, found = document()
    results.write(str(tmp_path / "a.json"), result, found)
    read = results.read(str(tmp_path / "a.json"))
    assert read["rates"] == {"onward": [1.0, 2.0]} and read["host_peak"] == 7 and read["sentences"] == ["so it is"]
    assert read["command"] == "scripts/benchmark.py '--gin_param=a = 1'" and len(read["config_hash"]) == 12
    assert read["environment"]["versions"]["tensorflow"] and "scipy" in read["environment"]["optional"]


def test_another_configuration_has_another_hash():
    import gin

    hashes = []
    for value in (1, 2):
        gin.clear_config()
        gin.parse_config(f"some = {value}")
        hashes.append(document()[1]["config_hash"])
    assert hashes[0] != hashes[1]


def test_each_run_adds_a_row_to_a_csv_and_new_figures_add_columns(tmp_path):
    path = str(tmp_path / "all.csv")
    results.write(path, *document())
    results.write(path, *document(device_peak=9))
    table = pd.read_csv(path)
    assert (
        len(table) == 2 and table["host_peak"].tolist() == [7, 7] and table["rows.onward.ratio"].tolist() == [1.5, 1.5]
    )
    assert table["device_peak"].isna().tolist() == [True, False] and "config" not in table
    assert table["environment.cores"].nunique() == 1


def test_markdown_has_the_tables_and_what_follows(tmp_path):
    result, found = document()
    results.write(str(tmp_path / "a.md"), result, found)
    page = (tmp_path / "a.md").read_text()
    assert "| a\\|b | c |\n| --- | --- |\n| 1 | x\\|y |\n" in page and "- so it is\n" in page


def test_files_that_nobody_can_write_are_refused_beforehand(tmp_path, complaint):
    for path in ("figures.txt", str(tmp_path / "none" / "a.json"), "figures"):
        with complaint(f"--output={path}", ".json"):
            results.check([path])
    results.check([str(tmp_path / f"a{kind}") for kind in results.KINDS])


def test_a_document_is_json_without_infinities(tmp_path):
    json.dumps(document()[1], allow_nan=False)
