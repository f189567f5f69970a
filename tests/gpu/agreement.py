"""What vLLM says of its own tokens, beside transformers: a process of its own, since a model runner is chosen by one.

``python agreement.py MODEL QUESTIONS DTYPE DEVICE``: samples attempts at the questions of a file of JSON lines, and
prints one JSON object: how many tokens, and how far the probabilities that the two give them agree.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

_TOKENS = 128
_POSITIONS = 512
_GPU_SHARE = 0.2


def look(model: str, questions: list[str], dtype: str, device: str) -> dict[str, float]:
    """Sample, and compare."""
    if device == "cpu":
        # vLLM asks for its own distribution's version, whose name is another for the CPU.
        from verl_ext.cpu.distributions import install

        install()
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        for question in questions
    ]
    answers = generate(model, prompts, dtype, device)
    rollout = torch.tensor([log_prob for _, log_probs in answers for log_prob in log_probs]).exp()
    tokens = [answer for answer, _ in answers]
    actor = transformers_log_probs(model, prompts, tokens, dtype, device).exp()
    return {
        "tokens": len(rollout),
        "correlation": torch.corrcoef(torch.stack([rollout, actor]))[0, 1].item(),
        "largest_difference": (rollout - actor).abs().max().item(),
    }


def generate(model: str, prompts: list[list[int]], dtype: str, device: str) -> list[tuple[list[int], list[float]]]:
    """By vLLM: of each prompt, the tokens and their log-probabilities."""
    from vllm import LLM, SamplingParams, TokensPrompt

    settings: dict[str, Any] = {"gpu_memory_utilization": _GPU_SHARE} if device == "cuda" else {"block_size": 32}
    settings["dtype"] = dtype
    engine = LLM(
        model,
        max_model_len=_POSITIONS,
        enforce_eager=device == "cpu",
        logprobs_mode="processed_logprobs",
        **settings,
    )
    parameters = SamplingParams(temperature=1.0, max_tokens=_TOKENS, logprobs=0, seed=1)
    outputs: Any = engine.generate([TokensPrompt(prompt_token_ids=ids) for ids in prompts], parameters, use_tqdm=False)
    found = []
    for output in outputs:
        answer = output.outputs[0]
        chosen = [step[token].logprob for step, token in zip(answer.logprobs, answer.token_ids, strict=True)]
        found.append((list(answer.token_ids), chosen))
    return found


def transformers_log_probs(
    model: str, prompts: list[list[int]], answers: list[list[int]], dtype: str, device: str
) -> torch.Tensor:
    """By transformers with torch's own attention: the log-probability of each token, one after the other."""
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    loaded = loaded.to(device).eval()
    found = []
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([prompt + answer], device=device)
        with torch.no_grad():
            logits = loaded(ids).logits[0, len(prompt) - 1 : -1].float()
        found.append(logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0].cpu())
    return torch.cat(found)


def main() -> None:
    """Look, and print."""
    model, questions, dtype, device = sys.argv[1:]
    texts = [json.loads(line) for line in Path(questions).read_text().splitlines()]
    print(json.dumps(look(model, texts, dtype, device)))


if __name__ == "__main__":
    main()
