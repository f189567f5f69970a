"""Each start-up check: a run that trips it, and what it is told."""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from hydra import compose
from omegaconf import DictConfig, OmegaConf, open_dict
from transformers import PreTrainedTokenizerFast

from multi_attempt.data import make_row, write_parquet
from multi_attempt.toy.tokenizer import CHAT_TEMPLATE, make_tokenizer
from verl_ext.checks import startup
from verl_ext.checks.startup import StartupCheck, StartupError, check

Rows = list[dict[str, Any]]


def make_rows(count: int = 4, **extra_info: Any) -> Rows:
    rows = [make_row(f"{n}+2=?", str(n + 2), data_source="toy", index=n, split="train") for n in range(count)]
    for row in rows:
        row["extra_info"].update(extra_info)
    return rows


@pytest.fixture(scope="module")
def _sound(hydra_configs: None, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> DictConfig:
    folder = tmp_path_factory.mktemp("data")
    write_parquet(make_rows(), folder / "train.parquet")
    write_parquet(make_rows(attempts=5), folder / "validation.parquet")
    overrides = [f"toy={folder}", f"actor_rollout_ref.model.path={model_folder}", "data.train_batch_size=2"]
    overrides += ["trainer.total_epochs=2", "trainer.total_training_steps=4"]
    return compose("multi_attempt_cpu", overrides=overrides)


@pytest.fixture
def run(_sound: DictConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> DictConfig:
    """The config of a run that may start."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for name in ("VERL_USE_EXTERNAL_PLUGINS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return copy.deepcopy(_sound)


def errors(config: DictConfig) -> list[str]:
    """What the check says, one item for each reason."""
    with pytest.raises(StartupError) as failure:
        check(config)
    assert str(failure.value) == "\n".join(f"- {reason}" for reason in failure.value.reasons)
    return failure.value.reasons


def only_error(config: DictConfig) -> str:
    [error] = errors(config)
    return error


def assert_tells(error: str, *parts: str) -> None:
    assert [part for part in parts if part not in error] == [], error


def test_a_sound_run_passes_without_a_warning(run: DictConfig, caplog: pytest.LogCaptureFixture) -> None:
    check(run)
    assert caplog.records == []


# ---- The config ----

FIELDS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    (
        {"actor_rollout_ref.rollout.agent.default_agent_loop": "single_turn_agent"},
        ("actor_rollout_ref.rollout.agent.default_agent_loop = 'single_turn_agent'", "set it to multi_attempt"),
    ),
    ({"reward.reward_manager.name": "naive"}, ("reward.reward_manager.name = 'naive'", "set it to multi_attempt")),
    ({"trainer.v1.trainer_mode": "sync"}, ("trainer.v1.trainer_mode = 'sync'", "set it to multi_attempt")),
    (
        {"trainer.v1.trainer_mode": "colocate_async"},
        ("trainer.v1.trainer_mode = 'colocate_async'", "set it to multi_attempt_colocate_async"),
    ),
    (
        {"trainer.v1.trainer_mode": "separate_async"},
        ("trainer.v1.trainer_mode = 'separate_async' is not supported", "NCCL", "set it to multi_attempt,"),
    ),
    (
        {"actor_rollout_ref.actor.strategy": "megatron"},
        ("actor_rollout_ref.actor.strategy = 'megatron' needs CUDA", "choose engine=fsdp"),
    ),
    (
        {"actor_rollout_ref.rollout.name": "sglang"},
        ("actor_rollout_ref.rollout.name = 'sglang'", "not installed", "choose rollout=vllm"),
    ),
    (
        {"critic.fsdp.ulysses_sequence_parallel_size": 2},
        ("critic.fsdp.ulysses_sequence_parallel_size = 2 does not split the model", "it may be 1"),
    ),
    (
        {"actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes": 0},
        ("update_weights_bucket_megabytes = 0 MB does not hold", "set it to 1 or more"),
    ),
    ({"trainer.use_v1": False}, ("trainer.use_v1 = False", "set it to True")),
    (
        {"actor_rollout_ref.rollout.calculate_log_probs": False},
        ("actor_rollout_ref.rollout.calculate_log_probs = False", "set it to True"),
    ),
    (
        {"algorithm.rollout_correction.bypass_mode": True},
        ("algorithm.rollout_correction.bypass_mode = True", "set it to False"),
    ),
    (
        {"transfer_queue.backend.SimpleStorage.num_data_storage_units": 100},
        ("num_data_storage_units = 100", "32 CPUs", "lower the first to 1, or raise ray_kwargs.ray_init.num_cpus"),
    ),
    (
        {"ray_kwargs.ray_init.num_cpus": 2},
        ("num_data_storage_units = 1", "2 CPUs", "raise ray_kwargs.ray_init.num_cpus"),
    ),
    (
        {"trainer.n_gpus_per_node": 3, "ray_kwargs.ray_init.num_gpus": 2},
        ("trainer.n_gpus_per_node * trainer.nnodes = 3", "num_gpus = 2", "make them equal"),
    ),
    ({"multi_attempt.max_attempts": 0}, ("multi_attempt.max_attempts = 0", "min_attempts <= max_attempts")),
    ({"multi_attempt.prompts": "papre"}, ("prompts = 'papre'", "paper")),
    ({"multi_attempt": None}, ("multi_attempt", "--config-name multi_attempt")),
]


@pytest.mark.parametrize(("changes", "parts"), FIELDS, ids=[", ".join(changes) for changes, _ in FIELDS])
def test_a_wrong_field_is_named_with_its_value_and_the_remedy(
    run: DictConfig, changes: dict[str, Any], parts: tuple[str, ...]
) -> None:
    with open_dict(run):
        for field, value in changes.items():
            OmegaConf.update(run, field, value)
    assert_tells(only_error(run), *parts)


ROLLOUT, ACTOR = "actor_rollout_ref.rollout", "actor_rollout_ref.actor"
COUNT, FINITE = "must be a whole number of at least 1", "must be a finite number"

IMPOSSIBLE: list[tuple[str, list[Any], str]] = [
    ("data.train_batch_size", [0, -1, None, "many", 1.5, True], COUNT),
    ("data.max_response_length", [0, None, "many"], COUNT),
    ("data.val_batch_size", [0, 2.5], COUNT),
    ("trainer.n_gpus_per_node", [0, -1, None, "all"], COUNT),
    ("trainer.nnodes", [0, None], COUNT),
    ("trainer.total_epochs", [0, None], COUNT),
    ("trainer.total_training_steps", [0, -1, "all"], COUNT),
    ("trainer.save_freq", [None, "often"], "must be a whole number"),
    (f"{ROLLOUT}.n", [0, -1, None], COUNT),
    (f"{ROLLOUT}.val_kwargs.n", [0], COUNT),
    (f"{ROLLOUT}.tensor_model_parallel_size", [0], COUNT),
    (f"{ROLLOUT}.max_model_len", [0, -1, "long"], COUNT),
    (f"{ROLLOUT}.temperature", [math.nan, math.inf, -1, 0, None], "must be a number above 0"),
    (f"{ROLLOUT}.top_p", [math.nan, 0, 2], "must be a number above 0"),
    (f"{ACTOR}.ppo_mini_batch_size", [0, None], COUNT),
    (f"{ACTOR}.optim.lr", [math.nan, math.inf, -1, None, "high"], "must be a number of at least 0"),
    ("critic.optim.lr", [math.nan, -1], "must be a number of at least 0"),
    ("algorithm.gamma", [math.nan, math.inf, -1, 2, None], "must be a number from 0 to 1"),
    ("algorithm.lam", [math.nan, math.inf, -1, 2], "must be a number from 0 to 1"),
    (f"{ACTOR}.clip_ratio", [math.nan, -1], "must be a number of at least 0"),
    # Wherever else it stands.
    (f"{ACTOR}.kl_loss_coef", [math.nan, math.inf], FINITE),
    (f"{ACTOR}.optim.betas", [[0.9, math.nan]], FINITE),
    ("algorithm.adv_estimator", ["gea", None, 5], "use gae"),
    ("trainer.default_local_dir", [None, 5, ""], "name the one for checkpoints"),
    *((name, [None], "must be a mapping") for name in ("data", "trainer", "trainer.v1", "algorithm", "critic")),
    *((name, [None], "must be a mapping") for name in ("actor_rollout_ref", ROLLOUT, "ray_kwargs", "reward")),
]


@pytest.mark.parametrize(
    ("field", "value", "wanted"), [(field, value, wanted) for field, values, wanted in IMPOSSIBLE for value in values]
)
def test_a_value_that_no_run_can_have_is_named(run: DictConfig, field: str, value: Any, wanted: str) -> None:
    with open_dict(run):
        OmegaConf.update(run, field, value, merge=False)
    if isinstance(value, list):
        [value], field = value[1:], f"{field}[1]"
    found = [error for error in errors(run) if error.startswith(f"{field} = ")]
    assert [error for error in found if wanted in error and f"{value}" in error], errors(run)


def test_a_value_that_refers_to_nothing_is_named(run: DictConfig) -> None:
    run.actor_rollout_ref.actor.kl_loss_coef = "${nothing}"
    assert_tells(only_error(run), f"{ACTOR}.kl_loss_coef", "nothing", "give it a value")


@pytest.mark.parametrize(("kind", "value"), [("prompt", 10), ("response", 10), ("response", 100_000)])
def test_lengths_of_the_rollout_that_contradict_those_of_the_data_are_named(
    run: DictConfig, kind: str, value: int
) -> None:
    run.actor_rollout_ref.rollout[f"{kind}_length"] = value
    assert_tells(only_error(run), f"{ROLLOUT}.{kind}_length = {value}", f"data.max_{kind}_length = ", "set the second")


def test_a_context_of_more_positions_than_the_model_has_is_named(run: DictConfig) -> None:
    run.actor_rollout_ref.rollout.max_model_len = 10_000_000
    assert_tells(only_error(run), f"{ROLLOUT}.max_model_len = 10000000", "positions of the model", "set it to null")


def test_a_context_that_cannot_hold_the_attempts_is_named(run: DictConfig) -> None:
    # The shortest prompt, "? (5)", and what all attempts need: see below.
    run.actor_rollout_ref.rollout.max_model_len = 24 + 5 * 48 + 4 * 30
    check(run)
    run.actor_rollout_ref.rollout.max_model_len -= 1
    assert_tells(
        only_error(run), f"{ROLLOUT}.max_model_len = 383", "multi_attempt.max_attempts = 5", "raise it to at least 384"
    )


@pytest.mark.parametrize("folder", ["/proc/checkpoints", "{tmp_path}/file", "{tmp_path}/file/below"])
def test_a_folder_for_checkpoints_that_cannot_be_written_is_named(run: DictConfig, tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    run.trainer.default_local_dir = folder.format(tmp_path=tmp_path)
    assert_tells(
        only_error(run), f"trainer.default_local_dir = {run.trainer.default_local_dir}", "nothing can be written"
    )


def test_a_folder_for_checkpoints_is_made_by_the_run_and_not_by_its_check(run: DictConfig, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    run.trainer.default_local_dir = str(tmp_path / "new" / "checkpoints")
    check(run)
    assert sorted(path for path in tmp_path.iterdir() if path.name != "cache") == before


def test_an_unknown_setting_of_the_task_is_named(run: DictConfig) -> None:
    with open_dict(run):
        run.multi_attempt.foo = 1
    assert_tells(only_error(run), "multi_attempt.foo", "config/multi_attempt.yaml")


def test_all_errors_of_the_config_are_told_at_once(run: DictConfig) -> None:
    run.reward.reward_manager.name = "naive"
    run.trainer.use_v1 = False
    run.actor_rollout_ref.rollout.calculate_log_probs = False
    assert len(errors(run)) == 3


def test_a_running_cluster_has_its_own_resources(run: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    run.ray_kwargs.ray_init.num_cpus = 1
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    check(run)


def test_a_cluster_of_the_runs_own_has_this_machines_resources(run: DictConfig) -> None:
    with open_dict(run):
        run.ray_kwargs.ray_init.address = "local"
    run.ray_kwargs.ray_init.num_cpus = 1
    assert_tells(only_error(run), "1 CPUs", "raise ray_kwargs.ray_init.num_cpus")


def test_without_a_number_of_cpus_the_machines_count(run: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    run.ray_kwargs.ray_init.num_cpus = None
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert_tells(only_error(run), "3 CPUs")
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    check(run)


@pytest.mark.parametrize("policy", ["none", "other", "other, another"])
def test_a_policy_that_keeps_verl_from_loading_the_plugin_is_an_error(
    run: DictConfig, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", policy)
    assert_tells(only_error(run), f"VERL_USE_EXTERNAL_PLUGINS = {policy!r}", "unset it, or add multi_attempt")


@pytest.mark.parametrize("policy", ["auto", "AUTO ", "multi_attempt", "other, multi_attempt"])
def test_a_policy_that_lets_verl_load_the_plugin_is_none(
    run: DictConfig, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", policy)
    check(run)


def test_a_package_that_is_not_installed_is_an_error(run: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "entry_points", lambda **_: [])
    assert_tells(only_error(run), "entry point 'multi_attempt'", "pip install")


@pytest.mark.parametrize(
    ("save_freq", "steps", "warns"), [(-1, None, True), (0, 101, True), (-1, 100, False), (1, None, False)]
)
def test_a_long_run_without_checkpoints_is_warned_of(
    run: DictConfig, caplog: pytest.LogCaptureFixture, save_freq: int, steps: int | None, warns: bool
) -> None:
    run.trainer.update(save_freq=save_freq, total_training_steps=steps, total_epochs=1000)
    with caplog.at_level(logging.WARNING, "verl_ext"):
        check(run)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warns
    assert not warns or f"trainer.save_freq = {save_freq}" in caplog.text


@pytest.mark.parametrize(
    ("dtype", "avx512", "amx", "warns"),
    [
        *(("bfloat16", False, False, True), ("bfloat16", True, False, False), ("bfloat16", False, True, False)),
        ("float32", False, False, False),
    ],
)
def test_bfloat16_without_instructions_for_it_is_warned_of(
    run: DictConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    dtype: str,
    avx512: bool,
    amx: bool,
    warns: bool,
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    run.cpu.dtype = dtype
    with caplog.at_level(logging.WARNING, "verl_ext"):
        check(run)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warns
    assert not warns or "cpu.dtype=float32" in caplog.text


# ---- The data ----


@pytest.fixture
def files(run: DictConfig, tmp_path: Path) -> Callable[..., DictConfig]:
    """Puts other rows in place of the training or the validation rows."""

    def put(train: Rows | None = None, validation: Rows | None = None) -> DictConfig:
        for field, rows in (("train_files", train), ("val_files", validation)):
            if rows is not None:
                path = tmp_path / f"{field}.jsonl"
                path.write_text("".join(json.dumps(row) + "\n" for row in rows))
                run.data[field] = str(path)
        return run

    return put


def changed(rows: Rows, number: int, *path: str, value: Any = None) -> Rows:
    """The rows with a field of one of them set; to nothing, unless told otherwise."""
    *outer, last = path
    node = rows[number]
    for key in outer:
        node = node[key]
    node[last] = value
    return rows


def question(text: str) -> Rows:
    return [{"role": "user", "content": text}]


GOLD = ("reward_model", "ground_truth")
INDEX, ATTEMPTS = ("extra_info", "index"), ("extra_info", "attempts")

ATTEMPTS_WITHOUT_END = ("row 1: extra_info.attempts = 100000", "no room for more than", "lower it")


def with_all(**fields: Any) -> Rows:
    """The rows with the same field in each, so that a file has one type of it."""
    return [{**row, **fields} for row in make_rows()]


ROWS: list[tuple[str, Rows, tuple[str, ...]]] = [
    ("no prompt", changed(make_rows(), 1, "prompt", value=[]), ("row 1: prompt = []", "must be one")),
    ("no question", changed(make_rows(), 1, "prompt", value=question(" ")), ("row 1: prompt = ", "no question")),
    ("no answer", changed(make_rows(), 1, *GOLD), ("row 1: reward_model.ground_truth = None", "correct or remove")),
    ("empty answer", changed(make_rows(), 1, *GOLD, value=""), ("row 1: reward_model.ground_truth = ''",)),
    (
        "answer with an open brace",
        changed(make_rows(), 2, *GOLD, value="\\frac{1}{2"),
        ("row 2: reward_model.ground_truth", "could stand in a box"),
    ),
    (
        "tolerance in words",
        changed(make_rows(), 1, "reward_model", "tolerance", value="some"),
        ("row 1: reward_model.tolerance = 'some'", "a positive number"),
    ),
    ("no index", changed(make_rows(), 3, *INDEX), ("row 3: extra_info.index = None", "number the rows")),
    ("index twice", changed(make_rows(), 3, *INDEX, value=1), ("row 3: extra_info.index = 1 is row 1's too",)),
    ("attempts below 1", changed(make_rows(), 0, *ATTEMPTS, value=0), ("row 0: extra_info.attempts = 0", "least 1")),
    ("attempts true", make_rows(attempts=True), ("row 0: extra_info.attempts = True", "whole number")),
    ("attempts without end", changed(make_rows(), 1, *ATTEMPTS, value=100_000), ATTEMPTS_WITHOUT_END),
    ("index true", changed(make_rows(), 0, *INDEX, value=True)[:1] * 2, ("row 0: extra_info.index = True",)),
    (
        "content in parts",
        with_all(prompt=[{"role": "user", "content": [{"type": "text", "text": "1+1=?"}]}]),
        ("row 0: prompt = ", "as a text in its field content"),
    ),
    ("prompt a text", with_all(prompt="1+1=?"), ("row 0: prompt = '1+1=?'", "holds no question")),
    ("prompt a number", with_all(prompt=5), ("row 0: prompt = 5", "holds no question")),
    ("prompt of texts", with_all(prompt=["1+1=?"]), ("row 0: prompt = ['1+1=?']", "holds no question")),
    ("answer a text", with_all(reward_model="2"), ("row 0: reward_model = '2' must be a mapping",)),
    ("answer in a list", with_all(reward_model=["2"]), ("row 0: reward_model = ['2'] must be a mapping",)),
    ("no mapping", with_all(extra_info="2"), ("row 0: extra_info = '2' must be a mapping",)),
    (
        "long question",
        changed(make_rows(), 0, "prompt", value=question("?" * 65)),
        ("row 0: the prompt has", "data.max_prompt_length = 64", "raise the limit or remove the row"),
    ),
]


@pytest.mark.parametrize(("rows", "parts"), [case[1:] for case in ROWS], ids=[case[0] for case in ROWS])
def test_a_training_row_that_no_episode_can_run_on_is_named(
    files: Callable[..., DictConfig], rows: Rows, parts: tuple[str, ...]
) -> None:
    config = files(train=rows)
    assert_tells(errors(config)[0], f"data.train_files = {config.data.train_files}", *parts)


def test_a_validation_row_says_how_many_attempts_it_allows(files: Callable[..., DictConfig]) -> None:
    config = files(validation=changed(make_rows(attempts=5), 2, *ATTEMPTS))
    assert_tells(
        only_error(config), f"data.val_files = {config.data.val_files}", "row 2: extra_info.attempts is missing"
    )


def test_validation_rows_may_share_an_index(files: Callable[..., DictConfig]) -> None:
    # The same question with 1 and with 5 attempts.
    check(files(validation=[*make_rows(attempts=1), *make_rows(attempts=5)]))


@pytest.mark.parametrize("source", [None, "", 5])
def test_a_validation_row_says_what_it_is_measured_as(files: Callable[..., DictConfig], source: Any) -> None:
    rows = [{**row, "data_source": source} for row in make_rows(attempts=5)]
    assert_tells(errors(files(validation=rows))[0], "data.val_files", f"row 0: data_source = {source!r}")


@pytest.mark.parametrize(
    ("source", "split", "sound"),
    [
        *(("test/toy_5_attempts", "test", True), ("toy", "validation", True), ("toy", None, True)),
        *(("toy", "test", False), ("toy_5_attempts", "test", False), ("test/toy", "test", False)),
    ],
)
def test_a_row_of_an_evaluation_set_is_called_so_that_it_has_no_say_in_the_best_model(
    files: Callable[..., DictConfig], source: str, split: str | None, sound: bool
) -> None:
    rows = [{**row, "data_source": source} for row in make_rows(attempts=5, split=split)]
    config = files(validation=rows)
    if sound:
        check(config)
        return
    assert_tells(
        errors(config)[0],
        f"data.val_files = {config.data.val_files}: row 0: data_source = {source!r}",
        "extra_info.split = 'test'",
        "--evaluation-attempts",
    )


def test_of_many_bad_rows_five_are_named_and_the_rest_counted(files: Callable[..., DictConfig]) -> None:
    rows = [changed([row], 0, *GOLD)[0] for row in make_rows(12)]
    found = errors(files(train=rows))
    assert len(found) == 6
    assert_tells(found[0], "row 0: ")
    assert_tells(found[4], "row 4: ")
    assert_tells(found[5], "7 more")


def test_a_prompt_of_exactly_the_limit_passes(
    files: Callable[..., DictConfig], tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = changed(make_rows(), 0, "prompt", value=question("?" * 31))
    length = len(
        tokenizer.apply_chat_template(question("?" * 31 + " (5)"), add_generation_prompt=True, return_dict=False)
    )
    config = files(train=rows)
    config.data.max_prompt_length = length
    check(config)
    config.data.max_prompt_length = length - 1
    assert_tells(only_error(config), f"row 0: the prompt has {length} tokens")


def test_a_prompt_is_measured_with_as_many_attempts_as_its_row_allows(
    files: Callable[..., DictConfig], tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = changed(make_rows(attempts=5), 0, *ATTEMPTS, value=1_000_000)
    rows[0]["prompt"] = question("?" * 31)
    length = len(
        tokenizer.apply_chat_template(question("?" * 31 + " (1000000)"), add_generation_prompt=True, return_dict=False)
    )
    config = files(validation=rows)
    config.data.max_prompt_length = length - 1
    assert_tells(errors(config)[0], f"row 0: the prompt has {length} tokens")


@pytest.mark.parametrize("field", ["train_files", "val_files"])
def test_a_missing_file_is_named(run: DictConfig, field: str) -> None:
    run.data[field] = "/nowhere/rows.parquet"
    assert_tells(
        errors(run)[0], f"data.{field} = /nowhere/rows.parquet", "no such file", "name a Parquet or JSON lines"
    )


def test_a_file_that_is_no_parquet_is_named(run: DictConfig, tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    path.write_text("not Parquet")
    run.data.train_files = str(path)
    assert_tells(errors(run)[0], f"data.train_files = {path}", "name a Parquet or JSON lines file")


def parquet_of(rows: Rows, path: Path) -> bytes:
    write_parquet(rows, path)
    return path.read_bytes()


CONTENTS: list[tuple[str, str, Callable[[Path], bytes]]] = [
    ("half a Parquet file", "rows.parquet", lambda path: parquet_of(make_rows(), path)[:500]),
    ("Parquet without rows", "rows.parquet", lambda path: parquet_of(make_rows(0), path)),
    ("Parquet of another schema", "rows.parquet", lambda path: parquet_of([{"prompt": 1}], path)),
    ("Parquet called JSON", "rows.jsonl", lambda path: parquet_of(make_rows(), path)),
    ("nothing", "rows.jsonl", lambda _: b""),
    ("half a line", "rows.jsonl", lambda _: b"{\n"),
    ("texts", "rows.jsonl", lambda _: b'"a"\n5\n'),
    ("not a number", "rows.jsonl", lambda _: b"NaN\n"),
    ("bytes", "rows.jsonl", lambda _: bytes(range(256))),
    ("another encoding", "rows.jsonl", lambda _: json.dumps(make_rows()[0]).encode() + b"\xff\n"),
    ("types that change", "rows.jsonl", lambda _: b'{"prompt": [{"content": "1"}]}\n{"prompt": 5}\n'),
    ("a kind that verl does not read", "rows.csv", lambda _: b"prompt\n1\n"),
]


@pytest.mark.parametrize("field", ["train_files", "val_files"])
@pytest.mark.parametrize(("name", "content"), [case[1:] for case in CONTENTS], ids=[case[0] for case in CONTENTS])
def test_a_file_that_cannot_be_read_is_named(
    run: DictConfig, tmp_path: Path, field: str, name: str, content: Callable[[Path], bytes]
) -> None:
    path = tmp_path / name
    path.write_bytes(content(path))
    run.data[field] = str(path)
    assert [error for error in errors(run) if f"data.{field} = {path}: " in error or f"{0} training rows" in error]


@pytest.mark.parametrize("field", ["train_files", "val_files"])
@pytest.mark.parametrize("value", [None, "", 5, [], [None], {"a": 1}, "{tmp_path}", ["{tmp_path}"]])
def test_what_is_no_file_is_named(run: DictConfig, tmp_path: Path, field: str, value: Any) -> None:
    as_text = json.dumps(value).replace("{tmp_path}", str(tmp_path))
    OmegaConf.update(run, f"data.{field}", json.loads(as_text), merge=False)
    assert_tells(errors(run)[0], f"data.{field} = {run.data[field]}: ", "name a Parquet or JSON lines file")


def test_a_file_that_was_replaced_by_one_of_the_same_time_is_read_anew(
    files: Callable[..., DictConfig], tmp_path: Path
) -> None:
    """The check and verl after it: both read by way of the cache of ``datasets``."""
    config = files(train=make_rows(5))
    check(config)
    path = Path(config.data.train_files)
    before = path.stat()
    files(train=changed(make_rows(5), 1, "prompt", value=question("7+7=?")))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    check(config)
    rows = datasets.load_dataset("json", data_files=str(path), split="train")
    assert rows[1]["prompt"][0]["content"] == "7+7=?"


def test_several_files_are_checked_as_one(run: DictConfig, tmp_path: Path) -> None:
    more = [make_row("9+9=?", "18", data_source="toy", index=1, split="train")]
    write_parquet(more, tmp_path / "more.parquet")
    run.data.train_files = [run.data.train_files, str(tmp_path / "more.parquet")]
    assert_tells(only_error(run), "row 4: extra_info.index = 1 is row 1's too")


def test_fewer_rows_than_a_step_takes_is_an_error(run: DictConfig) -> None:
    run.data.train_batch_size = 5
    assert_tells(only_error(run), "data.train_batch_size = 5", "4 training rows", "lower it")


def test_more_steps_than_the_epochs_hold_is_an_error(run: DictConfig) -> None:
    run.trainer.update(total_epochs=3, total_training_steps=6)
    check(run)
    run.trainer.total_training_steps = 7
    assert_tells(
        only_error(run),
        "trainer.total_training_steps = 7",
        "trainer.total_epochs = 3",
        "make 6 steps",
        "raise total_epochs",
    )


def test_a_response_that_cannot_hold_all_attempts_is_an_error(run: DictConfig) -> None:
    # Five attempts of 48 tokens and four times "Wrong. (n)", 30 tokens with what the chat template puts around it.
    run.data.max_response_length = 5 * 48 + 4 * 30
    check(run)
    run.data.max_response_length -= 1
    assert_tells(
        only_error(run),
        "data.max_response_length = 359",
        "multi_attempt.max_attempts = 5",
        "multi_attempt.max_tokens_per_attempt = 48",
        "raise it to at least 360",
    )


def apart(run: DictConfig, history: str) -> DictConfig:
    """A run in which each attempt is a sample of its own, with just the room that it may need."""
    run.multi_attempt.history = history
    run.multi_attempt.history_answer_bytes = 16
    # Of a row of the file, whose validation rows allow no more than five attempts.
    opening = max(len(f"{row['prompt'][-1]['content']} (5)") for row in make_rows()) + len("user\n") + 4 + 10
    run.data.max_response_length = 48
    run.data.max_prompt_length = opening
    return run


@pytest.mark.parametrize(
    ("history", "earlier"), [("last", 1 * (48 + 1 + 30)), ("answers", 4 * (len("\\boxed{?}") + 16 + 1 + 30))]
)
def test_a_prompt_that_cannot_hold_what_stays_is_an_error(run: DictConfig, history: str, earlier: int) -> None:
    apart(run, history)
    error = only_error(run)
    assert_tells(error, f"data.max_prompt_length = {run.data.max_prompt_length}", f"multi_attempt.history = {history}")
    needed = int(error.split("raise it to at least ")[1].split(",")[0])
    assert abs(needed - run.data.max_prompt_length - earlier) < 10
    run.data.max_prompt_length = needed
    check(run)
    run.data.max_prompt_length = needed - 1
    assert_tells(only_error(run), f"at least {needed}")


def test_a_context_that_cannot_hold_what_stays_is_an_error(run: DictConfig) -> None:
    apart(run, "last").data.max_prompt_length = 200
    run.actor_rollout_ref.rollout.max_model_len = 128
    assert_tells(only_error(run), "max_model_len = 128", "multi_attempt.history = last", "an attempt of 48")


def test_a_response_that_holds_no_attempt_is_an_error(run: DictConfig) -> None:
    apart(run, "last").data.max_prompt_length = 200
    run.data.max_response_length = 47
    assert_tells(only_error(run), "data.max_response_length = 47", "multi_attempt.max_tokens_per_attempt = 48")


@pytest.mark.parametrize("estimator", ["rloo", "grpo_vectorized", "opo", "multi_attempt_rloo"])
def test_an_estimator_that_would_count_an_episode_several_times_is_an_error(run: DictConfig, estimator: str) -> None:
    run.actor_rollout_ref.rollout.n = 2
    run.algorithm.adv_estimator = estimator
    check(run)
    apart(run, "last").data.max_prompt_length = 200
    assert_tells(only_error(run), f"algorithm.adv_estimator = {estimator}", "history = last", "use gae, grpo or")
    for other in ("gae", "grpo", "reinforce_plus_plus"):
        run.algorithm.adv_estimator = other
        check(run)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("algorithm.filter_groups.enable", True),
        ("distillation.enabled", True),
        ("multi_attempt.reward.per_attempt", "each"),
    ],
)
def test_what_verl_does_by_samples_is_an_error(run: DictConfig, field: str, value: Any) -> None:
    apart(run, "answers").data.max_prompt_length = 400
    check(run)
    OmegaConf.update(run, field, value, force_add=True)
    assert_tells(only_error(run), f"{field} = {value!r}", "multi_attempt.history = answers")


def test_without_a_cap_an_attempt_needs_a_token(run: DictConfig) -> None:
    run.multi_attempt.max_tokens_per_attempt = None
    run.data.max_response_length = 5 * 1 + 4 * 30
    check(run)
    run.data.max_response_length -= 1
    assert_tells(only_error(run), "data.max_response_length = 124", "at least 125")


def test_what_is_said_between_attempts_counts_at_its_longest(run: DictConfig) -> None:
    run.actor_rollout_ref.rollout.max_model_len = 1024
    run.multi_attempt.update(feedback=["verdict", "ruled_out"], ruled_out_length=10)
    # "Wrong." and what the template puts around it is 26; " Not ." is 6, four answers of 10 with ", " between are 46.
    run.data.max_response_length = 5 * 48 + 4 * (26 + 6 + 46)
    check(run)
    run.data.max_response_length -= 1
    assert_tells(only_error(run), "data.max_response_length = 551", "78 tokens of feedback", "at least 552")


def test_a_reflection_counts_with_all_its_tokens(run: DictConfig) -> None:
    run.actor_rollout_ref.rollout.max_model_len = 1024
    run.multi_attempt.reflect = "self"
    run.multi_attempt.reflection.max_tokens = 20
    # "Wrong. (n) Why?" is 35, the reflection 20, the token that closes it, and "Now." 24.
    run.data.max_response_length = 5 * 48 + 4 * (35 + 20 + 24)
    check(run)
    run.data.max_response_length -= 1
    assert_tells(only_error(run), "at least 556", "multi_attempt.reflection.max_tokens = 20")


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (
            {"feedback": ["verdict", "score"]},
            ["feedback = ['verdict', 'score']", "score: the task 'math' cannot say that"],
        ),
        ({"feedback": ["ruled_out"]}, ["none of these parts always says something", "verdict"]),
        ({"feedback": ["verdict", "hint"]}, ["there is no part 'hint'", "ruled_out"]),
        ({"prompts": "BARE", "tell": "blind"}, ["tell = blind", "has no field 'neutral'"]),
        ({"prompts": "BARE", "reflect": "self"}, ["reflect = self", "no fields 'reflect' and 'retry'"]),
        (
            {"prompts": "BARE", "feedback": ["verdict", "attempts_left"]},
            ["no words for attempts_left", "give it the field"],
        ),
    ],
)
def test_what_cannot_be_said_is_an_error(
    run: DictConfig, tmp_path: Path, settings: dict[str, Any], parts: list[str]
) -> None:
    bare = tmp_path / "bare.yaml"
    bare.write_text("{system: '', user: '$question ($n)', verdict: 'Wrong.'}")
    run.multi_attempt.update({name: str(bare) if value == "BARE" else value for name, value in settings.items()})
    assert_tells(only_error(run), *parts)


def test_a_judge_that_does_not_answer_is_an_error(run: DictConfig) -> None:
    run.actor_rollout_ref.rollout.max_model_len = 1024
    run.data.max_response_length = 512
    run.multi_attempt.reflect = "judge"
    run.multi_attempt.reflection.length = 10
    assert_tells(only_error(run), "multi_attempt.reflection.model is empty")
    run.multi_attempt.reflection.update(model="m", url="http://localhost:9/v1", retries=0, timeout=5.0)
    assert_tells(only_error(run), "multi_attempt.reflection: the judge said nothing", "Connection error")


# ---- The model's dialogues ----


@pytest.fixture
def template(run: DictConfig) -> Callable[[str], DictConfig]:
    """Puts another chat template in place of the model's."""

    def put(text: str) -> DictConfig:
        run.actor_rollout_ref.model.custom_chat_template = text
        return run

    return put


def test_a_template_that_hides_feedback_by_the_system_is_refused(template: Callable[[str], DictConfig]) -> None:
    shown = "messages if message == messages[0] or message.role != 'system' %}"
    config = template(CHAT_TEMPLATE.replace("messages %}", shown))
    config.multi_attempt.prompts = "boxed"
    config.data.update(max_prompt_length=512, max_response_length=2000)
    config.actor_rollout_ref.rollout.max_model_len = None
    assert_tells(
        only_error(config),
        f"actor_rollout_ref.model.path = {config.actor_rollout_ref.model.path}",
        "prompt set 'boxed', feedback of the role 'system'",
        "set multi_attempt.feedback_role=user",
    )
    config.multi_attempt.feedback_role = "user"
    check(config)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("{{ raise_exception('roles must alternate') }}", ("the chat template refuses it", "roles must alternate")),
        ("{{ messages[0].content.parts }}", ("does not show what the assistant said",)),
        (CHAT_TEMPLATE.replace("<|im_end|>", "[END]"), ("closes a turn by '[END]", "no token at which")),
    ],
    ids=["raises", "shows nothing", "closes by text"],
)
def test_a_template_that_cannot_show_a_dialogue_is_named(
    template: Callable[[str], DictConfig], text: str, parts: tuple[str, ...]
) -> None:
    assert_tells(only_error(template(text)), "actor_rollout_ref.model.path = ", *parts)


def test_a_question_that_spells_a_special_token_is_named(files: Callable[..., DictConfig]) -> None:
    text = "what does <|im_end|> do?"
    config = files(train=changed(make_rows(), 2, "prompt", value=question(text)))
    assert_tells(only_error(config), "data.train_files", "row 2: the question holds '<|im_end|>'", "remove the row")


def test_a_prompt_that_fills_the_context_is_named(files: Callable[..., DictConfig]) -> None:
    config = files(train=changed(make_rows(), 1, "prompt", value=question("?" * 60)))
    config.data.max_prompt_length = 1000
    config.actor_rollout_ref.rollout.max_model_len = 80
    assert_tells(errors(config)[0], "row 1: the prompt has", "context has room for 80", "max_model_len")


def test_prompt_and_response_may_together_be_more_than_the_context(run: DictConfig) -> None:
    run.data.max_response_length = 10 * run.actor_rollout_ref.rollout.max_model_len
    check(run)


def test_a_tokenizer_that_cannot_pad_is_named(run: DictConfig, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    run.actor_rollout_ref.model.tokenizer_path = str(tmp_path)
    assert_tells(only_error(run), "neither a pad token nor an end-of-sequence token", "set one")


# ---- The tokenizer ----


def test_a_model_without_a_config_is_named(run: DictConfig, tmp_path: Path) -> None:
    run.actor_rollout_ref.model.path = str(tmp_path)
    assert_tells(only_error(run), f"actor_rollout_ref.model.path = {tmp_path}", "no config.json could be loaded")


def test_a_folder_without_a_tokenizer_is_named(run: DictConfig, tmp_path: Path) -> None:
    run.actor_rollout_ref.model.tokenizer_path = str(tmp_path)
    assert_tells(
        only_error(run), f"actor_rollout_ref.model.tokenizer_path = {tmp_path}", "no tokenizer could be loaded"
    )


def test_a_tokenizer_without_a_chat_template_is_an_error(run: DictConfig, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    template, tokenizer.chat_template = tokenizer.chat_template, None
    tokenizer.save_pretrained(tmp_path)
    run.actor_rollout_ref.model.tokenizer_path = str(tmp_path)
    assert_tells(only_error(run), "no chat template", "actor_rollout_ref.model.custom_chat_template")
    run.actor_rollout_ref.model.custom_chat_template = template
    check(run)


# ---- The callback ----


def test_the_callback_ends_the_process_before_it_starts_anything(
    run: DictConfig,
) -> None:
    run.trainer.use_v1 = False
    with pytest.raises(SystemExit) as ended:
        StartupCheck().on_job_start(run)
    assert_tells(str(ended.value.code), "The run cannot start", "- trainer.use_v1 = False")


def test_no_failure_of_the_check_lets_the_run_go_on(run: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra makes a warning of an exception in a callback, and goes on."""

    def fail(_: DictConfig) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(startup, "check", fail)
    with pytest.raises(SystemExit) as ended:
        StartupCheck().on_job_start(run)
    assert_tells(str(ended.value.code), "The run cannot start", "the start-up check itself failed", "KeyError: 'a bug'")


def test_the_callback_lets_a_sound_run_start_on_its_platform(run: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VERL_PLATFORM")
    StartupCheck().on_job_start(run, config_name="multi_attempt_cpu")
    assert os.environ["VERL_PLATFORM"] == "cpu"


def test_on_another_device_the_callback_selects_no_platform(run: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VERL_PLATFORM")
    run.trainer.device = "cuda"
    StartupCheck().on_job_start(run)
    assert "VERL_PLATFORM" not in os.environ


def test_hydra_runs_the_check_before_verl_starts(tmp_path: Path) -> None:
    # The default, in a folder where nobody has made the toy task.
    command = [sys.executable, "-m", "verl.trainer.main_ppo", "--config-name", "multi_attempt_cpu"]
    environment = {name: value for name, value in os.environ.items() if name != "VERL_PLATFORM"}
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 1
    assert_tells(process.stderr, "The run cannot start", "actor_rollout_ref.model.path = outputs/toy/model")
    assert "Traceback" not in process.stderr
