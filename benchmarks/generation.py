"""Generation beside transformers, one thread each: python -m benchmarks.generation --turns 5.

The model has the shape of a study (default: the laptop study) and random weights, exported by lmpipe and loaded by
transformers' LlamaForCausalLM, which uses its own key-value cache. A call goes from the prompt's text to the text of a
continuation that fills the context; imports and loading are not counted. Both take turns, and each turn gives a ratio.
Greedy continuations must be the same tokens.
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
CACHES = ("dynamic", "static")  # of transformers
MIN_SECONDS = 0.3  # shorter calls are repeated and averaged


@dataclass
class Contest:
    """The same model for lmpipe and transformers, and the prompts to continue."""

    config: ModelConfig
    tokenizer: Tokenizer
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
    return Contest(config, tokenizer, CompiledLM(config, weights), llama, llama_tokenizer, [PROMPT] * batch)


def mean_seconds(call: Callable[[int], Any]) -> float:
    """Mean seconds of a call with a seed, repeated for at least MIN_SECONDS."""
    start, calls = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < MIN_SECONDS or not calls:
        call(calls)
        calls += 1
    return elapsed / calls


def compare(contest: Contest, cache: str, setting: str, turns: int) -> str:
    """Let lmpipe and transformers take turns; return a row of the table."""
    lmpipe_call = partial(contest.lmpipe, *SETTINGS[setting])
    peer_call = partial(contest.transformers, cache, *SETTINGS[setting])
    if lmpipe_call(0) != peer_call(0) and setting == "greedy":
        sys.exit("transformers generated other tokens than lmpipe from the same weights")
    pairs = [(mean_seconds(lmpipe_call), mean_seconds(peer_call)) for _ in range(turns)]
    tokens = len(contest.prompts) * contest.new_tokens
    cells = [setting, cache]
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
        header = ["", "cache", "lmpipe tokens/s", "transformers tokens/s", "ratio"]
        print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|", flush=True)
        for setting, cache in product(SETTINGS, CACHES):
            print(compare(contest, cache, setting, args.turns), flush=True)


if __name__ == "__main__":
    main()
