"""Flags say where, gin says what, and whoever mistypes either is told what, where, and what was meant."""

import errno
import re
import resource
import string
import tempfile
from pathlib import Path

import gin
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import UserError
from trainer import launch
from trainer.recipe import Recipe


def read(small, *bindings):
    """As the scripts do before they train: parse, call all that is configurable, look for what is left over."""
    launch.parse_gin([small], bindings)
    recipe = launch.call(Recipe)
    launch.call(recipe.split, launch.call(recipe.source))
    launch.check_consumed()
    return recipe


class TestABinding:
    def test_reaches_the_recipe_and_the_last_one_wins(self, small):
        assert read(small, "batch_size = 4", "train.window = 7", "train.window = 5").batch_size == 4
        assert read(small, "train.window = 7", "train.window = 5").window == 5

    @pytest.mark.parametrize(
        ("binding", "wrong", "meant"),
        [
            ("adamx.beta_1 = 0.8", "adamx", "adam"),
            ("trian.seed = 1", "trian", "train"),
            ("train.batch_sizes = 8", "batch_sizes", "batch_size"),
            ("head/stage.lenght = (1, 'epochs')", "lenght", "length"),
            ("train.optimizer = @adamww()", "adamww", "adamw"),
            ("policy.operations = [@rotatoin()]", "rotatoin", "rotation"),
            ("train.seed = %sed", "%sed", "%seed"),
            ("synthetic.classes = %batch_sise", "%batch_sise", "%batch_size"),
            ("learning_rat = 1e-2", "learning_rat", "learning_rate"),
        ],
    )
    def test_of_an_unknown_name_is_told_the_nearest(self, small, complaint, binding, wrong, meant):
        with complaint(wrong, f"did you mean {meant}"):
            read(small, binding)

    @pytest.mark.parametrize(
        "binding", ["train.windo = 3", "train.window = @nothing()", "trains.window = 3", "train.window = = 3"]
    )
    def test_in_a_file_is_told_file_and_line(self, tmp_path, complaint, binding):
        path = tmp_path / "my recipe.gin"
        path.write_text(f"train.seed = 3\n\n{binding}\n")
        with complaint(f"{path} line 3"):
            launch.parse_gin([str(path)], [])

    @pytest.mark.parametrize("binding", ["train.windo = 3", "train.optimizer = @nothing()", "backbone = convnet"])
    def test_on_the_command_line_is_quoted(self, small, complaint, binding):
        with complaint(f'--gin_param="{binding}"'):
            launch.parse_gin([small], ["train.seed = 1", binding])

    @pytest.mark.parametrize(
        "binding", ["train.seed = ", "train.seed 3", "train.seed = 3 +", "backbone = convnet", "("]
    )
    def test_that_is_no_gin_is_told_how_it_is_written(self, small, complaint, binding):
        with complaint("cannot be read", "name.parameter = value"):
            launch.parse_gin([small], [binding])

    @pytest.mark.parametrize(
        ("binding", "idle"),
        [
            ("sgd.momentum = 0.8", "sgd.momentum"),
            ("elsewhere/stage.length = (1, 'epochs')", "elsewhere/stage.length"),
            ("mlp.hidden = (3,)", "mlp.hidden"),
            ("my_own = 3", "my_own"),
        ],
    )
    def test_that_nothing_uses_is_refused(self, small, complaint, binding, idle):
        with complaint("bindings that nothing uses", idle):
            read(small, binding)

    @pytest.mark.parametrize("macro", [name for name in launch.STANDARD_MACROS if name != "data_dir"])
    def test_of_a_standard_macro_may_be_idle(self, tmp_path, small, macro):
        """Every recipe starts with all of them, needed or not."""
        kept = [line for line in Path(small).read_text().splitlines(keepends=True) if f"%{macro}" not in line]
        path = tmp_path / "without.gin"
        path.write_text("".join(kept) + "constant_rate.peak = 0.1\nall/stage.length = (1, 'epochs')\n")
        read(str(path))

    def test_of_an_own_macro_is_fine_once_something_refers_to_it(self, small):
        assert read(small, "my_own = 3", "train.window = %my_own").window == 3

    def test_without_a_scope_counts_as_used_by_every_scope(self, small):
        read(small, "stage.batchnorm = 'frozen'")

    def test_of_a_duration_may_hold_a_macro(self, small):
        assert read(small, "train.evaluate_every = (%batch_size, 'examples')").evaluate_every == (8, "examples")

    @pytest.mark.parametrize(
        ("bindings", "named"),
        [
            (["train.stages = [@other/stage()]"], ["length", "trains", "schedule", "every parameter bound"]),
            (["head/stage.trains = 3"], ["head/stage.trains", "trains = 3", "last N blocks"]),
            (["head/stage.trains = [3]"], ["head/stage.trains", "trains = [3]", "last N blocks"]),
            (["synthetic.classes = 'four'"], ["synthetic.classes", "'four'", "a whole number"]),
            (["split_by_hash.test = 'half'"], ["split_by_hash", "every parameter bound"]),
        ],
    )
    def test_that_is_missing_or_of_the_wrong_kind_is_named(self, small, complaint, bindings, named):
        with complaint(*named):
            read(small, *bindings)

    def test_of_what_every_run_needs_cannot_be_missing(self, complaint):
        with complaint("'model' and 'stages'"):
            launch.parse_gin([], [])
            launch.call(Recipe)

    @pytest.mark.parametrize(
        "binding",
        [
            "train.batch_size = '8'", "train.batch_size = 0", "train.batch_size = True", "image_size = 16.0",
            "train.window = -1", "train.precision = 'float64'", "train.xla = True",
            "train.reduction = 'ncl'", "train.reduction_bytes = 0", "train.crop = 0", "train.clip_norm = 0",
            "train.seed = None", "train.deterministic = 1", "train.fit = 'crop'", "train.fill = 'mirror'",
            "train.policy = @policy", "train.optimizer = @adam", "train.model = @model", "train.loss = @cross_entropy",
            "train.source = @synthetic()", "train.stages = @head/stage()", "train.stages = None",
            "train.evaluation_batch_size = 0", "train.bad_images = 'ignore'", "model.weights = 3",
            "head/stage.trains = 3", "synthetic.classes = 'four'", "train.seed = -1", "train.clip_norm = True",
            "train.tensorboard = 'yes'",
        ],
    )  # fmt: skip
    def test_of_a_value_that_cannot_be_is_named_with_what_can(self, small, complaint, binding):
        name = {"image_size": "train.image_size"}.get(binding.split(" ")[0], binding.split(" ")[0])
        with complaint(name):
            read(small, binding)

    def test_of_a_whole_table_does_not_flood_the_terminal(self, small):
        with pytest.raises(UserError) as caught:
            read(small, "train.source = @synthetic()")
        assert len(caught.value.found) < 200


@pytest.mark.parametrize("name", ["nowhere.gin", "configs", "/"])
def test_a_recipe_that_is_not_there_is_named(complaint, name):
    with complaint(name, "--gin_file"):
        launch.parse_gin([name], [])


def test_a_recipe_of_the_project_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    launch.parse_gin(["configs/proof.gin"], [])
    assert launch.call(Recipe).window == 5


@pytest.mark.parametrize("line", ["include 'nowhere.gin'", "import nowhere.at_all"])
def test_a_recipe_that_needs_another_names_it(tmp_path, complaint, line):
    (tmp_path / "a.gin").write_text(line)
    with complaint("nowhere"):
        launch.parse_gin([str(tmp_path / "a.gin")], [])


class TestSettings:
    def test_are_what_gin_says_was_used(self, small):
        read(small)
        found = launch.settings(gin.operative_config_str())
        assert found["batch_size"] == "8" and found["train.batch_size"] == "%batch_size"
        assert found["train.optimizer"] == "@adam()" and found["train.source"] == "@synthetic"
        assert found["head/stage.length"] == "(3, 'steps')"
        assert found["train.stages"] == "[@head/stage(), @all/stage()]"

    def test_come_back_from_their_own_text(self, small):
        read(small, "policy.operations = [@rotation(), @flip(), @flip()]")
        text = gin.operative_config_str()
        launch.parse_gin([], text.splitlines() and [text])
        recipe = launch.call(Recipe)
        launch.call(recipe.split, launch.call(recipe.source))
        launch.check_consumed()
        assert launch.settings(gin.operative_config_str()) == launch.settings(text)

    def test_do_not_depend_on_how_lines_are_broken_or_ordered(self):
        one = launch.settings("a = [1,\n  2]\nb/c.d = 'x'\n# note\n")
        assert one == launch.settings('b/c.d = "x"\na = [1, 2]') == {"a": "[1, 2]", "b/c.d": "'x'"}

    def test_that_are_no_gin_are_told_where_they_lie(self, complaint):
        with complaint("not readable", "/runs/photos/config.gin"):
            launch.settings("train.seed = ", where="/runs/photos/config.gin")

    names = st.dictionaries(st.text(string.ascii_lowercase, min_size=1, max_size=3), st.sampled_from("12"), max_size=5)

    @given(names, names)
    def test_differ_where_one_was_changed_added_or_taken_away(self, before, now):
        differing = launch.differences(before, now)
        assert differing == sorted(set(differing)) == launch.differences(now, before)
        for name in before.keys() | now.keys():
            assert (name in differing) == (before.get(name) != now.get(name))


class TestAnError:
    ERROR = UserError("no such thing: [red] cat.jpg", where="--workdir", expected="it", do="make it")
    PLAIN = "error: no such thing: [red] cat.jpg\n  where:    --workdir\n  expected: it\n  do:       make it\n"

    def test_is_plain_where_nobody_sees_colours(self, capsys):
        launch._print_error(self.ERROR)
        assert capsys.readouterr().err == self.PLAIN

    def test_is_coloured_on_a_terminal(self, capsys, monkeypatch):
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
        launch._print_error(self.ERROR)
        seen = capsys.readouterr().err
        assert "\x1b[1;31merror:\x1b[0m no such thing: [red] cat.jpg\n" in seen
        assert re.sub(r"\x1b\[[\d;]*m", "", seen) == self.PLAIN

    def test_has_no_colour_where_nobody_wants_them(self, capsys, monkeypatch):
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("NO_COLOR", "1")
        launch._print_error(self.ERROR)
        assert not re.search(r"\x1b\[[\d;]*3\d", capsys.readouterr().err)


class TestACommand:
    def test_that_does_not_know_a_flag_ends_with_2(self, command):
        started = command("train", "--workdri=x")
        assert started.end() == 2
        assert "workdri" in started.printed and "--help" in started.printed

    def test_takes_no_argument_without_a_flag(self, command):
        started = command("train", "--workdir=x", "epochs = 5", "more")
        assert started.end() == 2
        assert "epochs = 5 more" in started.printed and "--gin_param" in started.printed

    @pytest.mark.parametrize("script", ["train", "evaluate"])
    def test_needs_a_workdir(self, command, script):
        started = command(script)
        assert started.end() == 2
        assert "--workdir is missing" in started.printed

    @pytest.mark.parametrize("script", ["train", "evaluate"])
    def test_explains_itself(self, command, script):
        started = command(script, "--help")
        assert started.end() == 0
        shared = ["--workdir", "--gin_file", "--gin_param", "--devices", "--quiet"]
        own = {"train": ["--allow_change"], "evaluate": ["--split", "--checkpoint", "--output"]}[script]
        for flag in [*shared, *own]:
            assert flag in started.printed
        assert f"python scripts/{script}.py --workdir=" in started.printed

    def test_that_is_quiet_prints_what_was_asked_for_alone(self, command):
        for flags, notes in (([], 1), (["--quiet"], 0)):
            started = command("train", "--backbones", *flags)
            assert started.end() == 0
            assert "resnet50" in started.printed and started.printed.count("Also the path of") == notes

    def test_that_meets_a_full_disk_ends_with_3_and_says_so(self, command, small, tmp_path):
        (tmp_path / "config.gin.part").symlink_to("/dev/full")
        started = command("train", f"--workdir={tmp_path}", f"--gin_file={small}", "--devices=cpu")
        assert started.end() == 3
        assert "the disk is full" in started.printed and "make room" in started.printed

    def test_knows_a_full_disk_of_temporary_files_by_trying(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        assert launch._full_disk() is None
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            full = launch._full_disk()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert full.errno == errno.EFBIG and full.filename.startswith(str(tmp_path))
        assert not list(tmp_path.iterdir())
