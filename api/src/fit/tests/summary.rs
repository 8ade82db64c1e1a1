use super::*;

fn lasting(why: Why, message: &str) -> Refusal {
    Refusal { why, resolvable: false, message: message.into() }
}

#[test]
fn the_nearest_miss_gives_the_reason_and_comes_first() {
    let refusals = [
        ("a", lasting(Why::NotReady, "no libvirt")),
        ("b", lasting(Why::Pool, "it does not have the pool fast")),
        ("c", lasting(Why::Network, "it does not have the network lan")),
        ("d", lasting(Why::Pool, "it does not have the pool fast")),
    ];
    let message = "no host can take the VM: c: it does not have the network lan; b, d: it does not have the pool fast; a: no \
                   libvirt";
    assert_eq!(summary(&needs(""), &refusals), ("NoHostWithNetwork", message.to_owned()));
    let none = "there is no Hypervisor: no executor runs on any node";
    assert_eq!(summary(&needs(""), &[]), ("NoHypervisor", none.to_owned()));
}

#[test]
fn thousands_of_hosts_fit_into_one_message() {
    let names: Vec<String> = (0..5000).map(|number| format!("h{number:04}")).collect();
    let of = |number: usize| lasting(Why::Pool, &format!("it lacks {}", number % 20));
    let refusals: Vec<_> = names.iter().enumerate().map(|(number, name)| (name.as_str(), of(number))).collect();
    let (_, message) = summary(&needs(""), &refusals);
    assert!(message.contains("h0000, h0020, h0040,") && message.contains(" and 240 more: it lacks 0; "), "{message}");
    assert!(message.ends_with(" and 10 more") && message.len() < 2000, "{message}");
}

#[test]
fn where_the_data_lies_is_what_counts() {
    let need = needs("localDisks: [{name: data, node: a}]");
    let elsewhere = || ("b", lasting(Why::Data, "the volume of the disk data lies on a"));
    for (why, reason) in [
        (Why::NotReady, "HostOfDataNotReady"),
        (Why::Maintenance, "HostOfDataNotReady"),
        (Why::Silent, "DataOnLostHost"),
        (Why::Network, "NoHostWithNetwork"),
        (Why::Data, "DataElsewhere"),
    ] {
        let (said, message) = summary(&need, &[("a", lasting(why, "because")), elsewhere()]);
        assert_eq!(said, reason);
        if why != Why::Silent {
            assert!(message.contains("a: because") && message.contains("b: the volume"), "{message}");
        }
    }
    let silent = summary(&need, &[("a", lasting(Why::Silent, "")), elsewhere()]).1;
    let lies = "the volume of the VirtualMachineDisk data lies on the host a";
    assert_eq!(silent, format!("{lies}, which does not answer: bring the host back"));
    let (reason, message) = summary(&need, &[elsewhere()]);
    assert_eq!(reason, "HostNotFound");
    assert!(message.starts_with(&format!("{lies}, and there is no Hypervisor of that name")), "{message}");
}

#[test]
fn of_an_imported_vm_its_own_host_only_is_told() {
    let need = needs("home: a, localDisks: [{name: data, node: b}]");
    let stays = "the VM is an imported one, which stays on its host";
    let elsewhere = lasting(Why::Data, "the volume of the disk data lies on b");
    let refusals = [("a", elsewhere), ("b", lasting(Why::Home, "it stays on its host a"))];
    let message = format!("{stays}: a: the volume of the disk data lies on b");
    assert_eq!(summary(&need, &refusals), ("DataElsewhere", message));
    let gone = summary(&need, &refusals[1..]);
    assert_eq!(gone.0, "HostNotFound");
    assert!(gone.1.starts_with("the VM was imported from the host a, and there is no Hypervisor"), "{}", gone.1);
}
