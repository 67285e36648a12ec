#!/usr/bin/env python3
"""Plays `ctr` for the tests: keeps its images as JSON and imports OCI archives as containerd does.

State file: {"images": {reference: [digest, [labels]]}, "content": [digests], "log": [commands], "faults": [names]}.
"""

from __future__ import annotations

import json
import os
import sys
import tarfile
from pathlib import Path

STATE = Path(os.environ["FAKE_CTR_STATE"])


def parts(content: dict[str, bytes], digest: str) -> list[str]:
    document = json.loads(content[digest])
    return [digest, document["config"]["digest"], *(layer["digest"] for layer in document["layers"])]


def main() -> int:
    state = json.loads(STATE.read_text())
    arguments = sys.argv[1:]
    state["log"].append(" ".join(arguments))
    faults = state["faults"]
    names = [text.removeprefix("name==") for text in arguments if text.startswith("name==")]
    chosen = {name: entry for name, entry in state["images"].items() if not names or name in names}
    if "stopped" in faults:
        print("ctr: failed to dial containerd.sock: connect: connection refused", file=sys.stderr)
        return 1
    if arguments[:2] == ["images", "ls"]:
        print("REF TYPE DIGEST SIZE PLATFORMS LABELS")
        for name, (digest, labels) in chosen.items():
            media_type = "application/vnd.oci.image.manifest.v1+json"
            print(name, media_type, digest, "1.2 MiB linux/amd64", ",".join(labels) or "-")
    elif arguments[:2] == ["images", "check"]:
        print("REF TYPE DIGEST STATUS SIZE UNPACKED")
        for name, (digest, _) in chosen.items():
            needed = state["parts"].get(digest, [])
            whole = set(needed) <= set(state["content"])
            print(name, "type", digest, "complete (1/1)" if whole else "incomplete (0/1)", "1 B/1 B true")
    elif arguments[:2] == ["content", "ls"]:
        print("\n".join(state["content"]))
    elif arguments[:2] == ["images", "label"]:
        state["images"][arguments[2]][1].append(arguments[3])
    elif arguments[:2] == ["images", "import"]:
        with tarfile.open(arguments[-1]) as tar:
            content = {
                "sha256:" + Path(member.name).name: tar.extractfile(member).read()
                for member in tar.getmembers()
                if member.name.startswith("blobs/")
            }
            index = json.loads(tar.extractfile("index.json").read())
        if "import does nothing" not in faults:
            for entry in index["manifests"]:
                state["parts"][entry["digest"]] = parts(content, entry["digest"])
                state["images"][entry["annotations"]["io.containerd.image.name"]] = [entry["digest"], []]
            state["content"] = sorted({*state["content"], *content})
    else:
        print(f"fake ctr: {arguments}", file=sys.stderr)
        return 2
    STATE.write_text(json.dumps(state))
    return 0


if __name__ == "__main__":
    sys.exit(main())
