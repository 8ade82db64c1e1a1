//! Laws of the codec over generated documents, and of the YAML reader and writer over generated data and text.
#![allow(missing_docs, clippy::unwrap_used)]

use kubevmm_analyser::{Element, Tree, Value};
use proptest::prelude::*;

/// Names that mean something in libvirt's schemas, at the right place or at a wrong one, that are keys of lists or of
/// text there, and that no schema has.
const NAMES: [&str; 28] = [
    "domain",
    "devices",
    "disk",
    "disks",
    "driver",
    "source",
    "target",
    "value",
    "name",
    "type",
    "features",
    "feature",
    "acpi",
    "memory",
    "memories",
    "boot",
    "boots",
    "rule",
    "filterref",
    "metadata",
    "qemu:commandline",
    "qemu:arg",
    "qemu:args",
    "x:y",
    "description",
    "yes",
    "n",
    "x-é_1.2",
];
const ROOTS: [&str; 8] = ["domain", "domain", "network", "filter", "pool", "domainCapabilities", "secret", "other"];
const ATTRIBUTES: [&str; 14] = [
    "type",
    "value",
    "name",
    "disk",
    "disks",
    "file",
    "xmlns",
    "xmlns:qemu",
    "xmlns:x",
    "x:y",
    "dumpCore",
    "shareable",
    "state",
    "unit",
];
const QEMU: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

fn any_text() -> impl Strategy<Value = String> {
    let odd = "[ \t\n\r:#\\-\\[\\]{}&*!|>'\"%@`,?=~.0-9a-cyYnN\u{85}\u{2028}\u{feff}é😀\\\\<]{0,12}";
    let telling = prop::sample::select(vec![
        "",
        "yes",
        "no",
        "on",
        "off",
        "true",
        "null",
        "~",
        "0",
        "42",
        "-1",
        "0042",
        "1e3",
        "0x1f",
        "1_000",
        "12:30",
        ".5",
        "9007199254740992",
        " ",
        "\n",
        "a\nb",
        "a\nb\n",
        "a\n\n",
        "\na",
        " a\nb",
        "a\n \n",
        "- a",
        "a: b",
        "a #b",
        "---",
        "...",
        "'",
        "\"",
        "52:54:00:12:34:56",
        "2001-01-01",
        QEMU,
    ]);
    prop_oneof![odd, telling.prop_map(str::to_owned)]
}

fn any_attributes() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let value = prop_oneof![3 => any_text(), 1 => Just(QEMU.to_owned())];
    prop::collection::vec((prop::sample::select(ATTRIBUTES.to_vec()), value), 0..4)
}

fn any_element(roots: &'static [&'static str]) -> impl Strategy<Value = Element> {
    let build = |(name, attributes): (&'static str, Vec<(&'static str, String)>)| {
        attributes.into_iter().fold(Element::new(name), |element, (name, value)| element.attr(name, value))
    };
    let head = move |names: Vec<&'static str>| (prop::sample::select(names), any_attributes()).prop_map(build);
    let leaf = (head(NAMES.to_vec()), any_text()).prop_map(|(element, text)| element.text(text));
    let inner = leaf.prop_recursive(5, 60, 8, move |inner| {
        let content = prop_oneof![
            6 => inner.prop_map(Ok),
            1 => any_text().prop_map(Err),
        ];
        (head(NAMES.to_vec()), prop::collection::vec(content, 0..8)).prop_map(with_content)
    });
    let content = prop_oneof![9 => inner.prop_map(Ok), 1 => any_text().prop_map(Err)];
    (head(roots.to_vec()), prop::collection::vec(content, 0..8)).prop_map(with_content)
}

fn with_content((element, content): (Element, Vec<Result<Element, String>>)) -> Element {
    content.into_iter().fold(element, |element, node| match node {
        Ok(child) => element.child(child),
        Err(text) => element.text(text),
    })
}

fn any_value() -> impl Strategy<Value = Value<'static>> {
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::Bool),
        1 => (-(1i64 << 53) + 1..1 << 53).prop_map(Value::Number),
        6 => any_text().prop_filter("XML's characters", |t| !t.contains('\r')).prop_map(|t| Value::String(t.into())),
    ];
    leaf.prop_recursive(5, 80, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Sequence),
            prop::collection::btree_map(any_text(), inner, 0..6)
                .prop_map(|m| Value::Mapping(m.into_iter().map(|(k, v)| (k.into(), v)).collect())),
        ]
    })
}

/// Text that is often YAML, and often nearly.
fn any_yaml() -> impl Strategy<Value = String> {
    let parts = vec![
        "a", "b: ", "c:", "\n", "\n", "\n  ", "\n    ", "- ", "-", " ", "{", "}", "[", "]", ", ", "'", "\"", "#",
        " #c", "|", ">", "|-", ">+", "&a", "*a", "!t", "? ", "---", "...", "%", "42", "yes ", "x y", "\\n", "\t", "é",
        ":", "null",
    ];
    prop::collection::vec(prop::sample::select(parts), 0..24).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_document_comes_back_from_yaml(root in any_element(&ROOTS)) {
        // What a parser gives: white space between elements is gone, and namespaces are what XML says.
        let tree = Tree::from_xml(&Tree::new(root).to_xml()).unwrap();
        let canonical = tree.canonical();
        let yaml = canonical.to_yaml();
        let back = Tree::from_yaml(&yaml);
        prop_assert_eq!(back.as_ref(), Ok(&canonical), "{}", yaml);
        prop_assert_eq!(canonical.canonical(), canonical.clone());
        let json = canonical.to_value().to_json_text();
        prop_assert_eq!(Tree::from_yaml(&json), Ok(canonical), "{}", json);
    }

    #[test]
    fn canonical_keeps_all_but_order_and_white_space(root in any_element(&ROOTS)) {
        let tree = Tree::from_xml(&Tree::new(root).to_xml()).unwrap();
        prop_assert_eq!(inventory(&tree.canonical().root), inventory(&tree.root));
    }

    #[test]
    fn every_value_comes_back_from_yaml(value in any_value()) {
        let yaml = value.to_yaml();
        prop_assert_eq!(Value::from_yaml(&yaml), Ok(value), "{}", yaml);
    }

    #[test]
    fn another_reader_sees_the_same(value in any_value()) {
        let yaml = value.to_yaml();
        let other: serde_json::Value = serde_yaml_ng::from_str(&yaml).unwrap_or_else(|e| panic!("{e}\n{yaml}"));
        prop_assert_eq!(other, value.to_json(), "{}", yaml);
    }

    #[test]
    fn what_both_readers_take_is_the_same(yaml in any_yaml()) {
        if let (Ok(ours), Ok(theirs)) = (Value::from_yaml(&yaml), serde_yaml_ng::from_str::<serde_json::Value>(&yaml)) {
            prop_assert_eq!(ours.to_json(), with_switches(theirs), "{}", yaml);
        }
    }

    #[test]
    fn no_text_makes_the_readers_panic(text in prop_oneof!["\\PC{0,60}", "[<>/a=' \"&;!\\[\\]?-]{0,40}", any_yaml()]) {
        let _ = Tree::from_xml(&text);
        let _ = Tree::from_yaml(&text);
        let _ = Tree::from_bytes(text.as_bytes());
    }
}

/// The words of YAML 1.1 are switches to kubectl, and text to the other reader.
fn with_switches(json: serde_json::Value) -> serde_json::Value {
    use serde_json::Value as Json;
    match json {
        Json::String(text) if text == "yes" => Json::Bool(true),
        Json::Array(items) => items.into_iter().map(with_switches).collect(),
        Json::Object(entries) => entries.into_iter().map(|(key, value)| (key, with_switches(value))).collect(),
        other => other,
    }
}

/// All names, attributes and texts with their depth, without order; white space alone does not count.
fn inventory(element: &Element) -> Vec<String> {
    fn collect(element: &Element, depth: usize, out: &mut Vec<String>) {
        out.push(format!("{depth} <{}> {:?}", element.name(), element.attributes()));
        let text = element.own_text();
        if !text.trim().is_empty() {
            out.push(format!("{depth} {text:?}"));
        }
        element.elements().for_each(|child| collect(child, depth + 1, out));
    }
    let mut out = Vec::new();
    collect(element, 0, &mut out);
    out.sort();
    out
}
