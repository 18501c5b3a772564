"""The schedule of a compiled TPU module as it is read: instructions, loops, products, collectives, bytes."""

from pathlib import Path

import pytest

from coopt.measure import hlo
from coopt.measure.modules import parse
from coopt.measure.schedule import Product, schedule
from coopt.measure.traffic import main_bytes

# As the compiler writes it: a layer loop of the program, in it a loop of a product and its gather that counts by two,
# a kernel whose attributes go over lines that begin with braces, collectives in the open and one under way.
TEXT = (Path(__file__).parent.parent / "data" / "schedule.hlo").read_text()


def found(**more):
    return {row.name: row for row in schedule(TEXT, **more).rows}


def test_loops_go_round_as_their_conditions_and_steps_say():
    rows = found()
    assert schedule(TEXT).unread == ()
    assert rows["slice_fusion"].times == 4  # i < 4 by 1
    assert rows["fusion.8"].times == 4 * 4  # i < 8 by 2, the two carried in the loop's tuple
    assert rows["copy.1"].times == 1


def test_a_layer_loop_stands_for_all_layers_and_no_other_loop_does():
    rows = found(layers=[(4, 32)])
    assert rows["slice_fusion"].times == 32 and rows["fusion.8"].times == 32 * 4 and rows["copy.1"].times == 1


def test_a_layer_taken_out_of_the_loop_still_counts_once():
    """The compiler may run one layer before the loop: three trips of four layers stand for 31 of 32."""
    assert found(layers=[(5, 32)])["slice_fusion"].times == 4 + 32 - 5


def test_a_program_without_a_loop_of_layers_is_no_step():
    with pytest.raises(ValueError, match="7 layers"):
        schedule(TEXT, layers=[(7, 32)])


def test_each_kind_of_layers_has_its_own_loop():
    assert found(layers=[(4, 32), (2, 2)])["slice_fusion"].times == 32  # a kind that is whole needs no loop
    with pytest.raises(ValueError, match="6 layers"):
        schedule(TEXT, layers=[(4, 32), (6, 12)])


def test_a_loop_that_cannot_be_read_is_named():
    damaged = TEXT.replace("constant(4)\n  ROOT %lt.7", "custom-call()\n  ROOT %lt.7")
    assert damaged != TEXT and schedule(damaged).unread == ("while.1",)


def test_attributes_over_several_lines_lose_nothing_after_them():
    body = parse(TEXT).computations["layer_body"]
    assert list(body)[-1] == "tuple.61" and "while.6" in body
    kernel = found()["splash_mha_fwd_residuals.3"]
    assert (kernel.kind, kernel.kernel, kernel.shape, kernel.times) == ("attention", "fwd", (2, 8, 2048, 128), 4)


def test_products_are_read_from_sizes():
    row = found()["fusion.8"]
    assert row.kind == "matmul" and row.cycles == 1000
    assert row.products == (Product(64, 128, 256, ("bf16", "bf16", "bf16")),)


def test_an_estimate_that_is_no_number_is_none():
    assert "unknown" not in found()


def test_collectives_in_the_open_and_under_way():
    rows = found()
    gathered, permuted, scattered = (rows[n] for n in ("gathered", "collective-permute-start.1", "scattered"))
    assert (gathered.collective, gathered.group, gathered.hidden) == ("all_gather", (0, 2, 4, 6), False)
    assert gathered.bytes == 4 * 256 * 512 * 2
    assert (permuted.collective, permuted.hidden, permuted.bytes) == ("p2p", True, 256 * 128 * 2)
    assert (scattered.collective, len(scattered.group), scattered.bytes) == ("reduce_scatter", 4, 64 * 128 * 2)


def test_bytes_of_main_memory_alone_and_of_slices():
    rows = found()
    assert rows["fusion.8"].traffic == (256 * 128 + 64 * 128) * 2  # x lies on the core
    assert rows["slice_fusion"].traffic == 2 * 256 * 128 * 2  # one of four slices read, and written
    assert main_bytes("(f32[2]{0}, f32[4]{0:T(128)S(1)})") == 8


PADDED = """\
HloModule padded, is_scheduled=true

%sliced (x.2: bf16[16,1,64], i.2: s32[]) -> bf16[16,2,8] {
  %x.2 = bf16[16,1,64]{2,1,0} parameter(0)
  %low.2 = bf16[]{:T(256)} constant(-inf)
  %pad.2 = bf16[16,2,64]{2,1,0} pad(%x.2, %low.2), padding=0_0x0_1x0_0
  %zero.2 = s32[]{:T(128)} constant(0)
  %i.2 = s32[]{:T(128)} parameter(1)
  ROOT %slice.2 = bf16[16,2,8]{2,1,0} dynamic-slice(%pad.2, %zero.2, %zero.2, %i.2), dynamic_slice_sizes={16,2,8}
}

%fused (x.3: bf16[16,1,64], w.3: f32[8,32], i.3: s32[]) -> (bf16[16,2,32], bf16[8,32]) {
  %x.3 = bf16[16,1,64]{2,1,0} parameter(0)
  %i.3 = s32[]{:T(128)} parameter(2)
  %part.3 = bf16[16,2,8]{2,1,0} fusion(%x.3, %i.3), kind=kLoop, calls=%sliced
  %w.3 = f32[8,32]{1,0} parameter(1)
  %half.3 = bf16[8,32]{1,0} convert(%w.3)
  %y.3 = bf16[16,2,32]{2,1,0} convolution(%part.3, %half.3), dim_labels=0bf_io->0bf
  ROOT %both.3 = (bf16[16,2,32]{2,1,0}, bf16[8,32]{1,0}) tuple(%y.3, %half.3)
}

ENTRY %main.1 (x.1: bf16[16,1,64], w.1: f32[8,32], i.1: s32[]) -> (bf16[16,2,32], bf16[8,32]) {
  %x.1 = bf16[16,1,64]{2,1,0} parameter(0)
  %w.1 = f32[8,32]{1,0} parameter(1)
  %i.1 = s32[]{:T(128)} parameter(2)
  ROOT %fusion.1 = (bf16[16,2,32]{2,1,0}, bf16[8,32]{1,0}) fusion(%x.1, %w.1, %i.1), kind=kOutput, calls=%fused
}
"""


def test_a_slice_of_what_a_fusion_pads_reads_no_more_than_the_slice():
    """A product cut into pieces pads its side and takes a piece: of 1,024 elements 128, and all weights, converted."""
    (row,) = schedule(PADDED).rows
    assert row.traffic == 16 * 8 * 2 + 8 * 32 * 4 + (16 * 2 * 32 + 8 * 32) * 2


@pytest.mark.parametrize(
    "line,group",
    [
        ("replica_groups=mesh['x'=2,'y'=4] {'y'}", (0, 1, 2, 3)),
        ("replica_groups=mesh['x'=2,'y'=4] {'x'}", (0, 4)),
        ("replica_groups=mesh['x'=8] {'x':(1)2}", (0, 4)),
        ("replica_groups=mesh['x'=8] {'x':(4)2}", (0, 1)),
        ("replica_groups=[8,2]<=[16]", (0, 1)),
    ],
)
def test_the_first_group_of_a_collective(line, group):
    assert hlo.first_group(line) == group
    assert hlo.group_size(line) == len(group)


EXPERTS = """\
HloModule experts, is_scheduled=true

ENTRY %main.1 (a.1: bf16[8,512,1024,1], b.1: bf16[2,8,256,512]) -> bf16[8,1024,2,256] {
  %a.1 = bf16[8,512,1024,1]{1,3,2,0:T(8,128)(2,1)} parameter(0)
  %b.1 = bf16[2,8,256,512]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  ROOT %convolution.1 = bf16[8,1024,2,256]{3,1,2,0:T(8,128)(2,1)} convolution(%a.1, %b.1), \
window={size=8x2 stride=7x1 pad=0_0x1_1 lhs_dilate=8x1 rhs_reversal=0x1}, dim_labels=0fb1_10oi->0b1f, \
backend_config={"window_config":{"estimated_cycles":"1000"}}
}
"""


def test_experts_are_a_product_each():
    (row,) = schedule(EXPERTS).rows
    assert row.products == 8 * (Product(1024, 512, 512, ("bf16",) * 3),)
    alone = EXPERTS.replace("size=8x2 stride=7x1 pad=0_0x1_1 lhs_dilate=8x1", "size=8x2 pad=0_0x1_1")
    assert schedule(alone).rows[0].products == ()  # without the dilation no whole sizes come out


GROUPED = """\
HloModule grouped, is_scheduled=true

%rows (x.2: bf16[1024,512], i.2: s32[2048]) -> bf16[2048,512] {
  %x.2 = bf16[1024,512]{1,0:T(8,128)(2,1)} parameter(0)
  %i.2 = s32[2048]{0:T(1024)} parameter(1)
  ROOT %gather.2 = bf16[2048,512]{1,0:T(8,128)(2,1)} gather(%x.2, %i.2), offset_dims={1}, slice_sizes={1,512}
}

ENTRY %main.1 (x.1: bf16[1024,512], w.1: bf16[4,512,1408], v.1: bf16[4,1408,512], i.1: s32[2048]) -> bf16[4,1408,512] {
  %x.1 = bf16[1024,512]{1,0:T(8,128)(2,1)} parameter(0)
  %w.1 = bf16[4,512,1408]{2,1,0:T(8,128)(2,1)} parameter(1)
  %v.1 = bf16[4,1408,512]{2,1,0:T(8,128)(2,1)} parameter(2)
  %i.1 = s32[2048]{0:T(1024)} parameter(3)
  %tiles.1 = s32[]{:T(128)} constant(4)
  %ends.1 = s32[5]{0:T(128)} iota()
  %sorted.1 = s32[2048]{0:T(1024)} sort(%i.1), dimensions={0}, to_apply=%less
  %gather_fusion.1 = bf16[2048,512]{1,0:T(8,128)(2,1)} fusion(%x.1, %sorted.1), kind=kCustom, calls=%rows
  %gmm.10 = bf16[2048,1408]{1,0:T(8,128)(2,1)} custom-call(%tiles.1, %ends.1, %gather_fusion.1, %w.1), \
custom_call_target="tpu_custom_call", metadata={op_name="jit(function)/mlp.expert_up/jit(gmm)/pallas_call"}
  %gmm.11 = bf16[2048,512]{1,0:T(8,128)(2,1)} custom-call(%tiles.1, %ends.1, %gmm.10, %v.1), \
custom_call_target="tpu_custom_call", metadata={op_name="jit(function)/mlp.expert_down/jit(gmm)/pallas_call"}
  ROOT %tgmm.1 = bf16[4,1408,512]{2,1,0:T(8,128)(2,1)} custom-call(%tiles.1, %ends.1, %gmm.10, %gmm.11), \
custom_call_target="tpu_custom_call", metadata={op_name="jit(function)/mlp.expert_down/jit(tgmm)/pallas_call"}
}
"""


def test_grouped_products_are_kernels_and_the_rows_they_take_are_moved():
    rows = {row.name: row for row in schedule(GROUPED).rows}
    assert list(rows) == ["sorted.1", "gather_fusion.1", "gmm.10", "gmm.11", "tgmm.1"]
    up, down, gradient = (rows[name] for name in ("gmm.10", "gmm.11", "tgmm.1"))
    assert (up.kind, up.kernel, up.shape) == ("experts", "gmm", (4, 2048, 512, 1408))
    assert (down.kernel, down.shape) == ("gmm", (4, 2048, 1408, 512))
    assert (gradient.kernel, gradient.shape) == ("tgmm", (4, 2048, 1408, 512))
    assert up.traffic == 6 * 4 + 2 * (2048 * 512 + 4 * 512 * 1408 + 2048 * 1408)
    moved = rows["gather_fusion.1"]
    assert moved.kind == "other" and moved.cycles != moved.cycles  # no estimate
    assert moved.traffic == 2 * (1024 * 512 + 2048 * 512)  # as many rows as are read, and written
