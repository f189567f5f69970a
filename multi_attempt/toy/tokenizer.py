"""A tokenizer with one token for each byte, and Qwen's ChatML as chat template."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AddedToken, PreTrainedTokenizerFast

PAD, MESSAGE_START, MESSAGE_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_BYTES = 256
# The last one is never used: it makes the vocabulary 260, which tensor parallelism over 2 or 4 devices divides, and the
# model has just as many. (verl's rollout never samples a token that is the model's but not the tokenizer's, while the
# actor gives it some probability, so that the two would differ.)
_SPECIAL = (PAD, MESSAGE_START, MESSAGE_END, "<|reserved|>")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The toy tokenizer: token b is byte b; then follow pad, start of message, and end of message, the end token.

    Texts in Unicode's composed form (NFC), such as all ASCII, survive encoding and decoding unchanged.
    """
    vocabulary = {character: byte for byte, character in enumerate(_byte_characters())}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    # Beside a Qwen2 model AutoTokenizer loads a Qwen2Tokenizer, whatever was saved, and that one composes characters.
    # It is done here too, so that saving and loading changes nothing.
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=MESSAGE_END,
        additional_special_tokens=[MESSAGE_START, _SPECIAL[-1]],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def _byte_characters() -> list[str]:
    """The characters by which byte-level tokenizers write bytes 0 to 255 (GPT-2's table).

    A byte that is a printable Latin-1 character is written as that; the others take characters from 256 on, in order.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(_BYTES, 2 * _BYTES))
    return [chr(byte if byte in printable else next(others)) for byte in range(_BYTES)]
