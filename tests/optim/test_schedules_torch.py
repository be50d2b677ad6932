"""The learning rates that the schedulers of PyTorch and timm give, step by step."""

import numpy as np
import pytest

from vit_jax.optim import schedules

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


def optimizer(peak):
  return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)


def trajectory(scheduler, steps):
  """Rates of a PyTorch scheduler, which counts for itself."""
  rates = []
  for _ in range(steps):
    rates.append(scheduler.optimizer.param_groups[0]["lr"])
    scheduler.optimizer.step()
    scheduler.step()
  return np.array(rates)


def compare(got, want, peak):
  np.testing.assert_allclose(np.asarray(got) / peak, want / peak, rtol=1e-6, atol=1e-6)
  assert np.ptp(want) > 0.5 * peak  # there is something to compare


@pytest.mark.parametrize(("period", "factor", "end"), [(100, 1, 0.0), (37, 2, 1e-5), (5, 3, 1e-4)])
def test_cosine_restarts_of_pytorch(period, factor, end):
  reference = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
    optimizer(5e-3), T_0=period, T_mult=factor, eta_min=end
  )
  schedule = schedules.make(
    "cosine_restarts", learning_rate=5e-3, period=period, period_factor=factor, end=end / 5e-3
  )
  compare(schedule(np.arange(1000)), trajectory(reference, 1000), 5e-3)


def test_steps_of_pytorch():
  reference = torch.optim.lr_scheduler.MultiStepLR(optimizer(0.1), [30, 60, 90], gamma=0.2)
  schedule = schedules.make("step", learning_rate=0.1, boundaries=(30, 60, 90), factor=0.2)
  compare(schedule(np.arange(120)), trajectory(reference, 120), 0.1)


def test_linear_and_cosine_of_pytorch():
  scheduler = torch.optim.lr_scheduler
  for name, reference in (
    ("linear", scheduler.LinearLR(optimizer(0.1), 1.0, 0.05, total_iters=300)),
    ("cosine", scheduler.CosineAnnealingLR(optimizer(0.1), T_max=300, eta_min=0.005)),
  ):
    schedule = schedules.make(name, learning_rate=0.1, total_steps=300, end=0.05)
    compare(schedule(np.arange(300)), trajectory(reference, 300), 0.1)


@pytest.mark.parametrize("every", [1, 7])  # by update, by epoch
@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize(
  ("cycles", "decay", "factor"), [(1, 1.0, 1.0), (2, 0.1, 1.0), (3, 0.5, 2.0), (4, 0.7, 1.5)]
)
def test_cosine_restarts_of_timm(cycles, decay, factor, prefix, every):
  cosine_lr = pytest.importorskip("timm.scheduler.cosine_lr")
  peak, low, warm = 5.5e-4, 1e-5, 2e-6
  reference = cosine_lr.CosineLRScheduler(
    optimizer(peak),
    t_initial=90,
    lr_min=low,
    cycle_mul=factor,
    cycle_decay=decay,
    cycle_limit=cycles,
    warmup_t=10,
    warmup_lr_init=warm,
    warmup_prefix=prefix,
  )
  last = reference.get_cycle_length() + 20
  want = np.repeat([reference._get_lr(t)[0] for t in range(last)], every)
  schedule = schedules.make(
    "cosine_restarts",
    learning_rate=peak,
    period=90 * every,
    period_factor=factor,
    cycles=cycles,
    cycle_decay=decay,
    end=low / peak,
    warmup=10 * every,
    warmup_start=warm / peak,
    warmup_prefix=prefix,
    every=every,
  )
  compare(schedule(np.arange(last * every)), want, peak)


def test_the_schedule_of_deit_and_compact_transformers():
  factory = pytest.importorskip("timm.scheduler")
  peak, steps = 5.5e-4, 5  # of an epoch
  reference, epochs = factory.create_scheduler_v2(
    optimizer(peak), "cosine", 300, 0, [], 10, min_lr=1e-5, warmup_lr=1e-6, warmup_epochs=10
  )
  assert epochs == 310
  schedule = schedules.make(
    "cosine",
    learning_rate=peak,
    total_steps=310 * steps,
    hold=10 * steps,
    warmup=10 * steps,
    warmup_start=1e-6 / peak,
    warmup_prefix=False,
    end=1e-5 / peak,
    every=steps,
  )
  want = np.repeat([reference._get_lr(t)[0] for t in range(epochs)], steps)
  compare(schedule(np.arange(310 * steps)), want, peak)


def test_steps_of_timm_come_one_earlier():
  multistep = pytest.importorskip("timm.scheduler.multistep_lr")
  reference = multistep.MultiStepLRScheduler(
    optimizer(0.1), [30, 60], 0.1, warmup_t=5, warmup_lr_init=0.01, warmup_prefix=False
  )
  schedule = schedules.make(
    "step", learning_rate=0.1, boundaries=(29, 59), warmup=5, warmup_start=0.1
  )
  want = np.array([reference._get_lr(t)[0] for t in range(80)])
  compare(schedule(np.arange(80)), want, 0.1)
