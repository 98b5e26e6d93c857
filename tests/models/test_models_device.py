"""Devices that are not there, threads, and a body that is compiled for a while."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.device import autocast, compiled, threads, training_device, worth_compiling
from models.encoder import SIZES, default_config


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_cuda_training_falls_back_and_says_so() -> None:
    said: list[str] = []
    assert training_device("cuda", said.append) == torch.device("cpu")
    (message,) = said
    assert message.startswith("cuda cannot be used here (") and message.endswith("; training on the CPU")
    assert training_device("cpu", said.append) == torch.device("cpu")
    assert len(said) == 1


def test_products_on_a_cpu_stay_as_they_are() -> None:
    with autocast(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_threads_are_as_before_afterwards() -> None:
    before = torch.get_num_threads()
    with threads(3):
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before
    with threads(None):
        assert torch.get_num_threads() == before


def test_only_deep_bodies_on_cuda_are_worth_compiling() -> None:
    wanted = {
        (name, kind): worth_compiling(default_config(size), torch.device(kind))
        for name, size in SIZES.items()
        for kind in ("cpu", "cuda")
    }
    assert [key for key, value in wanted.items() if value] == [("gpu", "cuda")]


@pytest.mark.slow
def test_a_body_is_compiled_meanwhile_and_keeps_the_names_of_its_weights() -> None:
    body, x = nn.Sequential(nn.Linear(4, 4), nn.GELU()), torch.randn(3, 4)
    names, expected, said = list(body.state_dict()), body(x), list[str]()
    with compiled(body, lambda: body(x), True, said.append, backend="eager"):
        assert "_compiled_call_impl" in vars(body)
        assert list(body.state_dict()) == names
        assert torch.allclose(body(x), expected)
    assert "_compiled_call_impl" not in vars(body)
    assert said == []


def test_a_body_that_does_not_compile_is_used_as_it_is() -> None:
    body, said = nn.Linear(2, 2), list[str]()

    def fails() -> None:
        raise NotImplementedError("no compiler")

    with compiled(body, fails, True, said.append, backend="eager"):
        assert "_compiled_call_impl" not in vars(body)
        assert body(torch.ones(1, 2)).shape == (1, 2)
    assert said == ["not compiled (NotImplementedError); training goes on without"]
    with compiled(body, fails, False, said.append):
        assert len(said) == 1
