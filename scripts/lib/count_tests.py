#!/usr/bin/env python3
"""Counts the tests of a ctest run: count_tests.py JUNIT.xml GTEST_JSON_DIR

A GoogleTest program counts by its cases (its JSON file has its name), any other test as one. A program that failed
without a failed case (it crashed, or a sanitizer spoke at its end) counts as one more failure; so does one without
cases. A skipped case is a failure: here nothing is left out silently. Prints what failed, with its output, and as
its last line `N passed, N failed`.
"""
import json
import os
import sys
import xml.etree.ElementTree as ElementTree

LONGEST = 12000


def cases(path):
    """(name, message or None) of each case in a GoogleTest JSON file."""
    with open(path) as f:
        report = json.load(f)
    for suite in report.get("testsuites", []):
        for case in suite.get("testsuite", []):
            name = f"{suite['name']}.{case['name']}"
            if case.get("failures"):
                yield name, "\n".join(failure["failure"] for failure in case["failures"])
            elif case.get("result") == "SKIPPED" or case.get("status") == "NOTRUN":
                yield name, "was skipped"
            else:
                yield name, None


def count(junit, folder):
    passed = failed = 0
    for test in ElementTree.parse(junit).getroot().iter("testcase"):
        name, ran_well = test.get("name"), test.get("status") == "run"
        report = os.path.join(folder, name + ".json")
        found = list(cases(report)) if os.path.exists(report) else []
        bad = [(case, message) for case, message in found if message]
        passed += len(found) - len(bad)
        failed += len(bad)
        for case, message in bad:
            print(f"FAIL {name}: {case}\n{message}")
        if ran_well and not found and not os.path.exists(report):
            passed += 1
        elif (not ran_well and not bad) or (ran_well and not found):
            failed += 1
            output = test.findtext("system-out") or ""
            print(f"FAIL {name}: {'has no cases' if ran_well else test.get('status')}\n{output[-LONGEST:]}")
    return passed, failed


def main():
    passed = failed = 0
    if os.path.exists(sys.argv[1]):
        passed, failed = count(sys.argv[1], sys.argv[2])
    if passed + failed == 0:
        print("FAIL no test ran")
        failed = 1
    print(f"{passed} passed, {failed} failed")


if __name__ == "__main__":
    main()
