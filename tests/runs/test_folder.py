"""The run folder: one writer, one configuration, and a log without a tail that nobody remembers."""

import errno
import json
import types

import pytest

from jmeta.runs import folder as run_folder
from jmeta.runs import log, options


def write(folder, tiny, split_hash="hash", **changes):
    config = {"is_ours": True, **changes}
    run_folder.write_config(folder, tiny.recipe.name, tiny.options, split_hash, **config)


def test_a_folder_has_one_writer(tmp_path):
    with run_folder.locked(tmp_path), pytest.raises(run_folder.FolderInUseError, match=r"by process \d+"):
        run_folder.locked(tmp_path).__enter__()
    with run_folder.locked(tmp_path):
        pass


def test_a_folder_has_one_configuration(tmp_path, tiny_blobs):
    write(tmp_path, tiny_blobs)
    write(tmp_path, tiny_blobs)
    write(tmp_path, tiny_blobs.trained(mesh="tasks=1"))  # says where, and not what
    with pytest.raises(ValueError, match=r"meta_lr was 0\.001, is 0\.5"):
        write(tmp_path, tiny_blobs.but(meta_lr=0.5))
    with pytest.raises(ValueError, match=r"is_ours was True, is False"):
        write(tmp_path, tiny_blobs, is_ours=False)
    config = run_folder.read_config(tmp_path)
    assert config == ("blobs_protonet", True, options.recorded(tiny_blobs.options))
    assert config.values["meta_lr"] == 0.001


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(ValueError, match="is not a run folder"):
        run_folder.read_config(tmp_path)


def test_a_run_of_an_older_version_is_refused_with_its_format(tmp_path):
    """As it was written before `config.json` had a format: recipes were composed of parts."""
    config = {"recipe": "blobs_protonet", "hash": "0123456789ab", "split_hash": None, "options": {"model": {}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="has format 1, and this version of jmeta reads 2; use the version that made"):
        run_folder.read_config(tmp_path)


@pytest.mark.parametrize("torn", ["", '{"step": 30, "split": "meta_tr', '{"step": 30}\n\x00\x00\x00'])
def test_lines_after_the_restored_step_are_cut(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "split": "meta_train", "loss": 1 / step}) for step in (10, 20, 30)]
    path.write_text("\n".join([*lines, torn]))
    log.cut_metrics(path, 20)
    assert path.read_text() == "\n".join(lines[:2]) + "\n"
    log.cut_metrics(path, 0)
    assert path.read_text() == ""
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_what_is_logged_is_read_again(tmp_path):
    written = log.MetricsLog(tmp_path, last_step=0)
    written.append(1, "meta_train", {"loss": 0.5, "grad_norm": float("inf")})
    written.append(1, "meta_valid", {"accuracy": 0.25})
    written.close()
    assert log.read_metrics(tmp_path, "meta_train") == [
        {"step": 1, "split": "meta_train", "loss": 0.5, "grad_norm": None}
    ]
    assert [line["split"] for line in log.read_metrics(tmp_path)] == ["meta_train", "meta_valid"]


def test_a_run_refuses_classes_that_are_split_otherwise(tmp_path, tiny_blobs):
    """Else a class that was trained on could come to be tested on, after a folder of images was added to the data."""
    write(tmp_path, tiny_blobs)
    with pytest.raises(ValueError, match="begun with other classes"):
        write(tmp_path, tiny_blobs, "other hash")
    with pytest.raises(ValueError, match="begun with other classes"):
        run_folder.check_split(tmp_path, "other hash")


def test_a_line_that_cannot_be_written_is_told_of_when_all_are_there_to_hear(tmp_path, monkeypatch):
    def refuse(text):
        raise OSError(errno.ENOSPC, "No space left on device")

    written = log.MetricsLog(tmp_path, last_step=0)
    with monkeypatch.context() as patch:
        patch.setattr(written, "_file", types.SimpleNamespace(write=refuse))
        written.append(1, "meta_train", {"loss": 1.0})
        written.append(2, "meta_train", {"loss": 1.0})
    with pytest.raises(OSError, match="No space left"):
        written.to_disk()
    with pytest.raises(OSError, match="No space left"):
        written.close()
