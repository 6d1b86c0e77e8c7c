"""Datasets of the Hub, or of local data files, as a corpus: read with the library `datasets`, as a stream."""

from collections.abc import Iterator

from lmpipe.data.sources.readers import TextReader, missing_key, record_text
from lmpipe.errors import InputError
from lmpipe.study.corpora import DatasetCorpus


def read_dataset(corpus: DatasetCorpus, split: str, reader: TextReader) -> Iterator[bytes]:
    """Yield the documents of a split, one for each record with text.

    Raises InputError if the library is not installed, or if it cannot read the dataset.
    """
    where = f"dataset {corpus.name}"
    try:
        from datasets import load_dataset
    except ImportError:
        raise InputError(where, "needs the package datasets", "install it: pip install 'lmpipe[datasets]'") from None
    try:
        records = load_dataset(
            corpus.name,
            corpus.config,
            split=split,
            revision=corpus.revision,
            data_files=corpus.data_files,
            streaming=True,
        )
        if names := records.column_names:
            if corpus.text_key not in names:
                raise missing_key(corpus.text_key, names, where, f"the split {split}")
            records = records.select_columns([corpus.text_key])
        yield from reader.as_documents(record_text(record, corpus.text_key, where, "a record") for record in records)
    except InputError:
        raise
    except Exception as error:  # the library, the Hub's client and a dozen file formats have errors of their own
        problem = f"cannot be read ({' '.join(f'{type(error).__name__}: {error}'.split())[:300]})"
        raise InputError(where, problem, "correct name, config, split, revision or data_files") from None
