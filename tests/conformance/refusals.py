#!/usr/bin/env python3
"""Holds refused cases to more than a failing exit status.

    refusals.py record DIR CASE -- COMMAND...     run COMMAND; keep its status and its messages in DIR
    refusals.py judge GROUP VERDICTS DIR [--only PATTERN]

`run_cases.py` accepts any orderly failure of a case with "must_fail". That would also pass a program that refuses
everything, or that fails for another reason. `judge` reads what run_cases.py printed (VERDICTS) and what `record` kept,
and lets a refused case pass only when
  - the exit status is the one in expected_messages.json,
  - the messages match every regular expression there (they name the file and the fault),
  - the control of its family, an intact twin, passes in the same run.
It prints a line per case and `N passed, N failed`. Exit status: 0 when all passed and there was something to run.
"""
import argparse
import json
import os
import re
import subprocess
import sys

here = os.path.dirname(os.path.abspath(__file__))


def record(folder, case, command):
    done = subprocess.run(command, stderr=subprocess.PIPE)
    sys.stderr.buffer.write(done.stderr)
    status = done.returncode if done.returncode >= 0 else 128 - done.returncode
    name = os.path.basename(os.path.normpath(case))
    with open(os.path.join(folder, name + ".json"), "w") as f:
        json.dump({"exit": status, "stderr": done.stderr.decode("utf-8", "replace")}, f)
    return status


def wrong(expected, kept):
    """What an orderly refusal lacks, or None."""
    if kept["exit"] != expected["exit"]:
        return f"exit status {kept['exit']}, want {expected['exit']}"
    for pattern in expected["stderr"]:
        if not re.search(pattern, kept["stderr"], re.IGNORECASE):
            return f"the message does not match /{pattern}/"
    return None


def judge(group, verdicts, folder, only):
    with open(os.path.join(here, "expected_messages.json")) as f:
        table = json.load(f)
    root = os.path.join(here, group)
    cases = {}
    for name in sorted(os.listdir(root)):
        path = os.path.join(root, name, "case.json")
        if os.path.exists(path) and re.search(only, name):
            with open(path) as f:
                cases[name] = json.load(f)
    said = {}
    details = []
    with open(verdicts, errors="replace") as f:
        for line in f:
            m = re.match(r"(PASS|FAIL) ([^:]+):", line)
            if m and m.group(2) in cases:
                said[m.group(2)] = (m.group(1) == "PASS", line.strip(), details)
                details = []
            else:
                details.append(line.rstrip())
    passed = {}
    for name in cases:
        passed[name] = said.get(name, (False,))[0]
    lines = {}
    for name, case in cases.items():
        lines[name] = said[name][1] if name in said else f"FAIL {name}: did not run"
        if not (case.get("must_fail") and passed[name]):
            continue
        full = f"{group}/{name}"
        control = [c for prefix, c in table["controls"].items() if full.startswith(prefix)]
        kept = os.path.join(folder, name + ".json")
        if full not in table["refused"] or not control:
            why = "expected_messages.json has no message or no control for it"
        elif not os.path.exists(kept):
            why = "its messages were not kept"
        else:
            with open(kept) as f:
                kept = json.load(f)
            why = wrong(table["refused"][full], kept)
            if why:
                why += "; said: " + kept["stderr"].strip()[:600]
        twin = control[0].split("/", 1)[1] if control else ""
        if not why and twin in passed and not passed[twin]:
            why = f"its control {twin} does not pass"
        if not why and twin not in passed and not only:
            why = f"its control {twin} is not there"
        if why:
            passed[name] = False
            lines[name] = f"FAIL {name}: {why}"
    for name in cases:
        if not passed[name] and name in said:
            for line in said[name][2]:
                print("    " + line)
        print(lines[name])
    good = sum(passed.values())
    print(f"{good} passed, {len(passed) - good} failed")
    return 0 if passed and good == len(passed) else 1


def main():
    if len(sys.argv) > 4 and sys.argv[1] == "record" and sys.argv[4] == "--":
        return record(sys.argv[2], sys.argv[3], sys.argv[5:])
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("action", choices=["judge"])
    p.add_argument("group")
    p.add_argument("verdicts")
    p.add_argument("folder")
    p.add_argument("--only", default="")
    a = p.parse_args()
    return judge(a.group, a.verdicts, a.folder, a.only)


if __name__ == "__main__":
    sys.exit(main())
