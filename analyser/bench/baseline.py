#!/usr/bin/env python3
"""The baseline of the bench: XML to YAML and back with lxml and PyYAML's C loader and dumper, as short as it gets while it
loses nothing but comments and white space between elements.

An element is a mapping: "@name" for attributes, "#text" for text, the children's names for children, lists where a name
comes more than once; where that would lose the order of children, "#children" lists them. Scalars are text.

usage: baseline.py ROUNDS FILE-WITH-PATHS    prints JSON: the best time, and the indexes of the documents that pass
"""
import json
import sys
import time

import yaml
from lxml import etree

Loader, Dumper = yaml.CBaseLoader, yaml.CSafeDumper
PARSER = etree.XMLParser(remove_blank_text=True, remove_comments=True, resolve_entities=False)


def name(element):
    tag = etree.QName(element)
    return f"{element.prefix}:{tag.localname}" if element.prefix else tag.localname


def attribute(element, key):
    tag = etree.QName(key)
    if not tag.namespace:
        return tag.localname
    prefix = next(p for p, uri in element.nsmap.items() if uri == tag.namespace and p)
    return f"{prefix}:{tag.localname}"


def encode(element, outer):
    data = {}
    for prefix, uri in element.nsmap.items():
        if outer.get(prefix) != uri:
            data[f"@xmlns:{prefix}" if prefix else "@xmlns"] = uri
    for key, value in element.attrib.items():
        data[f"@{attribute(element, key)}"] = value
    children = list(element)
    if not children:
        if element.text:
            if not data:
                return element.text
            data["#text"] = element.text
        return data
    names = [name(child) for child in children]
    runs = [n for i, n in enumerate(names) if i == 0 or names[i - 1] != n]
    is_mixed = element.text or any(child.tail for child in children)
    if is_mixed or len(set(runs)) < len(runs):
        content = [element.text] if element.text else []
        for child_name, child in zip(names, children):
            content.append({child_name: encode(child, element.nsmap)})
            if child.tail:
                content.append(child.tail)
        data["#children"] = content
        return data
    for child_name, child in zip(names, children):
        value = encode(child, element.nsmap)
        if child_name in data:
            if not isinstance(data[child_name], list):
                data[child_name] = [data[child_name]]
            data[child_name].append(value)
        else:
            data[child_name] = value
    return data


def resolve(tag, nsmap):
    prefix, _, local = tag.rpartition(":")
    uri = nsmap.get(prefix or None)
    return f"{{{uri}}}{local}" if uri else local


def decode(parent, tag, data, nsmap):
    if isinstance(data, str):
        element = make(parent, resolve(tag, nsmap), {})
        element.text = data
        return element
    new = {k[7:] or None: v for k, v in data.items() if k.startswith("@xmlns")}
    nsmap = {**nsmap, **new} if new else nsmap
    element = make(parent, resolve(tag, nsmap), new)
    last = None
    for key, value in data.items():
        if key.startswith("@xmlns"):
            continue
        if key.startswith("@"):
            key = key[1:]
            element.set(resolve(key, nsmap) if ":" in key else key, value)
        elif key == "#text":
            element.text = value
        elif key == "#children":
            for item in value:
                if isinstance(item, dict):
                    (child, inner), = item.items()
                    last = decode(element, child, inner, nsmap)
                elif last is None:
                    element.text = item
                else:
                    last.tail = item
        elif isinstance(value, list):
            for item in value:
                decode(element, key, item, nsmap)
        else:
            decode(element, key, value, nsmap)
    return element


def make(parent, tag, nsmap):
    return etree.Element(tag, nsmap=nsmap) if parent is None else etree.SubElement(parent, tag, nsmap=nsmap)


def to_yaml(xml):
    root = etree.fromstring(xml, PARSER)
    return yaml.dump({name(root): encode(root, {})}, Dumper=Dumper, sort_keys=False, allow_unicode=True)


def to_xml(text):
    (tag, data), = yaml.load(text, Loader=Loader).items()
    return etree.tostring(decode(None, tag, data, {}), pretty_print=True, encoding="utf-8")


def same(a, b):
    return (
        a.tag == b.tag
        and a.attrib == b.attrib
        and (a.text or "") == (b.text or "")
        and (a.tail or "") == (b.tail or "")
        and len(a) == len(b)
        and all(same(x, y) for x, y in zip(a, b))
    )


def passes(xml):
    try:
        return same(etree.fromstring(xml, PARSER), etree.fromstring(to_xml(to_yaml(xml)), PARSER))
    except Exception:
        return False


def main():
    rounds, paths = int(sys.argv[1]), open(sys.argv[2]).read().splitlines()
    documents = [open(path, "rb").read() for path in paths]
    passed = [index for index, xml in enumerate(documents) if passes(xml)]
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        for index in passed:
            to_xml(to_yaml(documents[index]))
        best = min(best, time.process_time() - start)
    print(json.dumps({"seconds": best, "passed": passed}))


main()
