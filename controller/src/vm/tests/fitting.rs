//! Hosts that can take a VM, beside what others have been promised.

use super::*;
use crate::vm::candidates::count;
use crate::vm::pod::{Target, build};

const GPU: &str = "domain: {devices: {hostdevs: [{type: pci, source: {address: {bus: '0x03', slot: 0}}}]}}";
const HAS_GPU: &str = "devices: [{name: gpu, bus: PCI, address: '0000:03:00.0'}]";

/// The pod of another VM `shop/other` on the host a, which has the GPU.
fn rival() -> Pod {
    let mut rival = view(GPU, "");
    Arc::make_mut(&mut rival.vm).metadata.name = Some("other".into());
    let mut pod = build(&rival, 1, Target::Any).unwrap();
    pod.metadata.uid = Some("rival".into());
    pod.spec.as_mut().unwrap().node_name = Some("a".into());
    pod
}

fn with_claim_of(view: View, pod: &Pod) -> View {
    count(&mut view.claims.write().unwrap(), pod, true);
    view
}

#[test]
fn a_device_that_another_vm_has_is_not_given_twice() {
    let alone = || view(GPU, "").on(hosts(&[("a", HAS_GPU), ("b", "")]));
    assert_eq!(outcome(&alone()).0, ["create pod 1 for a"]);

    let late = with_claim_of(alone(), &rival());
    let status = outcome(&late).1;
    let (_, reason, message) = scheduled(&status);
    assert_eq!(reason, "NoHostWithDevice");
    assert!(message.contains("the VM shop/other has its PCI device 0000:03:00.0: stop that VM"), "{message}");
    assert!(message.contains("b: its executor does not tell"), "each host is told of: {message}");

    count(&mut late.claims.write().unwrap(), &rival(), false);
    assert_eq!(outcome(&late).0, ["create pod 1 for a"], "it is free again");
}

#[test]
fn of_two_that_were_given_to_one_host_the_later_one_goes() {
    let bound = view(GPU, "").on(hosts(&[("a", HAS_GPU)])).pods(&[running(1, "a")]);
    let bound = with_claim_of(bound, &rival());
    assert_eq!(outcome(&bound).0, ["delete pod-1 at once, which failed"], "the other one has it");
    let first = View { apart_from: vec!["rival".into()], ..bound };
    let (steps, status) = outcome(&first);
    assert_eq!((steps, status.unwrap().node_name.as_deref()), (vec![], Some("a")), "the other one came later");
}

#[test]
fn what_has_ended_or_has_no_node_claims_nothing() {
    let claims = |change: &dyn Fn(&mut Pod)| {
        let view = view("", "");
        let mut pod = rival();
        count(&mut view.claims.write().unwrap(), &pod, true);
        assert_eq!(view.claims.read().unwrap().len(), 1);
        change(&mut pod);
        count(&mut view.claims.write().unwrap(), &pod, true);
        view.claims.read().unwrap().len()
    };
    assert_eq!(claims(&|_| ()), 1);
    assert_eq!(claims(&|pod| pod.status.get_or_insert_default().phase = Some("Failed".into())), 0);
    assert_eq!(claims(&|pod| pod.spec.as_mut().unwrap().node_name = None), 0);
    assert_eq!(claims(&|pod| pod.metadata.annotations = None), 0, "a pod without needs");
}
