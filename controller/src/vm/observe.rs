//! A VM that only observes a domain: nothing is placed, and nothing waits for its deletion. Pure.

use kubevmm_api::condition::{READY, SCHEDULED, Wanted};
use kubevmm_api::vm::ExistingDomain;

use crate::object::{has_finalizer, is_deleting};
use crate::vm::decide::Action;
use crate::vm::status::{Shown, StatusWanted};
use crate::vm::view::View;

/// The steps for a VM that observes `domain`.
pub fn decide(view: &View, domain: &ExistingDomain) -> Vec<Action> {
    if is_deleting(view.vm.as_ref()) {
        return if has_finalizer(view.vm.as_ref()) { vec![Action::RemoveFinalizer] } else { vec![] };
    }
    let node = domain.node_name.as_str();
    let known = view.hosts.get(node).is_some_and(|host| host.hypervisor.is_some());
    let mut wanted = StatusWanted { node_name: known.then(|| node.to_owned()), ..Default::default() };
    let scheduled = if !known {
        let message = format!(
            "spec.existingDomain.nodeName: there is no Hypervisor {node}: `virtctl domains` lists the hosts and their \
             domains"
        );
        wanted.shown = Some(shown("Pending", Wanted::no(READY, "HostNotFound", message.clone())));
        Wanted::no(SCHEDULED, "HostNotFound", message)
    } else if !view.hosts.is_live(node) {
        let message = format!("the executor on {node} has not renewed its Lease: whether the domain runs is not known");
        wanted.shown = Some(shown("Unknown", Wanted::unknown(READY, "HostLost", message)));
        Wanted::unknown(SCHEDULED, "HostLost", format!("the host {node} does not answer"))
    } else {
        Wanted::yes(
            SCHEDULED,
            "Observed",
            format!("a domain of the host {node} is watched; nothing is reserved for it"),
        )
    };
    wanted.conditions = vec![scheduled];
    vec![Action::WriteStatus(Box::new(wanted))]
}

fn shown(printable: &'static str, ready: Wanted) -> Shown {
    Shown { printable, ready, power: None }
}
