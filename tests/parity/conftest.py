"""Torch and transformers are the oracles here: `make parity`."""

import os

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import torch
import transformers

from tests.parity import torchvision_shim  # noqa: F401

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
