"""Generation beside transformers, one thread each: python -m benchmarks.generation --turns 5.

The model has the shape of a study (default: the laptop study) and random weights, exported by lmpipe and loaded by
transformers' LlamaForCausalLM, which uses its own key-value cache. A call goes from the prompt's text to the text of a
continuation that fills the context; imports and loading are not counted. lmpipe and a peer take turns, and each turn
gives a ratio. `uncached` is lmpipe's torch model, which reads the whole text again for each token. Greedy continuations
must be the same tokens.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

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
DOCUMENTS = 300  # stories that the tokenizer is trained on
SHARPNESS = 6  # factor of the random output weights; without it nearly all tokens are equally likely
SETTINGS = {"greedy": (0.0, 1.0), "sampled": (0.8, 0.9)}  # temperature and top-p
PEERS = ("transformers, dynamic cache", "transformers, static cache", "uncached")
MIN_SECONDS = 0.3  # shorter calls are repeated and averaged


@dataclass
class Contest:
    """The same model for lmpipe and its peers, and the prompts to continue."""

    config: ModelConfig
    tokenizer: Tokenizer
    torch_model: TransformerLM
    compiled_model: CompiledLM
    llama: Any
    llama_tokenizer: Any
    prompts: list[str]

    @property
    def new_tokens(self) -> int:
        """Tokens that fill the context after the prompt."""
        return self.config.context_length - len(self.tokenizer.encode(self.prompts[0]))

    def lmpipe(self, temperature: float, top_p: float, seed: int) -> list[list[int]]:
        """Return the new ids by lmpipe."""
        samples = generate(self.compiled_model, self.tokenizer, self.prompts, temperature, top_p, self.new_tokens, seed)
        for sample in samples:
            self.tokenizer.decode(sample.new_ids)
        return [sample.new_ids for sample in samples]

    def transformers(self, cache: str, temperature: float, top_p: float, seed: int) -> list[list[int]]:
        """Return the new ids by transformers with its `dynamic` or `static` cache."""
        options: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if temperature:
            options = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        torch.manual_seed(seed)
        inputs = self.llama_tokenizer(self.prompts, return_tensors="pt", return_token_type_ids=False)
        options |= {"max_new_tokens": self.new_tokens, "cache_implementation": cache}
        new_ids = self.llama.generate(**inputs, **options)[:, inputs.input_ids.shape[1] :].tolist()
        self.llama_tokenizer.batch_decode(new_ids)
        return new_ids

    @torch.inference_mode()
    def uncached(self, temperature: float, top_p: float, seed: int) -> list[list[int]]:
        """Return the new ids by torch, from the whole text each time."""
        token_ids = torch.tensor([self.tokenizer.encode(prompt) for prompt in self.prompts])
        generator = torch.Generator().manual_seed(seed)
        for _ in range(self.new_tokens):
            logits = self.torch_model.lm_head(self.torch_model.forward_hidden(token_ids)[:, -1])
            ids = sample(logits / temperature, top_p, generator) if temperature else logits.argmax(-1, keepdim=True)
            token_ids = torch.cat([token_ids, ids], dim=1)
        return token_ids[:, -self.new_tokens :].tolist()


def sample(logits: torch.Tensor, top_p: float, generator: torch.Generator) -> torch.Tensor:
    """Sample ids (batch, 1) from the nucleus of logits (batch, vocab)."""
    probs, order = logits.softmax(-1).sort(descending=True)
    nucleus = probs.where(probs.cumsum(-1) - probs < top_p, 0.0)
    return order.gather(1, torch.multinomial(nucleus, 1, generator=generator))


def prepare(config: ModelConfig, batch: int, folder: str) -> Contest:
    """Load a random model everywhere; its tokenizer has no end of text, so that no continuation ends early."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # which takes a second to load

    text = Path(folder, "stories.txt")
    text.write_text("\n".join(islice(stories(DOCUMENTS, 0), DOCUMENTS)), encoding="utf-8")
    tokenizer = Tokenizer(*train_bpe(str(text), config.vocab_size, []))
    model = TransformerLM(config, seed=0).eval()
    with torch.no_grad():
        model.lm_head.weight *= SHARPNESS
    weights = {name: weight.numpy() for name, weight in model.state_dict().items()}
    exported = Path(folder, "llama")
    atomic_write_all({exported / name: data for name, data in llama_files(config, weights, tokenizer).items()})
    llama = AutoModelForCausalLM.from_pretrained(exported).eval()
    llama_tokenizer = AutoTokenizer.from_pretrained(exported)
    return Contest(config, tokenizer, model, CompiledLM(config, weights), llama, llama_tokenizer, [PROMPT] * batch)


def mean_seconds(call: Callable[[int], Any]) -> float:
    """Mean seconds of a call with a seed, repeated for at least MIN_SECONDS."""
    start, calls = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < MIN_SECONDS or not calls:
        call(calls)
        calls += 1
    return elapsed / calls


def compare(contest: Contest, peer: str, setting: str, turns: int) -> str:
    """Let lmpipe and a peer take turns; return a row of the table."""
    calls = {
        "transformers, dynamic cache": partial(contest.transformers, "dynamic"),
        "transformers, static cache": partial(contest.transformers, "static"),
        "uncached": contest.uncached,
    }
    lmpipe_call, peer_call = (partial(call, *SETTINGS[setting]) for call in (contest.lmpipe, calls[peer]))
    if lmpipe_call(0) != peer_call(0) and setting == "greedy":
        sys.exit(f"{peer} generated other tokens than lmpipe from the same weights")
    pairs = [(mean_seconds(lmpipe_call), mean_seconds(peer_call)) for _ in range(turns)]
    tokens = len(contest.prompts) * contest.new_tokens
    cells = [setting, peer]
    for seconds in zip(*pairs, strict=True):
        rates = [tokens / duration for duration in seconds]
        cells.append(f"{median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})")
    ratios = [peer_seconds / lmpipe_seconds for lmpipe_seconds, peer_seconds in pairs]
    cells.append(f"{median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default=STUDY, help=f"study file with the model's shape (default: {STUDY})")
    parser.add_argument("--batch", type=int, default=1, help="prompts in a batch (default: 1)")
    parser.add_argument("--turns", type=int, default=5, help="turns of each pair (default: 5)")
    args, machine = parser.parse_args(), hardware()
    torch.set_num_threads(1)
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = read_plan(args.study).models["study"]
    versions = environment("torch", "transformers", "numba").versions
    with TemporaryDirectory(prefix="benchmark-") as folder:
        contest = prepare(config, args.batch, folder)
        shape = ", ".join(f"{key} {value}" for key, value in config.model_dump().items())
        print(f"{machine.processor}, 1 of {machine.cores} cores; versions: {versions}")
        print(f"{shape}; {args.batch} prompt(s), {contest.new_tokens} new tokens each; {args.turns} turns\n")
        header = ["", "peer", "lmpipe tokens/s", "peer tokens/s", "lmpipe / peer"]
        print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|", flush=True)
        for setting, peer in product(SETTINGS, PEERS):
            print(compare(contest, peer, setting, args.turns), flush=True)


if __name__ == "__main__":
    main()
