"""Hydra configs, found by name: ``python -m verl.trainer.main_ppo --config-name multi_attempt``."""
