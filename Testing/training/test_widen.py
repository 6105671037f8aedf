from __future__ import annotations

import pytest
import torch
from CovidSegLib.bundle import load_bundle
from CovidSegLib.network import NetworkConfig, build_network

from CovidSegTraining.product.widen import widened


def _network(width: int, *, seed: int = 0) -> torch.nn.Module:
    """Return a network whose normalisation is neither neutral nor the same for any two filters."""
    torch.manual_seed(seed)
    network = build_network(NetworkConfig(width=width))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.copy_(0.5 + torch.rand_like(tensor))
    return network.eval()


def _answer(state: dict[str, torch.Tensor], *, width: int, image: torch.Tensor) -> torch.Tensor:
    network = build_network(NetworkConfig(width=width)).eval()
    # A bundle lacks the counters of batches.
    network.load_state_dict({**network.state_dict(), **state})
    with torch.no_grad():
        return network(image)  # type: ignore[no-any-return]


@pytest.mark.parametrize("copies", [2, 3])
def test_wider_network_computes_the_same(copies: int) -> None:
    narrow = _network(3)
    image = torch.randn(1, 1, 16, 32, 16)
    wide = widened(narrow.state_dict(), config=NetworkConfig(width=3 * copies), seed=0)
    assert wide["down.4.0.weight"].shape == (48 * copies, 24 * copies, 3, 3, 3)
    with torch.no_grad():
        expected = narrow(image)
    torch.testing.assert_close(_answer(wide, width=3 * copies, image=image), expected, atol=1e-4, rtol=1e-4)


def test_shipped_weights_become_the_papers_network() -> None:
    state = load_bundle().network.state_dict()
    wide = widened(state, config=NetworkConfig(width=32), seed=0)
    trainable = [t.numel() for name, t in wide.items() if "running" not in name and "num_batches" not in name]
    assert sum(trainable) == 22_581_316
    image = torch.randn(1, 1, 16, 32, 32).clamp(-1, 1)
    expected = _answer(state, width=16, image=image).softmax(dim=1)
    torch.testing.assert_close(_answer(wide, width=32, image=image).softmax(dim=1), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["down.0.0.weight", "down.2.3.weight", "up.1.0.weight"])
def test_copies_of_a_filter_have_gradients_of_their_own(name: str) -> None:
    network = build_network(NetworkConfig(width=4))
    network.load_state_dict(widened(_network(2).state_dict(), config=NetworkConfig(width=4), seed=0))
    network(torch.randn(1, 1, 16, 32, 32)).square().mean().backward()
    gradient = dict(network.named_parameters())[name].grad
    assert gradient is not None
    # Adam moves two copies alike even if their gradients differ by a factor: directions are compared.
    alike = torch.nn.functional.cosine_similarity(gradient[0::2].flatten(1), gradient[1::2].flatten(1))
    assert (alike < 0.99999).all()


def test_same_seed_gives_the_same_weights_and_another_others() -> None:
    state = _network(2).state_dict()
    one, again, other = (widened(state, config=NetworkConfig(width=4), seed=seed) for seed in (5, 5, 6))
    assert torch.equal(one["up.0.0.weight"], again["up.0.0.weight"])
    assert not torch.equal(one["up.0.0.weight"], other["up.0.0.weight"])


@pytest.mark.parametrize("width", [2, 3, 5])
def test_weights_stay_as_they_are_if_the_width_is_no_multiple(width: int) -> None:
    state = _network(3).state_dict()
    assert widened(state, config=NetworkConfig(width=width), seed=0) is state


def test_what_is_no_network_is_left_for_others_to_refuse() -> None:
    state = {"weight": torch.ones(1)}
    assert widened(state, config=NetworkConfig(width=4), seed=0) is state
