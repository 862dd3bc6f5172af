"""The process that has the device: a request per line of standard input, an answer per line of standard output, both JSON."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    """Serve until the input ends, or until the device no longer answers."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints goes to the errors
    lab: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            lab = lab or _lab()
            answer = lab.answer(**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if answer.get("dead"):
            return


def _lab() -> Any:
    from tconv_bench.gpu_check.lab import Lab

    if "--stand-in" in sys.argv:
        from tconv_bench.gpu_check.standin import StandIn

        return Lab(StandIn())
    from tconv_bench.gpu_check.device import Gpu

    return Lab(Gpu())


if __name__ == "__main__":
    main()
