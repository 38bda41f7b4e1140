"""What moves to and from main memory, counted by hand in small programs as XLA writes them."""

import os

import pytest

from trainer.runtime.hlo import memory_traffic

MODULE = """HloModule jit_step, is_scheduled=true

%fused_gather (param_0: f32[1000,8], param_1: s32[4]) -> f32[4,8] {
  %param_0 = f32[1000,8]{1,0:T(8,128)} parameter(0)
  %param_1 = s32[4]{0:T(128)} parameter(1)
  ROOT %gather.1 = f32[4,8]{1,0:T(8,128)} gather(%param_0, %param_1), offset_dims={1}, slice_sizes={1,8}
}

%body (p: (s32[], bf16[64])) -> (s32[], bf16[64]) {
  %p = (s32[]{:T(128)}, bf16[64]{0:T(256)}) parameter(0)
  %number = s32[]{:T(128)} get-tuple-element(%p), index=0
  %values = bf16[64]{0:T(256)} get-tuple-element(%p), index=1
  %twice = bf16[64]{0:T(256)} fusion(%values), kind=kLoop, calls=%fused_twice
  ROOT %tuple = (s32[]{:T(128)}, bf16[64]{0:T(256)}) tuple(%number, %twice)
}

%fused_twice (q: bf16[64]) -> bf16[64] {
  %q = bf16[64]{0:T(256)} parameter(0)
  ROOT %add.1 = bf16[64]{0:T(256)} add(%q, %q)
}

ENTRY %main (table: f32[1000,8], ids: s32[4], state: (s32[], bf16[64])) -> f32[4,8] {
  %table = f32[1000,8]{1,0:T(8,128)} parameter(0)
  %ids = s32[4]{0:T(128)} parameter(1)
  %state = (s32[]{:T(128)}, bf16[64]{0:T(256)}) parameter(2)
  %fetch = (s32[4]{0:T(128)S(1)}, s32[4]{0:T(128)}, u32[]{:S(2)}) copy-start(%ids)
  %near = s32[4]{0:T(128)S(1)} copy-done(%fetch)
  %part = ((f32[1000,8]{1,0:T(8,128)}), f32[10,8]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%table), slice={[0:10], [0:8]}
  %loop = (s32[]{:T(128)}, bf16[64]{0:T(256)}) while(%state), condition=%test, body=%body
  ROOT %rows = f32[4,8]{1,0:T(8,128)} fusion(%table, %near), kind=kCustom, calls=%fused_gather
}
"""


def test_each_byte_between_memory_and_core_counts_once():
    copied, sliced = 4 * 4, 10 * 8 * 4  # one side of each lies in main memory
    loop = 2 * 64 * 2  # read and written, once
    gathered = 2 * 4 * 8 * 4  # the rows, not the table; the row numbers lie on the chip
    assert memory_traffic(MODULE) == copied + sliced + loop + gathered


def test_of_two_branches_the_larger_counts():
    text = """%small (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  ROOT %negative = f32[8]{0} negate(%a)
}

%large (b: f32[8]) -> f32[8] {
  %b = f32[8]{0} parameter(0)
  %first = f32[8]{0} negate(%b)
  ROOT %second = f32[8]{0} negate(%first)
}

ENTRY %main (p: pred[], x: f32[8]) -> f32[8] {
  %p = pred[] parameter(0)
  %x = f32[8]{0} parameter(1)
  ROOT %chosen = f32[8]{0} conditional(%p, %x, %x), true_computation=%small, false_computation=%large
}
"""
    assert memory_traffic(text) == 2 * 2 * 8 * 4


def test_a_real_programs_product():
    jax = pytest.importorskip("jax")
    assert os.environ["JAX_PLATFORMS"] == "cpu"
    one = jax.ShapeDtypeStruct((256, 256), "float32")
    text = jax.jit(lambda a, b: a @ b).lower(one, one).compile().as_text()
    assert memory_traffic(text) == 3 * 256 * 256 * 4
