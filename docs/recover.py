"""Recover files from a Resurgam vault without Resurgam.

    python recover.py VAULT recovery.agekey                     lists the points
    python recover.py VAULT recovery.agekey POINT INTO          writes every file of the point below INTO/<component>/
Needs only public libraries: pyrage (or decrypt keys/* with the age tool), cryptography, blake3, zstandard, msgspec, numpy.
Written from docs/format.md; it imports nothing of ours, so it shows that the document suffices. It checks every
authentication tag and every chunk id. It checks no signatures and restores no metadata.
"""

import base64
import io
import json
import mmap
import os
import struct
import sys
from pathlib import Path

import msgspec
import numpy as np
import pyrage
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FRAME = struct.Struct("<4sBBBxII32s16s12sI")  # format.md, section 4
DATA, RUN, TREE = 1, 2, 3


class Vault:
    def __init__(self, folder, key_file):
        self.folder = Path(folder)
        lines = Path(key_file).read_text().splitlines()
        self.identities = [pyrage.x25519.Identity.from_str(x) for x in lines if x.startswith("AGE-SECRET-KEY-")]
        self.id = bytes.fromhex(json.loads((self.folder / "vault.json").read_bytes())["vault"])
        self.secret = base64.b64decode(self.wrapped("index")["index"])
        self.sessions, self.places = {}, {}
        for pack in self.folder.glob("packs/*/*"):
            self.find_chunks(pack)

    def wrapped(self, name):
        """Section 3: the object itself, or the same key wrapped anew, the highest serial first."""
        keys = self.folder / "keys"
        for path in [*keys.glob(name), *sorted(keys.glob(f"{name}-*"), reverse=True)]:
            try:
                return json.loads(pyrage.decrypt(path.read_bytes(), self.identities))
            except pyrage.DecryptError:
                continue  # wrapped to other readers
        sys.exit(f"keys/{name} does not open with this key")

    def derive(self, purpose, subject):
        return blake3(self.secret + self.id + subject, derive_key_context=f"resurgam vault v1 {purpose}").digest()

    def find_chunks(self, pack):
        """Section 4: frames, one after the other; found without the trailer and without a key."""
        with open(pack, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            at = 64
            while data[at : at + 4] == b"RSGc":
                _, _, _, _, stored, _, chunk, *_ = FRAME.unpack(data[at : at + FRAME.size])
                self.places[chunk] = (pack, at)
                at += FRAME.size + stored

    def chunk(self, chunk, kind, domain):
        """Section 4: the frame and its codec; section 3: its key and its id."""
        pack, offset = self.places[chunk]
        with open(pack, "rb") as file:
            file.seek(offset)
            header = file.read(FRAME.size)
            _, _, found, codec, stored, raw, name, session, nonce, _ = FRAME.unpack(header)
            sealed = file.read(stored)
        assert (found, name) == (kind, chunk)
        if session not in self.sessions:
            self.sessions[session] = AESGCM(base64.b64decode(self.wrapped(f"session-{session.hex()}")["key"]))
        data = decode(codec, self.sessions[session].decrypt(nonce, sealed, self.id + header[:-4]), raw)
        assert self.id_of(data, kind, domain) == chunk, "a chunk does not have its id"
        return data

    def id_of(self, data, kind, domain):
        base = self.derive("chunk id", domain.encode())
        return blake3(data, key=base if kind == DATA else blake3(bytes([kind]), key=base).digest()).digest()

    def page(self, page, kind, domain):
        return msgspec.msgpack.decode(self.chunk(page, kind, domain))

    def entries(self, level, page, domain):
        """Section 6: all entries below a page."""
        content = self.page(page, TREE, domain) if page else []
        if level == 0:
            yield from content
        for _, child, _ in content[1] if level else ():
            yield from self.entries(level - 1, child, domain)

    def content(self, extents, runs, domain):
        """Section 6: the pieces of an entry. One that is laid out from parts has the id that it would have as a chunk."""
        for chunk, start, length in extents:
            yield self.chunk(chunk, DATA, domain)[start : start + length]
        for name, length, parts in (piece for run in runs for piece in pieces(*self.page(run, RUN, domain))):
            if not parts or name in self.places:
                yield self.chunk(name, DATA, domain)[:length]
                continue
            whole = {chunk: self.chunk(chunk, DATA, domain) for chunk in {part[0] for part in parts}}
            data = b"".join(whole[chunk][start : start + size] for chunk, start, size in parts)
            data = data if parts[-1][2] else undone(whole[parts[-1][0]], data)
            assert self.id_of(data, DATA, domain) == name, "the parts of a piece do not make it up"
            yield data


def pieces(ids, lengths, parts=None):
    """Section 6: the id of each piece of a run, its length, and the parts of chunks that it is laid out from, if it is."""
    counts, sources, *columns = parts or (bytes(len(lengths) // 2), b"", b"", b"", b"")
    lengths, counts = np.frombuffer(lengths, "<u4").tolist(), np.frombuffer(counts, "<u2").tolist()
    numbers, starts, sizes = (np.frombuffer(c, f"<u{w}").tolist() for c, w in zip(columns, (2, 4, 4), strict=True))
    sources = [sources[at : at + 32] for at in range(0, len(sources), 32)]
    every = iter([(sources[n], start, size) for n, start, size in zip(numbers, starts, sizes, strict=True)])
    for at, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        yield ids[32 * at : 32 * at + 32], length, [next(every) for _ in range(count)]


def unzipped(frame, size):
    return zstandard.ZstdDecompressor().decompress(frame, max_output_size=size)


def stream(stored, size):
    """Section 7: what is as long as its contents stands as it is, of planes, deltas and palettes."""
    return np.frombuffer(stored if len(stored) == size else unzipped(stored, size), np.uint8)


def decode(codec, data, raw):
    """Section 7."""
    file, width = io.BytesIO(data), 4 if codec == 3 else 2
    if codec in (0, 1):
        return unzipped(data, raw) if codec else data
    if codec == 5:
        bits = np.unpackbits(np.frombuffer(file.read((raw // 256 + 7) // 8), np.uint8), bitorder="little")[: raw // 256]
        kept, rest = io.BytesIO(file.read(256 * int(bits.sum()))), io.BytesIO(unzipped(file.read(), raw))
        return b"".join([*((kept if bit else rest).read(256) for bit in bits), rest.read()])
    if codec == 6:
        return palette(file, raw)
    sizes = [raw // width, raw // width, 2 * (raw // width)][: 3 if width == 4 else 2]
    lengths = struct.unpack(f"<{len(sizes)}I", file.read(4 * len(sizes)))
    planes = [stream(file.read(length), size) for length, size in zip(lengths, sizes, strict=True)]
    exponent, rest = (plane.astype("<u2") for plane in planes[:2])
    top = (rest & 0x80) << 8 | exponent << 7 | rest & 0x7F
    return (top if width == 2 else top.astype("<u4") << 16 | planes[2].view("<u2")).tobytes() + file.read()


def palette(file, raw):
    width, bits, _, *stored = struct.unpack("<BBHII", file.read(12))
    blocks = [min(1 << bits, raw // width - start) for start in range(0, raw // width, 1 << bits)]
    counts = np.frombuffer(file.read(2 * len(blocks)), "<u2").tolist()
    sizes = width * sum(counts), sum(length for length, count in zip(blocks, counts, strict=True) if count)
    tables, places = [stream(file.read(length), size) for length, size in zip(stored, sizes, strict=True)]
    tables, out = tables.view(f"<u{width}"), []
    for length, count in zip(blocks, counts, strict=True):
        if count:
            out.append(tables[places[:length]].tobytes())
            tables, places = tables[count:], places[length:]
        else:
            out.append(file.read(width * length))
    return b"".join([*out, file.read()])


def undone(delta, base):
    """Section 7: what a delta makes of its base."""
    file = io.BytesIO(delta)
    _, coding, width, count, length = struct.unpack("<BBBBI", file.read(8))
    streams = [stream(file.read(stored), size) for size, stored in struct.iter_unpack("<II", file.read(8 * count))]
    folded = sum(plane.astype(np.int64) << 8 * n for n, plane in enumerate(streams[-width:]))
    ends = streams[0] < 255  # of the gaps, where there are any
    changed = slice(None) if coding == 1 else (np.cumsum(streams[0], dtype=np.int64) + np.cumsum(ends) - 1)[ends]
    elements = np.frombuffer(base[: length // width * width], f"<u{width}").copy()
    elements[changed] += ((folded >> 1) ^ -(folded & 1)).astype(f"<u{width}")
    return elements.tobytes() + file.read()


def main(folder, key_file, point="", into=""):
    vault = Vault(folder, key_file)
    for path in sorted(vault.folder.glob(f"points/{point}*")):
        statement = json.loads(base64.b64decode(json.loads(path.read_bytes())["payload"]))
        if statement["predicateType"] != "urn:resurgam:point:v1":
            continue  # a revocation
        body = statement["predicate"]["body"]
        if not point:
            print(body["id"], body["sealed"], body["system"], *(s["component"] for s in body["snapshots"]))
        for snapshot in body["snapshots"] if point else ():
            recover(vault, snapshot, os.path.realpath(os.fsencode(into)))


def recover(vault, snapshot, into):
    domain = snapshot["domain"]
    level, page, _ = vault.page(bytes.fromhex(snapshot["tree"]), TREE, domain)[3]
    for path, _, _, meta, extents, runs in vault.entries(level, page, domain):
        if meta.get("y", "f") == "f":  # else a folder, a link, a second name of a file: docs/drivers/files.md
            target = os.path.normpath(os.path.join(into, snapshot["component"].encode(), path))
            assert target.startswith(into + b"/"), f"a hostile vault leads to {target}"
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb") as file:
                file.writelines(vault.content(extents, runs, domain))


if __name__ == "__main__":
    main(*sys.argv[1:])
