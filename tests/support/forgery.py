"""Changes a bundle and repairs its checksums: what a careless hand, not a bad disk, would leave behind."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contract.files import sha256_file
from contract.manifest import MANIFEST


def forge(bundle: Path, change: Callable[[dict[str, Any]], object] | None = None) -> None:
    """Apply `change` to the manifest's data, then make every checksum and the digest hold again."""
    path = bundle / MANIFEST
    data = json.loads(path.read_text())
    data["files"] = {
        file.relative_to(bundle).as_posix(): sha256_file(file)
        for file in sorted(bundle.rglob("*"))
        if file.is_file() and file != path
    }
    if change is not None:
        change(data)
    blank = json.dumps(data | {"digest": "0" * 64}).encode()
    path.write_text(json.dumps(data | {"digest": hashlib.sha256(blank).hexdigest()}))
