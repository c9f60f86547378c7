"""Verify an auditor's folder of a Resurgam vault without Resurgam.

    python verify.py [FOLDER [FINGERPRINT [CHECKPOINT...]]]
FOLDER is what `resurgam audit export` wrote, or a vault itself; else the folder of this script. FINGERPRINT is the root key's, from
the trust.json that you were given by another way; without it the folder's own is taken, and so whoever made it is believed.
CHECKPOINT is a file that you or a witness kept. Needs the libraries cryptography and blake3, and nothing of ours: written from
docs/format.md, sections 8 and 9. Exit code 0: nothing was found. 8: each finding is a line. What begins with - is only noted.
"""

import base64
import hashlib
import json
import os
import re
import sys
from datetime import datetime
from functools import cache
from itertools import pairwise, takewhile

from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

# Who signs what; those whose subject is their own body; where records lie, of which types, and what they are about (section 8).
WORDS = """point capture|lease capture verifier approver|revocation capture verifier approver pruner|verdict verifier
|baseline verifier|attestation verifier|reference approver|promotion approver|undo approver|quarantine approver|hold approver
|retention approver|approval approver|prune pruner|tombstones pruner|awaited pruner|pruned pruner|checked verifier pruner auditor
|replicas approver|roles root|log root capture verifier approver pruner auditor"""
SIGNERS = {words.split()[0]: words.split()[1:] for words in WORDS.split("|")}
ITSELF = ("point", "lease", "roles", "retention", "prune", "replicas")
LIE = """roles/ roles/ roles|points/ point/ point revocation|records/ - -|leases/ lease/ lease|retention/ retention/ retention
|approvals/ - approval|prune/ - prune tombstones awaited pruned|checks/ check/ checked|replicas/ replicas/ replicas"""
PLACES = {words.split()[0]: words.split()[1:] for words in LIE.split("|")}
raw = base64.b64decode


def require(holds, why):
    if not holds:
        raise ValueError(why)


def strict(pairs):
    require(len({name for name, _ in pairs}) == len(pairs), "a name stands twice in one object")
    return dict(pairs)


def signed(public, message, signature):
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


class Audit:
    def __init__(self, folder, root):
        paths = [os.path.join(where, name) for where, _, names in os.walk(folder) for name in names]
        objects = {os.path.relpath(path, folder).replace(os.sep, "/"): path for path in sorted(paths)}
        self.paths = {
            name: path for name, path in objects.items() if name.startswith((*PLACES, "log/", "checkpoints/"))
        }
        self.received = json.load(open(objects["received.json"])) if "received.json" in objects else {}
        self.vault = json.load(open(objects["vault.json"]))["vault"]
        self.root = root or json.load(open(objects["vault.json"]))["root"]
        self.findings, self.notes, self.announced = [], [], set()
        self.tables, self.points, self.types, self.digests = {}, {}, {}, {}

    def each(self, place, act):
        """``act`` on the name and bytes of each object there; what it refuses is a finding."""
        for name in [name for name in self.paths if name.startswith(place)]:
            with open(self.paths[name], "rb") as file:
                data = file.read()
            try:
                yield name, data, act(name, data)
            except (ValueError, KeyError, TypeError, IndexError) as error:
                removed = str(error) == "its key was removed"  # that is known, and nobody believes it
                (self.notes if removed else self.findings).append((("not believed", "disowned")[removed], name, error))
                yield name, data, None

    def counts(self, key, name):
        """A key's word counts unless it was removed, or retired before the store received it."""
        received = self.received.get(name) or (os.stat(self.paths[name]).st_mtime if name in self.paths else 0)
        require(not key.get("removed"), "its key was removed")
        retired = datetime.fromisoformat(key.get("retired") or "9999-12-31T00:00:00Z").timestamp()
        require(received <= retired, "its key was retired before")

    def record(self, name, data, types, about):
        """Type, digest of the subject, and body of a record, when every rule of section 8 holds."""
        envelope = json.loads(data, object_pairs_hook=strict)
        kind, payload = envelope["payloadType"], raw(envelope["payload"], validate=True)
        statement, text = json.loads(payload, object_pairs_hook=strict), payload.decode()
        said, at = statement["predicate"], text.index('"predicate":{"body":') + 20
        body, end = json.JSONDecoder().raw_decode(text, at)
        require(body == said["body"] and kind == "application/vnd.in-toto+json", "it is no statement")
        pae = b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)
        table = body if types == ["roles"] else self.tables[max(self.tables)]
        keys = [(key, raw(key["public"])) for key in table["roles"].get(said["by"], ())]
        keys = [(k, p) for k, p in keys if types != ["roles"] or blake3(p).hexdigest() == self.root]
        marks = [(one["keyid"], raw(one["sig"], validate=True)) for one in envelope["signatures"]]
        keys = [k for k, p in keys for i, s in marks if i == blake3(p).hexdigest()[:16] and signed(p, pae, s)]
        require(keys, "no key that the role table gives its role has signed it")
        self.counts(keys[0], name)
        what = re.fullmatch(r"urn:resurgam:([a-z]+):v1", statement["predicateType"])[1]
        require(said["by"] in SIGNERS[what] and what in types, f"a {what} by {said['by']} does not belong there")
        require(said["vault"] == self.vault, "it is of another vault")
        ((subject, digest),) = [(one["name"], one["digest"]["blake3"]) for one in statement["subject"]]
        require(about in ("-", subject), f"it is about {subject}")
        own = blake3(text[at:end].encode()).hexdigest()
        require(what not in ITSELF or own == digest, "its digest is not that of its own body")
        return what, digest, body

    def look(self, name, data):
        """One record where it lies."""
        parts, self.digests[name] = name.split("/"), blake3(data).hexdigest()
        about, *types = PLACES[f"{parts[0]}/"]
        about = about + parts[-1] if about != "-" else about
        if parts[0] == "records":
            types, about = [parts[-1].rpartition("-")[0], "revocation"], f"point/{parts[1]}"
        what, digest, body = self.record(name, data, types, about)
        if what == "roles":
            require((f"roles/{body['serial']:08d}", body["vault"]) == (name, self.vault), "it is another table")
            self.tables[body["serial"]] = body
        if what == "point":
            self.points[parts[1]] = digest
        require(parts[0] != "records" or digest == self.points.get(parts[1]), "it is about another point")
        require(parts[0] != "approvals" or digest.startswith(parts[1]), "it approves another plan")
        self.types[name] = what

    def entry(self, name, data):
        """One entry of the log, by its number; what it announces is there, with these bytes, and of this type."""
        require(re.fullmatch("log/[0-9]{10}", name) and int(name[4:]), "its name is no number of an entry")
        _, _, said = self.record(name, data, ["log"], name)
        target = said["object"]
        require(f"{target.split('/')[0]}/" in PLACES, "it announces what is no record")
        self.announced.add(target)
        if target not in self.digests:
            self.findings.append(("gone", target, f"{name} announced it"))
        elif said.get("digest", "") not in ("", self.digests[target]):
            self.findings.append(("altered", target, f"{name} announced it with other bytes"))
        require(self.types.get(target, said["type"]) == said["type"], f"it announces a {said['type']}")
        return said.get("previous")

    def checkpoint(self, name, data):
        """Size, root and name of what an auditor's key signed for this log (section 9)."""
        text, _, lines = data.decode().rpartition("\n\n")
        origin, size, root = text.split("\n")[:3]
        require(origin == f"resurgam/{self.vault}" and re.fullmatch("0|[1-9][0-9]*", size), "it is of another log")
        require(name not in self.paths or name == f"checkpoints/{int(size):010d}", "it lies in another's place")
        for key in self.tables[max(self.tables)]["roles"].get("auditor", ()):
            hint = hashlib.sha256(f"{origin}\n\x01".encode() + raw(key["public"])).digest()[:4]
            for line in [line for line in lines.split("\n") if line.startswith(f"— {origin} ")]:
                signature = raw(line.rpartition(" ")[2], validate=True)
                if signature[:4] == hint:
                    self.counts(key, name)
                    require(signed(raw(key["public"]), f"{text}\n".encode(), signature[4:]), "it was changed")
                    return int(size), raw(root), name
        raise ValueError("no auditor's key has signed it")

    def log(self, heads):
        """The entries in a row, and the root of their Merkle tree; is it the log that others saw? (section 9)"""
        entries = {name: (data, previous) for name, data, previous in self.each("log/", self.entry)}
        last = max([int(name[4:]) for name in entries if re.fullmatch("log/[0-9]{10}", name)], default=0)
        names = [f"log/{number:010d}" for number in range(1, last + 1)]
        row = list(takewhile(entries.__contains__, names))
        for before, name in pairwise(["", *names]):
            if name not in entries and (not before or before in entries):
                self.findings.append(("gap", name, f"missing, while {names[-1]} is there"))
        for before, name in pairwise(["", *row]):
            if entries[name][1] not in (None, blake3(entries[before][0]).hexdigest() if before else ""):
                self.findings.append(("exchanged", name, "it follows another entry than the one before it"))
        leaves = [hashlib.sha256(b"\0" + entries[name][0]).digest() for name in row]

        @cache
        def root(start, end):  # RFC 9162, 2.1.1
            if end - start < 2:
                return leaves[start] if end > start else hashlib.sha256().digest()
            middle = start + (1 << (end - start - 1).bit_length() - 1)
            return hashlib.sha256(b"\1" + root(start, middle) + root(middle, end)).digest()

        for size, signed_root, whose in heads:
            if size > len(row):
                self.findings.append(("rolled back", whose, f"the log had {size} entries, and has {len(row)} in a row"))
            elif signed_root != root(0, size):
                self.findings.append(("forked", whose, f"of {size} entries, the log holds others"))
        return len(row), root(0, len(row))

    def run(self, kept):
        """All of it: what lies there, the log, and what others kept of it."""
        for place in PLACES:
            list(self.each(place, self.look))
        for serial in set(range(1, max(self.tables))) - set(self.tables):
            self.findings.append(("gap", f"roles/{serial:08d}", "missing, while a later one is there"))
        heads = [head for _, _, head in self.each("checkpoints/", self.checkpoint) if head]
        size, root = self.log([*heads, *(self.checkpoint(path, open(path, "rb").read()) for path in kept)])
        for name in sorted(self.digests.keys() - self.announced - {"roles/00000001"}):
            if not name.startswith("leases/"):
                self.notes.append(("unlogged", name, "nobody announced it"))
        places = {}
        for name in sorted(self.digests, key=lambda name: (name not in self.announced, name)):
            if (first := places.setdefault(self.digests[name], name)) != name:
                self.findings.append(("replayed", name, f"it holds the record that lies in {first}"))
        print(f"{size} entries, {len(self.digests)} records, {len(heads)} checkpoints, Merkle root {root.hex()}")
        for kind, name, what in self.findings:
            print(f"{kind}: {name}: {what}")
        for kind, name, what in self.notes:
            print(f"- {kind}: {name}: {what}")


if __name__ == "__main__":
    folder, fingerprint, *kept = [*sys.argv[1:], "", ""] if len(sys.argv) < 3 else sys.argv[1:]
    audit = Audit(folder or os.path.dirname(os.path.abspath(__file__)), fingerprint)
    audit.run([path for path in kept if path])
    sys.exit(8 if audit.findings else 0)
