"""The run folder: one writer, one configuration, and a log without a tail that nobody remembers."""

import dataclasses
import errno
import json
import types

import pytest

from experiments import metrics_log, run_folder


def test_a_folder_has_one_writer(tmp_path):
    with run_folder.locked(tmp_path), pytest.raises(run_folder.FolderInUseError, match=r"by process \d+"):
        run_folder.locked(tmp_path).__enter__()
    with run_folder.locked(tmp_path):
        pass


def test_a_folder_has_one_configuration(tmp_path, tiny_blobs):
    run_folder.write_config(tmp_path, "blobs_protonet", tiny_blobs, "hash")
    run_folder.write_config(tmp_path, "blobs_protonet", tiny_blobs, "hash")
    other = dataclasses.replace(tiny_blobs, training=dataclasses.replace(tiny_blobs.training, lr=0.5))
    with pytest.raises(ValueError, match=r"training\.lr was 0\.001, is 0\.5"):
        run_folder.write_config(tmp_path, "blobs_protonet", other, "hash")
    name, options = run_folder.read_config(tmp_path)
    assert (name, options["training"]["lr"]) == ("blobs_protonet", 0.001)


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(ValueError, match="is not a run folder"):
        run_folder.read_config(tmp_path)


def test_the_hash_does_not_depend_on_order():
    assert run_folder.config_hash({"a": 1, "b": [2]}) == run_folder.config_hash({"b": [2], "a": 1})
    assert run_folder.config_hash({"a": 1}) != run_folder.config_hash({"a": 2})


@pytest.mark.parametrize("torn", ["", '{"step": 30, "split": "meta_tr', '{"step": 30}\n\x00\x00\x00'])
def test_lines_after_the_restored_step_are_cut(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "split": "meta_train", "loss": 1 / step}) for step in (10, 20, 30)]
    path.write_text("\n".join([*lines, torn]))
    metrics_log.cut_metrics(path, 20)
    assert path.read_text() == "\n".join(lines[:2]) + "\n"
    metrics_log.cut_metrics(path, 0)
    assert path.read_text() == ""
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_what_is_logged_is_read_again(tmp_path):
    log = metrics_log.MetricsLog(tmp_path, last_step=0)
    log.append(1, "meta_train", {"loss": 0.5, "grad_norm": float("inf")})
    log.append(1, "meta_valid", {"accuracy": 0.25})
    log.close()
    assert metrics_log.read_metrics(tmp_path, "meta_train") == [
        {"step": 1, "split": "meta_train", "loss": 0.5, "grad_norm": None}
    ]
    assert [line["split"] for line in metrics_log.read_metrics(tmp_path)] == ["meta_train", "meta_valid"]


def test_a_run_refuses_classes_that_are_split_otherwise(tmp_path, tiny_blobs):
    """Else a class that was trained on could come to be tested on, after a folder of images was added to the data."""
    run_folder.write_config(tmp_path, "blobs_protonet", tiny_blobs, "hash")
    with pytest.raises(ValueError, match="begun with other classes"):
        run_folder.write_config(tmp_path, "blobs_protonet", tiny_blobs, "other hash")
    with pytest.raises(ValueError, match="begun with other classes"):
        run_folder.check_split(tmp_path, "other hash")


def test_a_line_that_cannot_be_written_is_told_of_when_all_are_there_to_hear(tmp_path, monkeypatch):
    def refuse(text):
        raise OSError(errno.ENOSPC, "No space left on device")

    log = metrics_log.MetricsLog(tmp_path, last_step=0)
    with monkeypatch.context() as patch:
        patch.setattr(log, "_file", types.SimpleNamespace(write=refuse))
        patch.setattr(log, "_board", None)  # whose queue nobody may empty any more, on a full disk
        log.append(1, "meta_train", {"loss": 1.0})
        log.append(2, "meta_train", {"loss": 1.0})
    with pytest.raises(OSError, match="No space left"):
        log.to_disk()
    with pytest.raises(OSError, match="No space left"):
        log.close()
