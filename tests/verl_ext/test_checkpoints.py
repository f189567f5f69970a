"""Checkpoints are whole or not there, and a run goes on from a whole one or not at all."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from omegaconf import DictConfig, open_dict

from verl_ext.training.checkpoints import CheckpointError, Checkpoints, checkpoints_of

ALL = {"actor": None, "critic": None}


def write_as_verl(folder: Path, step: int, content: str = "weights") -> None:
    """The files of a checkpoint, and then the record that names it; in place, as verl does."""
    target = folder / f"global_step_{step}"
    for name in ("actor/model.pt", "actor/huggingface/model.safetensors", "critic/model.pt", "data.pt"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(f"{content} {step}")
    (folder / "latest_checkpointed_iteration.txt").write_text(str(step))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


def save(folder: Path, *steps: int, roles: Mapping[str, int | None] = ALL, content: str = "weights") -> Checkpoints:
    checkpoints = Checkpoints(folder, roles)
    for step in steps:
        with checkpoints.saving(step):
            write_as_verl(folder, step, content)
    return checkpoints


def snapshot(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


# ---- Going on ----


def test_an_empty_folder_is_a_new_run(folder: Path) -> None:
    Checkpoints(folder, ALL).check_resume("auto", None)


def test_a_run_goes_on_from_a_whole_checkpoint(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(folder, 1, 2).check_resume("auto", None)
    Checkpoints(folder, ALL).check_resume("resume_path", str(folder / "global_step_1"))
    assert caplog.records == []


def test_a_first_save_that_was_killed_is_no_checkpoint(folder: Path) -> None:
    write_as_verl(folder, 1)
    (folder / "latest_checkpointed_iteration.txt").unlink()
    Checkpoints(folder, ALL).check_resume("auto", None)


def truncate(folder: Path) -> None:
    (folder / "global_step_2" / "critic" / "model.pt").write_text("weig")


def lose_the_data_order(folder: Path) -> None:
    (folder / "global_step_2" / "data.pt").unlink()


def lose_the_record(folder: Path) -> None:
    (folder / "latest_checkpointed_iteration.txt").unlink()


def empty_the_record(folder: Path) -> None:
    (folder / "latest_checkpointed_iteration.txt").write_text("")


def lose_the_last(folder: Path) -> None:
    shutil.rmtree(folder / "global_step_2")


def spoil_the_list(folder: Path) -> None:
    (folder / "global_step_2" / "complete.json").write_text("{")


def lose_list_and_data_order(folder: Path) -> None:
    (folder / "global_step_2" / "complete.json").unlink()
    lose_the_data_order(folder)


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (truncate, "global_step_2/critic/model.pt has 4 bytes, and had 9 when it was saved"),
        (lose_the_data_order, "global_step_2/data.pt is missing"),
        (empty_the_record, "latest_checkpointed_iteration.txt = '' is not a step"),
        (lose_the_last, "names step 2, but there is no folder"),
        (spoil_the_list, "complete.json cannot be read"),
        (lose_list_and_data_order, "global_step_2/data.pt is missing"),
    ],
)
def test_a_damaged_checkpoint_is_refused_with_the_file_and_the_one_before_it(
    folder: Path, damage: Callable[[Path], None], names: str
) -> None:
    checkpoints = save(folder, 1, 2)
    damage(folder)
    with pytest.raises(CheckpointError) as refused:
        checkpoints.check_resume("auto", None)
    assert names in str(refused.value)
    remedy = f"trainer.resume_mode=resume_path trainer.resume_from_path={folder / 'global_step_'}"
    assert remedy in str(refused.value)
    if damage is not empty_the_record:
        assert f"{remedy}1" in str(refused.value)


def test_a_lost_record_is_refused_where_verl_would_start_anew(folder: Path) -> None:
    checkpoints = save(folder, 1, 2)
    lose_the_record(folder)
    with pytest.raises(CheckpointError, match=r"is missing, .*start anew.*resume_from_path=.*global_step_2"):
        checkpoints.check_resume("auto", None)
    checkpoints.check_resume("disable", None)


def test_without_another_whole_checkpoint_the_remedy_is_to_start_anew(folder: Path) -> None:
    checkpoints = save(folder, 2)
    truncate(folder)
    with pytest.raises(CheckpointError, match=r"No other checkpoint there is whole.*trainer\.default_local_dir"):
        checkpoints.check_resume("auto", None)


def test_a_path_to_nowhere_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"trainer\.resume_from_path = .*global_step_7, but there is no folder"):
        save(folder, 1).check_resume("resume_path", str(folder / "global_step_7"))


def test_a_checkpoint_of_plain_verl_is_taken_with_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_as_verl(folder, 3)
    with caplog.at_level(logging.WARNING):
        Checkpoints(folder, ALL).check_resume("auto", None)
    assert "cannot be checked" in caplog.text


# ---- Saving ----


class Killed(BaseException):
    """Nothing of the process runs any more."""


def fail_to_save(checkpoints: Checkpoints, folder: Path, step: int, error: BaseException) -> None:
    """A save that fails as late as it can: at verl's record, which it has opened and thereby emptied."""
    record = folder / "latest_checkpointed_iteration.txt"
    before = record.read_text() if record.is_file() else None
    with checkpoints.saving(step):
        write_as_verl(folder, step, "unfinished weights")
        record.write_text("" if not isinstance(error, Killed) else before or "")
        raise error


def test_a_failed_save_leaves_everything_as_it_was(folder: Path) -> None:
    checkpoints = save(folder, 1)
    before = snapshot(folder)
    with pytest.raises(CheckpointError) as failed:
        fail_to_save(checkpoints, folder, 2, OSError("worker:\n[Errno 28] No space left on device"))
    for part in ("global_step_2 could not be written", "MiB were free", "global_step_1", "[Errno 28] No space left"):
        assert part in str(failed.value)
    assert snapshot(folder) == before
    checkpoints.check_resume("auto", None)


def test_a_first_save_that_fails_leaves_nothing(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="There is none before it"):
        fail_to_save(Checkpoints(folder, ALL), folder, 1, OSError("full"))
    assert snapshot(folder) == {}


def test_a_step_saved_again_does_not_write_through_links_to_the_old_files(folder: Path) -> None:
    checkpoints = save(folder, 1, 2)
    best = folder.parent / "best.safetensors"
    best.hardlink_to(folder / "global_step_2" / "actor" / "huggingface" / "model.safetensors")
    with checkpoints.saving(2):
        write_as_verl(folder, 2, "other weights")
    assert best.read_text() == "weights 2"
    assert (folder / "global_step_2" / "data.pt").read_text() == "other weights 2"
    assert not list(folder.glob("*.former"))


def test_a_finished_checkpoint_survives_a_kill_while_its_step_is_saved_again(folder: Path) -> None:
    save(folder, 1, 2)
    before = snapshot(folder)
    with pytest.raises(Killed):
        fail_to_save(Checkpoints(folder, ALL), folder, 2, Killed())
    Checkpoints(folder, ALL).check_resume("auto", None)
    assert snapshot(folder) == before


def test_a_kill_after_the_new_one_was_finished_keeps_the_new_one(folder: Path) -> None:
    checkpoints = save(folder, 2)
    shutil.copytree(folder / "global_step_2", folder / "global_step_2.former")
    (folder / "global_step_2.former" / "data.pt").write_text("old")
    checkpoints.check_resume("auto", None)
    assert (folder / "global_step_2" / "data.pt").read_text() == "weights 2"
    assert not (folder / "global_step_2.former").exists()


# ---- What is kept ----


@pytest.mark.parametrize("keep", [1, 2])
def test_old_checkpoints_are_deleted_when_the_new_one_is_whole(folder: Path, keep: int) -> None:
    roles: dict[str, int | None] = {"actor": keep, "critic": keep}
    save(folder, 1, 2, roles=roles)
    checkpoints = Checkpoints(folder, roles)  # of a try that resumed: what is old stays old
    with checkpoints.saving(3):
        assert checkpoints.finished() == [1, 2][-keep:]
        write_as_verl(folder, 3)
        assert checkpoints.finished() == [1, 2][-keep:]
    assert checkpoints.finished() == [1, 2, 3][-keep:]
    assert sorted(path.name for path in folder.glob("global_step_*")) == [
        f"global_step_{step}" for step in [1, 2, 3][-keep:]
    ]


def test_all_are_kept_unless_the_config_says_otherwise(folder: Path) -> None:
    assert save(folder, 1, 2, 3).finished() == [1, 2, 3]


def test_models_may_be_kept_in_different_numbers(folder: Path) -> None:
    checkpoints = save(folder, 1, 2, roles={"actor": None, "critic": 1})
    assert (folder / "global_step_1" / "actor" / "model.pt").is_file()
    assert not (folder / "global_step_1" / "critic").exists()
    assert checkpoints.finished() == [2]  # nobody can go on from one that has lost its critic


def test_later_checkpoints_of_a_run_that_went_back_are_left_alone(folder: Path) -> None:
    save(folder, 1, 2, 9)
    roles: dict[str, int | None] = {"actor": 1, "critic": 1}
    assert save(folder, 3, roles=roles).finished() == [3, 9]


@pytest.mark.parametrize(
    ("settings", "critic", "roles"),
    [
        ({"max_actor_ckpt_to_keep": None, "max_critic_ckpt_to_keep": None}, True, {"actor": None, "critic": None}),
        ({"max_actor_ckpt_to_keep": 3, "max_critic_ckpt_to_keep": 2}, True, {"actor": 3, "critic": 2}),
        ({"max_actor_ckpt_to_keep": 3}, False, {"actor": 3}),
        ({"remove_previous_ckpt_in_save": True}, True, {"actor": 1, "critic": 1}),
    ],
)
def test_the_configs_numbers_count(
    config: DictConfig, settings: dict[str, int | None], critic: bool, roles: dict[str, int | None]
) -> None:
    with open_dict(config):
        config.trainer.update(settings)
    assert checkpoints_of(config, critic=critic)._roles == roles


def test_the_list_has_every_file_with_its_size(folder: Path) -> None:
    save(folder, 5)
    listed = json.loads((folder / "global_step_5" / "complete.json").read_text())["files"]
    assert listed == {
        name: len("weights 5")
        for name in ("actor/huggingface/model.safetensors", "actor/model.pt", "critic/model.pt", "data.pt")
    }
