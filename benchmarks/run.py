"""Run every benchmark of this folder and keep what each prints, with machine and commit, in ``results/``.

python benchmarks/run.py [NAME ...]
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from machine import commit

HERE = Path(__file__).parent
NOT_BENCHMARKS = {"run", "machine"}


def main(names: list[str]) -> int:
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    known = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in NOT_BENCHMARKS)
    for name in names or known:
        if name not in known:
            print(f"no benchmark {name!r}; known: {', '.join(known)}", file=sys.stderr)
            return 2
        print(f"{name} ...", file=sys.stderr, flush=True)
        done = subprocess.run([sys.executable, str(HERE / f"{name}.py")], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(done.stderr, file=sys.stderr)
            return done.returncode
        kept = results / f"{name}-{commit().rstrip('+')}.json"
        kept.write_text(done.stdout, encoding="utf-8")
        print(json.dumps(json.loads(done.stdout), indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
