"""The CPU's adapter for SGLang, which asks the server after each weight sync for the log-probs of a fixed text."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

from verl.workers.rollout.utils import ensure_async_iterator

from verl_ext.cpu.sglang_adapter import CPUServerAdapter

RECORD = "WATCHED_WEIGHTS_RECORD"
"""The variable that names the file of the record: a line for each sync."""

SYNCS = "WATCHED_WEIGHTS_SYNCS"
"""The variable that says how many syncs there are; the others are left out."""

_TEXT = list(b"1+1=2, 2+2=4")


class WatchedServerAdapter(CPUServerAdapter):
    """See the module."""

    _syncs = 0

    async def update_weights(self, weights: Any, *args: Any, **kwargs: Any) -> None:
        self._syncs += 1
        if self._syncs <= int(os.environ.get(SYNCS, self._syncs)):
            await super().update_weights(weights, *args, **kwargs)
        else:
            await self._init_server_adapter()
            async for _ in ensure_async_iterator(weights):
                pass
        output = await self.server_actor.generate.remote(
            prompt_ids=_TEXT, sampling_params={"max_tokens": 1, "prompt_logprobs": 0}, request_id=uuid4().hex
        )
        with Path(os.environ[RECORD]).open("a") as record:
            record.write(json.dumps([log_prob for (log_prob,) in output.extra_fields["prompt_logprobs"][:-1]]) + "\n")
