"""Peak memory of every stage that reads a text, however large: `python -m benchmarks.memory --gigabytes 3`.

It makes a text of the story grammar, runs a study on it, and prints the peak memory of each command from the provenance
records; the exit code is 1 if one exceeded the limit. The folder takes about three times the size of the text.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from benchmarks.endurance.processes import snakemake

LIMIT_BYTES = 1_000_000_000
FILES = 4  # files of the corpus, and so shards
READERS = ("make-corpus", "count-pretokens", "train-bpe", "encode", "evaluate-tokenizers", "train", "generate")


def make_texts(folder: Path, gigabytes: float) -> list[Path]:
    """Files of stories, `gigabytes` together; existing ones are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"part{number}-{gigabytes:g}GB.txt" for number in range(FILES)]
    for path in files:
        if not path.exists():
            command = [sys.executable, "-m", "benchmarks.corpora", "stories", "--output", str(path)]
            subprocess.run([*command, "--megabytes", str(round(gigabytes * 1000 / FILES))], check=True)
    return files


def study_of(files: list[Path]) -> dict[str, Any]:
    """Return the study of a corpus of these files, which lie where it runs."""
    study = yaml.safe_load(Path(__file__).with_name("memory.yaml").read_text(encoding="utf-8"))
    study["corpora"]["text"]["files"] = [path.name for path in files]
    return study


def peaks(folder: Path) -> pd.DataFrame:
    """Return number, time (s) and peak memory (MB) of the jobs of each command, from their records."""
    paths = folder.glob("results/memory/**/*provenance.json")
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    jobs = pd.DataFrame([record for record in records if record.get("command") in READERS]).groupby("command")
    table = jobs.agg(jobs=("command", "size"), seconds=("wall_seconds", "sum"), peak=("peak_memory_bytes", "max"))
    return table.assign(peak_mb=table.pop("peak") / 1e6).reindex(READERS)


def main() -> None:
    """Run the study and print the table; exit with 1 if a command exceeded the limit."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--gigabytes", type=float, default=3.0, help="size of the text (default 3)")
    folder_help = "folder of the text and results (default results/benchmark-memory)"
    parser.add_argument("--folder", type=Path, default=Path("results/benchmark-memory"), help=folder_help)
    args = parser.parse_args()
    study = study_of(make_texts(args.folder, args.gigabytes))
    (args.folder / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    command = snakemake("study.yaml", "--forceall", "--cores", "all", "--quiet", "all")
    subprocess.run([sys.executable, "-m", *command], cwd=args.folder, check=True)
    table = peaks(args.folder)
    print(table.round(1).to_string())
    sys.exit(bool((table["peak_mb"] * 1e6 > LIMIT_BYTES).any()))


if __name__ == "__main__":
    main()
