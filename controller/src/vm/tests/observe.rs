//! VMs that observe a domain.

use super::*;

const OBSERVE: &str = "management: Observe, existingDomain: {nodeName: a, uuid: 0a000000-0000-4000-8000-000000000001}";

fn observed(meta: &str, status: &str) -> View {
    let mut view = view(OBSERVE, status);
    view.vm = Arc::new(yaml(&format!(
        "metadata: {{name: web, namespace: shop, uid: u, generation: 1, {meta}}}\nspec: {{{OBSERVE}}}\nstatus: {{{status}}}"
    )));
    view
}

fn written(actions: &[Action]) -> &StatusWanted {
    match actions {
        [Action::WriteStatus(wanted)] => wanted,
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_is_where_its_domain_is_without_a_pod() {
    let actions = decide(&observed("", ""));
    let wanted = written(&actions);
    assert_eq!((wanted.node_name.as_deref(), &wanted.placement), (Some("a"), &None));
    assert_eq!(wanted.conditions.iter().map(|c| (c.kind, c.reason)).collect::<Vec<_>>(), [(SCHEDULED, "Observed")]);
    assert_eq!(wanted.shown, None, "the executor says how the domain is");
}

#[test]
fn a_host_that_is_not_there_or_does_not_answer_is_said() {
    let mut view = observed("", "");
    view.hosts = Arc::new(hosts(&[("b", POOL)]));
    let actions = decide(&view);
    let wanted = written(&actions);
    assert_eq!((wanted.node_name.as_deref(), wanted.conditions[0].reason), (None, "HostNotFound"));
    assert!(wanted.conditions[0].message.contains("spec.existingDomain.nodeName"));

    let mut lost = hosts(&[("a", POOL)]);
    lost.0.get_mut("a").unwrap().lease = Default::default();
    view.hosts = Arc::new(lost);
    let actions = decide(&view);
    let wanted = written(&actions);
    assert_eq!((wanted.node_name.as_deref(), wanted.conditions[0].reason), (Some("a"), "HostLost"));
}

#[test]
fn nothing_waits_for_its_deletion() {
    assert_eq!(decide(&observed(GONE, "")), []);
    let held = format!("{GONE}, finalizers: [kubevmm.io/cleanup]");
    assert_eq!(decide(&observed(&held, "nodeName: a")), [Action::RemoveFinalizer]);
}
