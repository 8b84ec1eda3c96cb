"""Time of `amodal --help`, as a ratio to an interpreter that only imports the argument parser.

Command:  python benchmarks/command_line_help.py
"""

from __future__ import annotations

import subprocess
import sys
import time


def best_of(words: list[str], rounds: int = 7) -> float:
    """Shortest wall time of a command, in seconds."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        subprocess.run(words, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    parser = best_of([sys.executable, "-c", "import jsonargparse"])
    command = best_of([sys.executable, "-m", "amodal", "--help"])
    print(f"amodal --help {command:.3f} s, {command / parser:.2f} times importing jsonargparse ({parser:.3f} s)")


if __name__ == "__main__":
    main()
