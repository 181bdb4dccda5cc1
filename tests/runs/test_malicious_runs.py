"""A run folder from someone who means harm: read, refused in one line, and never executed or followed out of."""

import ast
import hashlib
import json
import os
import pickle
import shlex
import shutil

import pytest

from jmeta import checkpoints
from jmeta.runs import folder as run_folder
from jmeta.runs import log

from .commands import MINE, ROOT, jmeta

pytestmark = pytest.mark.usefixtures("nothing_is_painted")

OPTIONS = [
    "blobs_protonet",
    *shlex.split("--widths 8 --training.num-steps 20 --training.tasks-per-step 2 --training.steps-per-dispatch 10"),
    *shlex.split("--training.evaluate-every 10 --training.num-valid-tasks 6 --testing.num-tasks 6"),
    *shlex.split("--testing.tasks-at-once 3 --seeds 2"),
]


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("honest") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jmeta.runs.console.use_compilation_cache", lambda: None)
        assert jmeta("train", *OPTIONS, "--run-dir", folder) == 0
    return folder


@pytest.fixture
def run(honest, tmp_path):
    """A copy of two seeds' runs, to be forged."""
    return shutil.copytree(honest, tmp_path / "run", symlinks=True)


def trained(run):
    return jmeta("train", *OPTIONS, "--run-dir", run)


def judged(run):
    return jmeta("evaluate", run)


def replayed(run):
    return jmeta("replay", run / "seed_0", "--step", 3)


def assert_refused(run, capfd, *messages, by=(judged, replayed, trained)):
    """Every command ends with one line that says why."""
    for command in by:
        capfd.readouterr()
        assert command(run) == 1
        output = capfd.readouterr()
        (line,) = output.err.strip().splitlines()
        assert line.startswith("error: "), line
        assert len(line) < 1500
        assert line.isprintable()
        assert any(message in line for message in messages), line


def forge(run, change):
    """Change `config.json`, and make its hash that of what is in it."""
    path = run / "seed_0" / "config.json"
    config = change(json.loads(path.read_text()))
    if isinstance(config, dict) and "options" in config:
        config["hash"] = hashlib.sha256(json.dumps(config["options"], sort_keys=True).encode()).hexdigest()[:12]
    path.write_text(json.dumps(config))


def with_option(name, value):
    def change(config):
        *groups, last = name.split(".")
        group = config["options"]
        for each in groups:
            group = group[each]
        group[last] = value
        return config

    return change


def test_the_forger_is_good_enough(run):
    forge(run, with_option("meta_lr", 1))  # a whole number is a number
    assert replayed(run) == 0


@pytest.mark.parametrize(
    "name", ["../../x", "os", "recipes", "__init__", "", "configs.blobs_protonet", "blobs_protonet\n", "\x1b[2J"]
)
def test_names_that_are_of_no_recipe(run, capfd, name):
    forge(run, lambda config: {**config, "recipe": name})
    assert_refused(run, capfd, "there is no recipe", by=(judged, replayed))
    assert_refused(run, capfd, "holds a run with other options (recipe was ", by=(trained,))


@pytest.fixture
def trap(tmp_path):
    """A recipe file that leaves a trace when it is run."""
    trace = tmp_path / "executed"
    (tmp_path / "trap.py").write_text(f"import os; os.mkdir({str(trace)!r})\n{MINE.read_text()}")
    yield tmp_path / "trap.py"
    assert not trace.exists()


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_recorded_path_makes_no_file_run(run, capfd, monkeypatch, trap, is_ours):
    """Not as the name of one of ours, nor as that of a user's file, which the command has to name."""
    message = "there is no recipe" if is_ours else "which is not executed unless you say so"
    monkeypatch.chdir(trap.parent)
    for name in (str(trap), str(trap.with_suffix("")), "./trap.py", "trap.py", "trap"):
        forge(run, lambda config, name=name: {**config, "recipe": name, "is_ours": is_ours})
        assert_refused(run, capfd, message, by=(judged, replayed))


def test_a_run_of_ours_is_not_judged_by_a_file_and_that_of_a_file_by_no_other(run, capfd, trap):
    judged_by_trap = lambda run: jmeta("evaluate", run, "--recipe", trap)
    replayed_by_trap = lambda run: jmeta("replay", run / "seed_0", "--step", 3, "--recipe", trap)
    assert_refused(run, capfd, "is a run of blobs_protonet, one of ours", by=(judged_by_trap, replayed_by_trap))
    forge(run, lambda config: {**config, "recipe": "mine", "is_ours": False})
    assert_refused(run, capfd, "is a run of mine, a file", by=(judged_by_trap, replayed_by_trap))


@pytest.mark.parametrize(
    "change",
    [
        *[lambda config, name=name: {**config, "recipe": name} for name in (None, 3, ["os"], {"a": 1}, "x" * 10**6)],
        *[lambda config, options=options: {**config, "options": options} for options in (None, 3, [], "text")],
        lambda config: {**config, "options": nested(50)},
        *[lambda config, flag=flag: {**config, "is_ours": flag} for flag in (None, 1, "true", [])],
        lambda config: {name: config[name] for name in ("format", "recipe", "options", "hash")},
        lambda config: [config],
        lambda config: 10**400,
    ],
)
def test_configurations_of_other_types(run, capfd, change):
    forge(run, change)
    assert_refused(run, capfd, "config.json is damaged (")


def nested(depth):
    return {"a": nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    "text",
    ["", "[" * 200_000, '{"options": ' * 200_000, "9" * 10_000, "\x00", '{"recipe": "é', '"\\ud800"'],
    ids=lambda text: text[:5].encode().hex(),
)
def test_configurations_that_are_hard_to_parse(run, capfd, text):
    (run / "seed_0" / "config.json").write_text(text)
    assert_refused(run, capfd, "config.json is damaged (")


@pytest.mark.parametrize("found", [1, 3, None, "2", [2], "\x1b[2J"])
def test_configurations_of_other_formats(run, capfd, found):
    forge(run, lambda config: {**config, "format": found})
    assert_refused(run, capfd, "and this version of jmeta reads 2")


def test_options_that_are_not_those_of_the_hash(run, capfd):
    path = run / "seed_0" / "config.json"
    path.write_text(path.read_text().replace('"meta_lr": 0.001', '"meta_lr": 0.5'))
    assert_refused(run, capfd, "config.json is damaged (its hash is not that of its options)")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *[
            ("training.num_steps", value, "a whole number")
            for value in ("20", {"a": 1}, [20], None, True, 20.0, 10**30)
        ],
        *[("meta_lr", value, "a number") for value in ("0.1", [0.1], {}, None, False, 10**30)],
        *[
            ("training.batching", value, "'auto' or 'vmap' or 'scan' or a whole number")
            for value in (True, "all", 1.5, [1], {"auto": 1})
        ],
        *[("training.patience", value, "a whole number or null") for value in ("3", [None], {})],
        *[("training.mesh", value, "text or null") for value in (3, ["tasks=1"], "tasks=1\n", "\x1b[2J")],
        *[("widths", value, "a list of a whole number, ...") for value in ("8", 8, [8, "8"], {"0": 8}, [[8]])],
        *[(group, value, "named options") for group in ("testing", "training") for value in (3, [], None, "text")],
    ],
)
def test_options_of_other_types(run, capfd, name, value, expected):
    forge(run, with_option(name, value))
    by = (judged, replayed)  # mesh says where to train, and is not compared
    assert_refused(run, capfd, f"the recorded {name} is ", by=by)
    assert_refused(run, capfd, f"expected {expected}", by=by)
    assert_refused(run, capfd, "holds a run with other options (", by=(trained,))


@pytest.mark.parametrize("name", ["colour", "training.colour", "testing.__class__", "training.\x1b[2J\n"])
def test_options_that_there_are_not(run, capfd, name):
    forge(run, with_option(name, 1))
    assert_refused(run, capfd, "differ in ", by=(judged, replayed))
    assert_refused(run, capfd, "holds a run with other options (", by=(trained,))


def test_parameters_that_are_larger_than_the_memory(run, capfd):
    forge(run, with_option("widths", [10**12]))
    assert_refused(run, capfd, "more than this machine's memory", by=(judged, replayed))


class Touch:
    """Leaves a trace when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["config.json", "over_seeds.json", "metrics.jsonl", "sessions.jsonl", "checkpoints"])
def test_nothing_is_unpickled(run, capfd, tmp_path, name):
    payload, trace = pickle.dumps(Touch(str(tmp_path / "executed"))), tmp_path / "executed"
    if name == "checkpoints":
        for path in (run / "seed_0" / name).rglob("*"):
            if path.is_file():
                path.write_bytes(payload)
        with pytest.warns(RuntimeWarning, match="is damaged and is passed over"):
            assert_refused(run, capfd, "all 2 checkpoints in ", by=(judged, trained))
    elif name == "over_seeds.json":
        (run / name).write_bytes(payload)
        assert_refused(run, capfd, "over_seeds.json is damaged (", by=(judged, trained))
    else:
        (run / "seed_0" / name).write_bytes(payload)
        if name == "config.json":
            assert_refused(run, capfd, "config.json is damaged (")
        else:  # logs that are no longer there to be shown
            assert [command(run) for command in (judged, replayed, trained)] == [0, 0, 0]
    assert not trace.exists()


@pytest.mark.parametrize("content", ["[]", '"text"', "[" * 200_000])
def test_what_seeds_reached_of_other_types(run, capfd, content):
    (run / "over_seeds.json").write_text(content)
    assert_refused(run, capfd, "over_seeds.json is damaged (", by=(judged, trained))


@pytest.mark.parametrize(
    "line",
    [
        "3",
        "[]",
        "null",
        '{"split": "meta_valid"}',
        '{"step": "1", "split": "meta_valid"}',
        '{"step": 1, "split": ["meta_valid"]}',
        '{"step": 1, "split": "meta_valid", "accuracy": "high"}',
        '{"step": 1, "split": "meta_valid", "accuracy": {"a": 1}, "protocol": "x"}',
        '{"step": 1, "split": "meta_valid", "protocol": [1]}',
        '{"a": ' * 200_000,
        "9" * 10_000,
    ],
    ids=lambda line: line[:60],
)
def test_lines_of_logs_of_other_types(run, line):
    for name in ("metrics.jsonl", "sessions.jsonl"):
        (run / "seed_0" / name).write_text(line + "\n")
    assert trained(run) == 0
    assert log.read_metrics(run / "seed_0") == []


@pytest.mark.parametrize(
    "name",
    ["lock", "config.json", "sessions.jsonl", "metrics.jsonl", "checkpoints", "tensorboard", ".config.json.tmp"],
)
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_links_and_pipes_are_not_followed(run, capfd, tmp_path, name, kind):
    path, target = run / "seed_0" / name, tmp_path / "target"
    if path.is_dir():
        shutil.move(path, target)
    else:
        target.write_bytes(path.read_bytes() if path.exists() else b"mine")
        path.unlink(missing_ok=True)
    before = target.read_bytes() if target.is_file() else sorted(target.rglob("*"))
    path.symlink_to(target) if kind == "link" else os.mkfifo(path)
    assert_refused(run, capfd, f"holds {name}, a link or a special file", f"holds {name}", "no config.json in it")
    assert before == (target.read_bytes() if target.is_file() else sorted(target.rglob("*")))


@pytest.mark.parametrize("name", ["over_seeds.json", ".over_seeds.json.lock", ".over_seeds.json.tmp"])
def test_links_beside_the_seeds_are_not_followed(run, capfd, tmp_path, name):
    target = tmp_path / "target"
    target.write_text("mine")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(target)
    assert_refused(run, capfd, "is damaged (it is a link or a special file)", by=(judged, trained))
    assert target.read_text() == "mine"


def test_a_link_in_place_of_a_checkpoint(run, capfd, tmp_path):
    for step in checkpoints.steps(run / "seed_0" / "checkpoints"):
        path = run / "seed_0" / "checkpoints" / f"step_{step:08d}"
        shutil.move(path, tmp_path / path.name)
        path.symlink_to(tmp_path / path.name)
    with pytest.warns(RuntimeWarning, match="a link leads there"):
        assert_refused(run, capfd, "all 2 checkpoints in ", by=(judged, trained))


def test_an_id_in_the_lock_that_a_terminal_would_obey(run, capfd):
    with run_folder.locked(run / "seed_0"):
        (run / "seed_0" / "lock").write_text("\x1b[2J" + "1\n" * 10**6)
        assert_refused(run, capfd, "is being written by process", by=(trained,))


def test_no_array_is_read_by_unpickling():
    """Other ways to execute what is read are the linter's to find; this one is an argument of a harmless function."""
    sources = [path for part in ("jmeta", "experiments", "configs") for path in (ROOT / part).rglob("*.py")]
    assert {str(path): found for path in sources if (found := unpickling(path.read_text()))} == {}
    assert unpickling("np.load(f, allow_pickle=True)\nnp.load(f, allow_pickle=False)\nnp.load(f)") == [1]


def unpickling(source):
    """Lines with an argument `allow_pickle` that is not plainly False."""
    return [
        call.lineno
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False"
    ]


def test_logs_that_claim_to_be_larger_than_the_memory(run):
    """Files that hold nothing, from some place on, and take no room on the disk."""
    for name in ("metrics.jsonl", "sessions.jsonl"):
        os.truncate(run / "seed_0" / name, 1 << 40)
    assert len(log.read_metrics(run / "seed_0")) > 0
    assert trained(run) == 0
