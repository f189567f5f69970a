"""The critic on Megatron, for models whose output layer is their input embedding: Qwen2.5-Math-1.5B and Qwen3-4B.

A critic has a value head in the output layer's place, so verl 0.9.1 calls its model untied
(``verl/workers/engine/megatron/transformer_impl.py``, line 304), and mbridge 0.15.1 then expects ``lm_head.weight`` in
every checkpoint of it. Three things follow. The tied model's own files have no such weight, and the critic cannot be
built. Where they are several, the critic's checkpoint has no place for the head: it is left out, with a warning. And a
tied actor in the same process changes the names for all (``mbridge/models/qwen2.py``, line 60: a dictionary of the
class), so that the head is saved over the embedding.

The engine here is verl's own with a bridge that knows where the head is. verl's registry gives it the place: an engine
for a vendor comes before the one for the device. Import this module only where Megatron is installed.
"""

from __future__ import annotations

from typing import Any

import torch
from mbridge.core.safetensor_io import SafeTensorIO
from verl.workers.engine import EngineRegistry
from verl.workers.engine.megatron.transformer_impl import MegatronEngineWithValueHead

_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


class ValueHeadIO(SafeTensorIO):
    """A checkpoint's files, as those of a model with a value head: its weight is ``lm_head.weight``, [1, hidden].

    A checkpoint that has no such weight gives an empty one in its place, which mbridge leaves out when it loads a value
    head (``mbridge/core/bridge.py``, line 210).
    """

    def __init__(self, hf_dir: str) -> None:
        super().__init__(hf_dir)
        self._has_head = _HEAD in self.load_hf_weight_names()
        if self.index and not self._has_head:
            # Which file to save it in. mbridge writes this index beside the files.
            self.index[_HEAD] = self.index[_EMBEDDING]

    def load_some_hf_weight(self, hf_weight_names: list[str]) -> dict[str, torch.Tensor]:
        if self._has_head or _HEAD not in hf_weight_names:
            return super().load_some_hf_weight(hf_weight_names)
        others = [name for name in hf_weight_names if name != _HEAD]
        return {**super().load_some_hf_weight(others), _HEAD: torch.empty(0)}


@EngineRegistry.register(model_type="value_model", backend="megatron", device="cuda", vendor=["nvidia", "amd"])
class TiedValueModelEngine(MegatronEngineWithValueHead):
    """verl's engine of the critic, with a bridge that keeps the value head."""

    def _build_tf_config(self) -> None:
        super()._build_tf_config()
        if self.vanilla_bridge:
            _keep_value_head(self.bridge)


def _keep_value_head(bridge: Any) -> None:
    """Let a bridge of mbridge load and save a value head, whatever other bridges in the process say of the names."""
    bridge._DIRECT_MAPPING = {**bridge._DIRECT_MAPPING, "output_layer.weight": _HEAD}
    bridge._get_safetensor_io = lambda path: ValueHeadIO(bridge._get_actual_hf_path(path))
