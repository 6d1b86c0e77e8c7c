"""Commands for models: accounting, measurements, training runs and generated text."""

from pathlib import Path

from lmpipe.cli.arguments import (
    DEVICE,
    EXPERIMENT,
    RESULTS,
    Args,
    argument,
    command,
    non_negative_seconds,
    positive_int,
)
from lmpipe.errors import InputError
from lmpipe.io.files import JobResult
from lmpipe.study.paths import CONFIG, SUMMARY


@command(RESULTS, examples="lmpipe account-models results/laptop")
def account_models(args: Args) -> JobResult:
    """Account for the parameters, FLOPs and memory of a study's model and of the handout's shapes."""
    from lmpipe.model.torch_counts import account_model
    from lmpipe.planning.session import read_study

    plan, paths = read_study(args.results)
    for name, model in plan.models.items():
        account_model(name, model, plan.adamw_question(name)).write(paths.accounting(name))
    return JobResult(paths.accounting("study").parent, settings=plan.accounting_settings())


@command(RESULTS, *DEVICE, examples="lmpipe profile-model results/laptop")
def profile_model(args: Args) -> JobResult:
    """Measure one training step of a study's model: parameters, FLOPs, memory by part, peak FLOP/s of the device."""
    from lmpipe.planning.session import read_study
    from lmpipe.training.profiling import profile_step

    plan, paths = read_study(args.results)
    model, training = plan.models["study"], plan.study.training
    profile_step(model, training, threads=args.threads, device=args.device).write(paths.model_profile)
    return JobResult(paths.model_profile, settings=plan.step_settings())


@command(RESULTS, *DEVICE, examples="lmpipe benchmark-batch-sizes results/laptop")
def benchmark_batch_sizes(args: Args) -> JobResult:
    """Time a training step of a study's model at each batch size, doubled up to the largest that fits."""
    from lmpipe.planning.session import read_study
    from lmpipe.training.profiling import benchmark_batch_sizes

    plan, paths = read_study(args.results)
    model, training = plan.models["study"], plan.study.training
    benchmark_batch_sizes(model, training, threads=args.threads, device=args.device).write(paths.batch_sizes)
    return JobResult(paths.batch_sizes, settings=plan.step_settings())


@command(
    argument("--output", required=True, help=".csv file"),
    examples="lmpipe sgd-toy --output learning_rate_tuning.csv",
)
def sgd_toy(args: Args) -> JobResult:
    """Train the SGD toy example at four learning rates."""
    from lmpipe.training.sgd_toy import run_sgd_toy

    run_sgd_toy(args.output)
    return JobResult(Path(args.output))


@command(
    RESULTS,
    argument("run_id", metavar="run", help="EXPERIMENT/RUN/seedN, the path of the run below runs/"),
    *DEVICE,
    argument("--processes", type=positive_int, default=1, help="processes that share each batch (default 1)"),
    argument(
        "--gpus", type=positive_int, default=1, help="GPUs that share each batch, with a process each (default 1)"
    ),
    argument("--runs-per-gpu", type=positive_int, default=1, help="runs that may share a GPU (default 1)"),
    argument(
        "--checkpoint-seconds",
        type=non_negative_seconds,
        default=30.0,
        help="least time between checkpoints (default 30; 0: every step); more where saving one takes long",
    ),
    argument(
        "--time-limit",
        type=non_negative_seconds,
        metavar="MINUTES",
        help="length of the cluster's job that Snakemake submitted; before its end, the run is saved and queued again",
    ),
    examples="lmpipe train results/laptop learning_rate/grid_max_lr=0.014/seed0\n"
    "lmpipe train results/laptop learning_rate/grid_max_lr=0.014/seed0 --threads 4",
)
def train(args: Args) -> JobResult:
    """Train one run of a study.

    An interrupted run continues; a run that the store has is copied.
    """
    from lmpipe.planning.plan import find
    from lmpipe.planning.session import read_study
    from lmpipe.training.run import train
    from lmpipe.training.run_documents import RunConfig, RunSummary

    plan, paths = read_study(args.results)
    run = find("run", args.run_id, {run.id: run for run in plan.runs})
    folder, best = paths.run(run.experiment, run.name, run.seed), paths.best(run.best_of) if run.best_of else None
    names = ("threads", "device", "processes", "gpus", "runs_per_gpu", "checkpoint_seconds", "time_limit")
    options = {name: getattr(args, name) for name in names}
    is_new = train(run, paths.root, folder, **options)
    config, summary = RunConfig.read(folder / CONFIG), RunSummary.read(folder / SUMMARY)
    tokens = [folder / config.tokens.train.path, folder / config.tokens.valid.path]
    inputs = [folder / config.tokenizer.path, *tokens, *(path.with_suffix(".json") for path in tokens)]
    # Of a copied run, the record names the environment that trained it.
    facts = {"cache_hit": not is_new, "train_seconds": summary.train_seconds, "device": summary.device}
    facts |= {"code": summary.code, **dict(summary.environment)}
    settings = run.model_dump(mode="json", exclude_none=True)
    return JobResult(folder, [*inputs, *([best] if best else [])], settings, facts)


@command(
    argument("study", help="results folder or study file"),
    argument("--steps", type=positive_int, default=50, help="first steps to train again (default 50)"),
    DEVICE[1],
    examples="lmpipe adopt results/laptop\nlmpipe adopt results/laptop --steps 200",
)
def adopt(args: Args) -> None:
    """Keep the trained runs of a study after a change of code that does not change their results.

    Each run's recorded losses pass through the present schedule and rule of divergence, and its weights are evaluated
    again. Of each configuration (all settings but the seed), the first steps of one run are trained again, and a sample
    of its text is encoded again. If all of that is the same to the byte, the runs are adopted, and snakemake copies
    them instead of training them. adoptions.json in the results folder records old and new digests and the steps. A
    change that shows in later steps alone is not seen: replay more of them, or train again.
    """
    from lmpipe.planning.pruning import locked
    from lmpipe.planning.session import find_study
    from lmpipe.training.adoption import adopt

    study = find_study(args.study)
    with locked(study):
        adopt(study.plan.runs, study.folder, args.steps, args.device)


@command(RESULTS, EXPERIMENT, examples="lmpipe select-best results/laptop learning_rate")
def select_best(args: Args) -> JobResult:
    """Select the best finished run of an experiment."""
    from lmpipe.analysis.ranking import select_best
    from lmpipe.analysis.results import read_experiment
    from lmpipe.planning.session import read_study

    plan, paths = read_study(args.results)
    settings = plan.experiment_settings(args.experiment)
    experiment = read_experiment(paths.root, args.experiment, plan.run_keys()[args.experiment])
    output = paths.best(args.experiment)
    select_best(experiment).write(output)
    inputs = [run.folder / name for run in experiment.runs for name in (CONFIG, SUMMARY)]
    return JobResult(output, inputs, settings)


@command(
    argument("run_folder", metavar="run", help="folder of the run"),
    argument("files", nargs="+", metavar="file", help="text file, with <|endoftext|> between documents"),
    examples="lmpipe evaluate results/laptop/runs/main_experiment/stories/seed1 mine.txt",
)
def evaluate(args: Args) -> None:
    """Evaluate a run on texts, as training evaluates the validation split: loss, perplexity, bits per byte."""
    from lmpipe.api import Run
    from lmpipe.training.trainer import perplexity

    run, row = Run(args.run_folder), "{:>12} {:>10} {:>10} {:>13}  {}".format
    results = [(file, run.evaluate(Path(file))) for file in args.files]
    print(row("tokens", "loss", "perplexity", "bits per byte", "text"))
    for file, result in results:
        figures = (f"{value:.6g}" for value in (result.loss, perplexity(result.loss), result.bits_per_byte))
        print(row(f"{result.validation_tokens:,}", *figures, file))


@command(
    argument("results", nargs="?", help="results folder of the study, for its samples"),
    argument("corpus", nargs="?", help="name of the corpus, for the study's samples"),
    argument("--run", dest="run_folder", help="folder of a run, to continue a prompt"),
    argument("--prompt", help="text to continue"),
    argument("--prompts", help="file with a text to continue in each line, in place of --prompt"),
    argument("--samples", type=positive_int, default=1, help="continuations of each text (default 1)"),
    argument("--output", help="file for the texts (default: standard output); .jsonl: an object for each"),
    argument("--temperature", type=float, default=1.0, help="0 takes the most likely token (default 1)"),
    argument("--top-p", type=float, default=1.0, help="probability mass of nucleus sampling (default 1)"),
    argument("--max-new-tokens", type=positive_int, default=256, help="length limit (default 256)"),
    argument("--seed", type=int, default=0, help="seed of the sampling (default 0)"),
    examples="lmpipe generate results/laptop stories\n"
    'lmpipe generate --run results/laptop/runs/main_experiment/stories/seed1 --prompt "Once upon a time"\n'
    "lmpipe generate --run results/laptop/runs/main_experiment/stories/seed1 --prompts prompts.txt --samples 3 "
    "--output texts.jsonl",
)
def generate(args: Args) -> JobResult | None:
    """Generate text: the samples of a study for a corpus, or the continuation of a prompt."""
    if args.run_folder is not None and args.results is None and (args.prompt is None) != (args.prompts is None):
        from lmpipe.generation.continuations import continue_prompts, read_prompts

        prompts = [args.prompt] if args.prompts is None else read_prompts(args.prompts)
        settings = (args.temperature, args.top_p, args.max_new_tokens, args.seed)
        continue_prompts(args.run_folder, prompts, args.samples, *settings, args.output)
        return None
    if args.run_folder is not None or args.corpus is None:
        raise InputError("give --run RUN and --prompt TEXT or --prompts FILE, or a results folder and a corpus")
    names = ("prompt", "prompts", "output", "samples", "temperature", "top_p", "max_new_tokens", "seed")
    if options := [name for name in names if getattr(args, name) != args.parser.get_default(name)]:
        option = f"--{options[0].replace('_', '-')}"
        raise InputError(option, "does not go with the samples of a study", "give --run RUN in their place")

    from lmpipe.generation.samples import write_samples
    from lmpipe.planning.session import read_study

    plan, paths = read_study(args.results)
    settings, run = plan.sample_settings(args.corpus), plan.sample_run(args.corpus)
    folder, output = paths.root / run.folder, paths.samples(args.corpus)
    progress = [(other, paths.root / other.folder) for other in plan.progress_runs(args.corpus)]
    texts = [paths.text(args.corpus, split) for split in ("train", "valid")]
    write_samples(plan.study.samples, run, folder, progress, *texts, output)
    return JobResult(output, [folder, *(path for _, path in progress), *texts], settings)


@command(
    argument("run_folder", metavar="run", help="folder of the run"),
    argument("folder", help="new folder; an earlier export there is replaced"),
    argument(
        "--format",
        dest="file_format",
        choices=["huggingface", "gguf"],
        default="huggingface",
        help="huggingface: a folder for transformers (default); gguf: one file for llama.cpp and transformers",
    ),
    examples="lmpipe export results/laptop/runs/main_experiment/stories/seed1 exported\n"
    "lmpipe export results/laptop/runs/main_experiment/stories/seed1 exported --format gguf",
)
def export(args: Args) -> None:
    """Export a run for other programs: model, tokenizer and model card."""
    from lmpipe.generation.export import export

    export(args.run_folder, args.folder, args.file_format)
