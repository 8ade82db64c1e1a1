//! How objects go that others refer to and hosts have copies of: images, pools, networks, classes. Pure.

use kube::Resource;
use kubevmm_api::condition::{READY, Wanted};

use crate::object::{enumerate, has_finalizer, is_deleting};

/// Where an object stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lifecycle {
    /// New: put the finalizer on.
    Adopt,
    /// Nothing of it is ours to do any more.
    Ignore,
    /// It is in use as it is.
    Alive,
    /// It is being deleted and cannot go yet: the condition says why.
    Held(Wanted),
    /// Nothing refers to it, and no host has anything of it: take the finalizer off.
    LetGo,
}

/// Where `object` stands. `users` are the objects that refer to it; `hosts` those that have something of it.
pub fn stage<K: Resource>(object: &K, users: &[String], hosts: &[&str]) -> Lifecycle {
    match (is_deleting(object), has_finalizer(object)) {
        (false, false) => Lifecycle::Adopt,
        (true, false) => Lifecycle::Ignore,
        (false, true) => Lifecycle::Alive,
        (true, true) if !users.is_empty() => {
            let message = format!("it is deleted once nothing refers to it: delete or change {}", enumerate(users));
            Lifecycle::Held(Wanted::no(READY, "InUse", message))
        }
        (true, true) if !hosts.is_empty() => {
            let message = format!(
                "waits for the hosts {} to remove it; for a host that is off for good, taint its Node with {}:NoExecute",
                enumerate(hosts),
                crate::hosts::OUT_OF_SERVICE
            );
            Lifecycle::Held(Wanted::no(READY, "Deleting", message))
        }
        (true, true) => Lifecycle::LetGo,
    }
}

/// A step for an object with a status of type `S`.
#[derive(Debug, Clone, PartialEq)]
pub enum Action<S> {
    /// Put the finalizer on.
    AddFinalizer,
    /// Take the finalizer off.
    RemoveFinalizer,
    /// Write this status, and Ready.
    Write(S, Wanted),
}

/// The steps for an object: `alive` tells its status, and Ready while it is not being deleted.
pub fn steps<K: Resource, S>(
    object: &K,
    users: &[String],
    hosts: &[&str],
    alive: impl FnOnce() -> (S, Wanted),
) -> Vec<Action<S>> {
    match stage(object, users, hosts) {
        Lifecycle::Adopt => vec![Action::AddFinalizer],
        Lifecycle::Ignore => vec![],
        Lifecycle::LetGo => vec![Action::RemoveFinalizer],
        Lifecycle::Alive => {
            let (status, ready) = alive();
            vec![Action::Write(status, ready)]
        }
        Lifecycle::Held(why) => vec![Action::Write(alive().0, why)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;
    use kubevmm_api::VirtualMachineClass;

    #[test]
    fn an_object_stays_while_it_is_referred_to_or_lies_on_a_host() {
        let object =
            |meta: &str| -> VirtualMachineClass { yaml(&format!("metadata: {{name: c, {meta}}}\nspec: {{}}")) };
        let deleting = "deletionTimestamp: \"2026-01-01T00:00:00Z\"";
        let ours = "finalizers: [kubevmm.io/cleanup]";
        assert_eq!(stage(&object(""), &[], &[]), Lifecycle::Adopt);
        assert_eq!(stage(&object(ours), &["VirtualMachine shop/web".into()], &["a"]), Lifecycle::Alive);
        assert_eq!(stage(&object(deleting), &[], &[]), Lifecycle::Ignore);
        let both = object(&format!("{deleting}, {ours}"));
        let Lifecycle::Held(why) = stage(&both, &["VirtualMachine shop/web".into()], &["a"]) else { panic!() };
        assert_eq!((why.reason, why.message.contains("VirtualMachine shop/web")), ("InUse", true));
        let Lifecycle::Held(why) = stage(&both, &[], &["a"]) else { panic!() };
        assert_eq!(why.reason, "Deleting");
        assert_eq!(stage(&both, &[], &[]), Lifecycle::LetGo);
    }
}
