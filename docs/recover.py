"""Recover files from a Resurgam vault without Resurgam.

    python recover.py VAULT recovery.agekey                     lists the points
    python recover.py VAULT recovery.agekey POINT INTO          writes every file of the point below INTO/<component>/
Needs only public libraries: pyrage (or decrypt keys/* with the age tool), cryptography, blake3, zstandard, msgspec, numpy.
Written from docs/format.md; it imports nothing of ours, so it shows that the document suffices. It checks every
authentication tag and every chunk id. It checks no signatures and restores no metadata.
"""

import base64
import json
import os
import struct
import sys

import msgspec
import numpy as np
import pyrage
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FRAME = struct.Struct("<4sBBBxII32s16s12sI")  # format.md, section 4
FOOTER = struct.Struct("<QIH42x8s")
ENTRY = struct.Struct("<32sIIIIBBH")
SEALED = struct.Struct("<8sH6x32s")  # section 3
DATA, RUN, TREE = 1, 2, 3


class Vault:
    def __init__(self, folder, key_file):
        self.folder = folder
        lines = open(key_file).read().splitlines()
        self.identities = [pyrage.x25519.Identity.from_str(x) for x in lines if x.startswith("AGE-SECRET-KEY-")]
        self.id = bytes.fromhex(json.load(open(f"{folder}/vault.json"))["vault"])
        self.secret = base64.b64decode(self.wrapped("keys/index")["index"])
        self.sessions, self.places = {}, {}
        for where, _, names in os.walk(f"{folder}/packs"):
            for name in names:
                self.read_trailer(os.path.join(where, name))

    def wrapped(self, name):
        later = [f"keys/{n}" for n in os.listdir(f"{self.folder}/keys") if f"keys/{n}".startswith(f"{name}-")]
        for each in filter(os.path.exists, (f"{self.folder}/{n}" for n in (name, *sorted(later, reverse=True)))):
            try:
                return json.loads(pyrage.decrypt(open(each, "rb").read(), self.identities))
            except pyrage.DecryptError:
                continue  # wrapped to other readers
        sys.exit(f"{name} does not open with this key")

    def derive(self, purpose, subject):
        context = f"resurgam vault v1 {purpose}"
        return blake3(self.secret + self.id + subject, derive_key_context=context).digest()

    def read_trailer(self, path):
        """Section 5: key id, signature, sealed entries."""
        with open(path, "rb") as file:
            file.seek(-FOOTER.size, os.SEEK_END)
            start, length, _, magic = FOOTER.unpack(file.read())
            assert magic == b"RSGMFOOT", path
            file.seek(start)
            sealed = file.read(length)
        sealed = sealed[72 if sealed[72:80] == b"RSGMSEAL" else 80 :]  # a pruner's names the origin first
        header = sealed[: SEALED.size]
        key = AESGCM(self.derive("seal", SEALED.unpack(header)[2] + b"trailer"))
        for entry in ENTRY.iter_unpack(key.decrypt(bytes(12), sealed[SEALED.size :], header + self.id + b"trailer")):
            self.places[entry[0]] = (path, entry[2])

    def chunk(self, chunk, kind, domain):
        """Section 4: the frame and its codec; section 3: its key and its id."""
        path, offset = self.places[chunk]
        with open(path, "rb") as file:
            file.seek(offset)
            header = file.read(FRAME.size)
            _, _, found, codec, stored, raw, name, session, nonce, _ = FRAME.unpack(header)
            sealed = file.read(stored)
        assert (found, name) == (kind, chunk)
        if session not in self.sessions:
            self.sessions[session] = AESGCM(base64.b64decode(self.wrapped(f"keys/session-{session.hex()}")["key"]))
        data = decode(codec, self.sessions[session].decrypt(nonce, sealed, self.id + header[:-4]), raw)
        base = self.derive("chunk id", domain.encode())
        key = base if kind == DATA else blake3(bytes([kind]), key=base).digest()
        assert blake3(data, key=key).digest() == chunk, "a chunk does not have its id"
        return data

    def points(self):
        for name in sorted(os.listdir(f"{self.folder}/points")):
            envelope = json.load(open(f"{self.folder}/points/{name}"))
            statement = json.loads(base64.b64decode(envelope["payload"]))
            if statement["predicateType"] == "urn:resurgam:point:v1":
                yield statement["predicate"]["body"]

    def files(self, snapshot):
        """Section 6: every entry of a snapshot with the pieces of its content."""
        domain = snapshot["domain"]
        root = self.page(bytes.fromhex(snapshot["tree"]), TREE, domain)
        level, page, _ = root[3]
        for path, _, _, meta, extents, runs in self.leaves(level, page, domain) if page else ():
            pieces = [(None, [extent]) for extent in extents]
            for run in runs:
                pieces += laid(*self.page(run, RUN, domain))
            yield path, meta, pieces

    def piece(self, name, parts, domain):
        """Section 6: what is laid out from parts has the id that it would have as a chunk."""
        whole = {chunk: self.chunk(chunk, DATA, domain) for chunk in {chunk for chunk, _, _ in parts}}
        data = b"".join(whole[chunk][start : start + length] for chunk, start, length in parts)
        if not parts[-1][2]:
            data = undone(whole[parts[-1][0]], data)
        key = self.derive("chunk id", domain.encode())
        assert name is None or blake3(data, key=key).digest() == name, "the parts of a piece do not make it up"
        return data

    def leaves(self, level, page, domain):
        content = self.page(page, TREE, domain)
        if level == 0:
            yield from content
        else:
            for _, child, _ in content[1]:
                yield from self.leaves(level - 1, child, domain)

    def page(self, page, kind, domain):
        return msgspec.msgpack.decode(self.chunk(page, kind, domain))


def laid(ids, lengths, parts=None):
    """The pieces of a run, each with the parts of chunks that it is laid out from."""
    names = [ids[at : at + 32] for at in range(0, len(ids), 32)]
    pieces = [
        (None, [(name, 0, length)]) for name, length in zip(names, np.frombuffer(lengths, "<u4").tolist(), strict=True)
    ]
    if parts:
        counts, which = (np.frombuffer(parts[n], "<u2").tolist() for n in (0, 2))
        starts, sizes = (np.frombuffer(parts[n], "<u4").tolist() for n in (3, 4))
        every = iter(
            [(parts[1][32 * w : 32 * w + 32], start, size) for w, start, size in zip(which, starts, sizes, strict=True)]
        )
        pieces = [
            (name, [next(every) for _ in range(n)]) if n else piece
            for name, piece, n in zip(names, pieces, counts, strict=True)
        ]
    return pieces


def decode(codec, data, raw):
    """Section 7."""
    if codec < 2:
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=raw) if codec else data
    if codec == 5:
        count, at = raw // 256, -(-(raw // 256) // 8)
        kept = [n for n in range(count) if data[n // 8] >> n % 8 & 1]
        rest = zstandard.ZstdDecompressor().decompress(data[at + 256 * len(kept) :], max_output_size=raw)
        for place, n in enumerate(kept):
            rest = rest[: 256 * n] + data[at + 256 * place : at + 256 * place + 256] + rest[256 * n :]
        return rest
    if codec == 6:
        return palette(data, raw)
    width = 4 if codec == 3 else 2
    count, planes, at = raw // width, [], 4 * (3 if width == 4 else 2)
    for number, size in enumerate((count, count, 2 * count)[: at // 4]):
        length = int.from_bytes(data[4 * number : 4 * number + 4], "little")
        plane = data[at : at + length]
        at += length
        planes.append(plane if length == size else zstandard.ZstdDecompressor().decompress(plane, max_output_size=size))
    exponent, rest = (np.frombuffer(p, np.uint8).astype(np.uint16) for p in planes[:2])
    top = (rest & 0x80) << 8 | exponent << 7 | rest & 0x7F
    if width == 4:
        top = top.astype(np.uint32) << 16 | np.frombuffer(planes[2], "<u2")
    return top.astype(f"<u{width}").tobytes() + data[at:]


def undone(delta, base):
    """Section 7: what a delta makes of its base."""
    _, coding, width, count, length = struct.unpack_from("<BBBBI", delta)
    streams, at = [], 8 + 8 * count
    for whole, size in struct.iter_unpack("<II", delta[8:at]):
        part, at = delta[at : at + size], at + size
        part = part if size == whole else zstandard.ZstdDecompressor().decompress(part, max_output_size=whole)
        streams.append(np.frombuffer(part, np.uint8))
    folded = sum(plane.astype(np.int64) << 8 * n for n, plane in enumerate(streams[-width:]))
    difference = ((folded >> 1) ^ -(folded & 1)).astype(f"<u{width}")
    elements = np.frombuffer(base[: length // width * width], f"<u{width}").copy()
    if coding == 1:
        elements += difference
    else:
        ends = streams[0] < 255
        elements[(np.cumsum(streams[0], dtype=np.int64) + np.cumsum(ends) - 1)[ends]] += difference
    return elements.tobytes() + delta[at:]


def palette(data, raw):
    width, bits, _, *sizes = struct.unpack_from("<BBHII", data)
    blocks = [min(1 << bits, raw // width - start) for start in range(0, raw // width, 1 << bits)]
    at = 12 + 2 * len(blocks)
    counts = np.frombuffer(data[12:at], "<u2").tolist()
    parts = []
    placed = sum(length for length, count in zip(blocks, counts, strict=True) if count)
    for size, length in zip(sizes, (width * sum(counts), placed), strict=True):
        part, at = data[at : at + size], at + size
        parts.append(part if size == length else zstandard.ZstdDecompressor().decompress(part, max_output_size=length))
    tables, places, out = np.frombuffer(parts[0], f"<u{width}"), np.frombuffer(parts[1], np.uint8), []
    for length, count in zip(blocks, counts, strict=True):
        if count:
            out.append(tables[places[:length]].tobytes())
            tables, places = tables[count:], places[length:]
        else:
            out.append(data[at : at + width * length])
            at += width * length
    return b"".join([*out, data[at:]])


def main(folder, key_file, point="", into=""):
    vault = Vault(folder, key_file)
    for body in vault.points():
        if not point:
            print(body["id"], body["sealed"], body["system"], *(s["component"] for s in body["snapshots"]))
        elif body["id"].startswith(point):
            for snapshot in body["snapshots"]:
                recover(vault, snapshot, os.path.realpath(os.fsencode(into)))


def recover(vault, snapshot, into):
    for path, meta, pieces in vault.files(snapshot):
        if meta.get("y", "f") == "f":  # else a folder, a link, a second name of a file: docs/drivers/files.md
            target = os.path.normpath(os.path.join(into, snapshot["component"].encode(), path))
            assert target.startswith(into + b"/"), f"a hostile vault leads to {target}"
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb") as file:
                file.writelines(vault.piece(name, parts, snapshot["domain"]) for name, parts in pieces)


if __name__ == "__main__":
    main(*sys.argv[1:])
