//! Input that is refused: an error that names the place, no panic, bounded memory and time.
#![allow(missing_docs, clippy::unwrap_used)]

use std::time::Duration;

use kubevmm_analyser::{Error, Tree};

fn yaml_error(yaml: &str) -> String {
    Tree::from_yaml(yaml).expect_err(yaml).to_string()
}

fn xml_error(xml: &str) -> String {
    Tree::from_xml(xml).expect_err(xml).to_string()
}

#[test]
fn yaml_syntax_names_line_and_column() {
    let table = [
        ("domain:\n  name: a\n  name: b\n", "YAML, line 3, column 3: key name stands there twice"),
        ("domain: {name: a, name: b}", "YAML, line 1, column 19: key name stands there twice"),
        ("a: &x [1]\nb: *x\n", "YAML, line 1, column 4: anchors and aliases are not read: write the value out"),
        ("a: !!str b\n", "YAML, line 1, column 4: tags are not read: remove it"),
        ("domain:\n\tname: a\n", "YAML, line 2, column 1: a tab cannot indent; use spaces"),
        ("domain:\n  name: a\n bad: b\n", "YAML, line 3, column 2: is indented deeper than the keys before it"),
        ("domain: [a\n", "YAML, line 2, column 1: the document ends within brackets"),
        ("domain: {a: 'b}\n", "YAML, line 1, column 13: the quoted text does not end"),
        (
            "domain:\n  name: \"a\\q\"\n",
            "YAML, line 2, column 11: a backslash in double quotes begins no escape that YAML knows",
        ),
        (
            "domain:\n  name: 0042\n",
            "YAML, line 2, column 9: 0042 is a number to some readers and changes on its way: quote it",
        ),
        (
            "domain:\n  name: 1e3\n",
            "YAML, line 2, column 9: 1e3 is a number to some readers and changes on its way: quote it",
        ),
        ("a: b\n---\nc: d\n", "YAML, line 2, column 1: a second document"),
        ("a: b: c\n", "YAML, line 1, column 5: a mapping cannot begin here; quote a text that holds ': '"),
        ("? a\n: b\n", "YAML, line 1, column 1: complex keys are not read"),
        (
            "a: [#]\n",
            "YAML, line 1, column 5: a comment needs a space before it, and a text that begins so needs quotes",
        ),
        ("a: |\n    \n  b\n", "YAML, line 3, column 1: an empty line before this one is indented deeper"),
        ("a: \u{1}\n", "YAML, line 1, column 4: a character that YAML does not allow"),
        ("%YAML 1.2\n---\na: b\n", "YAML, line 1, column 1: directives are not read"),
    ];
    for (yaml, error) in table {
        // A line before the offending one in the table is never wrong.
        assert_eq!(yaml_error(yaml), error, "{yaml}");
    }
}

#[test]
fn what_is_no_document_names_its_path() {
    let table = [
        ("", "the document: expected a mapping with the root's name, found null"),
        ("# only a comment\n", "the document: expected a mapping with the root's name, found null"),
        ("[]", "the document: expected a mapping with the root's name, found a list"),
        ("a: {}\nb: {}\n", "the document: expected one key, the root's name, found 2"),
        ("domain: kvm\n", "domain: expected a mapping, found text"),
        ("domain:\n  devices:\n    disks: {}\n", "domain.devices.disks: expected a list, found a mapping"),
        (
            "domain:\n  devices:\n    disks:\n    - type: file\n    - 7\n",
            "domain.devices.disks[1]: expected a mapping, found a number",
        ),
        ("domain:\n  features:\n    acpi:\n", "domain.features.acpi: has no value; an empty element is written {}"),
        ("domain:\n  features:\n    acpi: true\n", "domain.features.acpi: expected a mapping, found true or false"),
        ("domain:\n  type: [kvm]\n", "domain.type: expected a scalar, found a list"),
        (
            "domain:\n  type: yes\n",
            "domain.type: is no switch of libvirt's; a text that looks like one (yes, on, true) needs quotes",
        ),
        ("domain:\n  'a b': c\n", "domain.a b: 'a b' is not a name of an attribute"),
        ("domain:\n  '1': {}\n", "domain.1: '1' is not a name of an element"),
        ("domain:\n  type: kvm\n  '@type': qemu\n", "domain: attribute type stands there twice"),
        ("domain:\n  $content: a\n", "domain.$content: expected a list, found text"),
        (
            "domain:\n  $content:\n  - {a: {}, b: {}}\n",
            "domain.$content[0]: expected a mapping of one key, the name of an element",
        ),
        ("domain:\n  xmlns:q: {}\n", "domain.xmlns:q: a namespace is text, found a mapping"),
        ("domain:\n  name: \"a\\0b\"\n", "domain.name: a character that XML does not allow"),
    ];
    for (yaml, error) in table {
        assert_eq!(yaml_error(yaml), error, "{yaml}");
    }
}

#[test]
fn a_billion_laughs() {
    let xml = "<!DOCTYPE a [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;'>]><a>&b;</a>";
    assert!(xml_error(xml).starts_with("XML, line 1, column 1: a document type is not read"));
    let yaml = "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n";
    assert!(yaml_error(yaml).contains("anchors and aliases are not read"));
}

#[test]
fn nesting() {
    let xml = "<a>".repeat(1000) + &"</a>".repeat(1000);
    assert_eq!(xml_error(&xml), "XML, line 1, column 769: elements nest more than 256 deep");
    for yaml in ["a: {".repeat(1000), "[".repeat(100_000), "- ".repeat(100_000), "{a: ".repeat(1000)] {
        assert!(yaml_error(&yaml).contains("nest too deep"), "{yaml:.20}");
    }
    let block: String = (0..1000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    assert!(yaml_error(&block).contains("nest too deep"));
    let elements: String =
        (0..300).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<String>() + &" ".repeat(300) + "b: {}\n";
    assert!(yaml_error(&elements).ends_with("elements nest more than 256 deep"));
}

#[test]
fn truncated_anywhere() {
    let xml =
        "<?xml version='1.0'?><domain type='kvm'><name>a&amp;b</name><!-- c --><devices><disk/></devices></domain>";
    let yaml = Tree::from_xml(xml).unwrap().to_yaml();
    for end in 0..xml.len() {
        assert!(Tree::from_xml(&xml[..end]).is_err(), "{}", &xml[..end]);
    }
    // YAML that ends early can be a shorter document; it must not be a wrong one.
    for end in 0..yaml.len() {
        if let Ok(tree) = Tree::from_yaml(&yaml[..end]) {
            assert_eq!(tree.root.name(), "domain");
        }
    }
}

#[test]
fn encodings_and_line_ends() {
    let utf16: Vec<u8> = "<a/>".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let with_mark = [&[0xFF, 0xFE][..], &utf16].concat();
    assert_eq!(Tree::from_bytes(&with_mark), Err(Error::Encoding { line: 1, column: 1 }));
    assert!(Tree::from_bytes(&utf16).is_err());
    assert_eq!(Tree::from_yaml_bytes(b"a:\n  b: \xE9\n"), Err(Error::Encoding { line: 2, column: 6 }));
    let plain = Tree::from_xml("<domain>\n<name>a</name>\n</domain>").unwrap();
    let windows = "\u{FEFF}<domain>\r\n<name>a</name>\r\n</domain>";
    assert_eq!(Tree::from_xml(windows), Ok(plain.clone()));
    let yaml = plain.to_yaml();
    assert_eq!(Tree::from_yaml(&format!("\u{FEFF}{}", yaml.replace('\n', "\r\n"))), Ok(plain));
}

/// Ten times the document takes about ten times as long: far from the hundred times of a quadratic step.
#[test]
fn large_documents_stay_linear() {
    let kinds: [fn(usize) -> String; 6] = [
        |n| format!("<domain><devices>{}</devices></domain>", "<disk type='file'><target dev='vda'/></disk>".repeat(n)),
        |n| format!("<domain><devices>{}</devices></domain>", "<disk/><interface/>".repeat(n)),
        |n| {
            format!(
                "<domain><metadata>{}</metadata></domain>",
                (0..n).map(|i| format!("<a{i}/><b/>")).collect::<String>()
            )
        },
        |n| format!("<domain{}/>", (0..n).map(|i| format!(" a{i}='{i}'")).collect::<String>()),
        |n| {
            let attributes: String = (0..n).map(|i| format!(" a{i}=''")).collect();
            let elements: String = (0..n).map(|i| format!("<b{i}/>")).collect();
            format!("<other{attributes}>{elements}</other>")
        },
        |n| {
            let declarations: String = (0..n).map(|i| format!(" xmlns:p{i}='urn:{i}'")).collect();
            let elements: String = (0..n).map(|i| format!("<p{i}:a/>")).collect();
            format!("<domain><metadata{declarations}>{elements}</metadata></domain>")
        },
    ];
    for (kind, make) in kinds.into_iter().enumerate() {
        let (small, large) = (round_trip_time(&make(1_000)), round_trip_time(&make(10_000)));
        assert!(large < small * 30 + Duration::from_millis(200), "kind {kind}: {small:?} and {large:?}");
    }
}

/// CPU time, so that other work on the machine does not count.
fn round_trip_time(xml: &str) -> Duration {
    let start = cpu_time();
    let tree = Tree::from_xml(xml).unwrap().canonical();
    let back = Tree::from_yaml(&tree.to_yaml()).unwrap();
    let _ = tree.unknown();
    let time = cpu_time() - start;
    assert_eq!(back, tree);
    time
}

/// CPU time of this thread: the first number of the kernel's schedstat, in nanoseconds.
fn cpu_time() -> Duration {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(statistics.split_whitespace().next().unwrap().parse().unwrap())
}

#[test]
fn white_space_between_elements_is_layout_in_yaml_too() {
    let tree = Tree::from_yaml("other: {$content: [' ', {a: {}}, \"\\n\"]}").unwrap();
    assert_eq!(tree.to_xml(), "<other>\n  <a/>\n</other>\n");
}

#[test]
fn nothing_at_all() {
    for xml in ["", "\u{FEFF}", " \n", "<!-- -->", "<?xml version='1.0'?>\n"] {
        assert!(xml_error(xml).ends_with("there is no element: the document is empty"), "{xml}");
    }
    for yaml in ["", "\u{FEFF}", " \n", "---\n...\n"] {
        assert!(yaml_error(yaml).ends_with("found null"), "{yaml}");
    }
}

/// A message is for people: it quotes no more of a document than they can read.
#[test]
fn messages_are_short() {
    let long = "é".repeat(1_000_000);
    let xml = [format!("<{long}!/>"), format!("<a {long}!='1'/>"), format!("<a>&{long};</a>"), format!("<a></{long}>")];
    let yaml = [
        format!("{long}: 1\n{long}: 2\n"),
        format!("a: {{{long} b: }}"),
        format!("a: {}\n", "0".repeat(1_000_000)),
        format!("domain: {{'{long}!': {{}}}}"),
        format!("{long}: {{a: null}}"),
    ];
    let messages = xml.iter().map(|xml| xml_error(xml)).chain(yaml.iter().map(|yaml| yaml_error(yaml)));
    for message in messages {
        let length = message.chars().count();
        assert!(length < 700, "{length} characters: {message:.80}");
    }
}
