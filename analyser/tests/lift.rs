//! Lifting and lowering over libvirt's own test domains: nothing is lost, and nothing is said twice.
#![allow(missing_docs, clippy::unwrap_used)]

mod apt;
mod attributes;
mod corpus;
mod lifting;

use std::sync::LazyLock;

use attributes::sorted;
use kubevmm_analyser::lift::{Vocabulary, lift, lift_with};
use kubevmm_analyser::lower::{Identity, lower_typed};
use kubevmm_analyser::{Element, Node, Tree, Value};
use lifting::{leaves, without};

/// The domains among the documents of libvirt 11.3.0.
const DOMAINS: usize = 2933;
/// The share of the corpus's leaves (attributes, texts and empty elements, but those of name and UUID) that typed fields
/// and lowering say, in thousandths. It only grows.
const LIFTED_BY_SPEC: usize = 308;
const LIFTED_BY_INPUT: usize = 352;

const VOCABULARIES: [Vocabulary; 2] = [Vocabulary::Input, Vocabulary::Spec];

static CORPUS: LazyLock<Vec<(String, Tree)>> = LazyLock::new(|| {
    let parsed = corpus::documents().into_iter().filter_map(|d| Some((d.name, Tree::from_bytes(&d.bytes).ok()?)));
    parsed.filter(|(_, tree)| tree.root.name() == "domain").collect()
});

fn leaves_of(element: &Element) -> usize {
    let texts = element.nodes().iter().filter(|node| matches!(node, Node::Text(_))).count();
    let own = element.attributes().len() + texts;
    let inner: usize = element.elements().map(leaves_of).sum();
    (own + inner).max(1)
}

/// Leaves of `spec.domain` that are in the domain: not what is removed, and not what only says which device is meant.
fn leaves_left(domain: &Value<'_>) -> usize {
    match domain {
        Value::Null => 0,
        Value::Mapping(entries) => {
            let is_typed_alias = |key: &str, value: &Value<'_>| {
                let name = value.get("name");
                key == "alias"
                    && matches!(name, Some(Value::String(n)) if n.starts_with("ua-disk-") || n.starts_with("ua-nic-"))
            };
            let inner = entries.iter().filter(|(key, value)| !is_typed_alias(key, value));
            if entries.is_empty() { 1 } else { inner.map(|(_, value)| leaves_left(value)).sum() }
        }
        Value::Sequence(items) => items.iter().map(leaves_left).sum(),
        _ => 1,
    }
}

#[test]
fn every_domain_of_the_corpus_comes_back() {
    let (mut failed, mut exact, mut all, mut left) = (Vec::new(), 0, 0, [0, 0]);
    for (name, tree) in CORPUS.iter() {
        let want = tree.canonical().root;
        let identity = ["name", "uuid"].iter().flat_map(|name| want.all(name)).count();
        all += leaves_of(&want) - identity;
        for (vocabulary, left) in VOCABULARIES.into_iter().zip(&mut left) {
            let lifted = lift_with(tree, vocabulary, None).unwrap_or_else(|error| panic!("{name}: {error}"));
            *left += leaves_left(&lifted.domain);
            let yaml = lifted.domain.to_yaml();
            match lifted.lower() {
                Ok(got) if sorted(&got) == sorted(&want) => exact += usize::from(got == want),
                Ok(got) => failed.push(format!("{name}: {yaml}\n{}\n{}", got.to_xml(), want.to_xml())),
                Err(error) => failed.push(format!("{name}: {error}\n{yaml}")),
            }
            if Value::from_yaml(&yaml) != Ok(lifted.domain) && yaml.trim() != "{}" {
                failed.push(format!("{name}: spec.domain does not come back from YAML:\n{yaml}"));
            }
        }
    }
    assert!(failed.is_empty(), "{} domains fail:\n{}", failed.len(), failed[..failed.len().min(5)].join("\n"));
    assert_eq!(CORPUS.len(), DOMAINS);
    let share = left.map(|left| (all - left) * 1000 / all);
    println!("{} domains; {exact} of {} with all attributes in their order", CORPUS.len(), 2 * CORPUS.len());
    println!("leaves lifted: {} per mille by lowering's input, {} by the spec, of {all}", share[0], share[1]);
    assert!(share[0] >= LIFTED_BY_INPUT && share[1] >= LIFTED_BY_SPEC, "{share:?}");
}

/// What typed fields and lowering say does not stand in `domain`: each leaf there is needed.
#[test]
fn no_leaf_of_a_lifted_domain_can_be_left_out() {
    const LEAVES: usize = 3;
    let mut needless = Vec::new();
    for (name, tree) in CORPUS.iter() {
        let want = sorted(&tree.canonical().root);
        let lifted = lift_with(tree, Vocabulary::Spec, None).unwrap();
        let all = leaves(&lifted.domain);
        for path in all.iter().step_by(all.len().div_ceil(LEAVES).max(1)) {
            let less = without(&lifted.domain, path);
            let got = lower_typed(&lifted.typed, &lifted.identity, &less);
            if got.is_ok_and(|got| sorted(&got) == want) {
                needless.push(format!("{name}: {path:?} in\n{}", lifted.domain.to_yaml()));
            }
        }
    }
    assert!(needless.is_empty(), "{}:\n{}", needless.len(), needless[..needless.len().min(3)].join("\n"));
}

/// What the typed fields alone make is lifted to just these.
#[test]
fn typed_fields_of_the_corpus_are_lifted_again() {
    let nothing = Value::Mapping(Vec::new());
    for (name, tree) in CORPUS.iter() {
        for vocabulary in VOCABULARIES {
            let mut typed = lift_with(tree, vocabulary, None).unwrap().typed;
            typed.take_our_aliases();
            let made = Tree::new(lower_typed(&typed, &Identity::default(), &nothing).unwrap());
            let again = lift_with(&made, vocabulary, None).unwrap();
            assert_eq!(again.domain, nothing, "{name}");
            assert_eq!(again.typed, typed, "{name}");
        }
    }
}

/// Each disk and NIC that typed fields can say is typed, and no other.
#[test]
fn devices_of_the_corpus_are_typed_where_they_can_be() {
    for (name, tree) in CORPUS.iter() {
        let lifted = lift(tree).unwrap();
        let devices = tree.root.find("devices");
        let is_one_of =
            |device: &Element, name: &str, of: &[&str]| device.attribute(name).is_some_and(|v| of.contains(&v));
        let of_source = |device: &Element, names: &[&str]| {
            device.find("source").is_some_and(|s| names.iter().any(|n| s.attribute(n).is_some_and(|v| !v.is_empty())))
        };
        let disks = devices.iter().flat_map(|d| d.all("disk")).filter(|disk| {
            is_one_of(disk, "type", &["file", "block", "volume"])
                && (disk.attribute("device").is_none() || is_one_of(disk, "device", &["disk", "cdrom"]))
                && of_source(disk, &["file", "dev", "volume"])
        });
        assert_eq!(lifted.typed.disks.len(), disks.count(), "{name}");
        let nics = devices
            .iter()
            .flat_map(|d| d.all("interface"))
            .filter(|nic| is_one_of(nic, "type", &["network", "bridge"]) && of_source(nic, &["network", "bridge"]));
        assert_eq!(lifted.typed.nics.len(), nics.count(), "{name}");
    }
}
