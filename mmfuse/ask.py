"""What does a run say of a person's own picture and sound?

The files become one example as the run's own records do: decoded, checked and fitted as in the stream that taught the
decoder, but never augmented. What a prompt may be follows from what these streams hold: a question where one of them
holds questions; where one holds captions, nothing, or the code of a language with a colon, such as `de:`.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from absl import flags
from jaxtyping import Float, Int
from ml_collections import ConfigDict, config_flags

from input_pipeline import texts
from input_pipeline.collate import Loaded, Row
from input_pipeline.fits import FITS
from input_pipeline.sources.files import MAX_FILE_BYTES
from input_pipeline.streams import Recipe
from input_pipeline.tokenizers import Tokenizer
from input_pipeline.transforms import BadRecord
from input_pipeline.transforms.resizing import GridResizing, Resizing
from mmfuse import build_data
from mmfuse.analysis.answers import split_words
from mmfuse.evaluators.answering import one_spaced
from mmfuse.experiment import Experiment
from mmfuse.inference.decoding import Decoding, make_decoding, write_texts
from mmfuse.training.sharding import batch_shards, place, replicated
from mmfuse.training.workdir import check_claimed
from mmfuse.types import EOS, Caption, ConfigError, DataError, Question

LANGUAGE = re.compile(r"\s*[A-Za-z]{2,3}([-_]\w+)*\s*:\s*")


def define_flags(mode: flags.FlagHolder) -> Callable[[], tuple[dict[str, str], str | None, Decoding]]:
    """Defines what a person can say on the command line; returns what reads it: files, prompt and decoding of `ask`.

    Args:
      mode: the flag that has to be `generate` then; with another mode these flags are refused by a ConfigError.
    """
    files = {name: flags.DEFINE_string(name, None, f"generate: a file of {name}") for name in FITS}
    prompt = flags.DEFINE_string("prompt", None, "generate: a question, or a language such as de: for a caption")
    how = "generate: how to write, such as --decoding.beams=4; mmfuse/inference/decoding.py says what there is"
    decoding = config_flags.DEFINE_config_dict("decoding", ConfigDict(Decoding()._asdict()), how)

    def check(values):
        given = [f"--{name}" for name, value in values.items() if value is not None and name != mode.name]
        given += [f"--decoding.{name}" for name in config_flags.get_override_values(flags.FLAGS["decoding"])]
        if given and values[mode.name] != "generate":
            raise ConfigError(f"{', '.join(given)}: for --mode=generate alone; take that mode, or leave this out.")
        return True

    flags.register_multi_flags_validator([mode, *files.values(), prompt], check)

    def read():
        given = {name: file.value for name, file in files.items() if file.value is not None}
        return given, prompt.value, make_decoding(dict(decoding.value))

    return read


class Wish(NamedTuple):
    """What is to be written: the prompt as a text of the run, how it was learned, and the signals it is about, whose
    pictures are resized so."""

    piece: texts.Piece
    spec: texts.TextSpec
    signals: Mapping[str, tuple[int, ...]]
    resizing: Resizing | GridResizing | None = None


def ask(experiment: Experiment, files: Mapping[str, str], prompt: str | None, decoding: Decoding) -> str:
    """What the newest checkpoint of a run writes about files, and how likely it finds each word.

    Args:
      experiment: the run.
      files: signal → path.
      prompt: a question or a language; None asks for a caption.
      decoding: how it is written; probabilities are those of the model, whatever the decoding makes of them.

    Raises:
      CheckpointError: there is no run, or it has saved nothing.
      ConfigError: the run has not learned what is asked for.
      DataError: a file or prompt that cannot be used.
    """
    check_claimed(experiment.workdir, experiment.config)
    wish, tokenizer = understand(experiment.config, files, prompt), experiment.tokenizer
    assert isinstance(tokenizer, Tokenizer), "validated: what is written is in our own ids"
    loaded = load_example(wish, files, tokenizer, rows=batch_shards(experiment.mesh))
    tokens = wish.spec.length - int(loaded.batch.text["prompt"].segment[0, 0].sum())
    state = experiment.restore()

    def write(state, batch):
        model = experiment.maker.merge(state)
        text = model.single, model.encode(batch), batch.text["prompt"], batch.origin
        return write_texts(*text, tokens=tokens, decoding=decoding)

    program = jax.jit(write, out_shardings=replicated(experiment.mesh))
    written = program(state, place(loaded.batch, experiment.mesh))
    return in_words(*(np.asarray(array)[0, 0] for array in written), tokenizer)


def understand(config: ConfigDict, files: Mapping[str, str], prompt: str | None) -> Wish:
    """Finds the stream that taught the decoder what is asked for.

    Raises:
      ConfigError: no stream did, or none with these signals.
    """
    if prompt is not None and not prompt.strip():
        raise ConfigError("--prompt is empty: write a question, or leave it out for a caption.")
    question = prompt is not None and not LANGUAGE.fullmatch(prompt)
    taught = [
        (spec, stream, {name: shape for name, shape in stream.signals.items() if name in config.model.single.memories})
        for spec, stream in _teachers(config, question)
    ]
    if not files:
        flags_of_files = " or ".join(dict.fromkeys(f"--{name}=…" for *_, known in taught for name in known))
        raise ConfigError(f"there is nothing to look at or to hear: name a file, {flags_of_files}.")
    fitting = [(spec, stream, known) for spec, stream, known in taught if set(files) <= set(known)]
    if not fitting:
        read = " or ".join(dict.fromkeys(" and ".join(known) for *_, known in taught))
        raise ConfigError(f"{', '.join(f'--{name}' for name in files)}: what the decoder learned to read is {read}.")
    spec, stream, known = fitting[0]
    piece = Question(prompt, "", "") if question else Caption("", _language(prompt, spec))
    signals = {name: known[name] for name in files}
    return Wish(piece, spec._replace(number=1, packed=1), signals, build_data.make_resizing(stream))


def load_example(wish: Wish, files: Mapping[str, str], tokenizer: Tokenizer, *, rows: int) -> Loaded:
    """Makes a batch of one example, and holes.

    Raises:
      DataError: which file or prompt cannot be used, and why.
    """
    recipe = Recipe(wish.signals, {"prompt": wish.spec}, tokenizer, resizing=wish.resizing)
    unused = np.random.default_rng(0)  # nothing is augmented
    signals = {}
    for name, path in files.items():
        try:
            signals[name] = recipe.fits[name](_read(name, path), wish.signals[name], unused)
        except BadRecord as bad:
            raise DataError(
                f"--{name}={path} cannot be used: {bad.reason}. docs/own_data.md says what files may be."
            ) from None
    try:
        sequence = texts.encode(wish.piece, "prompt", wish.spec.length, tokenizer)
    except BadRecord as bad:
        room = f"with its answer it has at most {wish.spec.length} tokens in this run"
        raise DataError(f"--prompt cannot be used: {bad.reason}; {room}.") from None
    row = Row("files", (0, 0), 0, signals, {"prompt": [sequence]}, {"prompt": [wish.piece]})
    return recipe.collate([row], rows)


def in_words(ids: Int[np.ndarray, "t"], log_prob: Float[np.ndarray, "t"], tokenizer: Tokenizer) -> str:
    """Two lines: the text, and the probability of the whole and of each word, which is that of its tokens together."""
    said = [(word, log_prob[at].sum()) for word, at in split_words(ids, tokenizer)]
    said += [("(end)", likely) for token, likely in zip(ids, log_prob) if token == EOS]
    text = one_spaced(tokenizer.decode(ids)) or "(nothing)"
    each = ", ".join(f"{word} {np.exp(likely):.2g}" for word, likely in said)
    return f"{text}{'' if EOS in ids else ' …'}\nprobability {np.exp(log_prob.sum()):.2g}: {each}"


def _teachers(config, question):
    """The streams whose targets are questions with their answers, or captions, each behind what its targets hold."""
    streams = [stream for stream in config.streams.values() if "target" in stream.text]
    if not streams:
        raise ConfigError("this run matches and does not write: none of its streams teaches a decoder ('target').")
    targets = [(build_data.make_text_specs(stream)["target"], stream) for stream in streams]
    found = [pair for pair in targets if (pair[0].take in texts.ASKED if question else pair[0].take != "questions")]
    if not found:
        raise ConfigError(
            "this run has learned to caption, not to answer: leave --prompt out, or name a language, such as "
            "--prompt=de:"
            if question
            else "this run has learned to answer, not to caption: write a question, --prompt='…'."
        )
    return found


def _language(prompt, spec):
    """The code that a prompt names; English where it names none, if it was learned."""
    languages = spec.languages or ("en",)
    if prompt is None:
        return "en" if "en" in languages else languages[0]
    code = prompt.partition(":")[0].strip()
    if spec.languages and code not in spec.languages:
        raise ConfigError(f"--prompt={prompt}: this run has learned to caption in {', '.join(languages)} alone.")
    return code


def _read(name, path):
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise DataError(f"--{name}={path} cannot be read: {error.strerror}.") from None
    if len(data) > MAX_FILE_BYTES:
        raise BadRecord(f"it has more than {MAX_FILE_BYTES >> 20} MiB")
    return data
