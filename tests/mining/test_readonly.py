import pytest
import torch
from torch import nn

from ohem_d2.mining import read_only

CPU = torch.device("cpu")


def head():
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def test_nothing_of_the_module_or_the_generator_changes():
    module = head().train()
    module[0].eval()  # a frozen part keeps its own flag
    before = {name: value.clone() for name, value in module.state_dict().items()}
    flags = [m.training for m in module.modules()]
    rng = torch.get_rng_state()
    with read_only(module, dropout=True, device=CPU):
        out = module(torch.randn(8, 4))
    assert not out.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert [m.training for m in module.modules()] == flags
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(p.grad is None for p in module.parameters())


def test_an_exception_restores_too():
    module, rng = head().train(), torch.get_rng_state()
    with pytest.raises(RuntimeError, match="inside"):
        with read_only(module, dropout=False, device=CPU):
            torch.rand(1)
            raise RuntimeError("inside")
    assert all(m.training for m in module.modules())
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.is_grad_enabled()


def test_the_output_of_a_row_depends_on_that_row_alone():
    module, x = head().train(), torch.randn(8, 4)
    with read_only(module, dropout=False, device=CPU):
        together, alone = module(x), torch.cat([module(row) for row in x.split(1)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("dropout", [False, True])
def test_dropout_is_active_as_asked(dropout):
    module = nn.Dropout(0.5).train()
    with read_only(module, dropout=dropout, device=CPU):
        zeros = (module(torch.ones(1000)) == 0).sum()
    assert (300 < zeros < 700) if dropout else zeros == 0


def test_dropout_that_was_off_stays_off():
    module = nn.Dropout(0.5).eval()
    with read_only(module, dropout=True, device=CPU):
        assert (module(torch.ones(1000)) == 1).all()
