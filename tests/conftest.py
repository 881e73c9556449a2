"""The strict settings under which everything is tested.

Shapes and types at public boundaries are checked at every call, ranks are never promoted, dtypes never mixed, matrix
products exact; eight virtual devices stand in for a pod. Compilations for one device are cached between runs.
"""

import os
from pathlib import Path

import jax
import pytest
from jax._src import compiler
from jaxtyping import install_import_hook

# Small programs run as fast without optimisation. Together the first two flags make compiling a step four times as
# cheap; alone they save about a third and a quarter.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_llvm_disable_expensive_passes=true"
)
CACHE = Path(os.environ.get("MMFUSE_TEST_CACHE", Path(__file__).parent.parent / ".cache" / "xla"))

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_compilation_cache_dir", str(CACHE))
# also the tiny programs of single operations, which every file and every process needs again
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

make_cache_key = compiler._get_cache_key


def cache_key_on_one_device(*args, devices, **kwargs):
    """No key, and so no place in the cache, for a program of several devices.

    XLA (jaxlib 0.10) has the collectives of a compiled program start in one order on all devices, but forgets, in a
    program that is read back, the order between those inside a loop and those outside: each device starts with
    whichever is ready first and blocks in it, and on a busy machine they now and then wait for one another for ever.
    """
    return make_cache_key(*args, devices=devices, **kwargs) if devices.size == 1 else None


compiler._get_cache_key = cache_key_on_one_device

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
