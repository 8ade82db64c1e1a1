use super::*;

fn claim(node: &str, vm: &str, needs_of: &str) -> Claim {
    Claim::new(node, vm, &needs(needs_of))
}

fn asked(needs_of: &str, status: &str, claims: &Claims) -> Result<(), Refusal> {
    check(&needs(needs_of), &facts(&offer(status), claims))
}

#[test]
fn what_others_have_been_promised_is_not_there_any_more() {
    let mut claims = Claims::default();
    let has = "pools: [{name: fast, uid: p, ready: true, available: 3Gi}], \
               allocatable: {vcpus: 8, cpu: '8', memory: 8Gi}";
    let need = "vcpus: 4, pools: [{name: fast, uid: p, bytes: 2147483648}]";
    assert_eq!(asked(need, has, &claims), Ok(()));
    claims.put("1", claim("b", "shop/other", need));
    assert_eq!(asked(need, has, &claims), Ok(()), "of another host");
    claims.put("1", claim("a", "shop/other", need));
    let full = asked(need, has, &claims).unwrap_err();
    let message = "the VM's disks need 2Gi in the pool fast, and it has 3Gi left, of which 2Gi are promised to disks of \
                   other VMs: delete what is not needed there, enlarge the pool, or use another one";
    assert_eq!(full, Refusal { why: Why::Space, resolvable: true, message: message.into() });
    claims.put("1", claim("a", "shop/other", "vcpus: 5"));
    let full = asked(need, has, &claims).unwrap_err();
    let message = "the VM has 4 vCPUs, and 5 of the 8 that the host may have are taken: stop a VM there, or raise \
                   spec.overcommit.cpu of its Hypervisor";
    assert_eq!(full, Refusal { why: Why::FreeCpu, resolvable: true, message: message.into() }, "its volume is made");
    assert!(claims.take("1"));
    assert!(!claims.take("1"));
    assert_eq!(asked(need, has, &claims), Ok(()), "it has gone");
}

#[test]
fn a_shared_pool_is_promised_on_all_its_hosts() {
    let mut claims = Claims::default();
    let has = "pools: [{name: nfs, uid: p, ready: true, available: 3Gi}]";
    let need = "pools: [{name: nfs, uid: p, shared: true, bytes: 2147483648}]";
    claims.put("1", claim("b", "shop/other", need));
    assert_eq!(asked(need, has, &claims).unwrap_err().why, Why::Space);
    claims.take("1");
    assert_eq!(asked(need, has, &claims), Ok(()));
}

#[test]
fn its_own_claim_does_not_stand_in_a_vms_way() {
    let mut claims = Claims::default();
    let has = format!(
        "{DEVICES}, pools: [{{name: fast, uid: p, ready: true, available: 2Gi}}, \
         {{name: nfs, uid: q, ready: true, available: 2Gi}}], allocatable: {{vcpus: 4, cpu: '8', memory: 8Gi}}"
    );
    let need = "vcpus: 4, pools: [{name: fast, uid: p, bytes: 2147483648}, \
                {name: nfs, uid: q, shared: true, bytes: 2147483648}], devices: [{bus: PCI, address: '0000:03:00.0'}]";
    claims.put("own", claim("a", "shop/web", need));
    assert_eq!(asked(need, &has, &claims), Ok(()));
    claims.put("victim", claim("a", "shop/other", need));
    let offer = offer(&has);
    let preempting = HostFacts { apart_from: &["own", "victim", "unknown"], ..facts(&offer, &claims) };
    assert_eq!(check(&needs(need), &preempting), Ok(()), "those that go make room");
    assert!(asked(need, &has, &claims).is_err());
}

#[test]
fn a_device_has_one_vm_and_a_group_goes_together() {
    let mut claims = Claims::default();
    let gpu = "devices: [{bus: PCI, address: '0000:03:00.0'}]";
    claims.put("1", claim("a", "shop/other", gpu));
    let sound = "devices: [{bus: PCI, address: '0000:03:00.1'}]";
    for (need, address) in [(gpu, "0000:03:00.0"), (sound, "0000:03:00.1")] {
        let refusal = asked(need, DEVICES, &claims).unwrap_err();
        let message = format!("the VM shop/other has its PCI device {address}: stop that VM, or use another device");
        assert_eq!(refusal, Refusal { why: Why::Device, resolvable: true, message });
    }
    let key = "devices: [{bus: USB, vendorID: 1d6b, productID: '0002'}]";
    assert_eq!(asked(key, DEVICES, &claims), Ok(()));
    claims.put("2", claim("a", "shop/two", key));
    assert_eq!(asked(key, DEVICES, &claims), Ok(()), "there are two of that kind");
    claims.put("3", claim("a", "shop/three", key));
    assert_eq!(asked(key, DEVICES, &claims).unwrap_err().why, Why::Device);
    assert_eq!(asked("devices: [{bus: USB, address: '1:5'}]", DEVICES, &claims).unwrap_err().why, Why::Device);
}

#[test]
fn a_pod_that_is_seen_again_or_elsewhere_counts_once() {
    let mut claims = Claims::default();
    let has = "allocatable: {vcpus: 8, cpu: '8', memory: 8Gi}";
    for _ in 0..3 {
        claims.put("1", claim("a", "shop/one", "vcpus: 4"));
    }
    assert_eq!(asked("vcpus: 4", has, &claims), Ok(()));
    // Two were bound at one moment: neither had seen the other.
    claims.put("2", claim("a", "shop/two", "vcpus: 4"));
    claims.put("3", claim("a", "shop/three", "vcpus: 4"));
    let refusal = asked("vcpus: 4", has, &claims).unwrap_err();
    assert!(refusal.message.contains("12 of the 8"), "{}", refusal.message);
    claims.put("3", claim("b", "shop/three", "vcpus: 4"));
    claims.retain(&["1".to_owned(), "3".to_owned()].into());
    assert_eq!((claims.len(), asked("vcpus: 4", has, &claims)), (2, Ok(())));
    claims.retain(&Default::default());
    assert!(claims.is_empty());
}
