"""The report as JUnit XML, the form that systems of continuous integration read.

The elements are those that Jenkins' xUnit schema and GitLab, GitHub and Azure readers have in common: ``testsuites``,
``testsuite``, ``testcase`` with ``failure`` or ``error``. One test case is one probe by one yardstick, or one thing that could
not be judged. *Different* is a failure. *Inconclusive* is an error and never ``skipped``, which those systems count as
a pass (P4).
"""

from __future__ import annotations

from xml.etree import ElementTree as Xml

from resurgam.proof.report_values import Judged, ProbeReport, Report


def junit(report: Report) -> bytes:
    """The document, in UTF-8."""
    suite = Xml.Element("testsuite", name=f"{report.system} point {report.point}", timestamp=report.made[:19])
    _properties(suite, report)
    named = set()
    for probe in report.probes:
        for judged in probe.judged:
            name = probe.name if judged.yardstick == "none" else f"{probe.name} by {judged.yardstick}"
            named.add(name)
            _outcome(
                _case(suite, report, name, probe.seconds), judged.judgement, judged.reason, _evidence(probe, judged)
            )
    passed = report.judgement in ("identical", "equivalent")  # then what was not judged is what the owner accepts
    for name, why in report.unjudged if not passed else ():
        if name not in named:
            _outcome(_case(suite, report, name, None), "inconclusive", why, "")
    if len(suite) == 1:  # P4: nothing judged is no pass
        _outcome(_case(suite, report, "verdict", None), report.judgement, report.conclusion, "")
    counts = {
        "tests": len(suite.findall("testcase")),
        "failures": len(suite.findall("testcase/failure")),
        "errors": len(suite.findall("testcase/error")),
        "skipped": 0,
    }
    whole = Xml.Element("testsuites", name="resurgam", time=f"{report.seconds:.3f}")
    for element in (suite, whole):
        for name, count in counts.items():
            element.set(name, str(count))
    suite.set("time", f"{report.seconds:.3f}")
    whole.append(suite)
    Xml.indent(whole)
    document: bytes = Xml.tostring(whole, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _properties(suite: Xml.Element, report: Report) -> None:
    properties = Xml.SubElement(suite, "properties")
    told = {
        "point": report.point,
        "judgement": report.judgement,
        "sealed": report.sealed,
        "isolation": report.isolation,
    }
    for name, value in told.items():
        Xml.SubElement(properties, "property", name=name, value=value)


def _case(suite: Xml.Element, report: Report, name: str, seconds: float | None) -> Xml.Element:
    return Xml.SubElement(suite, "testcase", classname=report.system, name=name, time=f"{seconds or 0.0:.3f}")


def _outcome(case: Xml.Element, judgement: str, reason: str, evidence: str) -> None:
    if judgement in ("different", "inconclusive"):
        kind = "failure" if judgement == "different" else "error"
        Xml.SubElement(case, kind, type=judgement, message=reason).text = evidence or reason
    else:
        Xml.SubElement(case, "system-out").text = f"{judgement}: {reason}"


def _evidence(probe: ProbeReport, judged: Judged) -> str:
    lines = [f"{probe.name} reads {', '.join(probe.reads)}"] if probe.reads else []
    return "\n".join([*lines, *(f"{change.case}: {change.sentence}" for change in judged.changes)])
