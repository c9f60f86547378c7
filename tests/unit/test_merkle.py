"""The Merkle tree: the published vectors of Certificate Transparency, and what holds for every tree and every proof."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resurgam.vault.merkle import (
    EMPTY,
    Frontier,
    consistency,
    inclusion,
    leaf_hash,
    node_hash,
    prove,
    verify_consistency,
    verify_inclusion,
)

# Leaves, roots and proofs that the implementations of RFC 6962 share (google/certificate-transparency, transparency-dev/merkle).
LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
LEFT_FOUR = ROOTS[3]
INCLUSION = {
    (0, 1): (),
    (2, 3): (ROOTS[1],),
    (1, 5): (
        ROOTS[0],
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
    (0, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (5, 8): (
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        LEFT_FOUR,
    ),
}
CONSISTENCY = {
    (1, 1): (),
    (1, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (2, 5): (
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
    (6, 8): (
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        LEFT_FOUR,
    ),
}
SIZES = st.integers(1, 80)


@cache
def leaf(number: int) -> bytes:
    return leaf_hash(b"leaf %d" % number)


def hashes(size: int) -> list[bytes]:
    return [leaf(number) for number in range(size)]


def head(leaves: list[bytes]) -> bytes:
    """MTH of RFC 9162 section 2.1.1, as it is written there."""
    if not leaves:
        return EMPTY
    if len(leaves) == 1:
        return leaves[0]
    middle = max(2**k for k in range(10) if 2**k < len(leaves))
    return node_hash(head(leaves[:middle]), head(leaves[middle:]))


@pytest.mark.parametrize("size", range(1, 9))
def test_the_published_roots(size: int) -> None:
    edge = Frontier()
    for data in LEAVES[:size]:
        edge.append(leaf_hash(data))
    assert edge.root().hex() == ROOTS[size - 1]


def test_the_root_of_nothing_is_the_published_one() -> None:
    assert Frontier().root().hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize(("index", "size"), INCLUSION)
def test_the_published_inclusion_proofs(index: int, size: int) -> None:
    leaves = [leaf_hash(data) for data in LEAVES[:size]]
    path = prove(leaves, inclusion(index, size))
    assert tuple(one.hex() for one in path) == INCLUSION[index, size]
    assert verify_inclusion(leaves[index], index, size, path, bytes.fromhex(ROOTS[size - 1]))


@pytest.mark.parametrize(("old", "size"), CONSISTENCY)
def test_the_published_consistency_proofs(old: int, size: int) -> None:
    path = prove([leaf_hash(data) for data in LEAVES[:size]], consistency(old, size))
    assert tuple(one.hex() for one in path) == CONSISTENCY[old, size]
    assert verify_consistency(old, bytes.fromhex(ROOTS[old - 1]), size, bytes.fromhex(ROOTS[size - 1]), path)


@given(st.integers(0, 80), st.integers(0, 80))
def test_an_edge_goes_on_from_where_it_was_kept(first: int, more: int) -> None:
    """P11: a kept edge and the new leaves give the root of all leaves, as the RFC defines it."""
    edge = Frontier()
    for one in hashes(first):
        edge.append(one)
    assert len(edge.peaks) == first.bit_count()
    kept = Frontier(edge.size, edge.peaks)
    for one in hashes(first + more)[first:]:
        kept.append(one)
    assert kept.root() == head(hashes(first + more))


@given(SIZES, st.data())
def test_every_leaf_has_a_proof_and_no_other_fits(size: int, data: st.DataObject) -> None:
    """The proof of one leaf proves no other leaf, place, size or root."""
    index = data.draw(st.integers(0, size - 1))
    path, root = prove(hashes(size), inclusion(index, size)), head(hashes(size))
    assert len(path) <= size.bit_length()
    assert verify_inclusion(leaf(index), index, size, path, root)
    assert not verify_inclusion(leaf(index + 1), index, size, path, root)
    assert not verify_inclusion(leaf(index), index, size, path, leaf(0) if size > 1 else EMPTY)
    assert not verify_inclusion(leaf(index), index, size, [*path, EMPTY], root)
    assert not verify_inclusion(leaf(index), size, size, path, root)
    for other in range(size):
        assert verify_inclusion(leaf(index), other, size, path, root) == (other == index)
    if path:
        assert not verify_inclusion(leaf(index), index, size, path[:-1], root)
        assert not verify_inclusion(leaf(index), index, size, [EMPTY, *path[1:]], root)


@given(SIZES, st.data())
def test_every_beginning_has_a_proof_and_no_other_log_fits(size: int, data: st.DataObject) -> None:
    """The proof holds for the log that grew, and for none that was rewritten, cut or put in its place."""
    old = data.draw(st.integers(0, size))
    path = prove(hashes(size), consistency(old, size))
    before, now = head(hashes(old)), head(hashes(size))
    assert verify_consistency(old, before, size, now, path)
    if 0 < old < size:
        changed = [leaf(99), *hashes(size)[1:]]
        assert not verify_consistency(old, before, size, head(changed), path)
        assert not verify_consistency(old, before, size, head(changed), prove(changed, consistency(old, size)))
        assert not verify_consistency(old, head(changed[:old]), size, now, path)
        assert not verify_consistency(old, before, size, now, path[:-1])
        assert not verify_consistency(old, before, size, now, [*path, EMPTY])
        assert not verify_consistency(size, now, old, before, path)


def test_a_proof_that_ends_too_early_for_the_size_is_none() -> None:
    """The root of two leaves is no root of eight, whoever says so."""
    path = prove(hashes(2), consistency(1, 2))
    assert verify_consistency(1, head(hashes(1)), 2, head(hashes(2)), path)
    assert not verify_consistency(1, head(hashes(1)), 8, head(hashes(2)), path)


def test_what_was_kept_wrongly_and_what_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="3 leaves"):
        Frontier(3, [EMPTY])
    with pytest.raises(ValueError, match="no leaf 3"):
        prove(hashes(3), [(2, 4)])
