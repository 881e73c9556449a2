"""How is a tokenizer trained ahead of a run?

python -m input_pipeline.prepare tokenizer --out=DIR --shards='DIR/*.tar' --vocab-size=8192
"""

import argparse

from input_pipeline.sources.webdataset import Webdataset
from input_pipeline.tokenizers import source_texts, train_tokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own flags."""
    parser.add_argument("--out", required=True, help="folder for the tokenizer")
    parser.add_argument("--shards", required=True, nargs="+", help="patterns of tars")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--limit", type=int, default=100_000, help="the most records to learn from")


def run(options: argparse.Namespace) -> str:
    """Trains and saves the tokenizer, and says its hash."""
    texts = source_texts([Webdataset(options.shards, signals=())], options.limit)
    tokenizer = train_tokenizer(texts, vocab_size=options.vocab_size)
    tokenizer.save(options.out)
    return f"wrote a tokenizer of {tokenizer.vocab_size} ids to {options.out}; sha256 {tokenizer.sha256}"
