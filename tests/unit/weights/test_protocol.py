from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.weights.protocol import Digest, ParamSpec, buckets, pack, staging_buffer, unpack

CPU = torch.device("cpu")
DTYPES = ["float32", "bfloat16", "float16", "uint8"]

specs = st.lists(
    st.builds(
        ParamSpec,
        name=st.text("abc.", min_size=1, max_size=6),
        dtype=st.sampled_from(DTYPES),
        shape=st.lists(st.integers(0, 7), max_size=3).map(tuple),
    ),
    max_size=12,
)


def tensors_of(parameters: list[ParamSpec]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, spec.shape, generator=generator).to(spec.torch_dtype) for spec in parameters]


def digest(*pieces: bytes) -> str:
    running = Digest()
    for piece in pieces:
        running.update(torch.tensor(list(piece), dtype=torch.uint8))
    return running.hexdigest()


@given(parameters=specs, bucket_bytes=st.integers(1, 500))
def test_buckets_hold_every_parameter_in_order_within_their_size(parameters: list[ParamSpec], bucket_bytes: int) -> None:
    cut = list(buckets(parameters, bucket_bytes))
    assert [spec for bucket in cut for spec in bucket] == parameters
    for bucket in cut:
        assert bucket and (len(bucket) == 1 or sum(spec.size_bytes for spec in bucket) <= bucket_bytes)


def test_a_bucket_is_cut_no_earlier_than_it_must() -> None:
    small, large = ParamSpec("a", "float32", (4,)), ParamSpec("b", "float32", (100,))
    assert list(buckets([small, small, small, large, small], 32)) == [(small, small), (small,), (large,), (small,)]


@given(parameters=specs)
def test_what_was_packed_is_unpacked_bit_for_bit(parameters: list[ParamSpec]) -> None:
    sent = tensors_of(parameters)
    if not sent:
        return
    buffer = pack(sent, CPU)
    assert buffer.dtype == torch.uint8 and buffer.numel() == sum(spec.size_bytes for spec in parameters)
    received = unpack(buffer, parameters)
    assert [name for name, _ in received] == [spec.name for spec in parameters]
    for (_, tensor), original in zip(received, sent, strict=True):
        assert tensor.dtype == original.dtype and tensor.shape == original.shape
        assert torch.equal(tensor, original)


def test_bytes_packed_into_a_buffer_stand_at_its_start_and_the_rest_is_left_alone() -> None:
    staging = staging_buffer([ParamSpec("m", "float32", (4,)), ParamSpec("n", "float32", (2,))], 16, CPU).fill_(7)
    packed = pack([torch.ones(2)], CPU, staging)
    assert torch.equal(packed, pack([torch.ones(2)], CPU))
    assert staging.numel() == 16 and torch.equal(staging[:8], packed) and bool((staging[8:] == 7).all())


def test_a_view_with_strides_of_its_own_travels_as_its_values() -> None:
    matrix = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    [(_, received)] = unpack(pack([matrix.T], CPU), [ParamSpec("m", "float32", (4, 3))])
    assert torch.equal(received, matrix.T)


def test_what_was_unpacked_outlives_its_buffer() -> None:
    buffer = pack([torch.ones(3)], CPU)
    [(_, received)] = unpack(buffer, [ParamSpec("m", "float32", (3,))])
    buffer.zero_()
    assert torch.equal(received, torch.ones(3))


@given(sent=st.binary(min_size=1, max_size=64), data=st.data())
def test_a_single_flipped_bit_changes_the_digest(sent: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(sent) - 1))
    flipped = bytearray(sent)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    assert digest(sent) == digest(sent) != digest(bytes(flipped))


@pytest.mark.parametrize("other", [(b"two", b"one"), (b"one",), (b"one", b"two", b"two"), (b"one", b"tw")])
def test_buckets_in_another_order_or_number_change_the_digest(other: tuple[bytes, ...]) -> None:
    assert digest(b"one", b"two") != digest(*other)
