//! Any bytes as XML: no panic, and what is read comes back from YAML and from XML.
#![no_main]

use kubevmm_analyser::Tree;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(tree) = Tree::from_bytes(bytes) else { return };
    let tree = tree.into_canonical();
    let yaml = tree.to_yaml();
    assert_eq!(Tree::from_yaml(&yaml).as_ref(), Ok(&tree), "{yaml}");
    assert_eq!(Tree::from_xml(&tree.to_xml()).map(Tree::into_canonical).as_ref(), Ok(&tree));
});
