"""Lets `import torchvision` work beside a CPU build of torch.

Its published wheel is built against CUDA: the compiled part does not load, and the import dies on `operator
torchvision::nms does not exist`. It is enough to declare the operators first. Import this before transformers.
"""

import importlib.util
import re
from pathlib import Path

import torch

_root = Path(importlib.util.find_spec("torchvision").origin).parent
_found = re.findall(
    r'register_fake\("torchvision::(\w+)"|register_meta\("(\w+)"', (_root / "_meta_registrations.py").read_text()
)
LIBRARY = torch.library.Library("torchvision", "DEF")
for _fake, _meta in dict.fromkeys(_found):
    LIBRARY.define(f"{_fake or _meta}(Tensor a) -> Tensor")
