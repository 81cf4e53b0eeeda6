"""The journal of an audit gives back what was noted, whatever happened to the process that wrote it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data.findings import Finding, Journal

FACTS = {"root": "/photos"}


def journal(path, facts=FACTS):
    return Journal(path / "audit.jsonl", facts)


def noted(path):
    reader = journal(path)
    reader.close()
    return list(reader)


def finding(name, **others):
    return Finding(name=name, file_size=7, file_time=9, format="PNG", height=3, width=4, **others)


def test_what_was_noted_is_read_again(tmp_path):
    first = journal(tmp_path)
    seen = finding(b"a", code=2**64 - 1, coefficients=np.arange(-32, 32, dtype=np.int8), grey=True, orientation=6)
    first.append(seen)
    first.append(finding(b"b", reason="an empty file"))
    first.close()
    again = noted(tmp_path)
    assert [each.name for each in again] == [b"a", b"b"] and again[1] == finding(b"b", reason="an empty file")
    assert again[0].code == 2**64 - 1 and (again[0].coefficients == seen.coefficients).all()


@given(name=st.binary(min_size=1, max_size=20))
def test_a_name_may_hold_any_bytes(tmp_path_factory, name):
    path = tmp_path_factory.mktemp("journal")
    one = journal(path)
    one.append(finding(name))
    one.close()
    assert [each.name for each in noted(path)] == [name]


@given(cut=st.integers(1, 10_000))
def test_a_journal_cut_anywhere_loses_the_torn_line_and_takes_more(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("journal")
    one = journal(path)
    names = [b"%d" % index for index in range(6)]
    for name in names:
        one.append(finding(name))
    one.close()
    file = path / "audit.jsonl"
    whole = file.read_bytes()
    kept = whole[: cut % len(whole)]
    file.write_bytes(kept)
    complete = max(kept.count(b"\n") - 1, 0)  # the first is the header's; the last line may lack nothing but its own
    more = journal(path)
    more.append(finding(b"more"))
    more.close()
    found = [each.name for each in noted(path)]
    assert found[-1] == b"more" and found[:-1] in (names[:complete], names[: complete + 1])


def test_a_journal_of_other_facts_starts_over(tmp_path):
    one = journal(tmp_path)
    one.append(finding(b"a"))
    one.close()
    assert journal(tmp_path).good() == {b"a": (7, 9)}
    assert journal(tmp_path, {"root": "/elsewhere"}).good() == {}


def test_the_last_word_on_an_image_counts(tmp_path):
    one = journal(tmp_path)
    for each in (finding(b"a"), finding(b"b", reason="torn"), finding(b"a", reason="torn"), finding(b"b")):
        one.append(each)
    assert one.good() == {b"b": (7, 9)}
    assert one.columns(np.array([b"b", b"a"])).reasons == {1: "torn"}


def test_columns_are_in_the_order_of_the_table_and_know_nothing_of_others(tmp_path):
    one = journal(tmp_path)
    for each in (finding(b"a", grey=True), finding(b"gone", reason="torn"), finding(b"b", orientation=8)):
        one.append(each)
    columns = one.columns(np.array([b"b", b"a"]))
    assert columns.grey.tolist() == [False, True] and columns.orientations.tolist() == [8, 1]
    assert not columns.reasons and columns.sizes.tolist() == [[3, 4], [3, 4]]
