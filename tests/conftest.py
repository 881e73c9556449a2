"""The strict settings under which everything is tested.

Shapes and types at public boundaries are checked at every call, ranks are never promoted, dtypes never mixed, matrix
products exact; eight virtual devices stand in for a pod. Compilations are cached between runs.
"""

import os
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

# Small programs run as fast with less optimisation, and compile in about half the time. Eight devices on a busy machine
# may wait for one another longer than the 40 s after which the process is ended.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_collective_call_terminate_timeout_seconds=600"
)
# Devices that wait for one another hold a thread each, and XLA makes no more threads than there are devices: with
# several collectives under way they may wait for ever.
os.environ["NPROC"] = "32"
CACHE = Path(os.environ.get("MMFUSE_TEST_CACHE", Path(__file__).parent.parent / ".cache" / "xla"))

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

install_import_hook(["mmfuse", "input_pipeline"], "beartype.beartype")


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """Indexes of tars are kept here, and not in anybody's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMFUSE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Compiled programs of one file are of no use to the next, and there are gigabytes of them."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def tokenizer():
    """A small tokenizer, learned from a few words."""
    from input_pipeline.tokenizers import train_tokenizer

    return train_tokenizer(
        ["a red circle is left of a blue square", "how many circles are there? two"] * 3, vocab_size=300
    )
