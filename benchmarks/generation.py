"""Generation side by side with transformers, one thread each: python -m benchmarks.generation --turns 5.

The model has the shape of a study (the laptop's by default) and random weights, exported by lmpipe and loaded by
transformers' LlamaForCausalLM, whose generate uses its own key-value cache. A call goes from the prompt's text to the
text of the continuation, up to the whole context; imports and loading are left out. lmpipe and a peer take turns, and
each turn gives a ratio, so that other work on the machine disturbs both. `uncached` reads the whole text again for each
token with lmpipe's own model in torch. Greedy continuations must be the same tokens.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from transformers.utils import logging

from lmpipe.data.sources.stories import stories
from lmpipe.generation.huggingface import llama_files
from lmpipe.generation.inference import CompiledLM
from lmpipe.generation.sampling import generate
from lmpipe.io.files import atomic_write_all
from lmpipe.model.transformer import TransformerLM
from lmpipe.planning.plan import read_plan
from lmpipe.provenance.environment import environment, hardware
from lmpipe.study.settings import ModelConfig
from lmpipe.tokenizer.bpe_training import train_bpe
from lmpipe.tokenizer.tokenizer import Tokenizer

STUDY = "config/config.yaml"
PROMPT = "Once upon a time"
DOCUMENTS = 300  # enough stories for the tokens of a small vocabulary
SHARPNESS = 6  # random weights say little of the next token; with this factor, a few dozen tokens are likely
SETTINGS = {"greedy": (0.0, 1.0), "sampled": (0.8, 0.9)}  # temperature and top-p
LEAST_SECONDS = 0.3  # a call that is shorter is made several times, and their mean counts


@dataclass
class Contest:
    """One model as lmpipe and its peers have it, and what they shall continue."""

    config: ModelConfig
    tokenizer: Tokenizer
    reference: TransformerLM
    ours: CompiledLM
    llama: Any
    their_tokenizer: Any
    prompts: list[str]

    @property
    def new_tokens(self) -> int:
        """How many tokens are made of each prompt: the context is full then."""
        return self.config.context_length - len(self.tokenizer.encode(self.prompts[0]))

    def lmpipe(self, temperature: float, top_p: float, seed: int) -> list[list[int]]:
        """Return the new ids by lmpipe."""
        samples = generate(self.ours, self.tokenizer, self.prompts, temperature, top_p, self.new_tokens, seed)
        for sample in samples:
            self.tokenizer.decode(sample.new_ids)
        return [sample.new_ids for sample in samples]

    def transformers(self, cache: str, temperature: float, top_p: float, seed: int) -> list[list[int]]:
        """Return the new ids by transformers, with one of its caches."""
        drawing = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        how = drawing if temperature else {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        set_seed(seed)
        given = self.their_tokenizer(self.prompts, return_tensors="pt", return_token_type_ids=False)
        found = self.llama.generate(**given, **how, max_new_tokens=self.new_tokens, cache_implementation=cache)
        new_ids = found[:, given.input_ids.shape[1] :].tolist()
        self.their_tokenizer.batch_decode(new_ids)
        return new_ids

    @torch.inference_mode()
    def uncached(self, temperature: float, top_p: float, seed: int) -> list[list[int]]:
        """Return the new ids by torch, from the whole text each time."""
        token_ids = torch.tensor([self.tokenizer.encode(prompt) for prompt in self.prompts])
        generator = torch.Generator().manual_seed(seed)
        for _ in range(self.new_tokens):
            logits = self.reference.lm_head(self.reference.forward_hidden(token_ids)[:, -1])
            chosen = (
                logits.argmax(-1, keepdim=True) if not temperature else draw(logits / temperature, top_p, generator)
            )
            token_ids = torch.cat([token_ids, chosen], dim=1)
        return token_ids[:, -self.new_tokens :].tolist()


def draw(logits: torch.Tensor, top_p: float, generator: torch.Generator) -> torch.Tensor:
    """Tokens (batch, 1) drawn from the nucleus of logits (batch, vocab)."""
    ordered, order = logits.softmax(-1).sort(descending=True)
    kept = ordered.where(ordered.cumsum(-1) - ordered < top_p, 0.0)
    return order.gather(1, torch.multinomial(kept, 1, generator=generator))


def prepared(config: ModelConfig, batch: int, folder: str) -> Contest:
    """Return a model of random weights for every library; its tokenizer has no end of text, so no call ends early."""
    text = Path(folder, "stories.txt")
    text.write_text("\n".join(islice(stories(DOCUMENTS, 0), DOCUMENTS)), encoding="utf-8")
    tokenizer = Tokenizer(*train_bpe(str(text), config.vocab_size, []))
    reference = TransformerLM(config, seed=0).eval()
    with torch.no_grad():
        reference.lm_head.weight *= SHARPNESS
    weights = {name: weight.numpy() for name, weight in reference.state_dict().items()}
    exported = Path(folder, "llama")
    atomic_write_all({exported / name: data for name, data in llama_files(config, weights, tokenizer).items()})
    llama = AutoModelForCausalLM.from_pretrained(exported).eval()
    return Contest(
        config,
        tokenizer,
        reference,
        CompiledLM(config, weights),
        llama,
        AutoTokenizer.from_pretrained(exported),
        [PROMPT] * batch,
    )


def seconds_of(call: Callable[[int], Any]) -> float:
    """Return the mean seconds of a call with a seed, repeated until the time can be measured."""
    started, calls = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < LEAST_SECONDS or not calls:
        call(calls)
        calls += 1
    return elapsed / calls


def compare(contest: Contest, peer: str, setting: str, turns: int) -> str:
    """Let lmpipe and a peer take turns; returns a row of the table."""
    temperature, top_p = SETTINGS[setting]
    calls = {
        "lmpipe": contest.lmpipe,
        "transformers, dynamic cache": partial(contest.transformers, "dynamic"),
        "transformers, static cache": partial(contest.transformers, "static"),
        "uncached": contest.uncached,
    }
    ours, theirs = (partial(calls[name], temperature, top_p) for name in ("lmpipe", peer))
    made = [call(0) for call in (ours, theirs)]
    if setting == "greedy" and made[0] != made[1]:
        sys.exit(f"{peer} took other tokens than lmpipe from the same weights")
    pairs = [(seconds_of(ours), seconds_of(theirs)) for _ in range(turns)]
    tokens = len(contest.prompts) * contest.new_tokens
    ratios = sorted(their / our for our, their in pairs)
    cells = [setting, peer, *(spread([tokens / seconds for seconds in times]) for times in zip(*pairs, strict=True))]
    cells.append(f"{median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})")
    return "| " + " | ".join(cells) + " |"


def spread(rates: list[float]) -> str:
    """Median and range of tokens per second."""
    return f"{median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"


def read_arguments() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default=STUDY, help=f"whose model's shape is taken (default: {STUDY})")
    parser.add_argument("--batch", type=int, default=1, help="prompts that are continued together (default: 1)")
    parser.add_argument("--turns", type=int, default=5, help="of each pair (default: 5)")
    return parser.parse_args()


def main() -> None:
    """Print a table."""
    given, machine = read_arguments(), hardware()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = read_plan(given.study).models["study"]
    versions = environment("torch", "transformers", "numba")["versions"]
    with TemporaryDirectory(prefix="bench-") as folder:
        contest = prepared(config, given.batch, folder)
        shape = ", ".join(f"{key} {value}" for key, value in config.model_dump().items())
        print(f"{machine['processor']}, one of {machine['cores']} cores; versions: {versions}")
        print(f"{shape}; {given.batch} prompt(s), {contest.new_tokens} new tokens each; {given.turns} turns\n")
        head = ["", "peer", "lmpipe tokens/s", "peer tokens/s", "lmpipe / peer"]
        print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|", flush=True)
        for setting in SETTINGS:
            for peer in ("transformers, dynamic cache", "transformers, static cache", "uncached"):
                print(compare(contest, peer, setting, given.turns), flush=True)


if __name__ == "__main__":
    main()
