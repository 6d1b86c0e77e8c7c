"""Commands for models: accounting, measurements, training runs and generated text."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmpipe.cli.arguments import (
    Args,
    Commands,
    add_command,
    add_device,
    add_results,
    non_negative_seconds,
    positive_int,
)
from lmpipe.errors import InputError

if TYPE_CHECKING:
    from lmpipe.provenance.job_records import JobResult


def add_commands(commands: Commands) -> None:
    """Add the parsers of this module's commands."""
    add_model_commands(commands)
    add_run_commands(commands)
    add_generation_commands(commands)


def add_model_commands(commands: Commands) -> None:
    """Add the parsers of commands for models that need no corpus."""
    parser = add_command(
        commands,
        "account-model",
        run_account_model,
        "Account for the parameters, FLOPs and memory of a model.",
        "lmpipe account-model results/laptop study",
    )
    add_results(parser)
    parser.add_argument("model", help="name in the study's accounting.models, or study for the study's own model")

    parser = add_command(
        commands,
        "profile-model",
        run_profile_model,
        "Measure one training step of a study's model: parameters, FLOPs, memory by part, peak FLOP/s of the device.",
        "lmpipe profile-model results/laptop",
    )
    add_results(parser)
    add_device(parser)

    parser = add_command(
        commands,
        "benchmark-batch-sizes",
        run_benchmark_batch_sizes,
        "Time a training step of a study's model at each batch size, doubled up to the largest that fits.",
        "lmpipe benchmark-batch-sizes results/laptop",
    )
    add_results(parser)
    add_device(parser)

    parser = add_command(
        commands,
        "sgd-toy",
        run_sgd_toy,
        "Train the SGD toy example at four learning rates.",
        "lmpipe sgd-toy --output learning_rate_tuning.csv",
    )
    parser.add_argument("--output", required=True, help=".csv file")


def add_run_commands(commands: Commands) -> None:
    """Add the parsers of commands for training runs."""
    parser = add_command(
        commands,
        "train",
        run_train,
        "Train one run of a study. An interrupted run continues; a run that the store has is copied.",
        "lmpipe train results/laptop learning_rate/max_lr=0.003/seed0",
        "lmpipe train results/laptop learning_rate/max_lr=0.003/seed0 --threads 4",
    )
    add_results(parser)
    parser.add_argument("run_id", metavar="run", help="EXPERIMENT/RUN/seedN, the path of the run below runs/")
    add_device(parser)
    parser.add_argument("--processes", type=positive_int, default=1, help="processes that share each batch (default 1)")
    parser.add_argument("--gpus", type=positive_int, default=1, help="GPUs, with a process each (default 1)")
    parser.add_argument("--runs-per-gpu", type=positive_int, default=1, help="runs that may share a GPU (default 1)")
    parser.add_argument(
        "--checkpoint-seconds", type=non_negative_seconds, help="time between checkpoints (default 30; 0: every step)"
    )

    parser = add_command(
        commands,
        "select-best",
        run_select_best,
        "Select the best finished run of an experiment.",
        "lmpipe select-best results/laptop learning_rate",
    )
    add_results(parser)
    parser.add_argument("experiment", help="name of the experiment")


def add_generation_commands(commands: Commands) -> None:
    """Add the parsers of commands that use a trained run."""
    parser = add_command(
        commands,
        "generate",
        run_generate,
        "Generate text: the samples of a study for a corpus, or the continuation of a prompt.",
        "lmpipe generate results/laptop stories",
        'lmpipe generate --run results/laptop/runs/main_experiment/stories/seed0 --prompt "Once upon a time"',
    )
    parser.add_argument("results", nargs="?", help="results folder of the study, for its samples")
    parser.add_argument("corpus", nargs="?", help="name of the corpus, for the study's samples")
    parser.add_argument("--run", dest="run_folder", help="folder of a run, to continue a prompt")
    parser.add_argument("--prompt", help="text to continue on standard output")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 takes the most likely token (default 1)")
    parser.add_argument("--top-p", type=float, default=1.0, help="probability mass of nucleus sampling (default 1)")
    parser.add_argument("--max-new-tokens", type=positive_int, default=256, help="length limit (default 256)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling (default 0)")

    parser = add_command(
        commands,
        "export",
        run_export,
        "Export a run for Hugging Face transformers: model and tokenizer.",
        "lmpipe export --run results/laptop/runs/main_experiment/stories/seed0 --to exported",
    )
    parser.add_argument("--run", dest="run_folder", required=True, help="folder of the run")
    parser.add_argument("--to", required=True, help="new folder; an earlier export there is replaced")


def run_account_model(args: Args) -> "JobResult":
    """Run `lmpipe account-model`."""
    from lmpipe.model.torch_counts import account_model
    from lmpipe.planning.plan import find_name
    from lmpipe.planning.session import read_study
    from lmpipe.provenance.job_records import JobResult

    plan, paths = read_study(args.results)
    model = plan.models[find_name("model", args.model, plan.models)]
    memory_gb = plan.study.accounting.device_memory_gb
    output = paths.accounting(args.model)
    account_model(args.model, model, memory_gb * 1e9).write(output)
    return JobResult(output, settings={"model": model.model_dump(mode="json"), "device_memory_gb": memory_gb})


def run_profile_model(args: Args) -> "JobResult":
    """Run `lmpipe profile-model`."""
    from lmpipe.planning.session import read_study
    from lmpipe.provenance.job_records import JobResult
    from lmpipe.training.profiling import profile_step

    plan, paths = read_study(args.results)
    model, training = plan.models["study"], plan.study.training
    profile_step(model, training, threads=args.threads, device=args.device).write(paths.model_profile)
    return JobResult(paths.model_profile, settings=plan.step_settings())


def run_benchmark_batch_sizes(args: Args) -> "JobResult":
    """Run `lmpipe benchmark-batch-sizes`."""
    from lmpipe.planning.session import read_study
    from lmpipe.provenance.job_records import JobResult
    from lmpipe.training.profiling import benchmark_batch_sizes

    plan, paths = read_study(args.results)
    model, training = plan.models["study"], plan.study.training
    benchmark_batch_sizes(model, training, threads=args.threads, device=args.device).write(paths.batch_sizes)
    return JobResult(paths.batch_sizes, settings=plan.step_settings())


def run_sgd_toy(args: Args) -> "JobResult":
    """Run `lmpipe sgd-toy`."""
    from lmpipe.provenance.job_records import JobResult
    from lmpipe.training.sgd_toy import run_sgd_toy

    run_sgd_toy(args.output)
    return JobResult(Path(args.output))


def run_train(args: Args) -> "JobResult":
    """Run `lmpipe train`."""
    from lmpipe.planning.plan import find_name
    from lmpipe.planning.session import read_study
    from lmpipe.training.run import train

    plan, paths = read_study(args.results)
    runs = {run.id: run for run in plan.runs}
    run = runs[find_name("run", args.run_id, runs)]
    folder, best = paths.run(run.experiment, run.name, run.seed), paths.best(run.best_of) if run.best_of else None
    options = {"threads": args.threads, "device": args.device, "processes": args.processes, "gpus": args.gpus}
    options |= {"runs_per_gpu": args.runs_per_gpu, "best_path": best}
    if args.checkpoint_seconds is not None:
        options["checkpoint_seconds"] = args.checkpoint_seconds
    is_new = train(run, paths.root, folder, **options)
    return training_result(folder, best, run.model_dump(mode="json", exclude_none=True), is_new)


def training_result(folder: Path, best: Path | None, settings: dict[str, Any], is_new: bool) -> "JobResult":
    """Return the result of a training run; its record names the environment that trained it, also of a copy."""
    from lmpipe.provenance.job_records import JobResult
    from lmpipe.study.paths import CONFIG, SUMMARY
    from lmpipe.training.run_config import RunConfig
    from lmpipe.training.run_store import RunSummary

    config, summary = RunConfig.read(folder / CONFIG), RunSummary.read(folder / SUMMARY)
    tokens = [folder / config.tokens.train.path, folder / config.tokens.valid.path]
    inputs = [folder / config.tokenizer.path, *tokens, *(path.with_suffix(".json") for path in tokens)]
    facts = {"cache_hit": not is_new, "train_seconds": summary.train_seconds, "device": summary.device}
    facts |= {"code": summary.code, **dict(summary.environment)}
    return JobResult(folder, [*inputs, *([best] if best else [])], settings, facts)


def run_select_best(args: Args) -> "JobResult":
    """Run `lmpipe select-best`."""
    from lmpipe.analysis.ranking import select_best
    from lmpipe.analysis.results import read_experiment
    from lmpipe.planning.plan import find_name
    from lmpipe.planning.session import read_study
    from lmpipe.provenance.job_records import JobResult

    plan, paths = read_study(args.results)
    runs = plan.run_keys()[find_name("experiment", args.experiment, plan.runs_by_experiment)]
    experiment = read_experiment(paths.root, args.experiment, runs)
    output = paths.best(args.experiment)
    select_best(experiment).write(output)
    inputs = [run.folder / name for run in experiment.runs for name in ("config.json", "summary.json")]
    return JobResult(output, inputs, {"experiment": args.experiment, "runs": runs})


def run_generate(args: Args) -> "JobResult | None":
    """Run `lmpipe generate`."""
    if args.prompt is not None and args.run_folder is not None and args.results is None:
        from lmpipe.generation.sampling import stream_to_stdout

        limits = (args.temperature, args.top_p, args.max_new_tokens, args.seed)
        stream_to_stdout(args.run_folder, args.prompt, *limits)
        return None
    if args.prompt is not None or args.run_folder is not None or args.corpus is None:
        raise InputError("give --run RUN --prompt TEXT, or a results folder and a corpus")

    from lmpipe.generation.samples import write_samples
    from lmpipe.planning.plan import find_name
    from lmpipe.planning.session import read_study
    from lmpipe.provenance.job_records import JobResult

    plan, paths = read_study(args.results)
    run = plan.sample_run(find_name("corpus with samples", args.corpus, plan.sampled_corpora()))
    folder, output = paths.run(run.experiment, run.name, run.seed), paths.samples(args.corpus)
    texts = [paths.text(args.corpus, split) for split in ("train", "valid")]
    write_samples(plan.study.samples, run, folder, *texts, output)
    settings = {"run": f"{run.experiment}/{run.name}", "seed": run.seed}
    settings |= plan.study.samples.model_dump(mode="json", exclude={"models"})
    return JobResult(output, [folder, *texts], settings)


def run_export(args: Args) -> None:
    """Run `lmpipe export`."""
    from lmpipe.generation.huggingface import export

    export(args.run_folder, args.to)
