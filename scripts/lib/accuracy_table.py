#!/usr/bin/env python3
"""Prints test accuracies of models of examples/vision4 as a table: accuracy_table.py EVAL NAME=MODEL..."""
import json
import subprocess
import sys


def main():
    evaluate, rows = sys.argv[1], [word.split("=", 1) for word in sys.argv[2:]]
    results = []
    for name, model in rows:
        done = subprocess.run([sys.executable, evaluate, model, "--json"], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{name}: {done.stderr.strip()}")
        results.append((name, json.loads(done.stdout)))
    tasks = list(results[0][1]["per_task"])
    print(f"{'':24}{'average':>9}" + "".join(f"{task:>9}" for task in tasks))
    for name, result in results:
        print(f"{name:24}{result['average']:9.2f}" + "".join(f"{result['per_task'][t]:9.1f}" for t in tasks))


if __name__ == "__main__":
    main()
