//! Every document of libvirt's own tests comes back from YAML and from JSON exactly as its canonical form.
#![allow(missing_docs, clippy::unwrap_used)]

mod apt;
mod corpus;

use kubevmm_analyser::{Tree, Value};

/// What libvirt's tests have on purpose: output of other programs that is no document or several, and a broken one.
const NOT_WELL_FORMED: [&str; 4] = [
    "nodedevmdevctldata/mdevctl-list-empty-array.out.xml: XML, line 1, column 1: there is no element: the document is empty",
    "nodedevmdevctldata/mdevctl-list-empty.out.xml: XML, line 1, column 1: there is no element: the document is empty",
    "nodedevmdevctldata/mdevctl-list-multiple.out.xml: XML, line 11, column 1: a second root element",
    "qemuxmlconfdata/broken-xml-invalid.xml: XML, line 1, column 1: syntax error: tag not closed: `>` not found before end of input",
];

#[test]
fn every_document_of_the_corpus() {
    let (mut refused, mut failed) = (Vec::new(), Vec::new());
    for document in corpus::documents() {
        let tree = match Tree::from_bytes(&document.bytes) {
            Ok(tree) => tree,
            Err(error) => {
                refused.push(format!("{}: {error}", document.name));
                continue;
            }
        };
        if let Err(why) = round_trip(&tree) {
            failed.push(format!("{}: {why}", document.name));
        }
    }
    assert!(failed.is_empty(), "{} documents fail:\n{}", failed.len(), failed[..failed.len().min(20)].join("\n"));
    assert_eq!(refused, NOT_WELL_FORMED);
}

fn round_trip(tree: &Tree) -> Result<(), String> {
    let canonical = tree.canonical();
    let yaml = canonical.to_yaml();
    let back = Tree::from_yaml(&yaml).map_err(|e| format!("{e}\n{yaml}"))?;
    same(&back, &canonical, &yaml)?;
    if back.to_yaml() != yaml {
        return Err(format!("YAML is not the same the second time:\n{yaml}"));
    }
    let xml = canonical.to_xml();
    let again = Tree::from_xml(&xml).map_err(|e| format!("{e}\n{xml}"))?;
    same(&again, &canonical, &xml)?;
    same(&canonical.canonical(), &canonical, "canonical twice")?;
    let json = canonical.to_value().to_json_text();
    let back = Tree::from_yaml(&json).map_err(|e| format!("{e}\n{json}"))?;
    same(&back, &canonical, &json)?;
    let parsed = serde_json::from_str(&json).map_err(|e| e.to_string())?;
    let value = Value::from_json(&parsed).map_err(|e| e.to_string())?;
    same(&Tree::from_value(&value).map_err(|e| e.to_string())?, &canonical, &json)
}

fn same(got: &Tree, want: &Tree, through: &str) -> Result<(), String> {
    if got == want { Ok(()) } else { Err(format!("got\n{}want\n{}through\n{through}", got.to_xml(), want.to_xml())) }
}
