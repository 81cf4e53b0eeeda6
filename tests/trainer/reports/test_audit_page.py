"""The page of an audit stands alone and shows names as text, whatever they hold."""

import base64
import html.parser
import io

import numpy as np
import pytest
from PIL import Image

from data import audit, examination
from data.decode import Decoding
from data.examples import Examples, Record, Stream
from data.findings import Journal
from data.inspection import Looker
from trainer.reports import audit_page, pages

LOOKER = Looker(Decoding(short_side=8))


class Page(html.parser.HTMLParser):
    """Its tags, its text and the addresses it refers to."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.pictures = set(), "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.pictures += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def page(tmp_path):
    """The page of a source; every image but the refused is in train."""

    def make(source):
        decoding = Decoding(short_side=8)
        journal = Journal(tmp_path / "audit.jsonl", examination.facts(source, decoding=decoding))
        examples = examination.examine(source, journal, looker=LOOKER)
        split = np.zeros(len(examples), np.int8)
        document = audit.audit(examples, split, journal.columns(examples.names), decoding=decoding)
        journal.close()
        thumbnails = audit_page.thumbnails(document, source, looker=LOOKER)
        return Page(audit_page.render(document, thumbnails=thumbnails)), thumbnails

    return make


def files(root, names, labels, **others):
    return Examples.of(names=names, labels=np.array(labels), root=str(root), **others)


def test_names_that_are_html_or_no_text_are_shown_as_text(tmp_path, page):
    names = [b"<script>alert(1)</script>&amp;.png", b"line\nbreak.png", b"caf\xe9.png"]
    names = [name.replace(b"/", b"|") for name in names]
    for name in names:
        Image.effect_noise((16, 16), 50).save(tmp_path.as_posix().encode() + b"/" + name.replace(b"|", b"_"), "PNG")
    names = [name.replace(b"|", b"_") for name in names]
    refused = [(b'"><img src=x onerror=alert(1)>', "leads to <b>\udcff</b>")]
    copy = names[0] + b".png"
    (tmp_path / copy.decode()).write_bytes((tmp_path / names[0].decode()).read_bytes())
    (tmp_path / "caf\udce9.png").write_bytes(b"no picture")
    (tmp_path / "line\nbreak.png").write_bytes(b"")
    found, _ = page(
        files(tmp_path, [*names, copy], [0, 0, 0, 1], class_names=["<i>cat</i>", "{{ dog }}"], refused=refused)
    )
    assert found.tags.isdisjoint({"script", "b", "i"}) and all(each.startswith("data:") for each in found.pictures)
    for text in ("<script>alert(1)<_script>&amp;.png", "line\\nbreak.png", "caf\\xe9.png", "<i>cat</i>", "{{ dog }}"):
        assert text in found.text
    assert '"><img src=x onerror=alert(1)>' in found.text and "leads to <b>\\xff</b>" in found.text


def pictures(count):
    random = np.random.default_rng(0)
    coarse = [Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8)) for _ in range(count)]
    return [np.asarray(each.resize((400, 200))) for each in coarse]


@pytest.mark.parametrize("kind", ["files", "pixels", "stream"])
def test_what_is_flagged_has_a_small_picture_wherever_the_images_lie(tmp_path, page, kind):
    one, other = pictures(2)
    images = [one, one, np.clip(one, 1, 250), other]
    names = [b"%d.png" % row for row in range(4)]
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(tmp_path / name.decode())
    table = {"names": names, "labels": np.zeros(4), "class_names": ["a", "b"]}
    if kind == "stream":
        records = [Record(name=name, image=(tmp_path / name.decode()).read_bytes(), label=0) for name in names]
        source = Stream(records=lambda: iter(records), title="t", fingerprint={}, class_names=("a", "b"))
    elif kind == "pixels":
        source = Examples.of(**table, pixels=np.stack(images))
    else:
        source = Examples.of(**table, root=str(tmp_path))
    found, thumbnails = page(source)
    assert set(thumbnails) == {b"0.png", b"2.png"} and len(found.pictures) == 3
    with Image.open(io.BytesIO(base64.b64decode(found.pictures[0].split(",")[1]))) as image:
        assert max(image.size) <= pages.THUMBNAIL and image.width > image.height


def test_the_page_stays_small_when_much_is_flagged(tmp_path, page, monkeypatch):
    monkeypatch.setattr(audit_page, "SHOWN", {"duplicates": 2, "near_duplicates": 2, "bad": 2, "misnamed": 2})
    for row, image in enumerate(pictures(5)):
        for copy in range(2):
            Image.fromarray(image).save(tmp_path / f"{row}{copy}.png")
        (tmp_path / f"bad{row}.png").write_bytes(b"")
    names = sorted(path.name.encode() for path in tmp_path.glob("*.png"))
    found, thumbnails = page(files(tmp_path, names, [0] * len(names), class_names=["a", "b"]))
    assert len(thumbnails) == len(found.pictures) == 2 and found.text.count("3 more are not shown") == 2


@pytest.mark.parametrize(
    ("task", "labels", "text"),
    [("multi_label", [[1, 1]], "a 1, b 1"), ("regression", [[1.5, -2.0]], "1.5, 1.5, 1.5")],
)
def test_every_task_has_its_page(tmp_path, page, task, labels, text):
    Image.fromarray(pictures(1)[0]).save(tmp_path / "0.png")
    found, _ = page(files(tmp_path, [b"0.png"], labels, class_names=["a", "b"], task=task))
    assert text in found.text
