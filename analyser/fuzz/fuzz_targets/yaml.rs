//! Any text as YAML: no panic, what is read is written such that it is read as the same, and a document is canonical.
#![no_main]

use kubevmm_analyser::{Tree, Value};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(value) = Value::from_yaml(text) else { return };
    let yaml = value.to_yaml();
    assert_eq!(Value::from_yaml(&yaml).as_ref(), Ok(&value), "{yaml}");
    let Ok(tree) = Tree::from_value(&value) else { return };
    assert_eq!(tree.canonical(), tree);
    assert_eq!(Tree::from_yaml(&tree.to_yaml()).as_ref(), Ok(&tree));
    assert_eq!(Tree::from_xml(&tree.to_xml()).map(Tree::into_canonical).as_ref(), Ok(&tree));
});
