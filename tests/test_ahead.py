"""Steps that are compiled for devices which are not here, and what the compiler says of them."""

import types

import jax
import pytest

from vit_jax import ahead, compiled
from vit_jax import config as config_lib
from vit_jax.errors import UserError
from vit_jax.models import target

HLO = """HloModule step, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%inner_condition (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %most = s32[]{:T(256)} constant(5)
  ROOT %less = pred[] compare(%i, %most), direction=LT
}

%fused_compare (a: s32[]) -> pred[] {
  %a = s32[] parameter(0)
  %most.1 = s32[] constant(3)
  ROOT %less.1 = pred[] compare(%a, %most.1), direction=LT
}

%outer_condition (q: (s32[], f32[8])) -> pred[] {
  %q = (s32[], f32[8]{0}) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  ROOT %f = pred[] fusion(%j), kind=kLoop, calls=%fused_compare
}

%inner_body (r: (s32[], f32[8])) -> (s32[], f32[8]) {
  %r = (s32[], f32[8]{0}) parameter(0)
  ROOT %x = (s32[], f32[8]{0}) fusion(%r), kind=kLoop, backend_config={"estimated_cycles":"10"}
}

%outer_body (s: (s32[], f32[8])) -> (s32[], f32[8]) {
  %s = (s32[], f32[8]{0}) parameter(0)
  %y = (s32[], f32[8]{0}) fusion(%s), kind=kLoop, backend_config={"estimated_cycles":"100"}
  ROOT %w = (s32[], f32[8]{0}) while(%y), condition=%inner_condition, body=%inner_body
}

%dear (t: f32[8]) -> f32[8] {
  %t = f32[8]{0} parameter(0)
  ROOT %z = f32[8]{0} fusion(%t), kind=kLoop, backend_config={"estimated_cycles":"7000"}
}

%cheap (u: f32[8]) -> f32[8] {
  ROOT %u = f32[8]{0} parameter(0)
}

ENTRY %main (v: f32[8]) -> f32[8] {
  %v = f32[8]{0} parameter(0)
  %k = (s32[], f32[8]{0}) fusion(%v), kind=kLoop, backend_config={"estimated_cycles":"1000"}
  %l = (s32[], f32[8]{0}) while(%k), condition=%outer_condition, body=%outer_body
  %c = f32[8]{0} conditional(%k, %v, %v), branch_computations={%cheap, %dear}
  ROOT %d = f32[8]{0} call(%c), to_apply=%dear
}
"""


def test_cycles_in_loops_count_as_often_as_they_run():
  found = compiled.tpu_cycles(types.SimpleNamespace(as_text=lambda: HLO))
  assert found == 1000 + 3 * (100 + 5 * 10) + 7000 + 7000


def test_a_donated_argument_counts_once():
  double = jax.jit(lambda x: 2 * x, donate_argnums=0)
  x = jax.ShapeDtypeStruct((1000,), "float32")
  assert compiled.peak_bytes(double.lower(x).compile()) == 4000
  assert compiled.peak_bytes(jax.jit(lambda x: 2 * x).lower(x).compile()) == 8000


def test_a_step_is_lowered_without_data_or_files():
  config = config_lib.resolve(
    dict(
      batch_size=4,
      total_steps=1,
      data=dict(name="nowhere", image_size=32, train="central_crop(9)"),
      model=dict(name="ViT-mu/16", pool="map"),
      evaluators=dict(x=dict(type="knn")),
    )
  )
  job = ahead.build(config, jax.devices()[:1], num_classes=1234)
  assert job.target.params["head"]["bias"].shape == (1234,)
  assert "tensor<4x32x32x3xf32>" in job.lower().as_text()
  assert config.data.name == "nowhere"


def test_an_unknown_slice_is_an_error_that_says_what_to_do():
  with pytest.raises(UserError, match="no TPU compiler for topology 'v99:2x2'.*pip install libtpu"):
    ahead.tpu_devices("v99:2x2")


def test_a_model_is_traced_for_the_devices_of_its_mesh():
  def platform(name):
    return target.traced_for(types.SimpleNamespace(platform=name), target.platform)()

  assert [platform(n) for n in ("cpu", "tpu", "cuda", "rocm")] == ["cpu", "tpu", "gpu", "gpu"]
  assert target.platform() == jax.default_backend()
