"""Where answers come from: vLLM in this process, or a server that speaks OpenAI's protocol.

Both give what :func:`multi_attempt.dialogue.play` needs. With token ids in and out (vLLM in process; ``vllm serve`` and
SGLang through ``/v1/completions``) the dialogue is the one of training, token by token. A server that only takes
messages tokenises the whole dialogue anew for each attempt.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from uuid import uuid4

from multi_attempt.connection import Connection, EngineLost, ServerError
from multi_attempt.dialogue import Response, Stream
from multi_attempt.model_settings import DialogueSettings
from multi_attempt.prompts import Message
from multi_attempt.turns import ChatTemplate, TemplateError, generation_end_ids

_SEED_BITS = 31

_SGLANG = "sglang"

# How close to the end of its context SGLang takes no prompt any more (as verl_ext/rollout/sampling.py has it).
_SGLANG_RESERVE = 7

# The model's own probabilities, whatever a server has for defaults, as from the model's generation_config.json.
_NEUTRAL: dict[str, Any] = {"top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
_NEUTRAL_EXTRA: dict[str, Any] = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}


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


class ContextFull(RuntimeError):
    """A dialogue has grown so long that the model's context holds no attempt more: the model's own failure."""


class EngineStream(Stream, Protocol):
    """An episode's tokens, and what is known of the room for them."""

    @property
    def context_room(self) -> int | None:
        """The tokens that the context leaves for the response; None as long as that is not known."""


MakeStream = Callable[[Request], EngineStream]


@dataclass(frozen=True)
class Partner:
    """A model that can be asked, and what is known of it before.

    Attributes:
        model: its folder, hub id, or name on the server.
        dialogue: what it is asked with.
        vocabulary: its tokens; None for a server that takes messages, where nobody says them.
        context: the tokens that prompt and response can have together; None where nobody says.
        owner: the server's program, by its own name.
    """

    model: str
    dialogue: DialogueSettings
    vocabulary: Vocabulary | None = None
    context: int | None = None
    owner: str = ""


class Engine(Protocol):
    """A way to get answers from models."""

    def prepare(self, model: str, dialogue: DialogueSettings) -> Partner:
        """What can be known of a model before it is started."""

    def open(self, partner: Partner) -> AbstractAsyncContextManager[MakeStream]:
        """Start, or connect to, a model; gives a stream for each episode."""


class Vocabulary:
    """A model's tokens, and how a dialogue is put into them.

    Args:
        folder: a folder with tokenizer and config in Hugging Face format, or a hub id.
        dialogue: with the chat template and its arguments.
        trust_remote_code: whether code in the folder may run.

    Attributes:
        chat: the chat template, with the tokens that end an attempt.
        config: the model's ``config.json``.
        positions: how long a text it can read, by its config; None where that does not say.

    Raises:
        ValueError: there is none, or it has no chat template, or not one for dialogues.
    """

    def __init__(self, folder: str, dialogue: DialogueSettings, trust_remote_code: bool = False) -> None:
        from transformers import AutoConfig, AutoTokenizer

        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
            end_ids = generation_end_ids(folder, trust_remote_code=trust_remote_code)
        except OSError as error:
            raise ValueError(f"{folder!r} holds no tokenizer and config in Hugging Face format: {error}") from error
        if tokenizer.chat_template is None and dialogue.chat_template is None:
            raise ValueError(
                f"{folder!r}: its tokenizer has no chat template, so there is no dialogue; give one (--chat-template)"
            )
        try:
            self.chat = ChatTemplate(tokenizer, dialogue.template_arguments, end_ids)
        except TemplateError as error:
            raise ValueError(f"{folder!r}: {error}; give another template (--chat-template)") from error
        self.config: dict[str, Any] = config.to_dict()
        self.positions: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)


class Generated(NamedTuple):
    """What an engine says of an attempt: its tokens, with the one that ended it, and whether a length limit cut it."""

    ids: list[int]
    truncated: bool


Continue = Callable[[list[int], int, float, int], Awaitable[Generated]]
"""(token ids, how many more at most, temperature, seed) -> what follows."""


def was_cut(finish_reason: str | None) -> bool:
    """Whether a length limit ended an attempt, by the engine's word.

    Raises:
        RuntimeError: it ended otherwise, as by an abort, so that it is no attempt.
    """
    if finish_reason not in ("stop", "length"):
        raise RuntimeError(f"the engine ended an attempt by {finish_reason!r}, neither a stop nor a length limit")
    return finish_reason == "length"


class TokenStream:
    """A dialogue in token ids, as in training: what was generated stays as it is, and feedback is appended.

    Args:
        vocabulary: of the model.
        continue_: has the model go on.
        request: how the episode is sampled.
        context: the tokens that prompt and response can have together.
        hide: takes out of an answer's text what must not be written down.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        continue_: Continue,
        request: Request,
        context: int,
        hide: Callable[[str], str] = str,
    ) -> None:
        self._chat, self._continue, self._request, self._context = vocabulary.chat, continue_, request, context
        self._hide = hide
        self._ids: list[int] = []
        self._prompt_length = self._attempts = 0
        self.context_room: int | None = None

    @property
    def used(self) -> int:
        """See :class:`multi_attempt.dialogue.Stream`."""
        return len(self._ids) - self._prompt_length

    async def open(self, messages: list[Message]) -> int:
        """See :class:`multi_attempt.dialogue.Stream`."""
        self._ids = self._chat.opening(messages)
        self._prompt_length = len(self._ids)
        self.context_room = self._context - self._prompt_length
        return self.context_room

    async def respond(self, limit: int) -> Response:
        """See :class:`multi_attempt.dialogue.Stream`."""
        request = self._request
        generated = await self._continue(self._ids, limit, request.temperature, request.seed(self._attempts))
        if not generated.ids:
            raise RuntimeError("the engine generated no token, not even one that ends the turn")
        start = self.used
        self._attempts += 1
        self._ids = [*self._ids, *generated.ids]
        return Response(self._hide(self._chat.text_of(generated.ids)), (start, self.used), generated.truncated)

    async def tell(self, messages: list[Message], room: int) -> bool:
        """See :class:`multi_attempt.dialogue.Stream`."""
        ids = self._chat.after_attempt(messages, self._ids[-1])
        if self.used + len(ids) >= room:
            return False
        self._ids = [*self._ids, *ids]
        return True


@dataclass(frozen=True)
class InProcess:
    """vLLM in this process, on GPU or CPU; one engine for all episodes at once.

    Several, each in a process of its own: :mod:`multi_attempt.evaluation.replicas`.

    Attributes:
        dtype: of weights and activations.
        options: further arguments of vLLM's engine; ``max_model_len`` is the context.
        trust_remote_code: whether code in a model's folder may run.
    """

    dtype: str = "auto"
    options: dict[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        length = self.options.get("max_model_len", 1)
        if type(length) is not int or length < 1:
            raise ValueError(
                f"--engine max_model_len={length!r} must be a number of tokens: the room for attempts follows from it"
            )

    def prepare(self, model: str, dialogue: DialogueSettings) -> Partner:
        """Read the model's tokenizer and config; its context is as the options say, or else the config.

        Raises:
            ValueError: they cannot be used for dialogues, or nothing says how long the context is.
        """
        vocabulary = Vocabulary(model, dialogue, self.trust_remote_code)
        context: int | None = self.options.get("max_model_len", vocabulary.positions)
        if context is None:
            raise ValueError(
                f"--model = {model!r}: its config.json does not say how long its context is "
                "(max_position_embeddings); say it by --engine max_model_len=N"
            )
        return Partner(model, dialogue, vocabulary, context)

    @asynccontextmanager
    async def open(self, partner: Partner) -> AsyncIterator[MakeStream]:
        """Start the engine, and shut it down at the end: the next model needs its memory.

        Raises:
            EngineLost: it does not start.
        """
        vocabulary, context = partner.vocabulary, partner.context
        assert vocabulary is not None
        assert context is not None
        with self.started(partner.model, context, vocabulary.chat.end_ids) as continue_:
            yield lambda request: TokenStream(vocabulary, continue_, request, context)

    @contextmanager
    def started(self, model: str, context: int, end_ids: Collection[int]) -> Iterator[Continue]:
        """The engine at work, within a running event loop.

        Args:
            model: folder or hub id.
            context: the tokens that prompt and response can have together.
            end_ids: the tokens that end an attempt.

        Raises:
            EngineLost: it does not start.
        """
        # vLLM's CPU build needs another name and platform (verl_ext/cpu/distributions.py), before it is first imported.
        # Where verl was imported, its plugin has seen to both; plain evaluations import none of it.
        from verl_ext.cpu import distributions

        distributions.install()
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments: dict[str, Any] = {
            "model": model,
            "dtype": self.dtype,
            "enable_prefix_caching": True,
            "trust_remote_code": self.trust_remote_code,
            # vLLM 0.28 (v1/worker/gpu_model_runner.py, line 3825) winds the generator of a request with a seed back
            # where its prompt came in parts, which torch's CPU generator cannot, and the engine dies of it.
            **({"enable_chunked_prefill": False} if current_platform.is_cpu() else {}),
            **self.options,
            "max_model_len": context,
        }
        try:
            engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        except RuntimeError as error:
            raise EngineLost(
                f"vLLM did not start, for the reason that it gives above ({error}). Where its memory holds no "
                f"{context} tokens (max_model_len): lower the context (--engine max_model_len=N) or the attempts "
                "(--max-response-length N), or give it more (--engine gpu_memory_utilization=0.95; on CPU the "
                "environment variable VLLM_CPU_KVCACHE_SPACE)"
            ) from error
        try:
            yield _continued_by_vllm(engine, end_ids)
        finally:
            engine.shutdown()


def _continued_by_vllm(engine: Any, end_ids: Collection[int]) -> Continue:
    from vllm import SamplingParams, TokensPrompt
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.exceptions import EngineDeadError

    async def continue_(ids: list[int], limit: int, temperature: float, seed: int) -> Generated:
        parameters = SamplingParams(
            temperature=temperature,
            seed=seed if temperature else None,
            max_tokens=limit,
            stop_token_ids=sorted(end_ids),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        try:
            async for output in engine.generate(TokensPrompt(prompt_token_ids=ids), parameters, uuid4().hex):
                attempt = output.outputs[0]
                return Generated(list(attempt.token_ids), was_cut(attempt.finish_reason))
        except EngineDeadError as error:
            raise EngineLost(f"vLLM's engine died: {error}") from error
        raise EngineLost("vLLM's engine ended a request without an output")

    return continue_


@dataclass(frozen=True)
class Server:
    """A server that speaks OpenAI's protocol. Its key is read from ``OPENAI_API_KEY``, where it needs one.

    How it is asked, and what is repeated: :mod:`multi_attempt.connection`.

    Attributes:
        url: the base address, as in ``http://localhost:8000/v1``; it may have user and password.
        tokenizer: folder or hub id of the model's tokenizer; empty for the model's own name, and, where messages are
            sent, for none.
        messages: send messages to ``/v1/chat/completions``, for servers that take no token ids.
        plain: send with messages only what OpenAI's own protocol has.
        timeout: seconds until a request must have been answered whole.
        retries: how often a request is repeated.
        trust_remote_code: whether code in the tokenizer's folder may run.

    Raises:
        ValueError: address, time or number make no sense; the message names it.
    """

    url: str = field(repr=False)
    tokenizer: str = ""
    messages: bool = False
    plain: bool = False
    timeout: float = 600.0
    retries: int = 8
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        _ = self.connection  # which says what makes no sense

    @property
    def connection(self) -> Connection:
        """How the server is asked."""
        return Connection(self.url, self.timeout, self.retries)

    def prepare(self, model: str, dialogue: DialogueSettings) -> Partner:
        """Read the model's tokenizer, and ask the server for its context, or else take that of the config.

        Raises:
            EngineLost: the server does not answer.
            ValueError: it does not have the model, or the tokenizer cannot be used for dialogues.
        """
        known = self.tokenizer or not self.messages
        vocabulary = Vocabulary(self.tokenizer or model, dialogue, self.trust_remote_code) if known else None
        served = asyncio.run(self._served())
        if model not in served:
            names = self.connection.excerpt(", ".join(map(repr, served)))
            raise ValueError(f"--model = {model!r}: the server has {names}")
        # vLLM and SGLang say both of a model; others may say neither.
        said, owner = served[model].get("max_model_len"), served[model].get("owned_by")
        context: int | None = said if type(said) is int and said > 0 else None
        if context is None:
            context = vocabulary.positions if vocabulary else None
        elif owner == _SGLANG:
            context -= _SGLANG_RESERVE
        return Partner(model, dialogue, vocabulary, context, owner if isinstance(owner, str) else "")

    async def _served(self) -> dict[str, Mapping[str, Any]]:
        """The models that the server says it has, with what it says of each."""
        connection = self.connection
        try:
            async with connection.client() as client:
                answer = await connection.ask(client.get("/models", cast_to=object))
        except ServerError as error:
            raise EngineLost(f"--server = {connection.shown!r} does not answer: {error}") from None
        cards = answer.get("data") if isinstance(answer, Mapping) else None
        if not isinstance(cards, list):
            raise EngineLost(
                f"--server = {connection.shown!r} gives no list of models, so that it is no server of OpenAI's "
                f"protocol, or has another path (most end in /v1): {connection.excerpt(answer)}"
            )
        return {card["id"]: card for card in cards if isinstance(card, Mapping) and isinstance(card.get("id"), str)}

    @asynccontextmanager
    async def open(self, partner: Partner) -> AsyncIterator[MakeStream]:
        """Connect."""
        connection = self.connection
        async with connection.client() as client:
            if self.messages:
                extra = self.extra_parameters(partner)
                yield lambda request: MessageStream(client, connection, partner, request, extra)
            else:
                vocabulary, context = partner.vocabulary, partner.context
                assert vocabulary is not None
                assert context is not None
                continue_ = _continued_by_server(client, connection, partner.model, vocabulary)
                hide = connection.hide_in_answer
                yield lambda request: TokenStream(vocabulary, continue_, request, context, hide)

    def extra_parameters(self, partner: Partner) -> dict[str, Any]:
        """What is sent with messages beyond OpenAI's own protocol."""
        if self.plain:
            return {}
        vocabulary, arguments = partner.vocabulary, partner.dialogue.template_kwargs
        stops = {"stop_token_ids": sorted(vocabulary.chat.end_ids)} if vocabulary else {}
        return {**_NEUTRAL_EXTRA, **stops, **({"chat_template_kwargs": dict(arguments)} if arguments else {})}


def _continued_by_server(client: Any, connection: Connection, model: str, vocabulary: Vocabulary) -> Continue:
    stops = {"stop_token_ids": sorted(vocabulary.chat.end_ids), "return_token_ids": True, "skip_special_tokens": False}

    async def continue_(ids: list[int], limit: int, temperature: float, seed: int) -> Generated:
        request = client.completions.create(
            model=model,
            prompt=ids,
            max_tokens=limit,
            temperature=temperature,
            seed=seed,
            **_NEUTRAL,
            extra_body={**_NEUTRAL_EXTRA, **stops},
        )
        answer = await connection.ask(request)
        choice = connection.choice(answer)
        cut = _was_cut(choice, connection)
        generated = _token_ids(choice, vocabulary)
        if generated is None:
            raise ServerError(f"the answer has neither text nor token ids: {connection.excerpt(answer)}")
        return Generated(generated, cut)

    return continue_


def _was_cut(choice: Any, connection: Connection) -> bool:
    try:
        return was_cut(choice.finish_reason)
    except RuntimeError as error:
        raise ServerError(connection.excerpt(str(error))) from None  # a server may give any text for a reason


def _token_ids(choice: Any, vocabulary: Vocabulary) -> list[int] | None:
    """The token ids of an answer: as vLLM gives them, or else from the text, as SGLang gives it; None without both."""
    given = getattr(choice, "token_ids", None)
    if isinstance(given, list) and all(type(id) is int for id in given):
        return list(given)
    if given is not None or not isinstance(getattr(choice, "text", None), str):
        return None
    tokenizer = vocabulary.chat.tokenizer
    ids: list[int] = tokenizer.encode(choice.text, add_special_tokens=False)
    if choice.finish_reason != "stop" or (ids and ids[-1] in vocabulary.chat.end_ids):
        return ids
    # The token that ended it is not in the text. SGLang names it; vLLM names all but the tokenizer's own end of a text
    # (v1/core/sched/utils.py, line 104).
    matched = next((value for name in _STOPPED_AT if (value := getattr(choice, name, None)) is not None), None)
    end = tokenizer.eos_token_id if matched is None else matched
    return [*ids, end] if isinstance(end, int) else ids


_STOPPED_AT = ("matched_stop", "stop_reason")


class MessageStream:
    """A dialogue in messages. How many tokens it has is what the server says of each answer.

    Args:
        client: of the server.
        connection: how it is asked.
        partner: the model there. Where its tokens are known, so is the room before the first answer.
        request: how the episode is sampled.
        extra: parameters beyond OpenAI's own protocol.
    """

    def __init__(
        self, client: Any, connection: Connection, partner: Partner, request: Request, extra: Mapping[str, Any]
    ) -> None:
        self._client, self._connection, self._request, self._extra = client, connection, request, extra
        self._partner, self._vocabulary = partner, partner.vocabulary
        self._messages: list[Message] = []
        self._prompt_length: int | None = None
        self._attempts = 0
        self._begins = True
        self.used = 0

    @property
    def context_room(self) -> int | None:
        """See :class:`EngineStream`."""
        if self._partner.context is None or self._prompt_length is None:
            return None
        return self._partner.context - self._prompt_length

    async def open(self, messages: list[Message]) -> int | None:
        """See :class:`multi_attempt.dialogue.Stream`."""
        self._messages, self.used, self._begins = messages, 0, True
        self._prompt_length = None if self._vocabulary is None else len(self._vocabulary.chat.opening(messages))
        return self.context_room

    async def respond(self, limit: int) -> Response:
        """See :class:`multi_attempt.dialogue.Stream`.

        Raises:
            ServerError: the server does not answer, or without content.
            ContextFull: the model's context holds no attempt more.
            EngineLost: it takes no request of ours.
        """
        answer = await self._ask(limit)
        choice = self._connection.choice(answer)
        truncated = _was_cut(choice, self._connection)
        text = self._connection.hide_in_answer(_content(choice, truncated, self._connection))
        prompt_tokens, generated = _usage(answer, self._connection)
        if self._begins or self._prompt_length is None:
            self._prompt_length = prompt_tokens
        self._begins = False
        self._attempts += 1
        start = prompt_tokens - self._prompt_length
        self.used = start + generated
        return Response(text, (start, self.used), truncated)

    async def _ask(self, limit: int) -> Any:
        # Without a tokenizer the limit may go beyond the context. vLLM takes it for what is left there
        # (serve/utils/api_utils.py, line 169); SGLang refuses it, and fills the context where none is named.
        context = self._partner.context
        beyond = context is not None and self.used + limit >= context
        limited = {} if beyond and self._partner.owner == _SGLANG else {"max_tokens": limit}
        try:
            try:
                return await self._send(limited)
            except ServerError as error:
                if not (limited and error.too_long):
                    raise
                # The limit may be what is too long. Where none is named, it is what the context leaves.
                return await self._send({})
        except ServerError as error:
            if error.too_long and self._attempts:
                raise ContextFull(str(error)) from error
            refused = [name for name in self._extra if name in str(error)] if error.refused else []
            if not refused:
                raise
            raise EngineLost(
                f"the server takes no {', '.join(refused)}: {error}; --plain-messages sends only what OpenAI's own "
                "protocol has, and leaves the rest to the server's defaults"
            ) from error

    async def _send(self, limited: Mapping[str, int]) -> Any:
        request = self._client.chat.completions.create(
            model=self._partner.model,
            messages=self._messages,
            temperature=self._request.temperature,
            seed=self._request.seed(self._attempts),
            **_NEUTRAL,
            **limited,
            extra_body=dict(self._extra),
        )
        return await self._connection.ask(request)

    async def tell(self, messages: list[Message], room: int) -> bool:
        """See :class:`multi_attempt.dialogue.Stream`. Without a tokenizer the feedback's tokens are not known yet."""
        told = len(self._vocabulary.chat.after_attempt(messages, None)) if self._vocabulary else 0
        context_room = self.context_room
        if self.used + told >= (room if context_room is None else min(room, context_room)):
            return False
        self._messages = messages
        self.used += told
        return True


_INSTEAD_OF_CONTENT = ("reasoning_content", "reasoning", "refusal", "tool_calls", "function_call")


def _content(choice: Any, truncated: bool, connection: Connection) -> str:
    """The text of an answer.

    Raises:
        ServerError: there is none, so that there is nothing to grade; but an answer that a length limit cut in its
            thoughts is the model's own.
    """
    message = getattr(choice, "message", None)
    content = getattr(message, "content", None)
    instead = [name for name in _INSTEAD_OF_CONTENT if getattr(message, name, None)]
    if isinstance(content, str) and (content.strip() or not instead):
        return content
    if truncated and (content is None or isinstance(content, str)):
        return content or ""
    found = f"but {', '.join(instead)}" if instead else connection.excerpt(choice)
    raise ServerError(
        f"the answer has no content to grade ({found}); a server that puts all a model says into its thoughts must be "
        "started without a reasoning parser, or the model asked without (--template-kwargs enable_thinking=false)"
    )


def _usage(answer: Any, connection: Connection) -> tuple[int, int]:
    """The tokens of the prompt and of the answer, as the server counts them."""
    usage = getattr(answer, "usage", None)
    counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    if any(type(count) is not int or not 0 <= count <= sys.maxsize for count in counts):
        raise ServerError(
            f"the server does not say how many tokens an answer has (usage): {connection.excerpt(answer)}"
        )
    prompt_tokens, generated = (int(count) for count in counts if count is not None)
    return prompt_tokens, generated


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
