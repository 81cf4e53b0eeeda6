"""A preview shows what training shows, says what was drawn, and warns where the numbers do not fit the network."""

import dataclasses
import html.parser
from pathlib import Path

import gin
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from data import pipeline
from data.augment.colour import rescale, standardise
from data.augment.geometry import flip, rotation
from data.augment.mixing import cutmix, mixup
from data.augment.operation import linear, one_of, sometimes
from data.augment.policies import auto_augment, rand_augment, three_augment
from data.augment.policy import Policy
from data.augment.statistics import samplewise_centre, samplewise_standardise
from data.examples import Record, Stream
from data.order import Order
from trainer import data_setup, launch, preview, preview_material, rendering
from trainer.preview_captions import said, spoken, variants
from trainer.preview_range import Spread, misfit, out_of_range
from trainer.recipe import Recipe
from trainer.reports import preview_page
from trainer.reports.console import Console
from trainer.workdir import Workdir

SIZE = (16, 16)
# What a recipe has to say besides its source.
BARE = [
    "train.image_size = 16",
    "train.model = @model()",
    "model.backbone = 'convnet'",
    "model.weights = None",
    "train.stages = [@head/stage()]",
    "stage.length = (1, 'epochs')",
    "stage.trains = 'head'",
    "stage.schedule = @constant_rate()",
    "constant_rate.peak = 1e-3",
]
READ = []


@gin.configurable
def listed_one_by_one(count: int = 40) -> Stream:
    """Pictures that can only be read in sequence."""

    def records():
        for row in range(count):
            READ.append(row)
            pixels = np.full((20, 20, 3), 5 * row, np.uint8)
            yield Record(name=b"record/%02d" % row, image=pixels, label=row % 2)

    return Stream(records=records, title="records", fingerprint={})


@pytest.fixture
def recipe(small):
    """`recipe("epochs = 2")`: the small one, or that for photos, with further bindings."""

    def parse(*bindings: str, file: str = "small.gin", **replaced) -> Recipe:
        launch.parse_gin([str(Path(small).with_name(file))], bindings)
        return dataclasses.replace(launch.call(Recipe), **replaced)

    return parse


@pytest.fixture
def gather():
    """`with gather(recipe, wanted=["3"]) as material:`"""

    def make(recipe, *, session=None, wanted=("3",), draws=2, stage=None, split="train"):
        return preview_material.material(
            recipe, session, Console(), wanted=wanted, draws=draws, stage=stage, split=split, replicas=1
        )

    return make


@pytest.fixture
def look(gather):
    """`look(recipe, wanted=["3"])` -> material and preview."""

    def make(recipe, *, split="train", **asked):
        with gather(recipe, split=split, **asked) as material:
            return material, preview.make(recipe, material, split=split)

    return make


def numbers_of(operation, uniform):
    """What an operation draws from one row of uniform numbers."""
    row = tf.constant(np.broadcast_to(uniform, (1, operation.count)), tf.float64)
    return {name: float(value[0]) for name, value in operation.numbers(row, SIZE).items()}


# -- pictures ---------------------------------------------------------------------------------------------------------


def trained_pixels(recipe, positions):
    """The pixels before normalisation at these positions of the first stage, out of the stream that training reads."""
    found = launch.call(recipe.source)
    train, order = data_setup.training_part(recipe, found.take(launch.call(recipe.split, found) == 0))
    material_view = pipeline.View(
        image_size=SIZE, fit=recipe.fit, crop=recipe.crop, decoding=data_setup.decoding(recipe), capacity=256
    )
    run = preview_material.plan(recipe.stages, examples=order.epoch_length, batch=recipe.batch_size)
    policy = rendering.training_policy(recipe, recipe.stages[0])
    plain = dataclasses.replace(rendering.rendering(recipe, policy, samples=recipe.samples), colour=None)
    batches = pipeline.train_batches(
        train, order=order, start=0, batch=recipe.batch_size, seed=recipe.seed, policy=policy, view=material_view,
        length=run.steps * recipe.batch_size,
    )  # fmt: skip
    last = max(positions) // recipe.batch_size + 1
    pixels = np.concatenate([plain.images(batch).numpy() for batch in batches.take(last)])
    return [preview.levels(pixels[position]) for position in positions]


def test_draws_are_bit_for_bit_what_training_shows(recipe, look):
    operations = (rotation(degrees=20), mixup(alpha=1.0), flip())
    chosen = recipe(policy=Policy(operations, {"rotation": (0.0, 0.5)}))
    material, found = look(chosen)
    positions = [position for listed in material.positions for position in listed]
    assert len(positions) == 6
    shown = [picture.pixels for row in found.sections[0].rows for picture in row.pictures[1:]]
    expected = trained_pixels(chosen, positions)
    assert all(np.array_equal(one, other) for one, other in zip(shown, expected, strict=True))
    originals = [row.pictures[0].pixels for row in found.sections[0].rows]
    assert np.array_equal(originals, material.examples.pixels[material.shown])


def test_an_operation_that_is_off_or_passed_over_is_not_listed_and_partners_are(recipe, look):
    policy = Policy((sometimes(flip(horizontal=1.0), 0.5), rotation(degrees=9), cutmix()), {"rotation": (0.0, 0.05)})
    material, found = look(recipe(policy=policy), draws=4)
    names = {bytes(name).decode() for name in material.examples.names}
    seen = set()
    for row, listed in zip(found.sections[0].rows, material.positions, strict=True):
        for picture, position in zip(row.pictures[1:], listed, strict=True):
            text = "\n".join(picture.lines)
            assert f"position {position}" in text and "cutmix: top" in text
            assert ("rotation" in text) == (position / material.length < 0.05)
            applied = policy.uniform(0, tf.constant([position], tf.int64), seed=0)[0, 0] < 0.5
            assert ("flip: horizontal 1, vertical 0" in text) == applied
            seen |= {bool(applied)}
            share = [line for line in picture.lines if " % of " in line]
            assert all(line.split(" % of ")[1] in names for line in share)
    assert seen == {True, False}


def test_magnitudes_show_every_member_with_its_numbers(recipe, look):
    choice = one_of(operations=[rotation(degrees=10), sometimes(flip(horizontal=1.0), 0.1)])
    _, found = look(recipe(policy=Policy((choice,))))
    rows = {row.title: [picture.lines for picture in row.pictures] for row in found.sections[1].rows}
    assert [lines[1] for lines in rows["one of: rotation"]] == [f"rotation: degrees {n}" for n in (-10, -5, 0, 5, 10)]
    assert rows["one of: flip"] == [("at 0", "flip: horizontal 1, vertical 0")]
    original = found.sections[0].rows[0].pictures[0].pixels
    flipped, turned = found.sections[1].rows[1].pictures[0].pixels, found.sections[1].rows[0].pictures[2].pixels
    assert np.array_equal(flipped, original[:, ::-1]) and np.array_equal(turned, original)


def test_without_a_policy_plain_images_are_shown_and_it_is_said(recipe, look):
    material, found = look(recipe(policy=Policy()))
    assert [section.title for section in found.sections] == ["Examples"] and "Nothing augments" in found.sections[
        0
    ].note
    assert [len(row.pictures) for row in found.sections[0].rows] == [1, 1, 1]
    pixels = np.float64(material.examples.pixels[material.shown])
    spread = found.spreads["what the network sees"]
    # float32 arithmetic on numbers up to 1.
    np.testing.assert_allclose(spread.mean, ((pixels - 127.5) / 127.5).mean(axis=(0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(spread.std, (pixels / 127.5).std(axis=(0, 1, 2)), atol=1e-6)


def test_other_splits_are_shown_in_the_views_of_an_evaluation(recipe, look):
    _, found = look(recipe("train.evaluation_views = @views()", "views.flip = True"), split="validation")
    for row in found.sections[0].rows:
        plain, mirrored = row.pictures
        assert np.array_equal(mirrored.pixels, plain.pixels[:, ::-1]) and mirrored.lines == ("view 2",)


def test_the_stage_that_augments_is_shown_and_another_on_request(recipe, look):
    chosen = recipe()
    stages = [dataclasses.replace(chosen.stages[0], policy=Policy()), chosen.stages[1]]
    chosen = dataclasses.replace(chosen, stages=stages)
    material, _ = look(chosen)
    assert material.stage.stage.name == "all" and min(map(min, material.positions)) >= 24
    material, found = look(chosen, stage="head")
    assert material.stage.stage.name == "head" and "Nothing augments" in found.sections[0].note


# -- which examples ---------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(examples=st.integers(1, 50), start=st.integers(0, 200), count=st.integers(0, 4), seed=st.integers(0, 9))
def test_showings_are_the_first_positions_of_each_row(examples, start, count, seed):
    order = Order(epoch_length=examples, seed=seed)
    rows = np.unique([0, examples // 2, examples - 1])
    standing = order.rows(tf.range(start, start + (count + 1) * examples, dtype=tf.int64))[1].numpy()
    expected = [(start + np.flatnonzero(standing == row))[:count].tolist() for row in rows]
    assert preview_material.showings(order, rows, start=start, count=count) == expected


def test_only_the_examples_shown_and_their_partners_are_looked_at(recipe, gather, photos, tmp_path, monkeypatch):
    root = photos({f"{name}/{row}.png": (18, 20) for name in ("cat", "dog") for row in range(20)})
    before = sorted(tmp_path.rglob("*"))
    looked = []
    inspect = preview_material.inspect
    monkeypatch.setattr(
        preview_material, "inspect", lambda some, **others: looked.extend(some.names) or inspect(some, **others)
    )
    chosen = recipe(f"data_dir = {str(root)!r}", file="photos.gin", policy=Policy((mixup(),)))
    with gather(chosen, wanted=["cat/3.png", str(root / "dog" / "5.png")], draws=3) as material:
        shown = material.examples.names[material.shown].tolist()
        assert shown == [b"cat/3.png", b"dog/5.png"] and [len(listed) for listed in material.positions] == [3, 3]
        assert set(shown) <= set(looked) == set(material.examples.names) and len(looked) <= 8
    assert sorted(tmp_path.rglob("*")) == before


def test_a_stream_is_read_for_the_examples_shown_and_nothing_is_kept(look, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    READ.clear()
    bindings = [
        "train.source = @listed_one_by_one",
        "train.split = @split_by_hash",
        "split_by_hash.validation = 0.0",
        *BARE,
    ]
    launch.parse_gin([], bindings)
    material, found = look(launch.call(Recipe), wanted=["record/07"])
    assert found.sections[0].rows[0].title == "record/07"
    assert (found.sections[0].rows[0].pictures[0].pixels == 35).all() and len(material.examples) == 1
    # Once for the list, once up to the last one that is wanted.
    assert [*range(40), *range(8)] == READ and not list(tmp_path.glob("onward-preview-*"))


@pytest.mark.parametrize("rule", ["refuse", "drop"])
def test_an_example_that_does_not_decode_is_named(recipe, gather, photos, complaint, capsys, rule):
    root = photos({f"{name}/{row}.png": (18, 20) for name in ("cat", "dog") for row in range(4)})
    (root / "cat" / "1.png").write_bytes(b"no picture")
    chosen = recipe(f"data_dir = {str(root)!r}", "split_by_hash.test = 0.0", "split_by_hash.validation = 0.0",
                    file="photos.gin", bad_images=rule)  # fmt: skip
    if rule == "refuse":
        with complaint("cat/1.png"), gather(chosen, wanted=["8"]):
            pass
    else:
        with gather(chosen, wanted=["8"]) as material:
            assert len(material.shown) == 7
        assert "cat/1.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "culprits"),
    [
        ({"stage": "body"}, ("body", "head, all")),
        ({"wanted": ["nobody.png"]}, ("nobody.png", "synthetic/")),
        ({"wanted": ["0"]}, ("--examples=0",)),
        ({"wanted": ["60"], "draws": 99}, ("99 draws", "1000")),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(recipe, gather, complaint, asked, culprits):
    chosen = recipe()
    with complaint(*culprits), gather(chosen, **asked):
        pass


def test_an_example_of_another_split_is_refused_and_so_is_an_empty_split(recipe, gather, complaint):
    chosen = recipe("split_by_hash.test = 0.0")
    with gather(chosen, split="validation", wanted=["1"]) as material:
        name = material.examples.where(material.shown[0])
    chosen = recipe("split_by_hash.test = 0.0")
    with complaint(name, "--split=validation"), gather(chosen, wanted=[name]):
        pass
    chosen = recipe("split_by_hash.test = 0.0")
    with complaint("test", "train, validation"), gather(chosen, split="test"):
        pass


def test_a_session_shows_its_frozen_table_and_stays_as_it_is(open_session, content, tmp_path, gather):
    folder = tmp_path / "run"
    session = open_session(folder)
    session._set_up()
    session._restore()
    session._record_start()
    before = content(folder)
    launch.parse_gin([str(session.workdir.config)], [])
    names = session.parts["train"].names
    with gather(launch.call(Recipe), session=Workdir.existing(str(folder)), wanted=["4"], draws=0) as material:
        shown = material.examples.names[material.shown]
    assert shown.tolist() == names[[len(names) * at // 8 for at in (1, 3, 5, 7)]].tolist()
    assert material.length == session.plan.steps * 8 and content(folder) == before


# -- words ------------------------------------------------------------------------------------------------------------


def test_numbers_have_at_most_three_digits_and_no_exponents():
    words = [said(number) for number in (0.0, -1e-9, 100.0, 8.3149, -0.012345, 1234567.0, 999.6, 8.47e-6)]
    assert words == ["0", "0", "100", "8.31", "-0.0123", "1,230,000", "1,000", "0.000008"]


def test_only_what_a_choice_chose_is_spoken_of():
    choice = one_of(operations=[rotation(degrees=10), one_of(operations=[flip(horizontal=1.0), rescale(factor=0.5)])])
    assert spoken("one_of", numbers_of(choice, 0.25)) == ["rotation: degrees -5"]
    assert spoken("one_of", numbers_of(choice, 0.5)) == ["rescale"]
    uniform = np.array([0.5, 0.9, 0.2, 0.0, 0.0])
    assert spoken("one_of", numbers_of(choice, uniform)) == ["flip: horizontal 1, vertical 0"]
    assert spoken("flip", numbers_of(sometimes(flip(), 0.3), 0.3)) == []


@settings(max_examples=30)
@given(uniform=st.lists(st.floats(0, 1, exclude_max=True), min_size=5, max_size=5))
def test_layers_speak_of_as_many_operations_as_they_apply(uniform):
    auto, rand = numbers_of(auto_augment(), np.array(uniform)), numbers_of(rand_augment(), np.array(uniform[:4]))
    assert len(spoken("auto_augment", auto)) == sum(auto[f"{layer}.chosen"] >= 0 for layer in (0, 1))
    # The first of the 14 is the identity.
    assert len(spoken("rand_augment", rand)) == sum(rand[f"{layer}.chosen"] > 0 for layer in (0, 1))


def test_variants_do_one_thing_each():
    rand = rand_augment()
    numbers = numbers_of(rand, 0.0)
    found = dict(variants("rand_augment", numbers))
    assert len(found) == 13
    for title, chosen in found.items():
        [line] = spoken("rand_augment", numbers | chosen)
        assert title == f"rand_augment: {line.split(':')[0].replace(' ', '_')}"
    three = three_augment()
    titles = {title for title, _ in variants("three_augment", numbers_of(three, 0.0))}
    assert titles == {f"three_augment: one_of: {name}" for name in ("grey", "solarize", "blur")}
    assert variants("rotation", ["degrees"]) == [("rotation", {})]


# -- the range --------------------------------------------------------------------------------------------------------

SWAPPED = linear("swapped", ranges={}, clip=False, matrix=lambda size: tf.constant(np.eye(4)[[2, 1, 0]][None]))
CIRCLE = [np.float32(np.random.default_rng(0).integers(0, 256, (8, 8, 3)))]


@pytest.mark.parametrize(
    ("operations", "told"),
    [
        ([rescale(factor=1 / 255)], "black for level 127 and white for level 255"),
        ([rescale(factor=1.0)], "does not fit"),
        ([rescale(factor=1 / 255), standardise(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))], "does not fit"),
        ([SWAPPED, standardise(mean=127.5, std=127.5)], "red and blue"),
        ([], "does not fit"),
        ([samplewise_centre()], "the contrast"),
        ([standardise(mean=127.5, std=127.5)], None),
        ([standardise(mean=120.0, std=120.0)], None),
        ([samplewise_centre(), samplewise_standardise()], None),
        (None, None),
    ],
)
def test_a_normalisation_that_does_not_fit_the_backbone_is_told(recipe, operations, told):
    trained = recipe("backbone = 'efficientnet_lite0'", "model.weights = 'imagenet'")
    found = misfit(dataclasses.replace(trained, normalisation=operations), CIRCLE)
    assert (told is None and not found) or (told in found[0] and "efficientnet_lite0" in found[0])


def test_weights_of_ones_own_may_have_been_trained_on_such_pixels_and_none_on_none(recipe):
    normalisation = [rescale(factor=1 / 255)]
    [told] = misfit(dataclasses.replace(recipe("model.weights = '/my/weights.h5'"), normalisation=normalisation), [])
    assert "right only if /my/weights.h5" in told
    assert not misfit(dataclasses.replace(recipe(), normalisation=normalisation), [])


def test_a_policy_that_leaves_0_to_255_is_told_by_its_operation(recipe, look):
    eye = np.eye(3, 4)
    brighter = linear("brighter", ranges={"factor": (1.0, 3.0)}, clip=False,
                      matrix=lambda size, factor: factor[:, None, None] * eye)  # fmt: skip
    _, found = look(recipe(policy=Policy((rotation(degrees=5), brighter))))
    [warning] = found.warnings
    assert "(brighter)" in warning and "0 to 255" in warning
    _, found = look(recipe(policy=Policy((rescale(factor=1 / 255),))))
    [warning] = found.warnings
    assert "what rescales belongs into train.normalisation" in warning


def test_a_policy_within_0_to_255_is_not():
    inside, half = (
        Spread([np.array([[[0, 0, 0], [255.0, 255, 255]]])]),
        Spread([np.array([[[60, 0, 0], [90.0, 90, 90]]])]),
    )
    assert out_of_range(half, inside, {"rotation": inside}) == []


# -- the page ---------------------------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """Its tags, its text and the addresses it refers to."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.addresses = set(), "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def a_preview(side, name):
    picture = preview.Picture(np.full((side, side, 3), 7, np.uint8), ("original", name))
    section = preview.Section("Examples", "note", [preview.Row(name, [picture, picture])])
    spreads = {"what the network sees": Spread([picture.pixels])}
    return preview.Preview(facts=[("data", name)], warnings=[f"beware of {name}"], sections=[section], spreads=spreads)


@pytest.mark.parametrize("side", [1, 16, 224, 700])
def test_page_and_sheet_hold_every_picture_and_names_as_text(side):
    name = '<script>alert(1)</script>"><b>{{ x }} 猫 ' + "long" * 50
    found = a_preview(side, name)
    page = Page(preview_page.render(found))
    assert page.tags.isdisjoint({"script", "b"}) and name in page.text and f"beware of {name}" in page.text
    assert len(page.addresses) == 2 and all(address.startswith("data:image/") for address in page.addresses)
    sheet = preview_page.sheet(found)
    pixels, width = np.asarray(sheet), preview_page._shown_side(found.sections[0].rows[0].pictures[0])
    assert 96 <= width <= 256 and (pixels == 7).all(axis=-1).sum() == 2 * width**2
    # Nothing runs over the border: it is white.
    assert all((border == 255).all() for border in (pixels[:8], pixels[-8:], pixels[:, :8], pixels[:, -8:]))


def test_long_words_are_cut_and_lines_fit():
    lines = preview_page.wrapped("a few words and " + "x" * 300, 12, 150)
    assert "".join(lines).replace(" ", "") == "afewwordsand" + "x" * 300 and len(lines) > 5
