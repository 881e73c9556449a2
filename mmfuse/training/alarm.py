"""Who says that a gate has stopped deciding, while there is time to do something about it?"""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mmfuse.routing.instruments import has_collapsed

LOGGER = logging.getLogger(__name__)
PATIENCE = 100  # steps in a row


class CollapseAlarm:
    """Warns once of each gate that has been always open, always shut, or blind to its evidence for `PATIENCE` steps."""

    def __init__(self):
        self.collapsed: Counter[str] = Counter()  # gate → steps in a row

    def watch(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Looks at the metrics of one step, of which `{stream}/{site}/varied/{modality}` and `…/wanted/…` are its."""
        for name, varied in metrics.items():
            match name.split("/"):
                case stream, site, "varied", modality:
                    gate, share = f"{stream}/{site}/{modality}", float(metrics[f"{stream}/{site}/wanted/{modality}"])
                    self.collapsed[gate] = self.collapsed[gate] + 1 if has_collapsed(share, float(varied)) else 0
                    if self.collapsed[gate] == PATIENCE:
                        text = (
                            "step %d: the gate %s has collapsed: it would open for %.1f%%, deviation %.3f, %d steps on"
                        )
                        LOGGER.warning(text, step, gate, 100 * share, varied, PATIENCE)
