"""The precision follows from a rule, and autocast does what the rule promises."""

import pytest
import torch
from torch import nn

from deepbloom.engine.precision import autocast, has_native_bf16, resolve_precision
from deepbloom.errors import ConfigError

CPU = torch.device("cpu")


def test_auto_follows_from_what_the_processor_multiplies_natively() -> None:
    """The oracle is what Linux says of the processor."""
    with open("/proc/cpuinfo") as file:
        flags = next(line.split() for line in file if line.startswith("flags"))
    native = {"avx512_bf16", "amx_bf16"} & set(flags)
    assert has_native_bf16() == bool(native)
    assert resolve_precision("auto", CPU) == ("bf16" if native else "fp32")


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
def test_an_explicit_precision_is_honored(wanted: str) -> None:
    assert resolve_precision(wanted, CPU) == wanted


def test_a_precision_that_the_device_lacks_is_an_error() -> None:
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        resolve_precision("fp16", CPU)


def test_a_cpu_trains_depthwise_convolutions_in_float32_and_all_others_in_bf16() -> None:
    depthwise, pointwise = nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 1)
    inputs = torch.randn(2, 4, 8, 8)
    with autocast(CPU, "bf16"):
        trained = [depthwise(inputs).dtype, pointwise(inputs).dtype]
        with torch.inference_mode():
            evaluated = [depthwise(inputs).dtype, pointwise(inputs).dtype]
    assert trained == [torch.float32, torch.bfloat16]
    assert evaluated == [torch.bfloat16, torch.bfloat16]
    assert depthwise(inputs).dtype == pointwise(inputs).dtype == torch.float32
