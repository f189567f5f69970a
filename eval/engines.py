"""Where answers come from: vLLM in this process, or a server that speaks OpenAI's protocol.

Both give what :func:`multi_attempt.dialogue.play` needs. With token ids in and out (vLLM in process; ``vllm serve`` and
SGLang through ``/v1/completions``) the dialogue is the one of training, token by token. A server that only takes
messages tokenises the whole dialogue anew for each attempt.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from multi_attempt.dialogue import Response, Stream
from multi_attempt.prompts import Message
from multi_attempt.turns import end_of_turn_ids

_SEED_BITS = 31


class EngineLost(RuntimeError):
    """The engine cannot go on; asking it again is of no use."""


@dataclass(frozen=True)
class Request:
    """How an episode is sampled.

    Attributes:
        temperature: 0 is greedy.
        key: a text of its own for each episode, from which its attempts' seeds follow: the same in any order.
    """

    temperature: float
    key: str

    def seed(self, attempt: int) -> int:
        """The seed of an attempt."""
        digest = hashlib.sha256(f"{self.key} {attempt}".encode()).digest()
        return int.from_bytes(digest[:4], "big") >> (32 - _SEED_BITS)


class Engine(Protocol):
    """A way to get answers from models."""

    def open(
        self, model: str, vocabulary: Vocabulary | None, max_model_len: int
    ) -> AbstractAsyncContextManager[Callable[[Request], Stream]]:
        """Start, or connect to, a model that takes so many tokens of prompt and response; gives a stream an episode."""

    def vocabulary(self, model: str) -> Vocabulary | None:
        """The model's tokens; None for a server that takes messages."""


class Vocabulary:
    """A model's tokens, and how a dialogue is put into them.

    Args:
        folder: a folder with tokenizer and config in Hugging Face format, or a hub id.

    Raises:
        ValueError: there is none, or it has no chat template.
    """

    def __init__(self, folder: str) -> None:
        from transformers import AutoConfig, AutoTokenizer
        from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
            config = AutoConfig.from_pretrained(folder)
        except OSError as error:
            raise ValueError(f"{folder!r} holds no tokenizer and config in Hugging Face format: {error}") from error
        if self.tokenizer.chat_template is None:
            raise ValueError(f"{folder!r}: its tokenizer has no chat template, so there is no dialogue")
        self.config: dict[str, Any] = config.to_dict()
        self.builder = create_continuous_token_builder(self.tokenizer, hf_model_type=config.model_type)
        self.end_ids = end_of_turn_ids(self.tokenizer, {})

    def opening(self, messages: list[Message]) -> list[int]:
        """The tokens of the messages before the first attempt."""
        return list(self.builder.build_initial_tokens(messages))


Continue = Callable[[list[int], int, float, int], Awaitable[list[int]]]
"""(token ids, how many more at most, temperature, seed) -> the ids that follow, with the one that ends the turn."""


class TokenStream:
    """A dialogue in token ids, as in training: what was generated stays as it is, and feedback is appended."""

    def __init__(self, vocabulary: Vocabulary, continue_: Continue, request: Request) -> None:
        self._vocabulary, self._continue, self._request = vocabulary, continue_, request
        self._ids: list[int] = []
        self._prompt_length = self._attempts = 0

    @property
    def used(self) -> int:
        """See :class:`multi_attempt.dialogue.Stream`."""
        return len(self._ids) - self._prompt_length

    async def open(self, messages: list[Message]) -> None:
        """See :class:`multi_attempt.dialogue.Stream`."""
        self._ids = self._vocabulary.opening(messages)
        self._prompt_length = len(self._ids)

    async def respond(self, limit: int) -> Response:
        """See :class:`multi_attempt.dialogue.Stream`."""
        request = self._request
        ids = await self._continue(self._ids, limit, request.temperature, request.seed(self._attempts))
        if not ids:
            raise RuntimeError("the engine generated no token, not even one that ends the turn")
        start, vocabulary = self.used, self._vocabulary
        self._attempts += 1
        self._ids = list(vocabulary.builder.merge_assistant_tokens(self._ids, ids).token_ids)
        text = vocabulary.tokenizer.decode(ids, skip_special_tokens=True)
        return Response(text, (start, start + len(ids)), truncated=ids[-1] not in vocabulary.end_ids)

    async def tell(self, answered: list[Message], messages: list[Message], room: int) -> bool:
        """See :class:`multi_attempt.dialogue.Stream`."""
        merged = list(self._vocabulary.builder.merge_context_tokens(answered, messages, self._ids).token_ids)
        if len(merged) - self._prompt_length >= room:
            return False
        self._ids = merged
        return True


@dataclass(frozen=True)
class InProcess:
    """vLLM in this process, on GPU or CPU; one engine for all episodes at once.

    Attributes:
        dtype: of weights and activations.
        options: further arguments of vLLM's engine.
    """

    dtype: str = "auto"
    options: dict[str, Any] = field(default_factory=dict)

    def vocabulary(self, model: str) -> Vocabulary:
        """The model's tokens."""
        return Vocabulary(model)

    @asynccontextmanager
    async def open(
        self, model: str, vocabulary: Vocabulary | None, max_model_len: int
    ) -> AsyncIterator[Callable[[Request], Stream]]:
        """Start the engine, and shut it down at the end: the next model needs its memory."""
        assert vocabulary is not None  # made first: it imports verl, which must know of the platform before vLLM does
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments: dict[str, Any] = {
            "model": model,
            "dtype": self.dtype,
            "max_model_len": max_model_len,
            "enable_prefix_caching": True,
            # vLLM 0.28 (v1/worker/gpu_model_runner.py, line 3825) winds the generator of a request with a seed back
            # where its prompt came in parts, which torch's CPU generator cannot, and the engine dies of it.
            **({"enable_chunked_prefill": False} if current_platform.is_cpu() else {}),
            **self.options,
        }
        engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        try:
            yield lambda request: TokenStream(vocabulary, _continued_by_vllm(engine, vocabulary), request)
        finally:
            engine.shutdown()


def _continued_by_vllm(engine: Any, vocabulary: Vocabulary) -> Continue:
    from vllm import SamplingParams, TokensPrompt
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.exceptions import EngineDeadError

    async def continue_(ids: list[int], limit: int, temperature: float, seed: int) -> list[int]:
        parameters = SamplingParams(
            temperature=temperature,
            seed=seed if temperature else None,
            max_tokens=limit,
            stop_token_ids=sorted(vocabulary.end_ids),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        try:
            async for output in engine.generate(TokensPrompt(prompt_token_ids=ids), parameters, uuid4().hex):
                return list(output.outputs[0].token_ids)
        except EngineDeadError as error:
            raise EngineLost(f"vLLM's engine died: {error}") from error
        raise EngineLost("vLLM's engine ended a request without an output")

    return continue_


@dataclass(frozen=True)
class Server:
    """A server that speaks OpenAI's protocol. Its key is read from ``OPENAI_API_KEY``, where it needs one.

    Requests that fail to connect, time out, or are answered 408, 409, 429 or 5xx are repeated with growing pauses by
    the ``openai`` client, which keeps to ``Retry-After``.

    Attributes:
        url: the base address, as in ``http://localhost:8000/v1``.
        tokenizer: folder or hub id of the model's tokenizer; empty for the model's own name.
        messages: send messages to ``/v1/chat/completions``, for servers that take no token ids.
        timeout: seconds for one attempt.
        retries: how often a request is repeated.
    """

    url: str
    tokenizer: str = ""
    messages: bool = False
    timeout: float = 600.0
    retries: int = 8

    def vocabulary(self, model: str) -> Vocabulary | None:
        """The model's tokens; None where messages are sent."""
        return None if self.messages else Vocabulary(self.tokenizer or model)

    @asynccontextmanager
    async def open(
        self, model: str, vocabulary: Vocabulary | None, max_model_len: int
    ) -> AsyncIterator[Callable[[Request], Stream]]:
        """Connect, and check that the server has the model."""
        from openai import AsyncOpenAI, OpenAIError

        key = os.environ.get("OPENAI_API_KEY", "none")
        async with AsyncOpenAI(
            base_url=self.url, api_key=key, timeout=self.timeout, max_retries=self.retries
        ) as client:
            try:
                served = [served.id async for served in client.models.list()]
            except OpenAIError as error:
                raise EngineLost(f"--server = {self.url!r} does not answer: {error or type(error).__name__}") from error
            if model not in served:
                raise ValueError(f"--model = {model!r}: the server has {', '.join(map(repr, served))}")
            if vocabulary is None:
                yield lambda request: MessageStream(client, model, request)
            else:
                continue_ = _continued_by_server(client, model, vocabulary)
                yield lambda request: TokenStream(vocabulary, continue_, request)


def _continued_by_server(client: Any, model: str, vocabulary: Vocabulary) -> Continue:
    # The server's own defaults, as from the model's generation_config.json, must not come in.
    plain = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "skip_special_tokens": False}
    stops = {"stop_token_ids": sorted(vocabulary.end_ids), "return_token_ids": True}

    async def continue_(ids: list[int], limit: int, temperature: float, seed: int) -> list[int]:
        answer = await client.completions.create(
            model=model,
            prompt=ids,
            max_tokens=limit,
            temperature=temperature,
            top_p=1.0,
            seed=seed,
            extra_body={**plain, **stops},
        )
        return _token_ids(answer.choices[0], vocabulary)

    return continue_


def _token_ids(choice: Any, vocabulary: Vocabulary) -> list[int]:
    """The token ids of an answer: as vLLM gives them, or else from the text, as SGLang gives it."""
    if (given := getattr(choice, "token_ids", None)) is not None:
        return list(given)
    ids: list[int] = vocabulary.tokenizer.encode(choice.text, add_special_tokens=False)
    if choice.finish_reason == "stop" and (not ids or ids[-1] not in vocabulary.end_ids):
        matched = getattr(choice, "matched_stop", None)
        ids.append(matched if matched in vocabulary.end_ids else vocabulary.tokenizer.eos_token_id)
    return ids


class MessageStream:
    """A dialogue in messages. How many tokens it has is what the server says of each answer."""

    def __init__(self, client: Any, model: str, request: Request) -> None:
        self._client, self._model, self._request = client, model, request
        self._messages: list[Message] = []
        self._prompt_length: int | None = None
        self._attempts = 0
        self.used = 0

    async def open(self, messages: list[Message]) -> None:
        """See :class:`multi_attempt.dialogue.Stream`."""
        self._messages = messages

    async def respond(self, limit: int) -> Response:
        """See :class:`multi_attempt.dialogue.Stream`."""
        answer = await self._client.chat.completions.create(
            model=self._model,
            messages=self._messages,
            max_tokens=limit,
            temperature=self._request.temperature,
            top_p=1.0,
            seed=self._request.seed(self._attempts),
        )
        self._attempts += 1
        choice, usage = answer.choices[0], answer.usage
        if self._prompt_length is None:
            self._prompt_length = usage.prompt_tokens
        stop = usage.prompt_tokens + usage.completion_tokens - self._prompt_length
        self.used = stop
        start = stop - usage.completion_tokens
        return Response(choice.message.content or "", (start, stop), truncated=choice.finish_reason == "length")

    async def tell(self, answered: list[Message], messages: list[Message], room: int) -> bool:
        """See :class:`multi_attempt.dialogue.Stream`. The feedback's tokens are known with the next answer only."""
        if self.used >= room:
            return False
        self._messages = messages
        return True


def weights_digest(folder: Path) -> str:
    """What tells a model's weights from others: sizes and samples of the files in its folder.

    Training changes every tensor, so that a part of each file is enough; all of a 7B model would take a minute to read.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".safetensors", ".bin", ".json", ".jinja"):
            digest.update(f"{file.name} {file.stat().st_size} ".encode())
            with file.open("rb") as content:
                for position in (0, file.stat().st_size // 2, max(0, file.stat().st_size - _SAMPLED_BYTES)):
                    content.seek(position)
                    digest.update(content.read(_SAMPLED_BYTES))
    return digest.hexdigest()


_SAMPLED_BYTES = 1 << 20
